"""Keeping an image longer, and legal holds: decided here, and kept in the store.

Three places, in this order: Object Lock on every object of the image, where the bucket has it;
the sidecar beside the manifest, which says the same to whoever rebuilds an index and is all there
is where the bucket has no Object Lock; then, in one transaction, index and ledger. The intent is
journaled before, so what a crash interrupts is finished: by ``finish_keeps``, or by the next change
of the same image. Half a change never protects less than the state before it.

One host at a time changes how an image is kept: of two at once, the later sidecar counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from catalog.errors import (
    ImageNotFound,
    ObjectLocked,
    StoreError,
    TransientStoreError,
    Unsupported,
    WouldShorten,
)
from catalog.model import NANOSECONDS, Kind, LockMode, iso
from connector.pool import outbox, sidecar
from connector.pool.commit import image_fact
from connector.pool.index import Entry, Index, entry_of, name_bytes, name_text
from connector.pool.manifest import Manifest
from connector.pool.pool import Pool
from connector.pool.sidecar import Change, Kept, effective, read_kept, with_change, write_kept

log = logging.getLogger(__name__)

DAY = 86_400 * NANOSECONDS
ENDLESS_LOCK = 3_650 * DAY
"""How far ahead an image that is kept for ever is locked; docs/adr/0010. Asking again renews it."""
RENEWED_BY = 30 * DAY
"""An endless lock that would grow by less than this is left as it is."""
LONGEST_LOCK = 100 * 365 * DAY
"""A date beyond is taken for a mistake: in compliance mode nobody could undo it."""
MAX_WORDS = 4096
"""Characters of an actor or a reason that a sidecar remembers."""
CHANGES = 8
"""Objects of one image that are changed at once."""


def extend_retention(
    pool: Pool,
    index: Index,
    manifest: Manifest,
    *,
    until: int | None = None,
    infinite: bool = False,
    actor: str,
    reason: str,
    mode: LockMode = LockMode.GOVERNANCE,
) -> Entry:
    """Keep an image until a time (UTC nanoseconds, rounded up to a second), or for ever.

    Where the bucket has Object Lock every object of the image is locked until then, in the mode
    that it is locked in already, or else in ``mode``; elsewhere Tapelift alone keeps it. Asking
    for what holds already changes nothing. An image that was stored without an end, and without a
    lock, may be given one.

    Raises:
        WouldShorten: it is kept longer already.
        Unsupported: the time is more than a hundred years away.
        ImageNotFound: it is not there, or not this one, or being deleted.
        StoreError: not done, or not known to be; the same call again finishes it.
    """
    if infinite == (until is not None):
        raise ValueError("give either until or infinite")

    def wanted(kept: Kept, now: int) -> Kept:
        locks = pool.context.capabilities.object_lock
        if until is None:
            return _for_ever(kept, now, mode if locks else None)
        return _until(manifest, kept, -(-until // NANOSECONDS) * NANOSECONDS, now, mode, locks)

    return _change(
        pool, index, manifest, wanted, Kind.RETENTION_EXTENDED, actor=actor, reason=reason
    )


def set_hold(
    pool: Pool, index: Index, manifest: Manifest, *, on: bool, actor: str, reason: str
) -> Entry:
    """Place a legal hold on an image, or release it. Where it is so already nothing changes.

    Raises:
        ImageNotFound: it is not there, or not this one, or being deleted.
        StoreError: not done, or not known to be; the same call again finishes it.
    """
    kind = Kind.HOLD_PLACED if on else Kind.HOLD_RELEASED
    return _change(
        pool,
        index,
        manifest,
        lambda kept, _: replace(kept, hold=on),
        kind,
        actor=actor,
        reason=reason,
    )


def finish_keeps(pool: Pool, index: Index) -> int:
    """Finish every change that a crash interrupted; gives how many there were.

    Raises:
        StoreError: the store is away; the rest is finished later.
    """
    with index.journal.transaction() as db:
        rows = db.execute("SELECT DISTINCT name, copy FROM keep_changes").fetchall()
    for raw, copy in rows:
        name = name_text(raw)
        with index.changing(name, copy):
            _finish(pool, index, name, copy, pool.find(name, copy))
    return len(rows)


# --- what is wanted -----------------------------------------------------------------------------


def _until(
    manifest: Manifest, kept: Kept, until: int, now: int, mode: LockMode, locks: bool
) -> Kept:
    locked = kept.lock_infinite or (kept.lock_until or 0) > now
    if kept.lock_infinite or (kept.expires_infinite and locked):
        raise _shorter(manifest, "for ever", until)
    longest = max(kept.lock_until or 0, kept.expires_at or 0)
    if until < longest:
        raise _shorter(manifest, f"until {iso(longest)}", until)
    if until - now > LONGEST_LOCK:
        raise Unsupported(
            f"image {manifest.name!r}: {iso(until)} is more than a hundred years away",
            hint="give an earlier date, or keep it for ever",
        )
    lock_mode = kept.lock_mode
    if locks and lock_mode is LockMode.NONE and until > now:
        lock_mode = mode
    return replace(
        kept, expires_at=until, expires_infinite=False, lock_mode=lock_mode, lock_until=until
    )


def _for_ever(kept: Kept, now: int, mode: LockMode | None) -> Kept:
    """mode None: the bucket has no Object Lock."""
    endless = replace(kept, expires_at=None, expires_infinite=True, lock_infinite=True)
    if mode is None:
        return endless
    until = -(-(now + ENDLESS_LOCK) // NANOSECONDS) * NANOSECONDS
    if kept.lock_infinite and (kept.lock_until or 0) + RENEWED_BY > until:
        until = kept.lock_until or 0
    return replace(
        endless,
        lock_mode=mode if kept.lock_mode is LockMode.NONE else kept.lock_mode,
        lock_until=max(until, kept.lock_until or 0),
    )


def _shorter(manifest: Manifest, kept: str, until: int) -> WouldShorten:
    return WouldShorten(
        f"image {manifest.name!r} copy {manifest.copy} is kept {kept}, asked for {iso(until)}",
        hint="retention is only ever extended",
    )


# --- doing it -----------------------------------------------------------------------------------


def _change(
    pool: Pool,
    index: Index,
    manifest: Manifest,
    wanted: Callable[[Kept, int], Kept],
    kind: Kind,
    *,
    actor: str,
    reason: str,
) -> Entry:
    context = pool.context
    name, copy = manifest.name, manifest.copy
    with index.changing(name, copy):
        there = _still_there(pool, index, manifest)
        _finish(pool, index, name, copy, there)
        before = read_kept(context.store, there)
        now = context.clock()
        after = wanted(before, now)
        if after == before:
            return entry_of(there, before)
        fact = image_fact(context, effective(there, after), kind, reason=reason)
        fact = replace(fact, actor=actor or context.actor)
        change = Change(
            id=fact.fact_id,
            at=now,
            what=kind,
            actor=fact.actor[:MAX_WORDS],
            reason=reason[:MAX_WORDS],
        )
        after = with_change(after, change)
        with index.journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO keep_changes VALUES (?, ?, ?, ?, ?, ?)",
                (
                    change.id, name_bytes(name), copy, there.token,
                    sidecar.to_json(there, after), outbox.fact_to_json(fact),
                ),
            )  # fmt: skip
        return _carry_out(pool, index, there, change.id, after)


def _still_there(pool: Pool, index: Index, manifest: Manifest) -> Manifest:
    there = pool.find(manifest.name, manifest.copy)
    with index.journal.transaction() as db:
        going = db.execute("SELECT 1 FROM deletions WHERE token = ?", (manifest.token,)).fetchone()
    if there is None or there.token != manifest.token or going:
        raise ImageNotFound(
            f"image {manifest.name!r} copy {manifest.copy} is not in {pool.uri} any more",
            hint="it was deleted meanwhile; list the pool's images",
        )
    return there


def _finish(pool: Pool, index: Index, name: str, copy: int, there: Manifest | None) -> None:
    """Finish what was begun for this image; what was begun for an earlier one is forgotten."""
    with index.journal.transaction() as db:
        rows = db.execute(
            "SELECT id, token, sidecar FROM keep_changes WHERE name = ? AND copy = ?",
            (name_bytes(name), copy),
        ).fetchall()
    for change, token, data in rows:
        if there is None or there.token != token:
            _drop(index, change)
        else:
            _, kept = sidecar.from_json(data, where="the journal's sidecar")
            _carry_out(pool, index, there, change, kept)


def _carry_out(pool: Pool, index: Index, manifest: Manifest, change: str, after: Kept) -> Entry:
    """Locks, sidecar, then index and ledger together. Safe to repeat from any step.

    Refused outright, the intent goes: it would stand in the way of every later change.
    """
    store = pool.context.store
    what = next(one.what for one in after.history if one.id == change)
    try:
        if pool.context.capabilities.object_lock:
            _change_objects(pool, manifest, after, what)
        write_kept(store, manifest, after)
    except TransientStoreError:
        raise
    except StoreError:
        _drop(index, change)
        raise
    with index.journal.transaction(durable=True) as db:
        fact = db.execute("SELECT fact FROM keep_changes WHERE id = ?", (change,)).fetchone()
        if fact is not None:
            db.execute("INSERT INTO outbox (fact) VALUES (?)", fact)
            db.execute("DELETE FROM keep_changes WHERE id = ?", (change,))
        index.store(db, manifest, after)
    log.info("image %r copy %d is kept anew", manifest.name, manifest.copy)
    return entry_of(manifest, after)


def _drop(index: Index, change: str) -> None:
    with index.journal.transaction(durable=True) as db:
        db.execute("DELETE FROM keep_changes WHERE id = ?", (change,))


def _change_objects(pool: Pool, manifest: Manifest, after: Kept, what: str) -> None:
    """Lock, hold or release every object of the image; the manifest last, as at the commit.

    Only what was decided: a hold that somebody placed in the store by hand outlives a longer lock.
    """
    store = pool.context.store
    own = store.stat(manifest.key)
    now = pool.context.clock()

    def keep(one: tuple[str, str | None]) -> None:
        key, version_id = one
        if what != Kind.RETENTION_EXTENDED:
            store.set_hold(key, on=after.hold, version_id=version_id)
        elif after.lock_mode is not LockMode.NONE and (after.lock_until or 0) > now:
            _lock(pool, key, version_id, after.lock_mode, after.lock_until or 0)

    with ThreadPoolExecutor(CHANGES, thread_name_prefix="keep") as threads:
        for _ in threads.map(keep, [(part.key, part.version_id) for part in manifest.fragments]):
            pass
    keep((manifest.key, own.version_id))


def _lock(pool: Pool, key: str, version_id: str | None, mode: LockMode, until: int) -> None:
    """Extend one lock. An object with a stronger one of its own keeps its mode, or all of it."""
    store = pool.context.store
    try:
        store.set_lock(key, mode=mode, until=until, version_id=version_id)
    except ObjectLocked:
        stored = store.stat(key, version_id=version_id)
        if (stored.lock_until or 0) >= until:
            return
        if stored.lock_mode is mode:
            raise
        store.set_lock(key, mode=stored.lock_mode, until=until, version_id=version_id)
