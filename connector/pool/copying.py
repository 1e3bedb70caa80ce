"""Copying an image from one pool to another, or to another name or copy number of the same.

The bytes go through this process: read in parts that are verified, written as any image is, and
committed only if the whole has the SHA-256 that the source's manifest names. Until then nothing is
listed, and an attempt that a stop or a crash interrupted is gone on with by the same call.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from catalog.errors import (
    CopyStopped,
    DigestMismatch,
    ImageArchived,
    ImageBusy,
    ImageDamaged,
    ImageErased,
    ImageExists,
    ObjectNotFound,
    PoolError,
    SamePlace,
    SizeMismatch,
    Unsupported,
)
from catalog.model import StorageClass
from connector.pool.attempts import AttemptState
from connector.pool.commit import OnCommit, finish_commit
from connector.pool.index import name_bytes
from connector.pool.manifest import Manifest, Retention
from connector.pool.pool import Pool
from connector.pool.writer import ImageWriter
from connector.store.interface import RecallState

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are in the target; called from the copying thread."""


def copy_image(
    source: Pool,
    manifest: Manifest,
    target: Pool,
    *,
    name: str,
    copy: int,
    storage_class: StorageClass,
    retention: Retention,
    on_commit: OnCommit | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Manifest:
    """Copy an image; gives the manifest of the copy.

    Origin, block sizes and gaps are the source's. Retention is the caller's alone. The target's
    journal must have the tables of ``index.SCHEMA``. stop is asked after every part. Memory is that
    of one image being read and one being written.

    Raises:
        SamePlace: source and target are one.
        ImageExists: the target has an image of this name and copy.
        ImageBusy: somebody else is writing there.
        ImageArchived: the source must be recalled first; nothing was written.
        ImageDamaged: the source is not what its manifest says; nothing is left of the copy.
        CopyStopped: stop said so. Call again to go on, or ``forget_copy``.
        Unsupported: the image lies within tape files; copy those.
        StoreError: a store failed; call again to go on.
    """
    if (source.uri, manifest.name, manifest.copy) == (target.uri, name, copy):
        raise SamePlace(
            f"image {name!r} copy {copy} would be its own copy",
            hint="choose another pool, name or copy number",
        )
    if manifest.within:
        raise Unsupported(
            f"image {manifest.name!r} lies within tape files and has no bytes of its own",
            hint=f"copy {manifest.within[0].image!r}, and the others that it lies in",
        )

    def committed(db: sqlite3.Connection, copied: Manifest) -> None:
        _forget_intent(db, name, copy)
        if on_commit is not None:
            on_commit(db, copied)

    finished = _taken_up(source, manifest, target, name, copy, committed)
    if finished is not None:
        return finished
    _check_readable(source, manifest)
    _intend(source, manifest, target, name, copy)
    writer = target.write_image(name, copy, storage_class=storage_class, on_commit=committed)
    _own(target, writer)
    try:
        _stream(source, manifest, writer, progress, stop)
        return writer.close(
            origin=manifest.origin,
            retention=retention,
            size=manifest.size,
            sha256=manifest.sha256,
            blocks=manifest.blocks,
            gaps=manifest.gaps,
        )
    except ImageExists:  # somebody was faster; ours was cleaned away
        writer.release()
        forget_copy(target, name, copy)
        raise
    except (ImageDamaged, ImageErased):
        target.abort(writer)
        forget_copy(target, name, copy)
        raise
    except (SizeMismatch, DigestMismatch) as exc:
        target.abort(writer)
        forget_copy(target, name, copy)
        raise ImageDamaged(
            f"image {manifest.name!r}: {exc.message}", hint="verify it; use another copy of it"
        ) from exc
    except BaseException:
        writer.release()
        raise


def forget_copy(target: Pool, name: str, copy: int) -> None:
    """Give up a copy that was stopped: no part, no object and no row of it is left.

    An attempt that is not a copy's is left alone, and so is a copy that is complete.
    """
    with target.journal.transaction() as db:
        row = _intent(db, name, copy)
    attempt = target.context.attempts.find(name, copy)
    if row is not None and attempt is not None and attempt.token == row[1]:
        target.abandon(name, copy)
    with target.journal.transaction(durable=True) as db:
        _forget_intent(db, name, copy)


def _stream(
    source: Pool,
    manifest: Manifest,
    writer: ImageWriter,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
) -> None:
    total = manifest.size or 0
    if writer.offset > total:
        raise ImageDamaged(
            f"image {manifest.name!r}: {writer.offset} bytes were copied, it has {total}",
            hint="copy it again",
        )
    for view in source.open_image(manifest).stream(writer.offset):
        if stop is not None and stop():
            writer.durable()
            raise CopyStopped(
                f"the copy of image {manifest.name!r} was stopped at byte {writer.offset}",
                hint="call again to go on",
            )
        writer.write(view)
        if progress is not None:
            progress(writer.offset, total)


def _check_readable(source: Pool, manifest: Manifest) -> None:
    """Everything or nothing: no half of a copy is written of what must be recalled first."""
    store = source.context.store
    for part in manifest.fragments:
        try:
            stored = store.stat(part.key, version_id=part.version_id)
        except ObjectNotFound as exc:
            raise ImageDamaged(
                f"image {manifest.name!r}: {part.key} is not there",
                hint="restore the object's version, or use another copy",
            ) from exc
        if stored.recall in (RecallState.ARCHIVED, RecallState.RECALLING):
            raise ImageArchived(
                f"image {manifest.name!r} lies in {stored.storage_class} and is {stored.recall}",
                hint="recall it first; prepare shows price and time",
            )


# --- whose attempt it is ------------------------------------------------------------------------


def _identity(source: Pool, manifest: Manifest) -> str:
    return json.dumps([source.uri, manifest.name, manifest.copy, manifest.token])


def _intent(db: sqlite3.Connection, name: str, copy: int) -> tuple[str, str | None] | None:
    row = db.execute(
        "SELECT source, token FROM copies WHERE name = ? AND copy = ?", (name_bytes(name), copy)
    ).fetchone()
    return None if row is None else (str(row[0]), row[1])


def _taken_up(
    source: Pool, manifest: Manifest, target: Pool, name: str, copy: int, on_commit: OnCommit
) -> Manifest | None:
    """The copy, if an earlier call had come so far that only its answer is missing.

    Only an attempt that this very copy began is gone on with: bytes are never mixed. An attempt of
    a copy from elsewhere is given up; one that is no copy's is somebody's who writes.
    """
    with target.journal.transaction() as db:
        row = _intent(db, name, copy)
    same = row is not None and row[0] == _identity(source, manifest)
    attempt = target.context.attempts.find(name, copy)
    if attempt is not None:
        if row is None or row[1] != attempt.token:
            raise ImageBusy(
                f"image {name!r} copy {copy} is being written in {target.uri}",
                hint="wait until it is complete, or discard it, or choose another copy number",
            )
        if same and attempt.state is AttemptState.COMMITTING:
            return finish_commit(target.context, attempt, on_commit)
        if not same:
            forget_copy(target, name, copy)
    there = target.find(name, copy)
    if there is None:
        return None
    with target.journal.transaction(durable=True) as db:
        _forget_intent(db, name, copy)
    if same and row is not None and row[1] == there.token:
        return there
    raise ImageExists(
        f"image {name!r} copy {copy} is in {target.uri} already",
        hint="verify it if in doubt, or choose another copy number",
    )


def _intend(source: Pool, manifest: Manifest, target: Pool, name: str, copy: int) -> None:
    with target.journal.transaction(durable=True) as db:
        db.execute(
            "INSERT INTO copies VALUES (?, ?, ?, NULL)"
            " ON CONFLICT (name, copy) DO UPDATE SET source = excluded.source",
            (name_bytes(name), copy, _identity(source, manifest)),
        )


def _own(target: Pool, writer: ImageWriter) -> None:
    """Say which attempt is the copy's, before a byte of it is sent."""
    try:
        with target.journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE copies SET token = ? WHERE name = ? AND copy = ?",
                (writer.token, name_bytes(writer.name), writer.copy),
            )
    except PoolError:
        writer.release()
        raise


def _forget_intent(db: sqlite3.Connection, name: str, copy: int) -> None:
    db.execute("DELETE FROM copies WHERE name = ? AND copy = ?", (name_bytes(name), copy))
