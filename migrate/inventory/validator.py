"""The one validator: what is wrong with an image, whatever product it comes from.

Findings are results. They never remove an image from a report; the planner decides with them.
An image's problems are those of the image and of any of its copies. Whether one copy can be
migrated is ``copy_problems``: an image with a damaged copy may have a good one beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from migrate.inventory.store import Inventory
from migrate.model import Copy, Fragment, Image, Media, Problem, Storage

SIZE_SLACK = 4 * 1024 * 1024
"""Bytes by which fragments may fall short of the image's size: products count headers."""


@dataclass(frozen=True, slots=True)
class KnownMedia:
    """The tapes as the validator needs them. listed is None when there is no list of tapes."""

    tapes: Mapping[str, Media]
    listed: frozenset[str] | None = None

    @classmethod
    def of(cls, inventory: Inventory) -> KnownMedia:
        """The tapes of an inventory. Memory: a record for each tape."""
        tapes: dict[str, Media] = {}
        listed: set[str] = set()
        for tape, is_listed in inventory.media_with_listing():
            tapes[tape.media_id] = tape
            if is_listed:
                listed.add(tape.media_id)
        return cls(tapes, frozenset(listed) if listed else None)


def validated(inventory: Inventory, as_of: int) -> Iterator[Image]:
    """Every image of an inventory with its problems; as_of in UTC nanoseconds decides expiry."""
    return validate(inventory.images(), KnownMedia.of(inventory), as_of)


def validate(images: Iterable[Image], media: KnownMedia, as_of: int) -> Iterator[Image]:
    """Attach problems, in alphabetical order, to a stream of images."""
    for image in images:
        problems = image_problems(image, media, as_of)
        yield replace(image, problems=problems) if problems != image.problems else image


def image_problems(image: Image, media: KnownMedia, as_of: int) -> tuple[Problem, ...]:
    """The problems of an image and of its copies.

    Source: docs/design.md, "From catalogue to plan".
    """
    found = {Problem.CONFLICT} if Problem.CONFLICT in image.problems else set[Problem]()
    if _incomplete(image):
        found.add(Problem.INCOMPLETE)
    elif _expired(image.expires_at, image.expires_infinite, as_of):
        found.add(Problem.EXPIRED)
    if image.expected_copies is not None and image.expected_copies != len(image.copies):
        found.add(Problem.COPY_COUNT_MISMATCH)
    if not any(copy.storage is Storage.TAPE and copy.fragments for copy in image.copies):
        found.add(Problem.NO_TAPE_COPY)
    for copy in image.copies:
        found.update(_defects(image, copy, media))
    return tuple(sorted(found))


def copy_problems(image: Image, copy: Copy, media: KnownMedia, as_of: int) -> tuple[Problem, ...]:
    """What speaks against migrating this copy: nothing, when the tuple is empty.

    EXPIRED here is the copy's own expiry; a copy without one expires with its image.
    """
    found = set(_defects(image, copy, media))
    if Problem.CONFLICT in image.problems:
        found.add(Problem.CONFLICT)
    if _incomplete(image):
        found.add(Problem.INCOMPLETE)
    own = copy.expires_at is not None or copy.expires_infinite
    due = copy if own else image
    if _expired(due.expires_at, due.expires_infinite, as_of):
        found.add(Problem.EXPIRED)
    if copy.storage is not Storage.TAPE:
        found.add(Problem.NO_TAPE_COPY)
    return tuple(sorted(found))


def _incomplete(image: Image) -> bool:
    """A backup that never ended: the catalogue says so, or it has neither expiry nor files."""
    no_expiry = image.expires_at is None and not image.expires_infinite
    return image.unfinished or (no_expiry and image.file_count == 0)


def _expired(expires_at: int | None, infinite: bool, as_of: int) -> bool:
    return not infinite and expires_at is not None and expires_at <= as_of


def _defects(image: Image, copy: Copy, media: KnownMedia) -> Iterator[Problem]:
    if _misses_fragment(image, copy):
        yield Problem.MISSING_FRAGMENT
    if copy.storage is not Storage.TAPE:
        return
    if any(_overwritten(one, media.tapes.get(one.media_id)) for one in copy.fragments):
        yield Problem.MEDIA_REUSED
    if media.listed is not None and any(one.media_id not in media.listed for one in copy.fragments):
        yield Problem.UNKNOWN_MEDIA


def _misses_fragment(image: Image, copy: Copy) -> bool:
    """A gap in 1 to n, fewer than claimed, or fewer bytes than the image has.

    The claimed number is compared with all fragments of the primary copy, data or not: products
    differ in what they count, and a good image must not be called incomplete for it.
    """
    data = [one for one in copy.fragments if one.fragment_number > 0]
    if [one.fragment_number for one in data] != list(range(1, len(data) + 1)):
        return True
    if not data:
        return True
    if copy.primary and (image.expected_fragments or 0) > len(copy.fragments):
        return True
    sizes = [one.size_bytes for one in data if one.size_bytes is not None]
    if image.size_bytes is None or len(sizes) < len(data):
        return False
    return sum(sizes) + SIZE_SLACK < image.size_bytes


def _overwritten(fragment: Fragment, tape: Media | None) -> bool:
    """The tape was assigned later than when this fragment was written to it."""
    if tape is None or tape.assigned_at is None or fragment.media_assigned_at is None:
        return False
    return tape.assigned_at - tape.assigned_uncertainty > fragment.media_assigned_at
