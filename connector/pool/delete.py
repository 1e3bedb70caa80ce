"""Deleting an image: intent in the journal, then the manifest, then the bytes.

The intent (a row of ``deletions``) is durable before anything is removed, so a deletion that was
begun is finished, by ``finish_deletes`` if need be. The manifest goes first, hidden before any of
its versions is removed: an image is listed whole or not at all, and no earlier version comes back.
Then every version and delete marker of what the image left is removed. What cannot be removed yet,
because a lock holds it or the store is away, stays in the journal: the image is gone, and its space
follows. What belongs to another attempt under the same name is never touched: keys carry the token.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from catalog.errors import (
    CorruptObject,
    ImageBusy,
    ImageHeld,
    ImageLocked,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    TransientStoreError,
)
from catalog.model import Kind, LockMode, iso
from connector.pool import names, outbox, sidecar
from connector.pool.commit import image_fact
from connector.pool.index import Index, name_bytes, name_text
from connector.pool.manifest import CEILING, Manifest
from connector.pool.pool import Pool
from connector.pool.sidecar import Kept, read_kept, sidecar_key
from connector.store.interface import NULL_VERSION, ObjectStore, StoredObject, StoredVersion

log = logging.getLogger(__name__)

LOOKS = 8
"""Objects of one image that are looked at at once."""


class DeleteState(StrEnum):
    """What became of a deletion. PENDING: the image is gone, some of its space is not free yet."""

    DELETED = "deleted"
    PENDING = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDelete:
    """A deletion that is not finished, and why; asked_at is UTC nanoseconds.

    hidden: the manifest is gone. versions: those of the manifest when the deletion was begun.
    """

    token: str
    name: str
    copy: int
    asked_at: int
    hidden: bool
    versions: tuple[str, ...]
    fact: str
    problem: str


def delete_image(
    pool: Pool, index: Index, name: str, copy: int, *, reason: str, actor: str
) -> DeleteState:
    """Delete one copy. One that is not there, or was deleted before, is DELETED.

    When this returns the deletion is durable, whatever happens. The caller sees to it that nobody
    has the image open.

    Raises:
        ImageHeld: a legal hold is on it, in the store or beside the manifest.
        ImageLocked: it is locked; the message says until when.
        ImageBusy: other images lie within it, or its commit is not finished.
        CorruptObject: its manifest or sidecar cannot be read, so nothing says what may be removed.
        StoreError: nothing was removed.
    """
    with index.changing(name, copy):
        begun = [row for row in pending_deletes(index) if (row.name, row.copy) == (name, copy)]
        manifest = pool.find(name, copy)
        if manifest is not None and manifest.token not in {row.token for row in begun}:
            kept = read_kept(pool.context.store, manifest)
            check_free(pool, index, manifest, kept)
            row = _begin(pool, index, manifest, kept, reason=reason, actor=actor)
            if not _hide_or_forget(pool, index, row, manifest, kept):
                return DeleteState.PENDING
            begun.append(row)
        elif manifest is None and not begun:
            _forget_ghost(index, name, copy)
        states = [_carry_out(pool, index, row) for row in begun]
        return DeleteState.PENDING if DeleteState.PENDING in states else DeleteState.DELETED


def finish_deletes(pool: Pool, index: Index) -> list[PendingDelete]:
    """Go on with every deletion that was begun; gives those that are still not finished.

    Call it before anything else is done to the pool after a start, and now and then: locks end.
    """
    for row in pending_deletes(index):
        with index.changing(row.name, row.copy):
            _carry_out(pool, index, row)
    return pending_deletes(index)


def pending_deletes(index: Index) -> list[PendingDelete]:
    """Deletions that are not finished, the oldest first."""
    with index.journal.transaction() as db:
        rows = db.execute(
            "SELECT token, name, copy, asked_at, hidden, versions, fact, problem FROM deletions"
            " ORDER BY asked_at, token"
        ).fetchall()
    return [
        PendingDelete(
            token=token,
            name=name_text(raw),
            copy=copy,
            asked_at=asked_at,
            hidden=bool(hidden),
            versions=tuple(json.loads(versions)),
            fact=fact,
            problem=problem,
        )
        for token, raw, copy, asked_at, hidden, versions, fact, problem in rows
    ]


# --- may it go? ---------------------------------------------------------------------------------


def check_free(pool: Pool, index: Index, manifest: Manifest, kept: Kept) -> None:
    """Raise unless nothing keeps the image: not what was decided, not the store, no other image."""
    which = f"image {manifest.name!r} copy {manifest.copy}"
    attempt = pool.context.attempts.find(manifest.name, manifest.copy)
    if attempt is not None and attempt.token == manifest.token:
        raise ImageBusy(f"the commit of {which} is not finished", hint="try again in a moment")
    inner = index.within(manifest.name, manifest.copy)
    if inner is not None:
        raise ImageBusy(
            f"{which} is a tape file in which other images lie, {inner[0]!r} copy {inner[1]} among"
            " them",
            hint="delete those first",
        )
    if kept.hold:
        raise _held(which, kept)
    now = pool.context.clock()
    if kept.lock_infinite:
        raise ImageLocked(f"{which} is kept for ever", hint="nothing of it can be deleted")
    if kept.lock_until is not None and kept.lock_until > now:
        raise _locked(which, kept.lock_mode, kept.lock_until)
    if pool.context.capabilities.object_lock:
        _check_store(pool, manifest, which, kept, now)


def _check_store(pool: Pool, manifest: Manifest, which: str, kept: Kept, now: int) -> None:
    store = pool.context.store
    objects = [(part.key, part.version_id) for part in manifest.fragments]
    with ThreadPoolExecutor(LOOKS, thread_name_prefix="look") as threads:
        looks = threads.map(lambda one: _look(store, *one), [*objects, (manifest.key, None)])
        found = [stored for stored in looks if stored is not None]
    if any(stored.hold for stored in found):
        raise _held(which, kept)
    locked = [one for one in found if one.lock_mode is not LockMode.NONE]
    last = max(locked, key=lambda one: one.lock_until or 0, default=None)
    if last is not None and (last.lock_until or 0) > now:
        raise _locked(which, last.lock_mode, last.lock_until)


def _look(store: ObjectStore, key: str, version_id: str | None) -> StoredObject | None:
    try:
        return store.stat(key, version_id=version_id)
    except ObjectNotFound:
        return None


def _held(which: str, kept: Kept) -> ImageHeld:
    placed = next((one for one in reversed(kept.history) if one.what == Kind.HOLD_PLACED), None)
    by = "" if placed is None else f", placed by {placed.actor} ({placed.reason})"
    return ImageHeld(f"{which} is under a legal hold{by}", hint="release the hold first")


def _locked(which: str, mode: LockMode, until: int | None) -> ImageLocked:
    how = "kept" if mode is LockMode.NONE else f"locked in {mode} mode"
    return ImageLocked(
        f"{which} is {how} until {iso(until)}", hint="delete it after that; it cannot be shortened"
    )


# --- the intent ---------------------------------------------------------------------------------


def _begin(
    pool: Pool, index: Index, manifest: Manifest, kept: Kept, *, reason: str, actor: str
) -> PendingDelete:
    """Write the intent down, with all that is needed once the manifest is gone."""
    context = pool.context
    listed = context.store.scan_versions(manifest.key)
    fact = image_fact(context, sidecar.effective(manifest, kept), Kind.DELETED, reason=reason)
    row = PendingDelete(
        token=manifest.token,
        name=manifest.name,
        copy=manifest.copy,
        asked_at=context.clock(),
        hidden=False,
        versions=tuple(
            one.version_id for one in listed if one.key == manifest.key and not one.marker
        ),
        fact=outbox.fact_to_json(replace(fact, actor=actor or context.actor)),
        problem="",
    )
    with context.journal.transaction(durable=True) as db:
        db.execute(
            "INSERT INTO deletions VALUES (?, ?, ?, ?, 0, ?, ?, '')",
            (
                row.token, name_bytes(row.name), row.copy, row.asked_at,
                json.dumps(row.versions), row.fact,
            ),
        )  # fmt: skip
        index.mark_deleting(db, row.name, row.copy)
    return row


def _hide_or_forget(
    pool: Pool, index: Index, row: PendingDelete, manifest: Manifest, kept: Kept
) -> bool:
    """The first act; whether it is known to be done. If not the intent stands, for later.

    Refused outright, nothing has happened yet, and nothing stays of the intent.
    """
    try:
        _hide(pool, row)
        return True
    except TransientStoreError as exc:
        log.warning("deleting %r copy %d goes on later: %s", row.name, row.copy, exc)
        return False
    except StoreError:
        with index.journal.transaction(durable=True) as db:
            db.execute("DELETE FROM deletions WHERE token = ?", (row.token,))
            index.store(db, manifest, kept)
        raise


def _forget_ghost(index: Index, name: str, copy: int) -> None:
    """Another host has deleted it, or its objects were removed by hand."""
    if index.get(name, copy) is not None:
        with index.journal.transaction(durable=True) as db:
            index.forget(db, name, copy)


# --- the acts -----------------------------------------------------------------------------------


def _carry_out(pool: Pool, index: Index, row: PendingDelete) -> DeleteState:
    """Go on from wherever an earlier call, or process, came to. Safe to repeat at every step."""
    try:
        if not row.hidden:
            _hide(pool, row)
            with index.journal.transaction(durable=True) as db:
                _set_hidden(db, row)
        blocked = _free(pool, row)
    except (StoreError, CorruptObject) as exc:
        blocked = str(exc)
    with index.journal.transaction(durable=True) as db:
        if blocked:
            db.execute(
                "UPDATE deletions SET problem = ? WHERE token = ?", (blocked[:1000], row.token)
            )
        else:
            db.execute("DELETE FROM deletions WHERE token = ?", (row.token,))
            index.forget(db, row.name, row.copy, token=row.token)
    if blocked:
        log.warning("deleting %r copy %d goes on later: %s", row.name, row.copy, blocked)
        return DeleteState.PENDING
    return DeleteState.DELETED


def _set_hidden(db: sqlite3.Connection, row: PendingDelete) -> None:
    """The image is gone: the fact goes out with the very transaction that says so, once."""
    changed = db.execute(
        "UPDATE deletions SET hidden = 1 WHERE token = ? AND hidden = 0", (row.token,)
    ).rowcount
    if changed:
        db.execute("INSERT INTO outbox (fact) VALUES (?)", (row.fact,))


def _hide(pool: Pool, row: PendingDelete) -> None:
    """Make the manifest unreadable under its key; with versions a delete marker does that."""
    current = pool.find(row.name, row.copy)
    if current is not None and current.token == row.token:
        pool.context.store.delete(current.key)


def _free(pool: Pool, row: PendingDelete) -> str:
    """Remove what is left; gives what a lock still keeps, or nothing."""
    store = pool.context.store
    folder = names.image_folder(row.name, row.copy)
    manifest_key = names.manifest_key(row.name, row.copy)
    own_key = names.image_key(row.name, row.copy, row.token)
    blocked = [
        *_remove(store, manifest_key, lambda one: _is_manifest(store, row, one)),
        *_remove(store, sidecar_key(row.name, row.copy), lambda one: _is_sidecar(store, row, one)),
        *_remove(store, own_key, lambda one: one.key == own_key),
    ]
    for upload in list(store.uploads(f"{folder}/{row.token}-")):
        store.abort_upload(upload)
    blocked += _remove(store, f"{folder}/{row.token}-", lambda one: True)
    return "; ".join(blocked[:3])


def _remove(store: ObjectStore, prefix: str, ours: Callable[[StoredVersion], bool]) -> list[str]:
    """Remove versions below a prefix that are ours; gives the words of the locks that forbid it.

    Delete markers go when no version of their key is left: until then they hide what is.
    """
    blocked: list[str] = []
    left: set[str] = set()
    markers: list[StoredVersion] = []
    for one in list(store.scan_versions(prefix)):
        if one.marker:
            markers.append(one)
        elif not ours(one):
            left.add(one.key)
        else:
            try:
                store.delete(one.key, version_id=one.version_id)
            except ObjectLocked as exc:
                blocked.append(exc.message)
                left.add(one.key)
    for one in markers:
        if one.key not in left:
            store.delete(one.key, version_id=one.version_id)
    return blocked


def _is_manifest(store: ObjectStore, row: PendingDelete, one: StoredVersion) -> bool:
    """A version that was there when the deletion began. ``null`` is also what a later image of this
    name would have, so there the token decides."""
    if one.key != names.manifest_key(row.name, row.copy) or one.version_id not in row.versions:
        return False
    if one.version_id != NULL_VERSION:
        return True
    data = store.read(one.key, ceiling=CEILING, version_id=one.version_id)
    return Manifest.from_json(data, where=one.key).token == row.token


def _is_sidecar(store: ObjectStore, row: PendingDelete, one: StoredVersion) -> bool:
    if one.key != sidecar_key(row.name, row.copy):
        return False
    try:
        data = store.read(one.key, ceiling=sidecar.CEILING, version_id=one.version_id)
        return sidecar.from_json(data, where=one.key)[0] == row.token
    except (ObjectNotFound, CorruptObject):
        return False
