"""What the inventory's tests share: the fixtures, and an import in one call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from catalog.model import from_iso
from migrate.inventory import ImportOptions, ImportReport, Inventory, read_catalogs, validated
from migrate.inventory.output import to_json
from migrate.model import Image

NETBACKUP = Path(__file__).parent.parent / "fixtures" / "catalogs" / "netbackup"
AS_OF = from_iso("2024-06-01T00:00:00Z")


def expected(name: str) -> list[dict[str, Any]]:
    """The images of an expected file."""
    images: list[dict[str, Any]] = json.loads((NETBACKUP / name).read_text("utf-8"))["images"]
    return images


def without_media_list(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is expected where no list of tapes was given."""
    needs_list = {"media_reused", "unknown_media"}
    return [
        image | {"problems": [code for code in image["problems"] if code not in needs_list]}
        for image in images
    ]


def load(*paths: Path, options: ImportOptions | None = None) -> tuple[Inventory, ImportReport]:
    """Import into memory."""
    inventory = Inventory.create(":memory:")
    return inventory, read_catalogs(list(paths), inventory, options)


def as_json(inventory: Inventory) -> list[dict[str, Any]]:
    """Every validated image as the command prints it."""
    return [to_json(image) for image in validated(inventory, AS_OF)]


def model(*paths: Path, options: ImportOptions | None = None) -> list[dict[str, Any]]:
    """Import and give the printed images."""
    inventory, _ = load(*paths, options=options)
    with inventory:
        return as_json(inventory)


def images_of(*paths: Path, options: ImportOptions | None = None) -> dict[str, Image]:
    """Import and give the validated images by id."""
    inventory, _ = load(*paths, options=options)
    with inventory:
        return {image.image_id: image for image in validated(inventory, AS_OF)}


def codes(report: ImportReport) -> set[str]:
    """The kinds of finding in a report."""
    return set(report.counts)
