"""Our own JSON: written by hand in its smallest form, and printed and read back whole."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.model import from_iso
from migrate.errors import InventoryError
from migrate.inventory import Inventory, json_stream
from migrate.inventory.output import write_json
from migrate.model import Image, Media, Problem
from tests.inventory.support import AS_OF, NETBACKUP, as_json, codes, expected, images_of, load


def write(folder: Path, document: Any, name: str = "c.json") -> Path:
    path = folder / name
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    return path


def printed(inventory: Inventory) -> str:
    out = io.StringIO()
    write_json(out, inventory, AS_OF)
    return out.getvalue()


def whole(inventory: Inventory) -> tuple[list[Image], list[tuple[Media, bool]]]:
    images = [replace(image, row=None) for image in inventory.images()]
    return images, list(inventory.media_with_listing())


def test_the_smallest_catalogue_of_plain_tapes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "product": "tar",
            "images": [
                {
                    "image_id": "home-2019",
                    "copies": [{"fragments": [{"media_id": "T1"}, {"media_id": "T2"}]}],
                }
            ],
            "media": [{"media_id": "T1", "barcode": "T1L6", "label": "FIXSET"}, {"media_id": "T2"}],
        },
    )
    inventory, report = load(path)
    assert codes(report) == set()
    image = images_of(path)["home-2019"]
    assert (image.product, image.problems) == ("tar", ())
    (copy,) = image.copies
    assert (copy.copy_number, copy.storage) == (1, "tape")
    assert [(f.fragment_number, f.media_id) for f in copy.fragments] == [(1, "T1"), (2, "T2")]
    first = next(inventory.media())
    assert (first.barcode, first.label) == ("T1L6", "FIXSET")


def test_an_array_alone_is_taken_as_the_images(tmp_path: Path) -> None:
    assert list(images_of(write(tmp_path, [{"image_id": "a", "product": "tar"}]))) == ["a"]


def test_the_expected_files_themselves_are_catalogues() -> None:
    inventory, report = load(NETBACKUP / "nbu_expected.json")
    assert codes(report) == set()
    for ours, want in zip(as_json(inventory), expected("nbu_expected.json"), strict=True):
        assert ours | {"problems": []} == want | {"problems": []}


@pytest.mark.parametrize(
    "names",
    [
        ("nbu.csv",),
        ("bpimagelist_l.txt", "bpmedialist_mlist.txt", "vmquery_a.txt"),
        ("nbu_image_level.csv", "bpmedialist_l.txt"),
        ("small.csv",),
        ("bpimagelist_l_v10.txt",),
    ],
)
def test_what_is_printed_reads_back_as_the_same_inventory(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    first, _ = load(*(NETBACKUP / name for name in names))
    text = printed(first)
    second, report = load(write(tmp_path, text))
    assert codes(report) == set()
    assert printed(second) == text
    ours, theirs = whole(second), whole(first)
    # The claim about copies is printed only where it does not hold.
    assert [replace(one, expected_copies=None) for one in ours[0]] == [
        replace(one, expected_copies=None) for one in theirs[0]
    ]
    assert ours[1] == theirs[1]


def test_holds_products_keys_and_conflicts_survive_the_round_trip(tmp_path: Path) -> None:
    fragment = {
        "media_id": "T1", "size_bytes": 2048, "size_is_exact": False, "key_tag": "k",
        "media_assigned_at": "2019-01-01T00:00:00Z", "multiplexed": True, "tape_file_number": 0,
    }  # fmt: skip
    copy = {"copy_number": 3, "hold": True, "primary": True, "fragments": [fragment]}
    image = {
        "image_id": "a", "product": "tar", "hold": True, "unfinished": True, "copies": [copy],
        "problems": ["conflict", "expired"], "expected_copies": 2, "expected_fragments": 4,
    }  # fmt: skip
    first, _ = load(write(tmp_path, {"images": [image]}))
    second, _ = load(write(tmp_path, printed(first)))
    assert whole(first) == whole(second)
    (found,) = second.images()
    assert found.hold
    assert found.unfinished
    assert found.copies[0].hold
    assert found.copies[0].fragments[0].key_tag == "k"
    assert found.problems == (Problem.CONFLICT,)
    assert (found.expected_copies, found.expected_fragments) == (2, 4)
    assert as_json(first)[0]["problems"] == [
        "conflict", "copy_count_mismatch", "incomplete", "missing_fragment",
    ]  # fmt: skip


def test_printing_is_one_object_with_as_of_and_images() -> None:
    inventory, _ = load(NETBACKUP / "nbu.csv", NETBACKUP / "bpmedialist_l.txt")
    document = json.loads(printed(inventory))
    assert document["as_of"] == "2024-06-01T00:00:00Z"
    assert document["images"] == expected("nbu_expected.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [',
        '{"images": [{"image_id": "a"}',
        '{"images": [{"image_id": "a"}]',
        '{"images": [{"image_id": "a',
        '{"images": [{"image_id": "a"} {}]}',
        '{"images": [{"image_id": "a"}]} x',
        '{"images": [{"image_id": "a", "size_bytes": NaN}]}',
        '{"images" [1]}',
        '{"images": [1,,2]}',
        "{images: []}",
        '[{"image_id": ' + "[" * 100_000,
        '[{"image_id": "a", "size_bytes": ' + "9" * 5000 + "}]",
    ],
)
def test_what_is_no_json_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InventoryError, match=r"c\.json:2: not a JSON catalogue"):
        load(write(tmp_path, f"\n{text}"))


def test_a_json_document_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="without images and media"):
        load(write(tmp_path, {"name": "tapelift", "version": 1}))


@pytest.mark.parametrize(
    "image",
    [
        3,
        {"image_id": ""},
        {"image_id": 7},
        {"image_id": "x", "copies": {}},
        {"image_id": "x", "copies": [{"fragments": [{}]}]},
        {"image_id": "x", "copies": [{"copy_number": True}]},
        {"image_id": "x", "copies": [{"storage": "paper"}]},
        {"image_id": "x", "size_bytes": -1},
        {"image_id": "x", "size_bytes": 1.5},
        {"image_id": "x", "size_bytes": 10**30},
        {"image_id": "x", "expires_at": "soon"},
        {"image_id": "x", "expires_at": "9999-01-01T00:00:00Z"},
        {"image_id": "x", "backup_time": "0001-01-01T00:00:00+14:00"},
        {"image_id": "x", "schedule_type": "WEEKLY"},
        {"image_id": "x", "hold": "yes"},
        {"image_id": "\ud800"},
        {"image_id": "x" * 5000},
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_whole_and_reported(
    tmp_path: Path, image: Any
) -> None:
    path = write(tmp_path, {"images": [image, {"image_id": "good", "product": "tar"}]})
    inventory, report = load(path)
    assert [one.image_id for one in inventory.images()] == ["good"]
    assert report.rows_ignored == 1
    assert report.findings[0].severity == "warning"


def test_elements_longer_than_a_chunk_are_read_and_endless_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragments = [{"media_id": f"T{n}"} for n in range(20_000)]
    image = {"image_id": "wide", "product": "tar", "copies": [{"fragments": fragments}]}
    path = write(tmp_path, {"images": [image, image]})
    assert len(images_of(path)["wide"].copies[0].fragments) == 20_000
    monkeypatch.setattr(json_stream, "MAX_ELEMENT", 100_000)
    with pytest.raises(InventoryError, match="longer than 100000"):
        load(path)


def test_a_barcode_only_entry_does_not_make_other_tapes_unknown(tmp_path: Path) -> None:
    images = [
        {"image_id": "a", "copies": [{"fragments": [{"media_id": "T1"}]}]},
        {"image_id": "b", "copies": [{"fragments": [{"media_id": "T2"}]}]},
    ]
    hint = {"media_id": "T1", "barcode": "X", "listed": False}
    path = write(tmp_path, {"images": images, "media": [hint]})
    assert images_of(path)["b"].problems == ()
    path = write(tmp_path, {"images": images, "media": [hint | {"listed": True}]})
    assert images_of(path)["b"].problems == (Problem.UNKNOWN_MEDIA,)
    assert images_of(path)["a"].problems == ()


def test_an_expiry_of_the_image_is_that_of_copies_that_name_none(tmp_path: Path) -> None:
    image = {
        "image_id": "a",
        "expires_at": "2030-01-01T00:00:00Z",
        "copies": [{"fragments": [{"media_id": "T1"}]}],
    }
    found = images_of(write(tmp_path, [image]))["a"]
    assert found.copies[0].expires_at == found.expires_at == from_iso("2030-01-01T00:00:00Z")
