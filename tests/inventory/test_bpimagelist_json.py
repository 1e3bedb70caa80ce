"""``bpimagelist -json``: the shapes of the document, the names of the fields, broken objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import InventoryError
from tests.inventory.support import (
    NETBACKUP,
    as_json,
    codes,
    expected,
    load,
    model,
    without_media_list,
)

IMAGES: list[dict[str, Any]] = json.loads((NETBACKUP / "bpimagelist.json").read_text("utf-8"))
PLAIN = without_media_list(expected("nbu_expected.json"))


def write(folder: Path, text: str) -> Path:
    path = folder / "images.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(IMAGES),
        "\n".join(json.dumps(one) for one in IMAGES) + "\n",
        "\n".join(json.dumps(one, indent=1) for one in IMAGES),
        ",\n".join(json.dumps(one) for one in IMAGES),
        json.dumps({"images": IMAGES, "status": 0}, indent=2),
    ],
    ids=["compact", "one a line", "one behind the other", "with commas", "wrapped"],
)
def test_every_shape_of_the_document_gives_the_same_images(tmp_path: Path, text: str) -> None:
    assert model(write(tmp_path, text)) == PLAIN


def respelled(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with second names, other case, and numbers as text."""
    names = {"copy_num": "copyNumber", "frag_num": "fragment_number", "file_num": "FILE_NUMBER"}
    return {
        names.get(key, key.upper()): str(value)
        for key, value in fields.items()
        if value is not None and key != "frags"
    }


def test_second_names_upper_case_and_numbers_as_text_are_taken(tmp_path: Path) -> None:
    images = [
        respelled(one) | {"Frags": [respelled(fragment) for fragment in one["frags"]]}
        for one in IMAGES
    ]
    assert model(write(tmp_path, json.dumps(images))) == PLAIN


def test_a_broken_line_among_objects_of_one_line_is_a_finding_with_its_number(
    tmp_path: Path,
) -> None:
    lines = [json.dumps(one) for one in IMAGES]
    lines[2] = lines[2].replace('"mpx": 0,', '"mpx": ,', 1)
    lines[5] = "EXIT STATUS 0"
    lines[7] = lines[7][: len(lines[7]) // 2]
    inventory, report = load(write(tmp_path, "\n".join(lines) + "\n"))
    assert [one.place.rpartition(":")[2] for one in report.findings] == ["3", "6", "8"]
    kept = {json.loads(line)["backupid"] for n, line in enumerate(lines) if n not in (2, 5, 7)}
    assert {one["image_id"] for one in as_json(inventory)} == kept


def test_many_broken_lines_cost_no_more_than_their_own_length(tmp_path: Path) -> None:
    text = (
        json.dumps(IMAGES[0]) + "\n" + '{"backupid": x}\n' * 50_000 + json.dumps(IMAGES[1]) + "\n"
    )
    inventory, report = load(write(tmp_path, text))
    assert report.counts == {"row_ignored": 50_000}
    assert inventory.counts().images == 2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_document_that_ends_too_early_is_refused_with_its_line(
    tmp_path: Path, share: float
) -> None:
    for text in (json.dumps(IMAGES, indent=1), json.dumps(IMAGES[0])):
        with pytest.raises(InventoryError, match=r"images\.json:\d+: not a JSON catalogue"):
            load(write(tmp_path, text[: max(20, int(len(text) * share))]))


def test_objects_that_are_no_images_and_fields_of_the_wrong_kind_are_findings(
    tmp_path: Path,
) -> None:
    image = IMAGES[0] | {"kbytes": [1], "num_files": 1.5, "policy_name": True, "hold": {"a": 1}}
    bad = IMAGES[1] | {"frags": "none"}
    text = json.dumps([image, bad, {"backupid": "x"}, 7, IMAGES[2] | {"frags": [1, {"id": "T1"}]}])
    inventory, report = load(write(tmp_path, text))
    assert codes(report) == {"bad_value", "row_ignored"}
    assert report.counts == {"bad_value": 4, "row_ignored": 5}
    images = {one.image_id: one for one in inventory.images()}
    assert images[image["backupid"]].policy is None
    assert images[image["backupid"]].file_count is None
    assert images[bad["backupid"]].copies == ()


def test_names_that_are_no_whole_characters_are_unknown(tmp_path: Path) -> None:
    text = json.dumps([IMAGES[0] | {"policy_name": "a\ud800"}])
    inventory, report = load(write(tmp_path, text))
    assert report.counts == {"bad_value": 1}
    (image,) = inventory.images()
    assert image.policy is None
