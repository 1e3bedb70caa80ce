"""A shelf of cartridges, and finding the right one for a catalogue's media."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import ConfigError
from migrate.errors import TapeError, TapeMissing
from migrate.source.awstape import AwsTape
from migrate.source.folder import FolderTape
from migrate.source.shelf import Shelf
from migrate.source.simh import SimhTape
from tests.source.tapes import FIXTURES, aws, items_of, tap, write


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("A00001L6.tap", "A00002.TAP", "nbu.csv", "expected.json", "A00001.bin", ".x.tap"):
        write(tmp_path / name, b"")
    (tmp_path / "DIR001").mkdir()
    return tmp_path


def test_tap_files_and_folders_are_cartridges_and_nothing_else_is(directory: Path) -> None:
    shelf = Shelf(directory)
    assert list(shelf.cartridges()) == ["A00001L6", "A00002", "DIR001"]
    assert shelf.ignored == ("A00001.bin", "expected.json", "nbu.csv")


def test_mounting_opens_what_the_entry_is(directory: Path) -> None:
    shelf = Shelf(directory)
    for barcode, kind in (("A00001L6", SimhTape), ("A00002", SimhTape), ("DIR001", FolderTape)):
        tape = shelf.mount(barcode)
        assert isinstance(tape, kind)
        assert tape.barcode == barcode
        tape.close()


def test_a_cartridge_is_found_by_its_content_whatever_its_name_says(tmp_path: Path) -> None:
    layout = [[b"label"], [b"data" * 9]]
    for name, data, kind in (
        ("A00001.tap", aws(layout), AwsTape),
        ("A00002.aws", tap(items_of(layout)), SimhTape),
        ("A00003", aws(layout, method=1), AwsTape),
        ("A00004.img", tap(items_of(layout)), SimhTape),
        ("A00005.het", b"", AwsTape),
    ):
        write(tmp_path / name, data)
        tape = Shelf(tmp_path).mount(Path(name).stem)
        assert type(tape) is kind
        tape.close()
    write(tmp_path / "notes.txt", b"the tapes of the cellar\n" * 100)
    write(tmp_path / "hole.img", bytes(100_000))
    shelf = Shelf(tmp_path)
    assert shelf.ignored == ("hole.img", "notes.txt")
    assert len(shelf.cartridges()) == 5


def test_a_damaged_file_is_what_its_suffix_says(tmp_path: Path) -> None:
    data = bytearray(aws([[b"label" * 10], [b"data"]]))
    data[0] ^= 1
    write(tmp_path / "A00001.aws", bytes(data))
    tape = Shelf(tmp_path).mount("A00001")
    assert isinstance(tape, AwsTape)
    tape.close()


def test_a_missing_cartridge_names_the_shelf_and_what_is_there(directory: Path) -> None:
    with pytest.raises(TapeMissing) as caught:
        Shelf(directory).mount("B00001")
    assert "B00001" in caught.value.message
    assert str(directory) in caught.value.hint
    assert "A00001L6, A00002, DIR001" in caught.value.hint


def test_the_names_shown_of_a_full_shelf_are_few(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"T{number:05}.tap", b"")
    with pytest.raises(TapeMissing) as caught:
        Shelf(tmp_path).mount("NONE")
    assert "and 92 more" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(TapeMissing, match="holds no cartridge"):
        Shelf(tmp_path / "empty").mount("NONE")


def test_two_entries_with_one_barcode_are_refused_by_name(directory: Path) -> None:
    (directory / "A00002").mkdir()
    with pytest.raises(ConfigError) as caught:
        Shelf(directory)
    assert "A00002.TAP" in caught.value.message
    assert str(directory / "A00002") + " " in caught.value.message + " "


def test_a_shelf_that_is_not_there_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tapes"):
        Shelf(tmp_path / "none")


def test_media_are_matched_by_barcode_then_by_name_then_by_the_last_six(tmp_path: Path) -> None:
    for name in ("XYA00001", "A00001", "A00001L6", "ZZA00003"):
        write(tmp_path / f"{name}.tap", b"")
    shelf = Shelf(tmp_path)
    assert shelf.match("A00001", "A00001L6").barcode == "A00001L6"
    assert shelf.match("A00001", "GONE").barcode == "A00001"
    assert shelf.match("A00001").barcode == "A00001"
    assert shelf.match("A00003").barcode == "ZZA00003"


def test_a_media_id_that_fits_two_cartridges_is_refused(tmp_path: Path) -> None:
    for name in ("XXA00003", "ZZA00003"):
        write(tmp_path / f"{name}.tap", b"")
    with pytest.raises(TapeError, match=r"XXA00003\.tap, ZZA00003\.tap"):
        Shelf(tmp_path).match("A00003")


def test_media_that_are_not_here_are_missing_and_short_ids_match_no_ending(directory: Path) -> None:
    shelf = Shelf(directory)
    with pytest.raises(TapeMissing, match=r"B00001 \(barcode B00001L6\)"):
        shelf.match("B00001", "B00001L6")
    for short in ("2", "", "R001"):
        with pytest.raises(TapeMissing):
            shelf.match(short)


def test_the_recorded_tapes_stand_on_a_shelf() -> None:
    shelf = Shelf(FIXTURES / "nbu")
    assert list(shelf.cartridges()) == ["NBU001", "NBU002"]
    assert shelf.ignored == ("expected.json", "nbu.csv")
    assert shelf.match("NBU002").path.name == "NBU002.tap"
