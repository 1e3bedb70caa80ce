"""The fixtures of every supported form equal their expected model, to the last key."""

from __future__ import annotations

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from migrate.inventory import ImportOptions
from migrate.inventory.detect import detect_format
from tests.inventory.support import (
    NETBACKUP,
    as_json,
    codes,
    expected,
    load,
    model,
    without_media_list,
)

CATALOGUES = ("nbu.csv", "bpimagelist_l.txt", "bpimagelist_L.txt", "bpimagelist.json")
LISTS = ("bpmedialist_mlist.txt", "bpmedialist_l.txt", "bpmedialist_L.txt")
VOLUMES = ("vmquery_b_a.txt", "vmquery_a.txt")


@pytest.mark.parametrize("name", CATALOGUES)
def test_a_catalogue_alone_equals_its_expected_model_but_for_what_needs_the_tape_list(
    name: str,
) -> None:
    assert model(NETBACKUP / name) == without_media_list(expected("nbu_expected.json"))


@pytest.mark.parametrize("name", CATALOGUES)
@pytest.mark.parametrize("media", LISTS)
@pytest.mark.parametrize("volumes", VOLUMES)
def test_a_catalogue_with_tape_lists_equals_its_expected_model_exactly(
    name: str, media: str, volumes: str
) -> None:
    paths = [NETBACKUP / one for one in (volumes, name, media)]
    assert model(*paths) == expected("nbu_expected.json")


def test_keys_stand_in_the_order_of_the_expected_file() -> None:
    ours = json.dumps(model(NETBACKUP / "nbu.csv", NETBACKUP / "bpmedialist_l.txt"))
    assert ours == json.dumps(expected("nbu_expected.json"))


def images_on_media(*, table: bool) -> list[dict[str, Any]]:
    """The expected images as far as bpimmedia tells them: -l, or the table of -L.

    It has no claimed numbers and no size; -l has no primary copy; the table has no seconds, no
    remainders, no block sizes, no assignments and no labels of schedules.
    """
    images = expected("nbu_expected.json")
    for image in images:
        first = next((one for one in image["copies"] if one["primary"]), image["copies"][0])
        missing = {"missing_fragment", "copy_count_mismatch"} & set(image["problems"])
        image["problems"] = [one for one in image["problems"] if one not in missing]
        data = [one for one in first["fragments"] if one["fragment_number"] > 0]
        if [one["fragment_number"] for one in data] != list(range(1, len(data) + 1)):
            image["problems"] = sorted({*image["problems"], "missing_fragment"})
        for one in (fragment for copy in image["copies"] for fragment in copy["fragments"]):
            if table:
                one["size_bytes"] = one["size_bytes"] // 1024 * 1024
                one["block_size"] = None
                one["size_is_exact"] = False
        image["size_bytes"] = sum(one["size_bytes"] for one in data)
        if "missing_fragment" in image["problems"]:
            image["size_bytes"] = None
        if table:
            image["schedule"] = None
            image["problems"] = [one for one in image["problems"] if one != "media_reused"]
        for one in (image, *image["copies"]):
            if table and one["expires_at"] is not None:
                one["expires_at"] = f"{one['expires_at'][:17]}00Z"
        for copy in image["copies"]:
            copy["primary"] = table and copy["primary"]
    return images


@pytest.mark.parametrize(("name", "table"), [("bpimmedia_l.txt", False), ("bpimmedia_L.txt", True)])
def test_images_on_media_equal_the_expected_model_as_far_as_they_tell_it(
    name: str, table: bool
) -> None:
    options = ImportOptions(timezone="UTC")
    paths = NETBACKUP / name, NETBACKUP / "bpmedialist_l.txt"
    assert model(*paths, options=options) == images_on_media(table=table)


@pytest.mark.parametrize("name", ["bpimmedia_l.txt", "bpimmedia_L.txt"])
def test_images_on_media_join_with_another_form_without_a_word(name: str) -> None:
    paths = [NETBACKUP / one for one in (name, "nbu.csv", "bpmedialist_l.txt")]
    inventory, report = load(*paths, options=ImportOptions(timezone="UTC"))
    assert codes(report) == set()
    assert as_json(inventory) == expected("nbu_expected.json")


def test_the_newest_token_counts_and_both_infinities_are_read() -> None:
    assert model(NETBACKUP / "bpimagelist_l_v10.txt") == expected("nbu_v10_expected.json")


def test_all_forms_of_one_catalogue_merge_without_a_word() -> None:
    inventory, report = load(*(NETBACKUP / name for name in CATALOGUES))
    assert as_json(inventory) == without_media_list(expected("nbu_expected.json"))
    assert codes(report) == set()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_encoding_delimiter_preamble_and_footer_change_nothing(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    path = respelled(tmp_path, encoding, delimiter)
    assert model(path) == without_media_list(expected("nbu_expected.json"))


def respelled(folder: Path, encoding: str, delimiter: str) -> Path:
    """nbu.csv as a reporting tool and a spreadsheet would hand it on."""
    text = (NETBACKUP / "nbu.csv").read_text("utf-8")
    out = io.StringIO()
    out.write("Images on Media\r\nGenerated: 2024-06-01\r\n\r\n")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows(csv.reader(io.StringIO(text, newline="")))
    out.write("\r\nTotal rows: 64\r\n")
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    path = folder / "export.csv"
    path.write_bytes(mark + out.getvalue().encode(encoding))
    return path


def test_utf16_without_a_byte_order_mark_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes((NETBACKUP / "small.csv").read_text("utf-8").encode("utf-16-le"))
    assert model(path) == model(NETBACKUP / "small.csv")


def test_a_code_page_is_used_when_stated_and_the_file_is_not_utf8(tmp_path: Path) -> None:
    text = (NETBACKUP / "nbu.csv").read_text("utf-8")
    kept = "".join(line for line in text.splitlines(True) if "ファイル" not in line)
    path = tmp_path / "x.csv"
    path.write_bytes(kept.encode("cp1252"))
    want = [one for one in expected("nbu_expected.json") if "ファイル" not in one["image_id"]]
    options = ImportOptions(encoding="cp1252")
    assert model(path, options=options) == without_media_list(want)
    assert model(NETBACKUP / "nbu.csv", options=options) == model(NETBACKUP / "nbu.csv")


def test_the_lower_case_csv_gives_bytes_epochs_and_positions() -> None:
    images = {image["image_id"]: image for image in model(NETBACKUP / "small.csv")}
    assert len(images) == 7
    zeta = images["zeta_1690000400"]
    assert zeta["size_bytes"] == 501760
    assert zeta["backup_time"] == "2023-07-22T04:33:20Z"
    assert zeta["problems"] == []
    places = [(f["media_id"], f["tape_file_number"]) for f in zeta["copies"][0]["fragments"]]
    assert places == [("NBU001", 6), ("NBU002", 1)]
    assert images["delta_1690000301"]["copies"][0]["fragments"][0]["multiplexed"] is True
    assert images["alpha_1690000100"]["copies"][0]["fragments"][0]["multiplexed"] is False


def test_offsets_that_cannot_be_block_addresses_are_unknown_and_reported() -> None:
    inventory, report = load(NETBACKUP / "small.csv")
    assert codes(report) == {"offset_impossible"}
    for image in as_json(inventory):
        for fragment in image["copies"][0]["fragments"]:
            assert fragment["block_offset"] is None


def test_a_csv_of_copies_gives_expiry_of_each_copy_and_unknown_positions() -> None:
    inventory, report = load(NETBACKUP / "nbu_image_level.csv")
    want = {one["image_id"]: one for one in without_media_list(expected("nbu_expected.json"))}
    images = as_json(inventory)
    assert {one["image_id"] for one in images} == set(want)
    for image in images:
        known = want[image["image_id"]]
        assert image["expires_at"] == known["expires_at"]
        assert image["expires_infinite"] == known["expires_infinite"]
        ours = [(copy["copy_number"], copy["expires_at"]) for copy in image["copies"]]
        assert ours == [(copy["copy_number"], copy["expires_at"]) for copy in known["copies"]]
        for copy in image["copies"]:
            assert {one["tape_file_number"] for one in copy["fragments"]} <= {None}
    assert codes(report) == {"zone_derived"}


def test_barcodes_and_states_of_the_tape_lists_are_those_expected() -> None:
    names = ("nbu.csv", "bpmedialist_l.txt", "vmquery_a.txt")
    inventory, _ = load(*(NETBACKUP / name for name in names))
    listed = {tape.media_id: tape for tape, known in inventory.media_with_listing() if known}
    want = json.loads((NETBACKUP / "media_expected.json").read_text("utf-8"))
    assert set(listed) == {one["media_id"] for one in want}
    for one in want:
        tape = listed[one["media_id"]]
        assert (tape.barcode, tape.density) == (one["barcode"], one["density"])
        assert (tape.frozen, tape.suspended) == (one["frozen"], one["suspended"])
        assert tape.expires_infinite == one["expires_infinite"]


@pytest.mark.parametrize("name", LISTS)
def test_every_form_of_the_tape_list_tells_the_same(name: str) -> None:
    options = ImportOptions(timezone="UTC")
    inventory, _ = load(NETBACKUP / name, options=options)
    other, _ = load(NETBACKUP / "bpmedialist_l.txt")
    for ours, want in zip(inventory.media(), other.media(), strict=True):
        assert (ours.media_id, ours.density, ours.frozen, ours.suspended) == (
            want.media_id,
            want.density,
            want.frozen,
            want.suspended,
        )
        assert ours.assigned_at == want.assigned_at
        assert ours.expires_infinite == want.expires_infinite


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("nbu.csv", "csv"),
        ("small.csv", "csv"),
        ("nbu_image_level.csv", "csv"),
        ("bpimagelist_l.txt", "bpimagelist"),
        ("bpimagelist_l_v10.txt", "bpimagelist"),
        ("bpimagelist_L.txt", "bpimagelist-L"),
        ("bpimagelist.json", "bpimagelist-json"),
        ("bpimmedia_l.txt", "bpimmedia"),
        ("bpimmedia_L.txt", "bpimmedia-L"),
        ("bpmedialist_mlist.txt", "bpmedialist-mlist"),
        ("bpmedialist_l.txt", "bpmedialist-l"),
        ("bpmedialist_L.txt", "bpmedialist-L"),
        ("vmquery_a.txt", "vmquery"),
        ("vmquery_b_a.txt", "vmquery-b"),
        ("nbu_expected.json", "native"),
    ],
)
def test_a_format_is_found_by_content(name: str, format_name: str) -> None:
    head = (NETBACKUP / name).read_text("utf-8")[:65536]
    assert detect_format("renamed.dat", head) == format_name
