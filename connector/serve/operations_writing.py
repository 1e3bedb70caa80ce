"""create, resume, flush, close, settle, abort, discard: an image from its name to its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from catalog.errors import (
    ImageBusy,
    ImageComplete,
    ImageExists,
    ImageNotFound,
    NameInvalid,
    PoolDown,
    PoolError,
)
from connector.logs import Step
from connector.pool import names
from connector.pool.attempts import AttemptRow, Attempts, AttemptState
from connector.pool.commit import finish_commit
from connector.pool.pool import Pool
from connector.serve.drafts import RESUMABLE, Definition, Draft, DraftState
from connector.serve.events import EventKind
from connector.serve.failures import BusyFor
from connector.serve.handles import PoolSink, Writing
from connector.serve.inuse import BRIEF_S
from connector.serve.keeping import check_keep, class_for, origin_of
from connector.serve.reading import Reading
from connector.serve.sinks import Sink
from connector.serve.units import Unit
from connector.serve.waiting import Patience
from connector.settings import Ack
from connector.wire import messages
from connector.wire.messages import Name

if TYPE_CHECKING:
    from connector.serve.session import ClientSession

SHORTEST_TOKEN = 8
MAX_COPY = 2**32 - 1
"""The largest copy number: names.py leaves room for ten digits in a key."""


def checked_name(unit: Unit, image: Name, copy: int | None) -> str:
    """The name, if it can be a key of this pool; copy None: any.

    Raises:
        NameInvalid: it cannot, or the copy number is out of bounds.
    """
    copy = 1 if copy is None else copy
    if not 1 <= copy <= MAX_COPY:
        raise NameInvalid(f"copy {copy} is not between 1 and {MAX_COPY}")
    names.image_folder(image, copy, prefix_length=len(unit.uri.encode()))
    return image


# --- beginning --------------------------------------------------------------------------------


def create(session: ClientSession, call: messages.Create, wait: Patience) -> messages.Writing:
    """Begin an image, or go on with the attempt that this token began."""
    unit = session.unit(call.pool)
    name = checked_name(unit, call.image, call.copy)
    if len(call.token) < SHORTEST_TOKEN:
        raise PoolError(
            f"the token has {len(call.token)} characters", hint=f"use {SHORTEST_TOKEN} or more"
        )
    held = session.writing_on(unit, name, call.copy)
    if held is not None and held[1].draft.token == call.token:
        return messages.Writing(handle=held[0], offset=held[1].offset)
    _check_reachable(unit)
    session.check_room()
    before = unit.drafts.find(name, call.copy)
    _check_unused(unit, name, call.copy, before)
    _check_foreign(before, call)
    use = _take(session, unit, name, call.copy, call.token, wait)
    try:
        draft = unit.drafts.find(name, call.copy)
        if draft is not None and draft.token == call.token and draft.state in RESUMABLE:
            return _go_on(session, unit, draft, use, wait)
        return _begin(session, unit, call, draft, use, wait)
    except BaseException:
        unit.in_use.let_go(use)
        raise


def _begin(
    session: ClientSession,
    unit: Unit,
    call: messages.Create,
    draft: Draft | None,
    use: int,
    wait: Patience,
) -> messages.Writing:
    name, copy = call.image, call.copy
    _check_unused(unit, name, copy, draft)
    _check_foreign(draft, call)
    if draft is not None and draft.state in (*RESUMABLE, DraftState.ABORTED):
        left = draft
        try:
            wait.until_done(
                "removing what was there",
                lambda: give_up(unit, left, "replaced by another attempt"),
            )
        except ImageComplete:
            _check_unused(unit, name, copy, None)  # its commit had happened: exists
            raise
    unit.space.check_create()
    check_keep(call.keep, unit.settings, unit.object_lock)
    now = unit.clock()
    storage_class = class_for(unit.settings, call.keep, expected_size=call.expected_size, now=now)
    draft = Draft(
        name=name,
        copy=copy,
        token=call.token,
        state=DraftState.WRITING,
        definition=Definition(
            source=call.source,
            keep=call.keep,
            expected_size=call.expected_size,
            block_size=call.block_size,
            storage_class=storage_class,
            client=session.peer.name,
        ),
        id="",
        begun_at=now,
        changed_at=now,
    )
    origin_of(draft.definition)  # what cannot be written into a manifest is refused now
    unit.drafts.begin(draft)
    try:
        sink = open_sink(unit, draft, fresh=True)
    except PoolError:
        unit.drafts.drop(name, copy)
        raise
    unit.count("created")
    unit.told(Step.CREATED, name, copy, sink.id, client=session.peer.name)
    unit.say(EventKind.CREATED, name, copy, expected_size=call.expected_size)
    return _opened(session, unit, draft, sink, use)


def _go_on(
    session: ClientSession, unit: Unit, draft: Draft, use: int, wait: Patience
) -> messages.Writing:
    sink = wait.until_done("resuming", lambda: open_sink(unit, draft, fresh=False))
    unit.count("resumed")
    unit.told(Step.RESUMED, draft.name, draft.copy, sink.id, offset=sink.offset)
    return _opened(session, unit, draft, sink, use)


def _opened(
    session: ClientSession, unit: Unit, draft: Draft, sink: Sink, use: int
) -> messages.Writing:
    unit.drafts.change(draft, DraftState.WRITING, durable=sink.offset, now=unit.clock(), id=sink.id)
    handle = Writing(unit, draft, sink, use, session.peer.name)
    return messages.Writing(handle=session.add(handle), offset=handle.offset)


def open_sink(unit: Unit, draft: Draft, *, fresh: bool) -> Sink:
    """Where the bytes of a draft go: where they went before, else as the pool is configured.

    Raises:
        ImageExists: the store has the image.
    """
    spool = unit.spool
    if spool.has(draft) or (fresh and unit.settings.ack is Ack.SPOOLED):
        return spool.open(draft)
    pool = unit.pool()
    writer = unit.ask(
        f"beginning {draft.name!r}",
        lambda _: pool.write_image(
            draft.name,
            draft.copy,
            storage_class=unit.storage_class(draft),
            on_commit=unit.on_commit,
        ),
        patient=not fresh,
    )
    return PoolSink(unit, draft, writer)


def _check_reachable(unit: Unit) -> None:
    """A pool that stores needs its store; one that spools goes on without."""
    if unit.settings.ack is Ack.STORED:
        unit.pool()


def _check_foreign(draft: Draft | None, call: messages.Create) -> None:
    """Another token's attempt stands in the way, unless it may be replaced."""
    if draft is None or draft.token == call.token or call.replace:
        return
    if draft.state in RESUMABLE:
        raise ImageExists(
            f"image {call.image!r} copy {call.copy} was begun with another token",
            hint="resume it with that token, discard it, or create with replace",
        )


def _check_unused(unit: Unit, name: str, copy: int, draft: Draft | None) -> None:
    entry = unit.index.get(name, copy)
    if entry is not None and entry.state == "deleting":
        raise ImageBusy(
            f"image {name!r} copy {copy} is still being deleted", hint="try again in a while"
        )
    if entry is not None or (
        draft is not None and draft.state in (DraftState.SPOOLED, DraftState.REFUSED)
    ):
        raise ImageExists(
            f"image {name!r} copy {copy} is in pool {unit.name} already",
            hint="an image is written once; after a lost answer to close, settle tells its outcome",
        )


def _take(
    session: ClientSession, unit: Unit, name: str, copy: int, token: str, wait: Patience
) -> int:
    """Take an image for writing. A client that came back at once waits for its own old session
    to be noticed as gone."""
    began = time.monotonic()
    while True:
        try:
            return unit.in_use.write(name, copy)
        except ImageBusy as exc:
            draft = unit.drafts.find(name, copy)
            own = draft is not None and draft.token == token
            patience = session.service.handover_s if own else 0.0
            if unit.in_use.is_briefly_held(name, copy):  # it is being cleaned up behind
                patience = BRIEF_S
            left = began + patience - time.monotonic()
            if left > 0 and not wait.gone():
                unit.in_use.wait_free(name, copy, min(left, 0.5))
                continue
            if own:
                raise BusyFor(
                    f"image {name!r} copy {copy} is held by another session with this token",
                    retry_after_s=1.0,
                    hint="it is free as soon as that client is known to be gone",
                ) from exc
            raise


def resume(session: ClientSession, call: messages.Resume, wait: Patience) -> messages.Writing:
    """Go on with an incomplete image."""
    unit = session.unit(call.pool)
    name = checked_name(unit, call.image, call.copy)
    held = session.writing_on(unit, name, call.copy)
    if held is not None and held[1].draft.token == call.token:
        return messages.Writing(handle=held[0], offset=held[1].offset)
    _resumable(unit, name, call)
    session.check_room()
    use = _take(session, unit, name, call.copy, call.token, wait)
    try:
        return _go_on(session, unit, _resumable(unit, name, call), use, wait)
    except ImageExists:
        unit.in_use.let_go(use)
        _resumable(unit, name, call)  # a commit that was interrupted is finished now
        raise
    except BaseException:
        unit.in_use.let_go(use)
        raise


def _resumable(unit: Unit, name: str, call: messages.Resume) -> Draft:
    draft = unit.drafts.find(name, call.copy)
    if draft is not None and draft.token == call.token:
        if draft.state in RESUMABLE:
            return draft
        if draft.state is not DraftState.ABORTED:
            raise _is_complete(name, call.copy)
    if unit.index.get(name, call.copy) is not None:
        raise _is_complete(name, call.copy)
    raise ImageNotFound(
        f"there is no attempt at image {name!r} copy {call.copy} with this token",
        hint="create it",
    )


def _is_complete(name: str, copy: int) -> ImageComplete:
    return ImageComplete(
        f"image {name!r} copy {copy} is complete", hint="nothing needs to be done; settle says more"
    )


# --- handles ----------------------------------------------------------------------------------


def flush(session: ClientSession, call: messages.Flush, wait: Patience) -> messages.Durable:
    """Wait for what is on its way."""
    handle = session.writing(call.handle)
    durable = wait.until_done("flushing", lambda: handle.flush(checkpoint=call.checkpoint))
    return messages.Durable(durable=durable, offset=handle.offset)


def close(session: ClientSession, call: messages.Close, wait: Patience) -> messages.Closed:
    """End a handle; repeated in the same session it answers the same."""
    before = session.answer_of(call.handle)
    if before is not None:
        return before
    handle = session.handle(call.handle)
    if isinstance(handle, Reading):
        answer = handle.closed()
        handle.close()
    elif call.complete:
        answer = wait.until_done("closing", lambda: handle.complete(call.size, call.sha256))
    else:
        answer = wait.until_done("closing", handle.suspend)
    session.forget(call.handle, answer)
    return answer


def abort(session: ClientSession, call: messages.Abort, wait: Patience) -> messages.Done:
    """Give an open image up; repeated in the same session it answers the same."""
    if session.was_aborted(call.handle):
        return messages.Done()
    handle = session.writing(call.handle)
    wait.until_done("aborting", handle.abort)
    session.forget(call.handle, None)
    return messages.Done()


# --- after a lost connection ------------------------------------------------------------------


def settle(session: ClientSession, call: messages.Settle, wait: Patience) -> messages.Closed:
    """How the close ended whose answer was lost."""
    unit = session.unit(call.pool)
    name = checked_name(unit, call.image, call.copy)
    draft = unit.drafts.find(name, call.copy)
    if draft is not None and draft.token == call.token and draft.state in RESUMABLE:
        draft = _settled_draft(session, unit, draft, wait)
    if draft is not None and draft.token == call.token and draft.state is not DraftState.ABORTED:
        if draft.state is DraftState.REFUSED:
            raise ImageExists(
                f"image {name!r} copy {call.copy} was spooled, but the store has another image of"
                " this name",
                hint="read it from the spool, then delete it or write it under another copy",
            )
        if draft.state in RESUMABLE:
            return _closed(unit, draft, "incomplete", None)
        _compare(name, call, draft.durable, draft.sha256)
        state = "spooled" if draft.state is DraftState.SPOOLED else "complete"
        return _closed(unit, draft, state, draft.sha256)
    return _settle_by_image(unit, name, call)


def _settled_draft(
    session: ClientSession, unit: Unit, draft: Draft, wait: Patience
) -> Draft | None:
    """The draft once nobody has it open and no commit of it hangs in the air."""
    if not unit.in_use.wait_free(draft.name, draft.copy, session.service.handover_s):
        raise BusyFor(
            f"image {draft.name!r} copy {draft.copy} is still open in another session",
            retry_after_s=1.0,
            hint="ask again",
        )
    attempt = attempt_at(unit, draft.name, draft.copy)
    if attempt is not None and attempt.state is AttemptState.COMMITTING:
        with unit.in_use.alone(draft.name, draft.copy, wait_s=BRIEF_S):
            wait.until_done(
                "settling",
                lambda: unit.ask(
                    "settling",
                    lambda pool: settle_commit(unit, pool, draft.name, draft.copy),
                    patient=True,
                ),
            )
    return unit.drafts.find(draft.name, draft.copy)


def attempt_at(unit: Unit, name: str, copy: int) -> AttemptRow | None:
    """What the journal knows of an attempt in the pool; asks nothing of the store."""
    return Attempts(unit.journal).find(name, copy)


def settle_commit(unit: Unit, pool: Pool, name: str, copy: int) -> bool:
    """Finish a commit that was interrupted; whether there was one. The caller has the image to
    itself, because a commit must not run twice at once."""
    attempt = pool.context.attempts.find(name, copy)
    if attempt is None or attempt.state is not AttemptState.COMMITTING:
        return False
    manifest = finish_commit(pool.context, attempt, unit.on_commit)
    unit.spool.clear(name, copy)
    unit.space.changed(name, copy)
    unit.count("completed")
    unit.told(Step.COMPLETED, name, copy, manifest.token, why="an interrupted commit was finished")
    unit.woken()
    return True


def _settle_by_image(unit: Unit, name: str, call: messages.Settle) -> messages.Closed:
    """The token is not known here: only equal bytes are the same image."""
    entry = unit.index.get(name, call.copy)
    if entry is None or entry.state == "deleting":
        raise ImageNotFound(
            f"there is neither an attempt with this token nor an image {name!r} copy {call.copy}",
            hint="create it and send it again",
        )
    if call.size is None or call.sha256 is None:
        raise ImageExists(
            f"image {name!r} copy {call.copy} exists, and nothing shows that it is this one",
            hint="settle with size and SHA-256",
        )
    size = entry.size or 0
    _compare(name, call, size, entry.sha256)
    return messages.Closed(
        pool=unit.name,
        image=Name(name),
        copy=call.copy,
        state="complete",
        offset=size,
        sha256=entry.sha256,
        id=entry.token,
    )


def _compare(name: str, call: messages.Settle, size: int, sha256: str | None) -> None:
    same_size = call.size is None or call.size == size
    same_digest = call.sha256 is None or call.sha256.lower() == sha256
    if not (same_size and same_digest):
        raise ImageExists(
            f"image {name!r} copy {call.copy} has {size} bytes with SHA-256 {sha256}, the client"
            f" says {call.size} and {call.sha256}",
            hint="it is another image; write under another name or copy",
        )


def _closed(unit: Unit, draft: Draft, state: str, sha256: str | None) -> messages.Closed:
    return messages.Closed(
        pool=unit.name,
        image=Name(draft.name),
        copy=draft.copy,
        state=state,
        offset=draft.durable,
        sha256=sha256,
        id=draft.id,
    )


def discard(session: ClientSession, call: messages.Discard, wait: Patience) -> messages.Done:
    """Give up an incomplete image that nobody has open."""
    unit = session.unit(call.pool)
    name = checked_name(unit, call.image, call.copy)
    with unit.in_use.alone(name, call.copy, wait_s=BRIEF_S):
        draft = unit.drafts.find(name, call.copy)
        mine = draft is not None and call.token in (None, draft.token)
        if draft is None or not mine or draft.state is DraftState.COMPLETE:
            if unit.index.get(name, call.copy) is not None:
                raise _is_complete(name, call.copy)
            raise ImageNotFound(
                f"there is no incomplete image {name!r} copy {call.copy}"
                + (" of this token" if call.token else ""),
                hint="list with state incomplete shows what there is",
            )
        if draft.state in (DraftState.SPOOLED, DraftState.REFUSED):
            raise _is_complete(name, call.copy)
        try:
            wait.until_done("discarding", lambda: give_up(unit, draft, "discarded"))
        except PoolDown:
            return messages.Done()  # the journal has it: removed as soon as the store is back
    return messages.Done()


def give_up(unit: Unit, draft: Draft, why: str, kind: EventKind = EventKind.ABORTED) -> None:
    """Remove all of an attempt. The caller has the image to itself.

    Raises:
        PoolDown: what is in the store is removed later; the draft is gone for clients.
        ImageComplete: its commit had happened, so that it is an image now and stays.
    """
    unit.drafts.change(
        draft, DraftState.ABORTED, durable=draft.durable, now=unit.clock(), id=draft.id or None
    )
    unit.space.pending(draft.name, draft.copy, 0)
    unit.spool.discard(draft)
    unit.ask("giving up an image", lambda pool: _remove(unit, pool, draft), patient=True)
    unit.drafts.drop(draft.name, draft.copy)
    unit.count("aborted")
    unit.told(Step.ABORTED, draft.name, draft.copy, draft.id, why=why)
    unit.say(kind, draft.name, draft.copy, why=why)


def _remove(unit: Unit, pool: Pool, draft: Draft) -> None:
    pool.abandon(draft.name, draft.copy)
    if settle_commit(unit, pool, draft.name, draft.copy):
        raise _is_complete(draft.name, draft.copy)
