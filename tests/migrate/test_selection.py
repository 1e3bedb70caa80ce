"""Which copy of an image is read."""

from __future__ import annotations

import json
from pathlib import Path

from migrate.inventory import ImportOptions
from migrate.inventory.detect import read_catalogs
from migrate.inventory.store import Inventory
from migrate.selection import decide
from tests.migrate.support import Bucket, run_words, spanning_set, tapemigrate
from tests.migrate.test_end_to_end import MakeBucket


def two_copies(folder: Path) -> Path:
    """An image with a copy on each of two tapes, and a neighbour on the first."""

    def copy(media: str, file: int) -> dict[str, object]:
        return {"fragments": [{"media_id": media, "tape_file_number": file, "size_bytes": 10}]}

    path = folder / "catalog.json"
    images = [
        {"image_id": "a_1700000001", "copies": [copy("TAPE01", 1), copy("TAPE02", 1)]},
        {"image_id": "b_1700000002", "copies": [copy("TAPE01", 2)]},
    ]
    path.write_text(json.dumps({"product": "netbackup", "images": images}))
    return path


def chosen(catalog: Path, **known: object) -> dict[str, int | None]:
    with Inventory.create(":memory:") as inventory:
        read_catalogs([catalog], inventory, ImportOptions())
        decisions = decide(inventory, 0, **known)  # type: ignore[arg-type]
        return {d.image.image_id: d.copy.copy_number if d.copy else None for d in decisions}


def test_the_copy_on_a_tape_that_is_read_anyway_is_taken(tmp_path: Path) -> None:
    assert chosen(two_copies(tmp_path)) == {"a_1700000001": 1, "b_1700000002": 1}


def test_a_copy_that_was_found_damaged_is_the_last_resort(tmp_path: Path) -> None:
    catalog = two_copies(tmp_path)
    damaged = {"a_1700000001": 1, "b_1700000002": 1}
    assert chosen(catalog, damaged=damaged.get) == {"a_1700000001": 2, "b_1700000002": 1}


def test_an_image_goes_on_with_the_copy_that_it_was_begun_with(tmp_path: Path) -> None:
    begun = {"a_1700000001": 2}
    assert chosen(two_copies(tmp_path), begun=begun.get)["a_1700000001"] == 2


def test_the_same_command_heals_a_damaged_image_from_its_other_copy(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set(big=1000)
    data = tapes.images()["first_1700000001"]
    tapes.tapes["TAPE09"] = [tapes.tapes["TAPE01"][0]]
    catalog, shelf = tapes.write(tmp_path)
    value = json.loads(catalog.read_text())
    entry = next(i for i in value["images"] if i["image_id"] == "first_1700000001")
    (copy,) = entry.pop("copies")
    entry["copies"] = [
        {"fragments": [{**part, "fragment_number": 1}]} for part in copy["fragments"]
    ]
    catalog.write_text(json.dumps(value))
    path = shelf / "TAPE01.tap"
    spoilt = bytearray(path.read_bytes())
    at = 4 + 1024 + 4 + 4 + 4 + 1024 + 4  # the first data record behind label, mark and header
    for place in (at, at + 4 + 65_536):
        spoilt[place + 3] |= 0x80
    path.write_bytes(spoilt)
    bucket = Bucket(moto_bucket())
    words = run_words(catalog, shelf, bucket.location, tmp_path / "work", "--quiet")
    first = tapemigrate(*words)
    assert (first.code, first.json["images"]["damaged"]) == (3, 1)
    second = tapemigrate(*words)
    assert second.code == 0, second
    assert bucket.image("first_1700000001") == data
    assert bucket.manifest("first_1700000001")["origin"]["copy_number"] == 2
    kinds = bucket.kinds()
    assert kinds["damaged", "first_1700000001"] == kinds["stored", "first_1700000001"] == 1
