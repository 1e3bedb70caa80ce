"""The commit: manifest, then locks, then the fact; each step journaled and safe to repeat."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable

from catalog.errors import ImageExists, ObjectExists, ObjectLocked
from catalog.model import Fact, Kind, LockMode
from connector.pool import attempts, names, outbox
from connector.pool.attempts import AttemptRow
from connector.pool.context import WRITER, PoolContext
from connector.pool.manifest import CEILING, Manifest
from connector.pool.resume import clean_away
from connector.store.interface import PutOptions

log = logging.getLogger(__name__)

OnCommit = Callable[[sqlite3.Connection, Manifest], None]
MANIFEST_OPTIONS = PutOptions(content_type="application/json")


def commit(context: PoolContext, manifest: Manifest, on_commit: OnCommit | None) -> Manifest:
    """Make an image complete.

    on_commit runs in the transaction that journals the commit, so that what the caller records
    and what the pool records are true together.

    Raises:
        ImageExists: another writer's manifest is there; ours is cleaned away.
    """
    context.attempts.committing(manifest.token, manifest.to_json())
    version = _put_manifest(context, manifest)
    _lock(context, manifest, version)
    with context.journal.transaction(durable=True) as db:
        outbox.add(db, [stored_fact(context, manifest)])
        if on_commit is not None:
            on_commit(db, manifest)
        attempts.drop(db, manifest.token)
    return manifest


def finish_commit(
    context: PoolContext, attempt: AttemptRow, on_commit: OnCommit | None
) -> Manifest:
    """Repeat the commit that a crash interrupted."""
    assert attempt.manifest is not None
    manifest = Manifest.from_json(attempt.manifest, where="the journal's manifest")
    return commit(context, manifest, on_commit)


def _put_manifest(context: PoolContext, manifest: Manifest) -> str | None:
    try:
        stored = context.store.put(
            manifest.key, manifest.to_json(), MANIFEST_OPTIONS, only_if_absent=True
        )
    except ObjectExists:
        current = context.store.stat(manifest.key)
        data = context.store.read(manifest.key, ceiling=CEILING, version_id=current.version_id)
        there = Manifest.from_json(data, where=manifest.key)
        if there.token == manifest.token:  # ours: the answer was lost, with the process
            return current.version_id
        attempt = context.attempts.find(manifest.name, manifest.copy)
        if attempt is not None:
            clean_away(context, attempt)
        raise ImageExists(
            f"image {manifest.name!r} copy {manifest.copy} was committed by another writer"
            f" ({there.writer}, SHA-256 {there.sha256})",
            hint="nothing was replaced; compare the digests, or choose another copy number",
        ) from None
    return stored.version_id


def _lock(context: PoolContext, manifest: Manifest, version: str | None) -> None:
    """Object Lock and hold, on the fragments and then on the manifest.

    A lock that would have ended by now is not asked for. One that is there already and stronger,
    from the bucket's default, stands; if it ends too early, verification says so.
    """
    retention = manifest.retention
    until = retention.lock_until if retention.lock_mode is not LockMode.NONE else None
    versions = [(part.key, part.version_id) for part in manifest.fragments]
    for key, version_id in [*versions, (manifest.key, version)]:
        if until is not None and until > context.clock():
            try:
                context.store.set_lock(
                    key, mode=retention.lock_mode, until=until, version_id=version_id
                )
            except ObjectLocked as exc:
                log.info("%s keeps its own lock: %s", key, exc.message)
        if retention.hold:
            context.store.set_hold(key, on=True, version_id=version_id)


def stored_fact(context: PoolContext, manifest: Manifest) -> Fact:
    """The ledger's row of a committed image."""
    return image_fact(context, manifest, Kind.DAMAGED if manifest.gaps else Kind.STORED)


def image_fact(
    context: PoolContext,
    manifest: Manifest,
    kind: Kind,
    *,
    reason: str | None = None,
    detail: dict[str, object] | None = None,
) -> Fact:
    """A fact about an image, filled from its manifest."""
    origin, retention = manifest.origin, manifest.retention
    notes: dict[str, object] = dict(detail or {})
    if origin.notes:
        notes["notes"] = list(origin.notes)
    if manifest.within:
        notes["within"] = [names.encode(part.image) for part in manifest.within]
    return Fact(
        fact_id=outbox.new_fact_id(),
        kind=kind,
        recorded_at=context.clock(),
        actor=context.actor,
        writer=WRITER,
        run_id=context.run_id,
        reason=reason,
        image=ledger_name(manifest.name),
        copy=manifest.copy,
        product=origin.product,
        client=origin.client,
        policy=origin.policy,
        schedule=origin.schedule,
        schedule_type=origin.schedule_type,
        backup_time=origin.backup_time,
        expires_at=retention.expires_at,
        expires_infinite=retention.expires_infinite,
        size=manifest.size,
        sha256=manifest.sha256,
        problems=origin.problems,
        media=tuple(dict.fromkeys(place.media_id for place in origin.places)),
        places=origin.places,
        pool=context.store.uri,
        manifest_key=manifest.key,
        fragments=manifest.stored_fragments,
        storage_class=manifest.storage_class,
        lock_mode=retention.lock_mode,
        lock_until=retention.lock_until,
        hold=retention.hold,
        detail=json.dumps(notes, ensure_ascii=False) if notes else None,
    )


def ledger_name(name: str) -> str:
    """An image's name for the ledger: itself, or its encoded form when it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return names.encode(name)
    return name
