"""Any bytes end in a result or in our error; any spelling of a catalogue means the same."""

from __future__ import annotations

import csv
import datetime as dt
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import PoolError
from catalog.model import NANOSECONDS
from migrate.errors import InventoryError
from migrate.inventory import FORMATS, ImportOptions, ImportReport, Inventory, validated
from migrate.inventory.json_stream import JsonStream
from migrate.inventory.rows import CopyRow, FragmentRow, ImageRow, Row
from migrate.model import Problem
from tests.inventory.support import AS_OF, NETBACKUP, as_json, images_of, load

SEEDS = {
    path.name: path.read_bytes()
    for path in sorted(NETBACKUP.iterdir())
    if path.suffix in (".csv", ".txt", ".json")
}
QUICK = settings(max_examples=60, deadline=None)
DEEP = settings(max_examples=4000, deadline=None)


def import_bytes(content: bytes, options: ImportOptions | None = None) -> list[object] | None:
    """Import a file of these bytes and read everything back; None when it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        path.write_bytes(content)
        refusal = None
        try:
            inventory, report = load(path, options=options)
        except PoolError as exc:
            refusal = str(exc)
        if refusal is not None:
            assert str(path) in refusal
            return None
        with inventory:
            assert list(report.lines())
            found: list[object] = list(validated(inventory, AS_OF))
            list(inventory.media_totals())
            list(inventory.spanning())
            return found


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A fixture cut off, with bytes replaced, put in or taken away."""
    content = bytearray(draw(st.sampled_from(sorted(SEEDS.values(), key=len))))
    del content[draw(st.integers(1, 12_000)) :]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content)


def any_bytes_end_in_a_result_or_our_error(content: bytes) -> None:
    import_bytes(content)


def damaged_catalogues_end_in_a_result_or_our_error(content: bytes, name: str | None) -> None:
    import_bytes(content, ImportOptions(format=name, encoding="cp1252"))


@given(st.binary(max_size=600))
@QUICK
def test_any_bytes_end_in_a_result_or_our_error(content: bytes) -> None:
    any_bytes_end_in_a_result_or_our_error(content)


@given(damaged(), st.sampled_from([None, *FORMATS]))
@QUICK
def test_damaged_catalogues_end_in_a_result_or_our_error(content: bytes, name: str | None) -> None:
    damaged_catalogues_end_in_a_result_or_our_error(content, name)


@pytest.mark.deep
@given(st.binary(max_size=2000))
@DEEP
def test_any_bytes_end_in_a_result_or_our_error_at_length(content: bytes) -> None:
    any_bytes_end_in_a_result_or_our_error(content)


@pytest.mark.deep
@given(damaged(), st.sampled_from([None, *FORMATS]))
@DEEP
def test_damaged_catalogues_end_in_a_result_or_our_error_at_length(
    content: bytes, name: str | None
) -> None:
    damaged_catalogues_end_in_a_result_or_our_error(content, name)


@given(st.text(alphabet='{}[]",:0123456789.eE-+ntfalsrue \n\\u', max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_is_walked_as_json_or_refused(text: str) -> None:
    pieces = iter([text[at : at + 7] for at in range(0, len(text), 7)])
    refusal = ""
    try:
        list(JsonStream(pieces, "x.json").entries())
    except InventoryError as exc:
        refusal = str(exc)
    assert not refusal or refusal.startswith("x.json:")


# --- one meaning, many spellings ----------------------------------------------------------------

TABLE = list(csv.reader(io.StringIO(SEEDS["nbu.csv"].decode("utf-8"), newline="")))
PLAIN = {image["image_id"]: image for image in as_json(load(NETBACKUP / "nbu.csv")[0])}


@given(
    columns=st.permutations(range(len(TABLE[0]))),
    rows=st.permutations(range(1, len(TABLE))),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    extra=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_order_of_rows_and_columns_and_the_spelling_of_the_file_change_nothing(
    columns: list[int],
    rows: list[int],
    delimiter: str,
    encoding: str,
    quoting: int,
    line_end: str,
    extra: bool,
) -> None:
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=delimiter,
        quoting=quoting,  # type: ignore[arg-type]
        lineterminator=line_end,
    )
    for at in (0, *rows):
        writer.writerow([TABLE[at][column] for column in columns] + ["new"] * extra)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.csv"
        path.write_bytes(out.getvalue().encode(encoding))
        inventory, report = load(path)
        assert report.counts == {}
        assert {image["image_id"]: image for image in as_json(inventory)} == PLAIN


@pytest.mark.parametrize(
    "name", ["nbu.csv", "bpimagelist_l.txt", "bpimagelist_L.txt", "bpimagelist.json"]
)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_catalogue_cut_anywhere_never_tells_anything_that_the_whole_does_not(
    name: str, data: st.DataObject
) -> None:
    content = SEEDS[name]
    cut = data.draw(st.integers(1, len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        path.write_bytes(content[:cut])
        try:
            images = images_of(path)
        except InventoryError:
            return
    for image_id, image in images.items():
        whole = PLAIN[image_id]
        known = {
            (copy["copy_number"], one["fragment_number"]): one
            for copy in whole["copies"]
            for one in copy["fragments"]
        }
        assert image.size_bytes in (whole["size_bytes"], None)
        for copy in image.copies:
            for one in copy.fragments:
                want = known[copy.copy_number, one.fragment_number]
                assert (one.media_id, one.tape_file_number, one.size_bytes) == (
                    want["media_id"],
                    want["tape_file_number"],
                    want["size_bytes"],
                )


SHAPES: tuple[Callable[[dt.datetime], str], ...] = (
    lambda when: when.strftime("%Y-%m-%d %H:%M:%S"),
    lambda when: when.strftime("%Y-%m-%dT%H:%M:%S"),
    lambda when: when.strftime("%m/%d/%Y %H:%M:%S"),
    lambda when: when.strftime("%d/%m/%Y %H:%M:%S"),
    lambda when: when.strftime("%d.%m.%Y %H:%M:%S"),
    lambda when: when.strftime("%m/%d/%Y %I:%M:%S %p"),
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")


@given(
    started=st.integers(1_000_000_000, 1_790_000_000),
    kept_s=st.integers(1, 20 * 365 * 86_400),
    zone=st.sampled_from(ZONES),
    shape=st.sampled_from(SHAPES),
)
@settings(max_examples=150, deadline=None)
def test_local_times_of_a_stated_zone_come_back_as_the_instants_they_were(
    started: int, kept_s: int, zone: str, shape: Callable[[dt.datetime], str]
) -> None:
    expires = started + kept_s
    local = [dt.datetime.fromtimestamp(time, ZoneInfo(zone)) for time in (started, expires)]
    start_text, expiry_text = (shape(when.replace(tzinfo=None)) for when in local)
    lines = [
        "Backup ID;Media ID;Backup Time;Expiration",
        f"a_{started};T1;{start_text};{expiry_text}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        inventory, report = load(path, options=ImportOptions(timezone=zone))
        (image,) = inventory.images()
    assert image.backup_time == started * NANOSECONDS
    if report.counts.get("bad_value") or report.counts.get("date_order_assumed"):
        return  # day and month could not be told apart, and the report says so
    assert image.expires_at is not None
    late_s = image.expires_at // NANOSECONDS - expires
    twice = local[1].replace(fold=1).utcoffset() != local[1].replace(fold=0).utcoffset()
    assert late_s == 0 or (twice and 0 < late_s <= 3600)


# --- the store against a dictionary -------------------------------------------------------------

small = st.integers(1, 3)
rows_strategy = st.lists(
    st.builds(
        lambda name, copy, number, file, policy: Row(
            1,
            ImageRow(name, policy=policy),
            CopyRow(copy, "tape"),
            FragmentRow(copy, number, "T1", file),
        ),
        st.sampled_from(["a", "b", "c", "ä"]),
        small,
        small,
        st.one_of(st.none(), small),
        st.one_of(st.none(), st.just("p")),
    ),
    max_size=30,
)


@given(rows_strategy)
@settings(max_examples=150, deadline=None)
def test_the_store_merges_like_a_dictionary(rows: list[Row]) -> None:
    rows = [row._replace(line=line) for line, row in enumerate(rows, 1)]
    want: dict[tuple[str, int, int], int | None] = {}
    policies: dict[str, str | None] = {}
    conflicts: set[str] = set()
    for row in rows:
        assert row.fragment is not None
        name, one = row.image.image_id, row.fragment
        key = (name, one.copy_number, one.fragment_number)
        kept = want.get(key)
        if kept is not None and one.tape_file_number not in (None, kept):
            conflicts.add(name)
        want[key] = one.tape_file_number if kept is None else kept
        policies[name] = policies.get(name) or row.image.policy
    report = ImportReport()
    with Inventory.create(":memory:") as inventory:
        inventory.add("test", rows, report)
        inventory.settle(report)
        images = list(inventory.images())
    assert [image.image_id for image in images] == sorted(policies)
    found = {
        (image.image_id, copy.copy_number, one.fragment_number): one.tape_file_number
        for image in images
        for copy in image.copies
        for one in copy.fragments
    }
    assert found == want
    assert {image.image_id: image.policy for image in images} == policies
    assert {i.image_id for i in images if Problem.CONFLICT in i.problems} == conflicts
    assert bool(report.counts.get("rows_conflict")) == bool(conflicts)


def test_a_third_row_is_compared_with_what_the_first_two_say_together() -> None:
    rows = [
        Row(line, ImageRow("a_1690000000"), CopyRow(1, "tape"), FragmentRow(1, 1, "T1", file))
        for line, file in enumerate((None, 1, 2), start=1)
    ]
    report = ImportReport()
    with Inventory.create(":memory:") as inventory:
        inventory.add("test", rows, report)
        inventory.settle(report)
        (image,) = inventory.images()
    assert image.copies[0].fragments[0].tape_file_number == 1
    assert Problem.CONFLICT in image.problems
    assert report.counts["rows_conflict"] == 1
