"""The store: its life, its order, and what a planner asks of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.errors import InventoryError
from migrate.inventory import (
    ImportReport,
    Inventory,
    MediaTotal,
    Spanning,
    read_catalogs,
    reading,
    validated,
)
from migrate.inventory.output import summary, summary_lines
from migrate.inventory.rows import CopyRow, FragmentRow, ImageRow, MediaRow, Row
from tests.inventory.support import AS_OF, NETBACKUP, as_json, expected, load


def row(image_id: str, media_id: str, number: int, file: int | None, *, copy: int = 1) -> Row:
    return Row(
        file or 0,
        ImageRow(image_id),
        CopyRow(copy, "tape"),
        FragmentRow(copy, number, media_id, file, size_bytes=10),
    )


def inventory_of(*rows: Row | MediaRow) -> Inventory:
    inventory = Inventory.create(":memory:")
    inventory.add("test", rows)
    inventory.settle()
    return inventory


def test_a_file_inventory_is_read_back_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "inventory.db"
    names = ("nbu.csv", "bpmedialist_l.txt", "vmquery_b_a.txt")
    with Inventory.create(path) as made:
        read_catalogs([NETBACKUP / name for name in names], made)
        first = as_json(made)
    assert [one.name for one in tmp_path.iterdir()] == ["inventory.db"]
    with Inventory.open(path) as opened:
        assert as_json(opened) == first == expected("nbu_expected.json")


def test_nothing_has_the_name_before_it_is_settled(tmp_path: Path) -> None:
    path = tmp_path / "inventory.db"
    with Inventory.create(path) as inventory:
        inventory.add("test", [row("a", "T1", 1, 1)])
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_an_interrupted_import_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "inventory.db"
    for name in ("inventory.db.partial", "inventory.db.staging"):
        (tmp_path / name).write_bytes(b"rubbish" * 1000)
    with Inventory.create(path) as inventory:
        inventory.add("test", [row("a", "T1", 1, 1)])
        inventory.settle()
        assert inventory.counts().images == 1


def test_what_is_no_inventory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="there is no inventory"):
        Inventory.open(tmp_path / "gone.db")
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"rubbish" * 1000)
    with pytest.raises(InventoryError, match="cannot be read or written"):
        Inventory.open(bad)
    with pytest.raises(InventoryError, match="cannot be read or written"):
        Inventory.create(tmp_path / "no" / "folder" / "x.db")


def test_the_order_of_life_is_kept() -> None:
    inventory = Inventory.create(":memory:")
    with pytest.raises(InventoryError, match="not settled"):
        inventory.images()
    inventory.settle()
    assert list(inventory.images()) == []
    with pytest.raises(InventoryError, match="settled"):
        inventory.add("test", [])
    with pytest.raises(InventoryError, match="settled already"):
        inventory.settle()


def test_images_come_by_id_and_fragments_by_number_however_they_were_added() -> None:
    inventory = inventory_of(
        row("b", "T1", 2, 4), row("a", "T2", 1, 1), row("b", "T1", -1, 5), row("b", "T1", 1, 3),
        row("c", "T1", 1, 9, copy=2), row("c", "T1", 1, 8, copy=1),
    )  # fmt: skip
    images = list(inventory.images())
    assert [image.image_id for image in images] == ["a", "b", "c"]
    assert [one.fragment_number for one in images[1].copies[0].fragments] == [1, 2, -1]
    assert [one.copy_number for one in images[2].copies] == [1, 2]


def test_one_image_is_found_by_its_id() -> None:
    inventory, _ = load(NETBACKUP / "nbu.csv")
    images = {image.image_id: image for image in inventory.images()}
    for image_id, image in images.items():
        assert inventory.image(image_id) == image
    assert inventory.image("nobody_1546635613") is None
    assert images["fs01.example.com_1546635613"].row == f"{NETBACKUP / 'nbu.csv'}:2"


def test_fragments_come_in_the_order_of_the_tape_and_unknown_places_first() -> None:
    inventory = inventory_of(
        row("a", "T1", 1, 3), row("b", "T1", 1, None), row("c", "T1", 1, 2), row("d", "T2", 1, 1)
    )
    found = [(one.image_id, one.fragment.tape_file_number) for one in inventory.fragments_on("T1")]
    assert found == [("b", None), ("c", 2), ("a", 3)]
    assert list(inventory.fragments_on("T9")) == []


def test_the_order_of_the_tape_needs_no_sort() -> None:
    inventory, _ = load(NETBACKUP / "nbu.csv")
    for selected in (False, True):
        query = reading.fragments_on_query(selected)
        plan = inventory._db.execute(f"EXPLAIN QUERY PLAN {query}", ("0103L6",)).fetchall()
        assert not [step for step in plan if "TEMP B-TREE" in step[3]]


def test_totals_and_spans_count_what_is_selected() -> None:
    inventory = inventory_of(
        row("a", "T1", 1, 1), row("a", "T2", 2, 1), row("b", "T2", 1, 2),
        row("b", "@disk", 1, None, copy=2)._replace(copy=CopyRow(2, "disk")),
    )  # fmt: skip
    assert list(inventory.media_totals()) == [
        MediaTotal("T1", 1, 1, 10, 0),
        MediaTotal("T2", 2, 2, 20, 0),
    ]
    assert list(inventory.spanning()) == [Spanning("a", 1, ("T1", "T2"))]
    assert inventory.select([("b", 1), ("nobody", 1)]) == 1
    assert list(inventory.media_totals(selected_only=True)) == [MediaTotal("T2", 1, 1, 10, 0)]
    assert list(inventory.spanning(selected_only=True)) == []
    placed = list(inventory.fragments_on("T2", selected_only=True))
    assert [one.image_id for one in placed] == ["b"]
    assert inventory.select([]) == 0


def test_a_selection_may_be_fed_from_the_images_it_selects_from() -> None:
    inventory, _ = load(NETBACKUP / "nbu.csv")
    wanted = (
        (image.image_id, copy.copy_number)
        for image in validated(inventory, AS_OF)
        for copy in image.copies
    )
    assert inventory.select(wanted) == inventory.counts().copies


def test_media_of_fragments_are_known_but_not_listed() -> None:
    inventory = inventory_of(row("a", "T1", 1, 1), MediaRow(1, "T2", barcode="X2", listed=True))
    assert [(t.media_id, listed) for t, listed in inventory.media_with_listing()] == [
        ("T1", False),
        ("T2", True),
    ]
    assert inventory.has_media_list()
    assert not inventory_of(row("a", "T1", 1, 1)).has_media_list()


def test_lists_of_one_tape_complete_each_other_and_contradictions_are_reported() -> None:
    inventory = Inventory.create(":memory:")
    report = ImportReport()
    rows = [
        MediaRow(1, "T1", assigned_at=100, assigned_uncertainty=50, listed=True),
        MediaRow(2, "T1", barcode="X1"),
        MediaRow(3, "T1", assigned_at=120, frozen=True),
        MediaRow(4, "T1", barcode="X9", assigned_at=900),
    ]
    inventory.add("list", rows, report)
    inventory.settle(report)
    (tape,) = inventory.media()
    assert (tape.barcode, tape.assigned_at, tape.assigned_uncertainty) == ("X1", 900, 0)
    assert tape.frozen
    assert report.counts == {"media_differ": 2}
    assert all(one.place == "list:1 and list:4" for one in report.findings)


def test_the_size_of_an_image_is_the_sum_of_its_fragments_when_nothing_else_tells() -> None:
    (image,) = inventory_of(
        row("a", "T1", 1, 1), row("a", "T1", 2, 2), row("a", "T1", -1, 3)
    ).images()
    assert image.size_bytes == 20
    (image,) = inventory_of(row("a", "T1", 1, 1), row("a", "T1", 3, 2)).images()
    assert image.size_bytes is None


def test_the_summary_counts_by_policy_tape_and_finding() -> None:
    inventory, _ = load(NETBACKUP / "nbu.csv", NETBACKUP / "bpmedialist_l.txt")
    total = summary(inventory, AS_OF)
    images = expected("nbu_expected.json")
    assert total.images.count == len(images)
    assert total.images.size_bytes == sum(image["size_bytes"] for image in images)
    for code in ("expired", "media_reused", "unknown_media"):
        having = [image for image in images if code in image["problems"]]
        assert total.findings[code].count == len(having)
        assert total.findings[code].size_bytes == sum(image["size_bytes"] for image in having)
    assert sum(tally.count for tally in total.policies.values()) == len(images)
    assert total.media["0107L7"].size_bytes == 2 * 2**40
    text = "\n".join(summary_lines(total))
    assert "40 images" in text
    assert "WIN_BÜRO" in text
    assert "0107L7" in text
    assert "media_reused" in text
