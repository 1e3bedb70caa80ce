"""Erasing an encrypted image: its key is destroyed, so nobody can read its bytes ever again.

Its objects stay as they are, locked or not, and so do the manifest and the ledger's rows: they
prove that the image existed, what its size and digest were, and when, why and by whom it was
erased.

The order is intent, tombstone, key, fact. The tombstone comes first, so that whoever wraps the
key anew at that moment sees it afterwards and takes his copy away again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import (
    CorruptObject,
    ImageHeld,
    ImageLocked,
    ImageNotFound,
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.model import Kind, iso
from connector.pool import keys, names, outbox
from connector.pool.commit import image_fact
from connector.pool.context import PoolContext
from connector.pool.keys import KeyOf
from connector.pool.manifest import CEILING, Manifest
from connector.pool.sidecar import read_kept

if TYPE_CHECKING:
    from connector.pool.pool import Pool

log = logging.getLogger(__name__)

FORMAT = "tapelift-erased/1"
_INTENT = "erasing "


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was done, and what proves it.

    key is the object that is gone, tombstone the one that says so, fact_id the row of the ledger.
    manifest_key, size and sha256 still tell what the image was. already: it had been erased before,
    at erased_at, and nothing was left to do.
    """

    name: str
    copy: int
    key: str
    tombstone: str
    erased_at: int
    actor: str
    reason: str
    fact_id: str
    manifest_key: str
    size: int | None
    sha256: str | None
    already: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    name: str
    copy: int
    token: str
    actor: str
    reason: str
    erased_at: int
    fact_id: str


def erase_image(pool: Pool, manifest: Manifest, *, reason: str, actor: str) -> Erasure:
    """Make one copy of an image unreadable for ever. Safe to repeat; a crash is finished by
    ``Pool.recover``.

    Object Lock does not keep an image from being erased, only from being deleted; a legal hold
    keeps it from both.

    Raises:
        Unsupported: its fragments were not encrypted here; deleting is the only way.
        ImageHeld: a legal hold is on it.
        ImageLocked: the bucket locks whatever is put into it, the key too.
        StoreError: it could not be settled that no version of the key is left; try again.
    """
    context = pool.context
    coding = manifest.coding
    if coding is None or not coding.encrypted:
        raise Unsupported(
            f"image {manifest.name!r} has no key that could be destroyed",
            hint="delete it; only images of a pool with client-side encryption can be erased",
        )
    if _is_held(context, manifest):
        raise ImageHeld(
            f"image {manifest.name!r} is under a legal hold", hint="release the hold first"
        )
    intent, fresh = _remember(
        context,
        _Intent(
            name=manifest.name,
            copy=manifest.copy,
            token=manifest.token,
            actor=actor,
            reason=reason,
            erased_at=context.clock(),
            fact_id=outbox.new_fact_id(),
        ),
    )
    return _erase(context, manifest, intent, fresh=fresh)


def _is_held(context: PoolContext, manifest: Manifest) -> bool:
    """By the store itself; without Object Lock a hold is only beside the manifest."""
    if context.capabilities.object_lock:
        return context.store.stat(manifest.key).hold
    return read_kept(context.store, manifest).hold


def finish_erasures(context: PoolContext) -> list[Erasure]:
    """Finish what a crash interrupted; an image that is gone altogether is let be."""
    finished: list[Erasure] = []
    with context.journal.transaction() as db:
        rows = db.execute(
            "SELECT value FROM settings WHERE key >= ? AND key < ?", (_INTENT, _INTENT + "~")
        ).fetchall()
    for (text,) in rows:
        intent = _Intent(**json.loads(text))
        try:
            manifest = _manifest(context, intent)
            finished.append(_erase(context, manifest, intent, fresh=False))
        except ImageNotFound:
            keys.destroy(context.store, _whose(intent))
            _forget(context, intent)
        except (TransientStoreError, StoreUnusable):
            raise
        except (ImageLocked, StoreError) as exc:
            log.warning("image %s cannot be erased: %s", names.encode(intent.name), exc)
    return finished


def _erase(context: PoolContext, manifest: Manifest, intent: _Intent, *, fresh: bool) -> Erasure:
    whose = _whose(intent)
    told, new = _put_tombstone(context, manifest, intent)
    try:
        removed = keys.destroy(context.store, whose)
    except ObjectLocked as exc:
        if new:
            _take_back(context, whose)
        _forget(context, intent)
        raise ImageLocked(
            f"image {manifest.name!r} cannot be erased yet: {exc.message}",
            hint="the bucket locks every new object by default, and so the image's key; a pool"
            " whose images are to be erased needs a bucket without a default retention",
        ) from exc
    already = fresh and not new and not removed
    if already:
        _forget(context, intent)
    else:
        told = dataclasses.replace(told, fact_id=intent.fact_id)
        _record(context, manifest, told, whose)
        log.info("image %s copy %d was erased", names.encode(manifest.name), manifest.copy)
    return Erasure(
        name=manifest.name,
        copy=manifest.copy,
        key=whose.object,
        tombstone=whose.tombstone,
        erased_at=told.erased_at,
        actor=told.actor,
        reason=told.reason,
        fact_id=told.fact_id,
        manifest_key=manifest.key,
        size=manifest.size,
        sha256=manifest.sha256,
        already=already,
    )


def _record(context: PoolContext, manifest: Manifest, told: _Intent, whose: KeyOf) -> None:
    """The fact, in the transaction that ends the intent."""
    detail: dict[str, object] = {
        "key": whose.object,
        "tombstone": whose.tombstone,
        "erased_at": iso(told.erased_at),
    }
    fact = image_fact(context, manifest, Kind.ERASED, reason=told.reason, detail=detail)
    fact = dataclasses.replace(fact, fact_id=told.fact_id, actor=told.actor)
    with context.journal.transaction(durable=True) as db:
        outbox.add(db, [fact])
        db.execute("DELETE FROM settings WHERE key = ?", (_INTENT + told.token,))


def _remember(context: PoolContext, intent: _Intent) -> tuple[_Intent, bool]:
    """Journal the intent; one that a crash left stands, with the id of its fact."""
    key = _INTENT + intent.token
    left = context.journal.setting(key)
    if left is not None:
        return _Intent(**json.loads(left)), False
    context.journal.remember(key, json.dumps(dataclasses.asdict(intent)))
    return intent, True


def _forget(context: PoolContext, intent: _Intent) -> None:
    with context.journal.transaction(durable=True) as db:
        db.execute("DELETE FROM settings WHERE key = ?", (_INTENT + intent.token,))


def _put_tombstone(
    context: PoolContext, manifest: Manifest, intent: _Intent
) -> tuple[_Intent, bool]:
    """What the tombstone says, and whether it is new."""
    whose = _whose(intent)
    fields = {
        "format": FORMAT,
        "key_name": names.encode(intent.name),
        "copy": intent.copy,
        "token": intent.token,
        "erased_at": iso(intent.erased_at),
        "actor": intent.actor,
        "reason": intent.reason,
        "fact_id": intent.fact_id,
        "manifest": manifest.key,
        "size": manifest.size,
        "sha256": manifest.sha256,
    }
    text = json.dumps(fields, ensure_ascii=False, indent=1).encode() + b"\n"
    try:
        context.store.put(whose.tombstone, text, keys.OPTIONS, only_if_absent=True)
        return intent, True
    except ObjectExists:
        return _told(context, intent), False


def _told(context: PoolContext, intent: _Intent) -> _Intent:
    """An earlier tombstone's words; ours where they cannot be read."""
    told = keys.read_tombstone(context.store, _whose(intent))
    return intent if told is None else dataclasses.replace(intent, **told)


def _take_back(context: PoolContext, whose: KeyOf) -> None:
    try:
        version = context.store.stat(whose.tombstone).version_id
        context.store.delete(whose.tombstone, version_id=version)
    except (ObjectNotFound, ObjectLocked):
        log.warning("%s says that an image was erased, and it was not", whose.tombstone)


def _manifest(context: PoolContext, intent: _Intent) -> Manifest:
    key = names.manifest_key(intent.name, intent.copy)
    try:
        manifest = Manifest.from_json(context.store.read(key, ceiling=CEILING), where=key)
    except (ObjectNotFound, CorruptObject):
        raise ImageNotFound(f"image {intent.name!r} copy {intent.copy} has no manifest") from None
    if manifest.token != intent.token:
        raise ImageNotFound(f"image {intent.name!r} copy {intent.copy} is another one now")
    return manifest


def _whose(intent: _Intent) -> KeyOf:
    return KeyOf(name=intent.name, copy=intent.copy, token=intent.token)
