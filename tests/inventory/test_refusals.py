"""Files that are no catalogue, or not one that is read: our error, the place, what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from migrate.errors import InventoryError
from migrate.inventory import ImportOptions, Inventory, read_catalogs
from tests.inventory.support import NETBACKUP, load


@pytest.mark.parametrize("content", [b"", b"\n\n \r\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.csv"
    path.write_bytes(content)
    with pytest.raises(InventoryError, match=r"empty\.csv:1: the file is empty"):
        load(path)


@pytest.mark.parametrize("content", [os.urandom(4096) + b"\0", b"\x7fELF\x02\x01\x00\x00" * 99])
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tape.tap"
    path.write_bytes(content)
    with pytest.raises(InventoryError, match=r"tape\.tap:1: "):
        load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"gone\.csv: cannot be read"):
        load(tmp_path / "gone.csv")
    with pytest.raises(InventoryError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="--catalog"):
        load()


def test_text_of_no_known_format_names_what_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear administrator,\nwe have moved.\n", encoding="utf-8")
    with pytest.raises(InventoryError) as caught:
        load(path)
    message = str(caught.value)
    for name in ("native", "bpimagelist", "csv", "vmquery", "letter.txt:1"):
        assert name in message


def test_a_list_without_backup_ids_is_named_with_the_form_to_export() -> None:
    with pytest.raises(InventoryError, match=r"looks like bpimagelist -U.*no backup ids") as caught:
        load(NETBACKUP / "bpimagelist_U.txt")
    assert "export bpimagelist -l" in str(caught.value)


def test_bytes_of_another_encoding_are_refused_with_their_line(tmp_path: Path) -> None:
    rows = [f"alpha_{1690000000 + i},NBU001,{i}" for i in range(20_000)]
    rows[12_344] = "b\xfcro_1690000000,NBU001,7"
    path = tmp_path / "latin.csv"
    path.write_bytes("\n".join(["Backup ID,Media ID,Files", *rows]).encode("cp1252"))
    with pytest.raises(InventoryError, match=r"latin\.csv:12346: the bytes are not utf-8.*--encod"):
        load(path)
    inventory, _ = load(path, options=ImportOptions(encoding="cp1252"))
    assert inventory.counts().images > 19_000


def test_an_unknown_format_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="--format 'xls' is not known; use one of native"):
        load(NETBACKUP / "nbu.csv", options=ImportOptions(format="xls"))


def test_a_stated_format_skips_detection(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(
        "some words first\n" * 12 + (NETBACKUP / "bpimagelist_l.txt").read_text("utf-8")
    )
    inventory, report = load(path, options=ImportOptions(format="bpimagelist"))
    assert inventory.counts().images == 40
    assert report.sources[0].ignored == {"neither IMAGE nor FRAG": 12}


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    with path.open("w", encoding="utf-8") as out:
        out.write("Backup ID,Media ID\n")
        out.writelines("x" * 1024 for _ in range(3000))
    with pytest.raises(InventoryError, match=r"wide\.csv:2: the line is longer"):
        load(path)


def test_a_catalogue_without_rows_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "bare.csv"
    path.write_text("Backup ID,Media ID\n", encoding="utf-8")
    inventory, report = load(path)
    assert report.counts == {"no_rows": 1}
    assert list(inventory.images()) == []


def test_findings_are_all_counted_and_only_some_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    rows = "".join(f"alpha_{1690000000 + i},NBU001,many\n" for i in range(5000))
    path.write_text(f"Backup ID,Media ID,Files\n{rows}", encoding="utf-8")
    _, report = load(path)
    assert report.counts == {"bad_value": 5000}
    assert len(report.findings) == 100
    assert list(report.lines())[-1] == "4900 more findings of the kind bad_value"


def test_a_refused_file_leaves_no_inventory_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("nothing\n", encoding="utf-8")
    target = tmp_path / "inventory.db"
    with Inventory.create(target) as inventory, pytest.raises(InventoryError):
        read_catalogs([NETBACKUP / "nbu.csv", bad], inventory)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bad.csv"]
