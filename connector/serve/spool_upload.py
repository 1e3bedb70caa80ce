"""Uploads what is spooled: through the pool's whole pipeline, and compared with what was received.

One thread for each pool. A file that is being uploaded can be read meanwhile. What the pool has of
it from before a crash is not sent again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

from catalog.errors import (
    ImageBusy,
    ImageDamaged,
    ImageExists,
    PoolDown,
    PoolError,
    StoreUnusable,
    TransientStoreError,
)
from connector.logs import Step
from connector.pool.manifest import Manifest
from connector.pool.pool import Pool
from connector.pool.writer import ImageWriter
from connector.serve import drafts
from connector.serve.drafts import Draft, DraftState
from connector.serve.events import EventKind
from connector.serve.keeping import origin_of, retention_of
from connector.serve.spool import mark
from connector.serve.spool_files import SpoolRow, SpoolSource
from connector.serve.units import Unit

log = logging.getLogger(__name__)

LOOK_S = 1.0
BUSY_S = 0.2
REST_S = 30.0
"""How long a file that could not be uploaded waits while others are tried, in seconds."""


class Stopped(PoolError):
    """The daemon is about to end; the upload goes on with the next start."""


class Uploader:
    """The thread of one pool."""

    def __init__(self, unit: Unit, *, rest_s: float = REST_S) -> None:
        self._unit = unit
        self._rest_s = rest_s
        self._stop = threading.Event()
        self._not_before: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name=f"upload-{unit.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, wait_s: float) -> bool:
        """End after the part that is on its way; whether it has ended."""
        self._stop.set()
        self._unit.spool.work.set()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        unit = self._unit
        while not self._stop.is_set():
            if not unit.wait_up(LOOK_S):
                continue
            try:
                row = self._next()
            except PoolError as exc:  # the journal's disk; nothing else tells what waits
                log.error("pool %s: the spool cannot be looked at: %s", unit.name, exc)
                self._stop.wait(LOOK_S)
                continue
            if row is None:
                unit.spool.work.wait(BUSY_S if self._not_before else LOOK_S)
                unit.spool.work.clear()
                continue
            try:
                if not self._try(row):
                    self._stop.wait(LOOK_S)  # holding nothing: the image may be read or deleted
            except Exception:  # a bug must not end the thread that empties the spool
                log.exception("pool %s: uploading %r failed", unit.name, row.name)
                self._rest(row, self._rest_s)

    def _next(self) -> SpoolRow | None:
        now = time.monotonic()
        self._not_before = {id: at for id, at in self._not_before.items() if at > now}
        return self._unit.spool.next_ready(set(self._not_before))

    def _rest(self, row: SpoolRow, wait_s: float) -> None:
        """Try other files first."""
        self._not_before[row.id] = time.monotonic() + wait_s

    def _try(self, row: SpoolRow) -> bool:
        """Upload one file; False: the store is away, and the next try should wait."""
        unit = self._unit
        try:
            use = unit.in_use.work(row.name, row.copy, "read", wait_s=LOOK_S)
        except ImageBusy:  # its writer is about to let go, or somebody deletes it
            self._rest(row, BUSY_S)
            return True
        if use is None:
            return True
        try:
            draft = unit.drafts.find(row.name, row.copy)
            if draft is None or draft.state is not DraftState.SPOOLED:
                log.error("%s is of no image that was acknowledged; it is left alone", row.path)
                self._rest(row, self._rest_s)
                return True
            self._upload(row, draft, unit.pool())
        except Stopped:
            return True
        except (TransientStoreError, StoreUnusable, PoolDown) as exc:
            log.warning("pool %s: upload of %r waits: %s", unit.name, row.name, exc.message)
            unit.suspect()
            return False
        except PoolError as exc:
            log.error("pool %s: upload of %r failed: %s", unit.name, row.name, exc)
            unit.told(Step.FAILED, row.name, row.copy, row.id, why=exc.message)
            self._rest(row, self._rest_s)
        finally:
            unit.in_use.let_go(use)
        return True

    def _upload(self, row: SpoolRow, draft: Draft, pool: Pool) -> None:
        unit = self._unit
        source = SpoolSource(row)
        with contextlib.closing(source):
            try:
                writer = pool.write_image(
                    row.name,
                    row.copy,
                    storage_class=unit.storage_class(draft),
                    on_commit=unit.on_commit,
                )
                manifest = self._send(writer, source, row, draft)
            except ImageExists:
                self._settle_existing(row, draft, pool)
                return
            except ImageDamaged as exc:
                self._refuse(row, draft, exc, pool)
                return
        self._stored(row, manifest)

    def _send(
        self, writer: ImageWriter, source: SpoolSource, row: SpoolRow, draft: Draft
    ) -> Manifest:
        try:
            while writer.offset < row.size:
                if self._stop.is_set():
                    raise Stopped("the daemon ends")
                with writer.buffer() as room:
                    wanted = min(room.nbytes, row.size - writer.offset)
                    with room[:wanted] as view:
                        got = os.preadv(source.fileno(), [view], writer.offset)
                if got == 0:
                    raise ImageDamaged(
                        f"image {row.name!r}: {row.path} is shorter than when it was acknowledged"
                    )
                writer.advance(got)
            return writer.close(
                origin=origin_of(draft.definition),
                retention=retention_of(
                    draft.definition.keep,
                    self._unit.settings,
                    begun_at=draft.begun_at,
                    now=self._unit.clock(),
                ),
                size=row.size,
                sha256=row.sha256,
            )
        except BaseException:
            writer.release()
            raise

    def _stored(self, row: SpoolRow, manifest: Manifest) -> None:
        unit = self._unit
        unit.space.changed(row.name, row.copy)
        unit.count("completed")
        as_token = manifest.token  # the story goes on under the id that it began with
        unit.told(Step.STORED, row.name, row.copy, row.id, size=row.size, stored_as=as_token)
        unit.woken()
        unit.spool.dispose(row)

    def _settle_existing(self, row: SpoolRow, draft: Draft, pool: Pool) -> None:
        """The store has an image of this name: ours, when the answer was lost, or another."""
        there = pool.stat(row.name, row.copy)
        if (there.size, there.sha256) != (row.size, row.sha256):
            self._refuse(
                row,
                draft,
                ImageExists(
                    f"the store has another image {row.name!r} copy {row.copy}, of {there.size}"
                    f" bytes with SHA-256 {there.sha256}"
                ),
                None,
            )
            return
        now = self._unit.drafts.find(row.name, row.copy)
        if now is not None and now.state is DraftState.SPOOLED:
            with self._unit.journal.transaction(durable=True) as db:
                self._unit.on_commit(db, there)
        self._stored(row, there)

    def _refuse(self, row: SpoolRow, draft: Draft, exc: PoolError, pool: Pool | None) -> None:
        """It cannot be stored, and trying again would not help: keep the file, and tell."""
        unit = self._unit
        if pool is not None:
            pool.abandon(row.name, row.copy)
        with unit.journal.transaction(durable=True) as db:
            mark(db, row.id, "refused")
            drafts.change(db, draft, DraftState.REFUSED, durable=draft.durable, now=unit.clock())
            unit.announce(db, EventKind.REFUSED, row.name, row.copy, why=exc.message, path=row.path)
        unit.woken()
        unit.count("failed")
        unit.told(Step.FAILED, row.name, row.copy, row.id, why=exc.message)
