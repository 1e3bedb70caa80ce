"""Lists of tapes: the wide table, and lines that are no entry of their list."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.inventory.detect import detect_format
from tests.inventory.support import NETBACKUP, load

WIDE_HEADER = (
    "media   optical  media    barcode   barcode  robot  robot  robot  side/\n"
    "ID      partner  type     name      partner  host   type   number face\n"
    f"{'-' * 120}\n"
)


def wide(media_id: str, barcode: str) -> str:
    """A record of 37 columns, the description last."""
    return f"{media_id}  -  HCART2  {barcode}  " + "  ".join(["-"] * 31) + "  Added by hand\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "tapes.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_wide_table_gives_the_barcodes(tmp_path: Path) -> None:
    text = WIDE_HEADER + wide("0101L6", "NB0101L6") + wide("0102L6", "--------")
    assert detect_format("x", text) == "vmquery-w"
    inventory, report = load(write(tmp_path, text))
    assert report.counts == {}
    tapes = [(one.media_id, one.barcode, one.density) for one in inventory.media()]
    assert tapes == [("0101L6", "NB0101L6", "hcart2"), ("0102L6", None, "hcart2")]


@pytest.mark.parametrize(
    ("name", "line", "broken"),
    [
        ("vmquery_b_a.txt", 4, "0101L6  HCART2"),
        ("vmquery_a.txt", 3, "half a line"),
        ("vmquery_a.txt", 2, "media ID:"),
        ("bpmedialist_l.txt", 2, "0102L6 *NULL* 1 x"),
        ("bpmedialist_L.txt", 3, "media_id = , partner_id = 0101L6"),
        ("bpmedialist_L.txt", 4, "what is this"),
        ("bpmedialist_mlist.txt", 11, "0102L6   5      4   01/11"),
    ],
)
def test_a_line_that_is_no_entry_of_its_list_is_a_finding_with_its_number(
    tmp_path: Path, name: str, line: int, broken: str
) -> None:
    lines = (NETBACKUP / name).read_text("utf-8").splitlines()
    lines[line - 1] = broken
    path = write(tmp_path, "\n".join(lines) + "\n")
    _, report = load(path)
    found = [one.place for one in report.findings if one.code == "row_ignored"]
    assert found[0] == f"{path}:{line}"


def test_lists_of_several_servers_one_behind_the_other_are_one(tmp_path: Path) -> None:
    text = (NETBACKUP / "bpmedialist_mlist.txt").read_text("utf-8")
    inventory, report = load(write(tmp_path, text + text))
    assert "row_ignored" not in report.counts
    assert inventory.counts().media == 8
