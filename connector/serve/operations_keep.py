"""delete, set_retention, set_hold: what becomes of images that are there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from catalog.errors import (
    ImageHeld,
    ImageLocked,
    ImageNotFound,
    NameInvalid,
    ObjectLocked,
    PoolDown,
    PoolError,
    Unsupported,
    WouldShorten,
)
from catalog.model import LockMode, iso
from connector.logs import Step
from connector.pool import names
from connector.pool.attempts import AttemptState
from connector.pool.delete import delete_image
from connector.pool.keep import extend_retention
from connector.pool.keep import set_hold as hold_image
from connector.serve.drafts import IN_SPOOL, Draft, DraftState
from connector.serve.events import EventKind
from connector.serve.inuse import BRIEF_S
from connector.serve.keeping import retention_of
from connector.serve.operations_images import (
    facts_of_entry,
    listed_draft,
    manifest_of,
    spooled_draft,
)
from connector.serve.operations_writing import attempt_at, checked_name, settle_commit
from connector.serve.units import Unit
from connector.serve.waiting import Patience
from connector.wire import messages

if TYPE_CHECKING:
    from connector.serve.session import ClientSession


def delete(session: ClientSession, call: messages.Delete, wait: Patience) -> messages.Deleted:
    """Delete one copy; one that is gone is deleted as well."""
    unit = session.unit(call.pool)
    checked_name(unit, call.image, call.copy)
    if call.copy is None:
        _refuse_several(unit, call.image)
    draft = spooled_draft(unit, call.image, call.copy)
    if draft is not None and _delete_spooled(session, unit, draft, call, wait):
        return messages.Deleted(state="deleted")
    entry = unit.index.get(call.image, call.copy)
    begun = None if entry is not None else listed_draft(unit, call.image, call.copy)
    if begun is not None:
        with unit.in_use.alone(begun.name, begun.copy, wait_s=BRIEF_S):
            raise ImageNotFound(
                f"image {call.image!r} copy {begun.copy} is not complete",
                hint="discard gives up what was begun",
            )
    copy = entry.copy if entry is not None else call.copy
    if copy is None:
        copy = _lowest_copy(unit, call)
        if copy is None:
            return messages.Deleted(state="deleted")
    with unit.in_use.alone(call.image, copy, wait_s=BRIEF_S):
        state = wait.until_done(
            "deleting", lambda: _delete(unit, call, copy, _actor(session, call))
        )
    unit.space.changed(call.image, copy)
    return messages.Deleted(state=state)


def _refuse_several(unit: Unit, image: str) -> None:
    """Repeated after a lost answer, a delete of "the lowest copy" would take the next one too."""
    copies = {one.copy for one in unit.index.page(prefix=image, limit=2) if one.name == image}
    copies |= {one.copy for one in unit.drafts.in_states(IN_SPOOL) if one.name == image}
    if len(copies) > 1:
        raise NameInvalid(f"image {image!r} has several copies", hint="say which copy to delete")


def _lowest_copy(unit: Unit, call: messages.Delete) -> int | None:
    """The copy of an image that the index does not know, from the store."""
    try:
        return manifest_of(unit, call.image, None).copy
    except ImageNotFound:
        return None


def _delete(unit: Unit, call: messages.Delete, copy: int, actor: str) -> str:
    pool = unit.pool()
    entry = unit.index.get(call.image, copy)
    with unit.noticing():
        try:
            state = delete_image(
                pool, unit.index, call.image, copy, reason=call.reason, actor=actor
            )
        except ObjectLocked as exc:
            raise ImageLocked(exc.message, hint=exc.hint) from exc
    with unit.journal.transaction(durable=True) as db:
        db.execute(
            "DELETE FROM drafts WHERE name = ? AND copy = ? AND state = ?",
            (names.encode(call.image), copy, DraftState.COMPLETE),
        )
        unit.announce(db, EventKind.DELETED, call.image, copy, state=str(state), reason=call.reason)
    unit.woken()
    unit.count("deleted")
    token = entry.token if entry else ""
    unit.told(Step.DELETED, call.image, copy, token, reason=call.reason, actor=actor)
    return str(state)


def _delete_spooled(
    session: ClientSession, unit: Unit, draft: Draft, call: messages.Delete, wait: Patience
) -> bool:
    """Delete an image that is only in the spool yet; False: it has just become one of the store's.

    Its lock would have begun with the store, and holds from the start all the same.
    """
    with unit.in_use.alone(draft.name, draft.copy, wait_s=BRIEF_S):
        _settle(unit, draft, wait)
        now = unit.drafts.find(draft.name, draft.copy)
        if now is None or now.state not in IN_SPOOL:
            return False
        if now.state is DraftState.SPOOLED:
            _check_free(unit, now)
        unit.spool.remove(now, call.reason)
        with contextlib.suppress(PoolDown):  # then it is removed as soon as the store is back
            wait.until_done("removing what was uploaded", lambda: _forget_upload(unit, now))
    unit.space.pending(draft.name, draft.copy, 0)
    unit.say(EventKind.DELETED, draft.name, draft.copy, state="deleted", reason=call.reason)
    unit.count("deleted")
    actor = _actor(session, call)
    unit.told(Step.DELETED, draft.name, draft.copy, draft.id, reason=call.reason, actor=actor)
    return True


def _settle(unit: Unit, draft: Draft, wait: Patience) -> None:
    """Finish the commit of its upload, if a crash interrupted one: then it is in the store."""
    attempt = attempt_at(unit, draft.name, draft.copy)
    if attempt is not None and attempt.state is AttemptState.COMMITTING:
        wait.until_done(
            "settling",
            lambda: unit.ask(
                "settling",
                lambda pool: settle_commit(unit, pool, draft.name, draft.copy),
                patient=True,
            ),
        )


def _check_free(unit: Unit, draft: Draft) -> None:
    keep = retention_of(
        draft.definition.keep, unit.settings, begun_at=draft.begun_at, now=unit.clock()
    )
    if keep.hold:
        raise ImageHeld(
            f"image {draft.name!r} copy {draft.copy} is held", hint="release the hold first"
        )
    if keep.lock_mode is not LockMode.NONE:
        raise ImageLocked(
            f"image {draft.name!r} copy {draft.copy} is to be locked until {iso(keep.lock_until)}",
            hint="wait until the lock ends",
        )


def _forget_upload(unit: Unit, draft: Draft) -> None:
    if attempt_at(unit, draft.name, draft.copy) is not None:
        unit.ask(
            "removing what was uploaded",
            lambda pool: pool.abandon(draft.name, draft.copy),
            patient=True,
        )
    unit.drafts.drop(draft.name, draft.copy)


def set_retention(
    session: ClientSession, call: messages.SetRetention, wait: Patience
) -> messages.Kept:
    """Keep an image longer."""
    unit = session.unit(call.pool)
    if (call.until is None) == (not call.infinite):
        raise WouldShorten("a retention needs a time or infinite", hint="give one of the two")
    _check_stored(unit, call)
    manifest = manifest_of(unit, call.image, call.copy)
    actor = _actor(session, call)

    def extend() -> messages.Kept:
        with unit.noticing():
            entry = extend_retention(
                unit.pool(),
                unit.index,
                manifest,
                until=call.until,
                infinite=call.infinite,
                actor=actor,
                reason=call.reason,
                mode=LockMode.GOVERNANCE
                if unit.settings.lock is LockMode.NONE
                else unit.settings.lock,
            )
        return messages.Kept(facts=facts_of_entry(entry))

    kept = wait.until_done("extending retention", extend)
    unit.say(
        EventKind.EXTENDED, manifest.name, manifest.copy,
        until=kept.facts.expires_at, infinite=kept.facts.infinite, reason=call.reason, actor=actor,
    )  # fmt: skip
    unit.told(Step.KEPT, manifest.name, manifest.copy, manifest.token, reason=call.reason)
    return kept


def set_hold(session: ClientSession, call: messages.SetHold, wait: Patience) -> messages.Kept:
    """Place or release the legal hold."""
    unit = session.unit(call.pool)
    _check_stored(unit, call)
    manifest = manifest_of(unit, call.image, call.copy)
    actor = _actor(session, call)

    def hold() -> messages.Kept:
        with unit.noticing():
            entry = hold_image(
                unit.pool(), unit.index, manifest, on=call.on, actor=actor, reason=call.reason
            )
        return messages.Kept(facts=facts_of_entry(entry))

    kept = wait.until_done("changing a hold", hold)
    kind = EventKind.HELD if call.on else EventKind.RELEASED
    unit.say(kind, manifest.name, manifest.copy, reason=call.reason, actor=actor)
    unit.told(Step.KEPT, manifest.name, manifest.copy, manifest.token, hold=call.on)
    return kept


def _check_stored(unit: Unit, call: messages.SetRetention | messages.SetHold) -> None:
    checked_name(unit, call.image, call.copy)
    if not call.reason:
        raise PoolError("a change of retention or hold needs a reason", hint="say why")
    draft = spooled_draft(unit, call.image, call.copy)
    if draft is not None and unit.index.get(call.image, call.copy) is None:
        raise Unsupported(
            f"image {call.image!r} copy {draft.copy} is not in the store yet",
            hint="wait until its state is complete; locks and holds live in the store",
        )


def _actor(
    session: ClientSession, call: messages.Delete | messages.SetRetention | messages.SetHold
) -> str:
    """Who did it: what the client says, and always who it is."""
    return f"{call.actor} via {session.peer.name}" if call.actor else session.peer.name
