"""An inventory as JSON, and as a summary for people. Printing is the command's affair."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from catalog.console import size_text
from catalog.model import NANOSECONDS, iso
from migrate.inventory.netbackup import PRODUCT
from migrate.inventory.store import Inventory
from migrate.inventory.validator import validated
from migrate.model import Copy, Fragment, Image, Media, Storage


def to_json(image: Image) -> dict[str, Any]:
    """The neutral model of one image, ready for JSON: keys and order are docs/cli.md's.

    size_is_exact appears only where it is false.
    """
    return {
        "image_id": image.image_id,
        "client": image.client,
        "policy": image.policy,
        "schedule": image.schedule,
        "schedule_type": image.schedule_type,
        "backup_time": iso(image.backup_time),
        "expires_at": iso(image.expires_at),
        "expires_infinite": image.expires_infinite,
        "retention_level": image.retention_level,
        "size_bytes": image.size_bytes,
        "file_count": image.file_count,
        "compressed": image.compressed,
        "encrypted": image.encrypted,
        "copies": [_copy(copy) for copy in image.copies],
        "problems": [str(problem) for problem in image.problems],
    }


def _copy(copy: Copy) -> dict[str, Any]:
    return {
        "copy_number": copy.copy_number,
        "primary": copy.primary,
        "expires_at": iso(copy.expires_at),
        "expires_infinite": copy.expires_infinite,
        "storage": copy.storage.value,
        "fragments": [_fragment(fragment) for fragment in copy.fragments],
    }


def _fragment(fragment: Fragment) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "fragment_number": fragment.fragment_number,
        "media_id": fragment.media_id,
        "tape_file_number": fragment.tape_file_number,
        "block_offset": fragment.block_offset,
        "block_size": fragment.block_size,
        "size_bytes": fragment.size_bytes,
        "multiplexed": fragment.multiplexed,
    }
    if not fragment.size_is_exact:
        shown["size_is_exact"] = False
    return shown


def details(image: Image) -> dict[str, Any] | None:
    """What ``to_json`` does not show and reading back needs; None when there is nothing."""
    more: dict[str, Any] = {}
    if image.product != PRODUCT:
        more["product"] = image.product
    more |= {name: True for name in ("hold", "unfinished") if getattr(image, name)}
    if image.expected_copies not in (None, len(image.copies)):
        more["expected_copies"] = image.expected_copies
    if image.expected_fragments is not None:
        more["expected_fragments"] = image.expected_fragments
    copies = [found for copy in image.copies if (found := _copy_details(copy))]
    if copies:
        more["copies"] = copies
    return {"image_id": image.image_id, **more} if more else None


def _copy_details(copy: Copy) -> dict[str, Any] | None:
    more: dict[str, Any] = {"hold": True} if copy.hold else {}
    fragments = []
    for one in copy.fragments:
        known: dict[str, Any] = {}
        if one.media_assigned_at is not None:
            known["media_assigned_at"] = iso(one.media_assigned_at)
        if one.key_tag is not None:
            known["key_tag"] = one.key_tag
        if known:
            names = {"fragment_number": one.fragment_number, "media_id": one.media_id}
            fragments.append(names | known)
    if fragments:
        more["fragments"] = fragments
    return {"copy_number": copy.copy_number, **more} if more else None


def media_json(tape: Media, listed: bool) -> dict[str, Any]:
    """One tape, ready for JSON. listed: it stands in a list of the tapes that exist."""
    shown: dict[str, Any] = {
        "media_id": tape.media_id,
        "barcode": tape.barcode,
        "label": tape.label,
        "density": tape.density,
        "assigned_at": iso(tape.assigned_at),
        "expires_at": iso(tape.expires_at),
        "expires_infinite": tape.expires_infinite,
        "frozen": tape.frozen,
        "suspended": tape.suspended,
        "listed": listed,
    }
    if tape.assigned_uncertainty:
        shown["assigned_uncertainty_s"] = tape.assigned_uncertainty // NANOSECONDS
    return shown


def write_json(out: TextIO, inventory: Inventory, as_of: int) -> int:
    """Write the whole inventory as one object, and return the number of images.

    ``{"as_of": ..., "images": [...], "media": [...], "details": [...]}``, one element a line.
    The same object is read back as a catalogue (native.py). Memory: one image; the details wait
    in a temporary file.
    """
    count = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as waiting:

        def image_elements() -> Iterator[dict[str, Any]]:
            nonlocal count
            for image in validated(inventory, as_of):
                count += 1
                more = details(image)
                if more is not None:
                    waiting.write(f"{json.dumps(more, ensure_ascii=False)}\n")
                yield to_json(image)

        out.write(f'{{"as_of": {json.dumps(iso(as_of))},\n "images": [')
        _elements(out, (_dump(one) for one in image_elements()))
        out.write('],\n "media": [')
        _elements(out, (_dump(media_json(*one)) for one in inventory.media_with_listing()))
        out.write('],\n "details": [')
        waiting.seek(0)
        _elements(out, (line.rstrip("\n") for line in waiting))
        out.write("]}\n")
    return count


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _elements(out: TextIO, texts: Iterable[str]) -> None:
    for number, text in enumerate(texts):
        out.write(f"{',' if number else ''}\n  {text}")


# --- the summary ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """A line of a summary. size_bytes sums what is known; unknown_sizes counts the rest."""

    count: int = 0
    size_bytes: int = 0
    unknown_sizes: int = 0

    def add(self, size: int | None) -> None:
        """Count one more thing of this size."""
        self.count += 1
        if size is None:
            self.unknown_sizes += 1
        else:
            self.size_bytes += size


@dataclass(slots=True)
class Summary:
    """An inventory in figures. policies and findings count images, media counts fragments."""

    as_of: int
    images: Tally = field(default_factory=Tally)
    policies: dict[str, Tally] = field(default_factory=dict)
    media: dict[str, Tally] = field(default_factory=dict)
    findings: dict[str, Tally] = field(default_factory=dict)
    held: Tally = field(default_factory=Tally)


def summary(inventory: Inventory, as_of: int) -> Summary:
    """Count a validated inventory by policy, tape and finding, in one pass."""
    total = Summary(as_of)
    for image in validated(inventory, as_of):
        size = image.size_bytes
        total.images.add(size)
        total.policies.setdefault(image.policy or "", Tally()).add(size)
        for problem in image.problems:
            total.findings.setdefault(problem.value, Tally()).add(size)
        if image.hold or any(copy.hold for copy in image.copies):
            total.held.add(size)
        for copy in image.copies:
            if copy.storage is Storage.TAPE:
                for fragment in copy.fragments:
                    tape = total.media.setdefault(fragment.media_id, Tally())
                    tape.add(fragment.size_bytes)
    return total


def summary_lines(total: Summary) -> Iterator[str]:
    """The summary as text for a terminal, 80 columns while the names allow it."""
    yield f"{total.images.count} images, {_size(total.images)}, as of {iso(total.as_of)}"
    if total.held.count:
        yield f"{total.held.count} images on legal hold, {_size(total.held)}"
    for title, what, tallies in (
        ("Policy", "images", total.policies),
        ("Tape", "fragments", total.media),
        ("Finding", "images", total.findings),
    ):
        if tallies:
            yield ""
            yield from _table(title, what, tallies)


def _table(title: str, what: str, tallies: dict[str, Tally]) -> Iterator[str]:
    names = {name: name or "(none)" for name in tallies}
    width = max(len(title), *(len(name) for name in names.values()))
    yield f"{title:<{width}}  {what:>10}  size"
    for name in sorted(tallies):
        tally = tallies[name]
        yield f"{names[name]:<{width}}  {tally.count:>10}  {_size(tally)}"


def _size(tally: Tally) -> str:
    text = size_text(tally.size_bytes) or ""
    return f"{text} and {tally.unknown_sizes} of unknown size" if tally.unknown_sizes else text
