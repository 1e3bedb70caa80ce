"""Facts of a migration, and the pool's words for an image of a catalogue."""

from __future__ import annotations

import json
from collections.abc import Iterable

from catalog.model import NANOSECONDS, Fact, Kind, LockMode, TapePlace
from connector.pool import Origin, Retention
from connector.pool.commit import ledger_name
from connector.pool.context import WRITER, PoolContext
from connector.pool.outbox import new_fact_id
from migrate.model import Copy, Fragment, Image, Media
from migrate.selection import Outcome, held

POOL_COPY = 1
"""A migrated image is the pool's first copy, whatever number its copy on tape had."""

_DAY = 86_400 * NANOSECONDS
KIND_OF = {
    Outcome.STORED: Kind.STORED,
    Outcome.SKIPPED: Kind.SKIPPED,
    Outcome.DAMAGED: Kind.DAMAGED,
    Outcome.FAILED: Kind.FAILED,
}


def tape_file_name(media_id: str, number: int) -> str:
    """The pool's name of a tape file that was moved whole. Source: docs/format.md."""
    return f"{media_id}-file-{number:05d}"


def data_fragments(copy: Copy) -> tuple[Fragment, ...]:
    """The fragments that are image data, in order."""
    data = [part for part in copy.fragments if part.fragment_number > 0]
    return tuple(sorted(data, key=lambda part: part.fragment_number))


def places(copy: Copy, barcodes: dict[str, str]) -> tuple[TapePlace, ...]:
    """Where a copy lies on tape; barcodes by media id, as far as they are known."""
    return tuple(
        TapePlace(
            media_id=part.media_id,
            barcode=barcodes.get(part.media_id),
            fragment_number=part.fragment_number,
            tape_file=part.tape_file_number,
            block_offset=part.block_offset,
            size=part.size_bytes,
        )
        for part in data_fragments(copy)
    )


def origin(image: Image, copy: Copy, barcodes: dict[str, str], notes: Iterable[str] = ()) -> Origin:
    """Where an image comes from."""
    return Origin(
        product=image.product,
        client=image.client,
        policy=image.policy,
        schedule=image.schedule,
        schedule_type=image.schedule_type,
        backup_time=image.backup_time,
        copy_number=copy.copy_number,
        places=places(copy, barcodes),
        problems=tuple(str(problem) for problem in image.problems),
        notes=tuple(notes),
    )


def retention(
    image: Image, *, lock: LockMode, now: int, infinite_days: int, can_hold: bool
) -> Retention:
    """How long an image is kept and locked: until it expires.

    An image without an end is locked for infinite_days at first, because a lock needs a date and
    can be extended but never shortened. What has expired, or has no known expiry, is not locked;
    what is held gets a legal hold where the store has them.
    """
    until: int | None = None
    if image.expires_infinite:
        until = now + infinite_days * _DAY
    elif image.expires_at is not None and image.expires_at > now:
        until = image.expires_at
    locked = lock is not LockMode.NONE and until is not None
    return Retention(
        expires_at=image.expires_at,
        expires_infinite=image.expires_infinite,
        lock_mode=lock if locked else LockMode.NONE,
        lock_until=until if locked else None,
        hold=held(image) and can_hold,
    )


def outcome_fact(
    context: PoolContext,
    image: Image,
    copy: Copy | None,
    outcome: Outcome,
    reason: str,
    barcodes: dict[str, str],
) -> Fact:
    """The ledger's row of an image that was not stored."""
    where = places(copy, barcodes) if copy else ()
    return Fact(
        fact_id=new_fact_id(),
        kind=KIND_OF[outcome],
        recorded_at=context.clock(),
        actor=context.actor,
        writer=WRITER,
        run_id=context.run_id,
        reason=reason,
        image=ledger_name(image.image_id),
        copy=POOL_COPY,
        pool=context.store.uri,
        product=image.product,
        client=image.client,
        policy=image.policy,
        schedule=image.schedule,
        schedule_type=image.schedule_type,
        backup_time=image.backup_time,
        expires_at=image.expires_at,
        expires_infinite=image.expires_infinite,
        size=image.size_bytes,
        problems=tuple(str(problem) for problem in image.problems),
        media=tuple(dict.fromkeys(place.media_id for place in where)),
        places=where,
        hold=held(image),
    )


def tape_fact(
    context: PoolContext,
    kind: Kind,
    media: Media,
    barcode: str,
    *,
    drive: str | None = None,
    reason: str | None = None,
    detail: dict[str, object] | None = None,
) -> Fact:
    """A row about a tape."""
    return Fact(
        fact_id=new_fact_id(),
        kind=kind,
        recorded_at=context.clock(),
        actor=context.actor,
        writer=WRITER,
        run_id=context.run_id,
        reason=reason,
        media=(media.media_id,),
        barcode=barcode,
        drive=drive,
        pool=context.store.uri,
        detail=json.dumps(detail) if detail else None,
    )
