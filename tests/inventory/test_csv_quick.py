"""The quick way through usual rows of a CSV tells what the careful way tells, to the finding."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import PoolError
from migrate.inventory import ImportOptions
from migrate.inventory.netbackup_csv import _Table
from tests.inventory.support import as_json, load

COLUMNS: dict[str, tuple[str, ...]] = {  # the usual cell first
    "Backup ID": (
        "a_1600000000", "b_1600000060", "c_99_1599999999", " a_1600000000", "a", "", "_1600000000",
    ),
    "Media ID": ("T00001", "T00002", "@disk", "", " T00001 ", "12"),
    "Client": ("a", "N/A", "", " a "),
    "Policy": ("p", "q", ""),
    "Backup Time (UTC)": ("2020-09-13 12:26:40", "2020-09-13 12:27:40", "", "1600000000", "soon"),
    "Expiration (UTC)": (
        "2021-09-13 12:26:40", "INFINITY", "0", "", "2147483647", "1631535999", "2021-09-13",
        "13/09/2021 12:26:40", "2021-02-31 12:26:40", "2021-09-13 24:26:40",
    ),
    "Kilobytes": ("1024", "", "0", "-1", "1,024", "1_0", "9" * 20),
    "Files": ("7", "", "x", "-3", " 8"),
    "Copy": ("1", "2", "", "x", "0"),
    "Copy Expiration (UTC)": ("2021-09-13 12:26:40", "", "INFINITY", "2022-01-01 00:00:00"),
    "Copy On Hold": ("0", "1", "", "?"),
    "Storage": ("Tape", "Disk", ""),
    "Fragment": ("1", "2", "TIR", "", "-1", "x", " 3"),
    "Fragment KB": ("1024", "", "-5", "x", "9" * 20),
    "Remainder": ("0", "17", "", "1024", "-1"),
    "File Number": ("3", "", "0", "-1", "x"),
    "Offset": ("77", "", "1", "x", "-2"),
    "Block Size": ("65536", "", "0", "-1", "x"),
    "MPX": ("0", "1", "", "Y", "no", "?"),
    "Media Date (UTC)": ("2020-01-01 00:00:00", "", "x", "1577836800"),
    "KMS Key Tag": ("", "k1", "*NULL*"),
}  # fmt: skip
USUAL = tuple(cells[0] for cells in COLUMNS.values())


@st.composite
def row(draw: st.DrawFn) -> tuple[str, ...]:
    """A usual row with a few cells that are not."""
    cells = list(USUAL)
    for at in draw(st.sets(st.integers(0, len(cells) - 1), max_size=3)):
        cells[at] = draw(st.sampled_from(list(COLUMNS.values())[at]))
    return tuple(cells)


def told(rows: list[tuple[str, ...]], zone: str | None) -> Any:
    """Everything an import says of these rows, or its refusal."""
    utc = zone is None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow([name if utc else name.replace(" (UTC)", "") for name in COLUMNS])
            writer.writerows(rows)
        try:
            inventory, report = load(path, options=ImportOptions(timezone=zone))
        except PoolError as exc:
            return str(exc).replace(str(path), "c.csv")
        with inventory:
            lines = [str(one).replace(str(path), "c.csv") for one in report.findings]
            return as_json(inventory), list(inventory.media()), report.counts, lines


@given(
    rows=st.lists(row(), min_size=1, max_size=8),
    zone=st.sampled_from([None, "Europe/Berlin", "Australia/Lord_Howe"]),
)
@settings(max_examples=50, deadline=None)
def test_the_quick_way_and_the_careful_way_tell_the_same(
    rows: list[tuple[str, ...]], zone: str | None
) -> None:
    both_ways_tell_the_same(rows, zone)


@pytest.mark.deep
@given(
    rows=st.lists(row(), min_size=1, max_size=8),
    zone=st.sampled_from([None, "Europe/Berlin", "Australia/Lord_Howe"]),
)
@settings(max_examples=2000, deadline=None)
def test_the_quick_way_and_the_careful_way_tell_the_same_at_length(
    rows: list[tuple[str, ...]], zone: str | None
) -> None:
    both_ways_tell_the_same(rows, zone)


def both_ways_tell_the_same(rows: list[tuple[str, ...]], zone: str | None) -> None:
    rows = [USUAL, USUAL, *rows]  # so that the quick way knows the usual cells
    quick = told(rows, zone)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_quick_image", "_quick_fragment"):
            patch.setattr(_Table, name, lambda *_: None)
        assert told(rows, zone) == quick


def test_usual_rows_go_the_quick_way() -> None:
    rows = [USUAL, *((f"h{n}_{1_600_000_000 + n}", *USUAL[1:4], "", *USUAL[5:]) for n in range(9))]
    with pytest.MonkeyPatch.context() as patch:
        careful: list[str] = []
        image = _Table._image

        def counted(self: _Table, own: Any, shared: Any, cells: Any) -> Any:
            careful.append(own[0])
            return image(self, own, shared, cells)

        patch.setattr(_Table, "_image", counted)
        images, _, counts, _ = told(rows, None)
    assert len(images) == 10
    assert counts == {}
    assert careful == ["a_1600000000"]
