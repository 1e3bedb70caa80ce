"""Which images are migrated, and from which of their copies.

What has expired is skipped, what is held is kept. Of several good copies the one that needs the
fewest mounts is taken: tapes that must be read anyway cost nothing more. Two passes over the
catalogue, and in memory only the tapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from migrate.inventory.store import Inventory
from migrate.inventory.validator import KnownMedia, copy_problems, image_problems
from migrate.model import Copy, Image, Problem


class Outcome(StrEnum):
    """How an image ends. SKIPPED: not wanted. FAILED: could not be tried. DAMAGED: bad bytes."""

    STORED = "stored"
    SKIPPED = "skipped"
    DAMAGED = "damaged"
    FAILED = "failed"


NOT_WANTED = frozenset({Problem.EXPIRED, Problem.INCOMPLETE, Problem.NO_TAPE_COPY})
"""Problems that make an image uninteresting; any other one on a wanted image is a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of one image: a copy to read, or an outcome at once with its reason."""

    image: Image
    copy: Copy | None
    outcome: Outcome | None = None
    reason: str = ""


def decide(
    inventory: Inventory,
    as_of: int,
    wanted: Callable[[str], bool] = lambda _: True,
    begun: Callable[[str], int | None] = lambda _: None,
    damaged: Callable[[str], int | None] = lambda _: None,
) -> Iterator[Decision]:
    """A decision for every image that is wanted, in the order of their ids.

    wanted says by the image id whether an image is still to be looked at, begun which copy it was
    begun with: it goes on with that one; damaged which copy was found to be, so that another is
    preferred. as_of is in UTC nanoseconds.
    """
    media = KnownMedia.of(inventory)
    needed: set[str] = set()
    for image in inventory.images():
        if wanted(image.image_id):
            copies = _eligible(image, media, as_of)
            if len(copies) == 1:
                needed.update(_tapes(copies[0]))
    for image in inventory.images():
        if wanted(image.image_id):
            number = begun(image.image_id)
            copy = next((one for one in image.copies if one.copy_number == number), None)
            if copy is not None:
                yield Decision(image=image, copy=copy)
            else:
                yield _decide(image, media, as_of, needed, damaged(image.image_id))


def _decide(
    image: Image, media: KnownMedia, as_of: int, needed: set[str], damaged: int | None
) -> Decision:
    copies = _eligible(image, media, as_of)
    if not copies:
        return _left_out(image, media, as_of)

    def more_mounts(copy: Copy) -> tuple[bool, int, int, bool, int]:
        tapes = _tapes(copy)
        again = copy.copy_number == damaged
        return (again, len(tapes - needed), len(tapes), not copy.primary, copy.copy_number)

    best = min(copies, key=more_mounts)
    needed.update(_tapes(best))
    return Decision(image=image, copy=best)


def _left_out(image: Image, media: KnownMedia, as_of: int) -> Decision:
    """Skipped when the image, or each of its copies, is not wanted; else something is missing."""
    forgiven = _forgiven(image)
    whole = set(image_problems(image, media, as_of)) - forgiven
    each = [set(copy_problems(image, copy, media, as_of)) - forgiven for copy in image.copies]
    skipped = bool(whole & NOT_WANTED) or all(found & NOT_WANTED for found in each)
    return Decision(
        image=image,
        copy=None,
        outcome=Outcome.SKIPPED if skipped else Outcome.FAILED,
        reason=", ".join(sorted(whole.union(*each))),
    )


def held(image: Image) -> bool:
    """Whether the product holds the image, or any copy of it, against expiry."""
    return image.hold or any(copy.hold for copy in image.copies)


def _eligible(image: Image, media: KnownMedia, as_of: int) -> list[Copy]:
    """Copies with nothing against them; expiry does not count for what is held."""
    return [
        copy
        for copy in image.copies
        if not set(copy_problems(image, copy, media, as_of)) - _forgiven(image)
    ]


def _forgiven(image: Image) -> set[Problem]:
    return {Problem.EXPIRED} if held(image) else set()


def _tapes(copy: Copy) -> set[str]:
    return {part.media_id for part in copy.fragments if part.fragment_number > 0}
