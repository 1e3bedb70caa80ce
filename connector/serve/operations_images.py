"""open, props, list, map, verify: looking at images, and reading them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import heapq
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from catalog.errors import (
    CursorExpired,
    ImageNotFound,
    PoolError,
    Unsupported,
)
from catalog.model import LockMode
from connector.logs import Step
from connector.pool.extents import extents as extents_of
from connector.pool.index import Entry, entry_of
from connector.pool.manifest import FragmentObject, Manifest
from connector.pool.sidecar import kept_by
from connector.pool.verify import Depth
from connector.serve import recalls
from connector.serve.drafts import IN_SPOOL, LISTED, Draft, DraftState
from connector.serve.events import EventKind
from connector.serve.inuse import BRIEF_S
from connector.serve.keeping import retention_of
from connector.serve.operations_writing import checked_name
from connector.serve.reading import PoolSource, Reading
from connector.serve.units import Unit
from connector.serve.waiting import Patience
from connector.store.interface import RecallState, StoredObject
from connector.wire import messages
from connector.wire.codec import fitting
from connector.wire.messages import MAX_LIST, ImageFacts, Name

if TYPE_CHECKING:
    from connector.serve.session import ClientSession

MAX_EXTENTS = MAX_LIST
_SHOWN = ("complete", "damaged", "spooled")
STATES = ("writing", "incomplete", "spooled", "complete", "damaged", "deleting", "refused")


# --- finding ----------------------------------------------------------------------------------


def spooled_draft(unit: Unit, image: Name, copy: int | None) -> Draft | None:
    """The draft of an image that can be read from the spool only; without copy the lowest."""
    return _draft_in(IN_SPOOL, unit, image, copy)


def listed_draft(unit: Unit, image: Name, copy: int | None) -> Draft | None:
    """The draft of an image that is not complete or only spooled; without copy the lowest."""
    return _draft_in(LISTED, unit, image, copy)


def _draft_in(
    states: Sequence[DraftState], unit: Unit, image: Name, copy: int | None
) -> Draft | None:
    if copy is not None:
        draft = unit.drafts.find(image, copy)
        return draft if draft is not None and draft.state in states else None
    found = [draft for draft in unit.drafts.in_states(states) if draft.name == image]
    return min(found, key=lambda draft: draft.copy, default=None)


def manifest_of(unit: Unit, image: Name, copy: int | None) -> Manifest:
    """The manifest of a complete image, from the store.

    Raises:
        ImageNotFound, ImageBusy (it is being deleted), PoolDown.
    """
    number = _number_of(unit, image, copy)
    return unit.ask("reading the manifest", lambda pool: pool.stat(image, number))


def _number_of(unit: Unit, image: Name, copy: int | None) -> int | None:
    """The copy that is meant, as far as the index knows."""
    checked_name(unit, image, copy)
    entry = unit.index.get(image, copy)
    if entry is not None and entry.state == "deleting":
        raise ImageNotFound(f"image {image!r} copy {entry.copy} is being deleted")
    return entry.copy if entry is not None else copy


def take(unit: Unit, image: Name, copy: int | None) -> tuple[Manifest, int]:
    """The manifest of a complete image, and a use of it that the caller lets go.

    The use comes first, so that no deletion comes between: what it removes would look like damage.

    Raises:
        ImageNotFound, ImageBusy, TooBusy, PoolDown.
    """
    number = _number_of(unit, image, copy)
    use = None if number is None else unit.in_use.read(image, number, wait_s=BRIEF_S)
    try:
        manifest = manifest_of(unit, image, number)
        if use is None:
            use = unit.in_use.read(image, manifest.copy, wait_s=BRIEF_S)
        return manifest, use
    except BaseException:
        if use is not None:
            unit.in_use.let_go(use)
        raise


# --- reading ----------------------------------------------------------------------------------


def open_image(session: ClientSession, call: messages.Open, wait: Patience) -> messages.Reading:
    """Open a complete or a spooled image for reading."""
    unit = session.unit(call.pool)
    checked_name(unit, call.image, call.copy)
    session.check_room()
    draft = spooled_draft(unit, call.image, call.copy)
    entry = unit.index.get(call.image, call.copy)
    if draft is not None and (entry is None or draft.copy < entry.copy):
        with contextlib.suppress(ImageNotFound):  # it has just left for the store: open it there
            return _open_spooled(session, unit, draft)
    manifest, use = take(unit, call.image, call.copy)
    try:
        if manifest.within:
            raise Unsupported(
                f"image {call.image!r} lies interleaved in tape files and has no bytes of its own",
                hint="tapemigrate rehydrate brings it back",
            )
        recalls.check_readable(unit, manifest, may_ask=True)
        source = PoolSource(unit.pool().open_image(manifest))
        reader = Reading(
            unit, manifest.name, manifest.copy, manifest.token, source, use, session.peer.name
        )
        handle = session.add(reader)
    except BaseException:
        unit.in_use.let_go(use)
        raise
    unit.count("opened")
    unit.told(Step.OPENED, manifest.name, manifest.copy, manifest.token, client=session.peer.name)
    return messages.Reading(
        handle=handle,
        image=Name(manifest.name),
        copy=manifest.copy,
        size=reader.size,
        sha256=manifest.sha256,
        state="damaged" if manifest.gaps else "complete",
    )


def _open_spooled(session: ClientSession, unit: Unit, draft: Draft) -> messages.Reading:
    use = unit.in_use.read(draft.name, draft.copy, wait_s=BRIEF_S)
    try:
        source = unit.spool.source(draft)
        reader = Reading(unit, draft.name, draft.copy, draft.id, source, use, session.peer.name)
        handle = session.add(reader)
    except BaseException:
        unit.in_use.let_go(use)
        raise
    unit.count("opened")
    return messages.Reading(
        handle=handle,
        image=Name(draft.name),
        copy=draft.copy,
        size=reader.size,
        sha256=draft.sha256,
        state=str(draft.state),
    )


# --- properties -------------------------------------------------------------------------------


def facts_of_entry(entry: Entry) -> ImageFacts:
    """An indexed image as ``list`` shows it."""
    return ImageFacts(
        image=Name(entry.name),
        copy=entry.copy,
        state=entry.state,
        size=entry.size or 0,
        stored_size=entry.stored_size,
        created_at=entry.created_at,
        sha256=entry.sha256,
        storage_class=None if entry.storage_class is None else str(entry.storage_class),
        expires_at=entry.expires_at,
        infinite=entry.infinite,
        lock=str(entry.lock_mode).lower(),
        lock_until=entry.lock_until,
        hold=entry.hold,
        id=entry.token,
    )


def facts_of_draft(unit: Unit, draft: Draft) -> ImageFacts:
    """An image that is not in the store yet, as ``list`` shows it."""
    retention = retention_of(
        draft.definition.keep, unit.settings, begun_at=draft.begun_at, now=draft.begun_at
    )
    state = draft.state
    if state is DraftState.WRITING and not unit.in_use.is_open(draft.name, draft.copy):
        state = DraftState.INCOMPLETE
    return ImageFacts(
        image=Name(draft.name),
        copy=draft.copy,
        state=str(state),
        size=draft.durable,
        stored_size=0,
        created_at=draft.begun_at,
        sha256=draft.sha256,
        storage_class=draft.definition.storage_class,
        expires_at=retention.expires_at,
        infinite=retention.expires_infinite,
        lock=str(LockMode.NONE).lower(),
        lock_until=None,
        hold=retention.hold,
        id=draft.id,
    )


def props(session: ClientSession, call: messages.GetProps, wait: Patience) -> messages.Props:
    """Everything about one image."""
    unit = session.unit(call.pool)
    checked_name(unit, call.image, call.copy)
    entry = unit.index.get(call.image, call.copy)
    draft = listed_draft(unit, call.image, call.copy)
    if entry is None and draft is not None:
        return _draft_props(unit, draft)
    manifest = manifest_of(unit, call.image, call.copy)
    shown = manifest.fragments[:MAX_LIST]
    stored = wait.unless_gone(
        "asking for the state of the objects",
        lambda: unit.ask("asking for the objects", lambda pool: recalls.stats(pool, shown)),
    )
    fragments = tuple(_fragment(part, now) for part, now in zip(shown, stored, strict=True))
    entry = unit.index.get(manifest.name, manifest.copy)
    if entry is None:  # another host wrote it, and this index does not know it
        entry = entry_of(manifest, kept_by(manifest.retention))
    states = [part.recall for part in fragments]
    told = fitting(fragments)
    return messages.Props(
        facts=facts_of_entry(entry),
        source=messages.Source(
            product=manifest.origin.product,
            client=manifest.origin.client,
            policy=manifest.origin.policy,
            schedule=manifest.origin.schedule,
            schedule_type=manifest.origin.schedule_type,
            backup_time=manifest.origin.backup_time,
        ),
        recall=max(states, key=_WORSE.index, default=str(RecallState.READABLE)),
        eta_hours=recalls.eta_hours(unit, stored),
        fragments=tuple(told),
        more=len(manifest.fragments) > len(told),
        compression=manifest.compression,
        encryption=manifest.encryption,
    )


_WORSE = [
    str(state)
    for state in (
        RecallState.READABLE,
        RecallState.RECALLED,
        RecallState.RECALLING,
        RecallState.ARCHIVED,
    )
]


def _draft_props(unit: Unit, draft: Draft) -> messages.Props:
    return messages.Props(
        facts=facts_of_draft(unit, draft),
        source=draft.definition.source,
        recall=str(RecallState.READABLE),
        eta_hours=None,
        fragments=(),
        more=False,
        compression="none",
        encryption="none",
    )


def _fragment(part: FragmentObject, stored: StoredObject) -> messages.FragmentFacts:
    return messages.FragmentFacts(
        number=part.number,
        offset=part.offset,
        size=part.size,
        stored_size=stored.size,
        key=part.key,
        version_id=part.version_id,
        storage_class=str(stored.storage_class),
        sha256=part.sha256,
        recall=str(stored.recall),
        recall_expires_at=stored.recall_expires_at,
    )


# --- listing ----------------------------------------------------------------------------------


def list_images(session: ClientSession, call: messages.ListImages, wait: Patience) -> messages.Page:
    """A page of images, from the index and from the drafts, in one order."""
    unit = session.unit(call.pool)
    if call.state not in ("", "any", *STATES):
        raise PoolError(f"there is no state {call.state!r}", hint=f"use any, {', '.join(STATES)}")
    after = _from_cursor(call.cursor)
    limit = max(1, min(call.limit, MAX_LIST))
    wanted = _SHOWN if call.state == "" else STATES if call.state == "any" else (call.state,)
    merged = heapq.merge(
        _indexed(unit, call, wanted, after, limit + 1),
        _drafted(unit, call, wanted, after),
        key=lambda facts: _place(facts.image, facts.copy),
    )
    found: list[ImageFacts] = []
    for facts in merged:
        if found and _place(facts.image, facts.copy) == _place(found[-1].image, found[-1].copy):
            continue  # became complete between the two looks: the index came first and counts
        found.append(facts)
        if len(found) > limit:
            break
    shown = fitting(found[:limit])
    more = len(found) > len(shown)
    return messages.Page(
        images=tuple(shown), cursor=_cursor(shown[-1].image, shown[-1].copy) if more else None
    )


def _indexed(
    unit: Unit,
    call: messages.ListImages,
    wanted: tuple[str, ...],
    after: tuple[str, int] | None,
    limit: int,
) -> Iterator[ImageFacts]:
    states = [state for state in wanted if state in ("complete", "damaged", "deleting")]
    if not states:
        return
    for entry in unit.index.page(
        prefix=call.prefix,
        after=after,
        limit=limit,
        created_after=call.created_after,
        created_before=call.created_before,
        states=states,
    ):
        yield facts_of_entry(entry)


def _drafted(
    unit: Unit, call: messages.ListImages, wanted: tuple[str, ...], after: tuple[str, int] | None
) -> Iterator[ImageFacts]:
    prefix = _raw(call.prefix)
    found = []
    for draft in unit.drafts.in_states(LISTED):
        if not _raw(draft.name).startswith(prefix):
            continue
        if after is not None and _place(draft.name, draft.copy) <= _place(*after):
            continue
        if call.created_after is not None and draft.begun_at <= call.created_after:
            continue
        if call.created_before is not None and draft.begun_at >= call.created_before:
            continue
        facts = facts_of_draft(unit, draft)
        if facts.state in wanted:
            found.append(facts)
    yield from sorted(found, key=lambda facts: _place(facts.image, facts.copy))


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _place(name: str, copy: int) -> tuple[bytes, int]:
    return _raw(name), copy


def _cursor(name: str, copy: int) -> str:
    """A place in the order, so that what comes and goes meanwhile moves nothing else."""
    text = json.dumps([base64.b64encode(_raw(name)).decode(), copy])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _from_cursor(cursor: str | None) -> tuple[str, int] | None:
    if not cursor:
        return None
    try:
        name, copy = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        raw = base64.b64decode(name, validate=True)
        return raw.decode("utf-8", "surrogateescape"), int(copy)
    except (ValueError, TypeError, AttributeError, binascii.Error):
        raise CursorExpired("this is no cursor of a listing", hint="begin without one") from None


# --- map and verification ---------------------------------------------------------------------


def extent_map(session: ClientSession, call: messages.Map, wait: Patience) -> messages.Extents:
    """Which bytes lie where; a page of at most MAX_EXTENTS."""
    unit = session.unit(call.pool)
    checked_name(unit, call.image, call.copy)
    if spooled_draft(unit, call.image, call.copy) is not None:
        raise Unsupported(
            f"image {call.image!r} is in the spool and has no fragments yet",
            hint="ask again when its state is complete",
        )
    manifest = manifest_of(unit, call.image, call.copy)
    length = (manifest.size or 0) if call.length is None else call.length
    found: list[messages.Extent] = []
    for extent in extents_of(manifest, call.offset, length):
        if len(found) == MAX_EXTENTS:
            return messages.Extents(extents=tuple(found), next=extent.offset)
        found.append(
            messages.Extent(
                offset=extent.offset,
                length=extent.length,
                hole=extent.hole,
                fragment=extent.fragment,
                storage_class=str(extent.storage_class),
            )
        )
    return messages.Extents(extents=tuple(found), next=None)


def verify(session: ClientSession, call: messages.Verify, wait: Patience) -> messages.Verified:
    """Compare an image with its manifest; what is found is a result, not an error."""
    unit = session.unit(call.pool)
    try:
        depth = Depth(call.depth)
    except ValueError:
        raise Unsupported(
            f"there is no depth {call.depth!r}", hint="use head, checksum or full"
        ) from None
    draft = spooled_draft(unit, call.image, call.copy)
    if draft is not None:
        with contextlib.suppress(ImageNotFound):  # it has just left for the store: look there
            return _verify_spooled(unit, draft, depth, wait)
    return wait.unless_gone("verifying", lambda: _verify_stored(unit, call, depth))


def _verify_stored(unit: Unit, call: messages.Verify, depth: Depth) -> messages.Verified:
    # the use is taken in the worker: a call that is given up before it begins holds nothing
    manifest, use = take(unit, call.image, call.copy)
    try:
        if depth is Depth.FULL:
            recalls.check_readable(unit, manifest, may_ask=False)
        with unit.noticing():
            found = unit.pool().verify(manifest, depth)
    finally:
        unit.in_use.let_go(use)
    for problem in found.problems:
        unit.count("damaged")
        unit.say(EventKind.DAMAGED, manifest.name, manifest.copy, why=problem)
    unit.say(EventKind.VERIFIED, manifest.name, manifest.copy, depth=str(depth), ok=found.ok)
    unit.told(Step.VERIFIED, manifest.name, manifest.copy, manifest.token, ok=found.ok)
    return messages.Verified(
        ok=found.ok,
        depth=str(found.depth),
        problems=found.problems[:MAX_LIST],
        unknown=found.unknown[:MAX_LIST],
    )


def _verify_spooled(unit: Unit, draft: Draft, depth: Depth, wait: Patience) -> messages.Verified:
    problems = wait.until_done("verifying", lambda: unit.spool.verify(draft))
    return messages.Verified(ok=not problems, depth=str(depth), problems=problems, unknown=())
