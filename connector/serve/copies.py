"""Copies that go on behind: journaled, bounded in number, taken up again after a restart."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from catalog.errors import (
    CopyStopped,
    ImageBusy,
    ImageExists,
    ImageNotFound,
    JournalError,
    PoolDown,
    PoolError,
    SamePlace,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.model import NANOSECONDS
from connector.logs import Step
from connector.pool import names
from connector.pool.copying import copy_image, forget_copy
from connector.pool.journal import Journal
from connector.pool.manifest import Manifest
from connector.serve import recalls
from connector.serve.events import EventKind
from connector.serve.failures import failure_of
from connector.serve.keeping import check_keep, class_for, retention_of
from connector.serve.operations_images import manifest_of, spooled_draft
from connector.serve.operations_writing import SHORTEST_TOKEN, checked_name
from connector.serve.units import Unit
from connector.wire.messages import CopyImage, Keep, Name, Operation

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS operations (
    operation TEXT PRIMARY KEY, request TEXT NOT NULL, state TEXT NOT NULL, done INTEGER NOT NULL,
    total INTEGER NOT NULL, error TEXT NOT NULL, code TEXT NOT NULL, at INTEGER NOT NULL
) WITHOUT ROWID;
"""
AT_ONCE = 2
"""Copies under way at once; the others wait."""
WAITING = 1000
"""Copies that may wait."""
KEPT = 30 * 86_400 * NANOSECONDS
"""How long an operation that has ended can be asked for, in nanoseconds."""
PAUSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A copy that was asked for. Names are as in object keys."""

    pool: str
    name: str
    copy: int
    to_pool: str
    to_name: str
    to_copy: int
    keep: Keep
    client: str


class Copies:
    """The copies of the whole daemon. Calls may come from several threads."""

    def __init__(
        self, journal: Journal, unit: Callable[[str], Unit], clock: Callable[[], int]
    ) -> None:
        self._journal = journal
        self._unit = unit
        self._clock = clock
        self._stop = threading.Event()
        self._progress: dict[str, tuple[int, int]] = {}
        self._mutex = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy")

    def start(self) -> None:
        """Take up what an earlier process left."""
        with self._journal.transaction() as db:
            db.execute(
                "DELETE FROM operations WHERE state <> 'running' AND at < ?",
                (self._clock() - KEPT,),
            )
            rows = db.execute(
                "SELECT operation, request FROM operations WHERE state = 'running' ORDER BY at"
            ).fetchall()
        for operation, text in rows:
            self._threads.submit(self._run, operation, _request(text))

    def close(self) -> None:
        """Stop; what is under way goes on with the next start."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    # --- for clients ---------------------------------------------------------------------

    def begin(self, call: CopyImage, client: str) -> Operation:
        """Begin a copy; the same token for the same pools and names is the same copy."""
        source, target = self._unit(call.pool), self._unit(call.to_pool)
        if len(call.token) < SHORTEST_TOKEN:
            raise PoolError(f"the token is shorter than {SHORTEST_TOKEN} characters")
        to_name = checked_name(target, call.to_image or call.image, call.to_copy)
        key = json.dumps([call.token, call.pool, call.to_pool, names.encode(to_name), call.to_copy])
        operation = hashlib.sha256(key.encode()).hexdigest()[:16]
        with contextlib.suppress(ImageNotFound):
            return self.look(operation)
        manifest = self._check(source, target, call, to_name)
        request = Request(
            pool=call.pool,
            name=names.encode(call.image),
            copy=manifest.copy,
            to_pool=call.to_pool,
            to_name=names.encode(to_name),
            to_copy=call.to_copy,
            keep=call.keep,
            client=client,
        )
        with self._journal.transaction(durable=True) as db:
            waiting = db.execute(
                "SELECT count(*) FROM operations WHERE state = 'running'"
            ).fetchone()[0]
            if waiting >= WAITING:
                raise ImageBusy(f"{waiting} copies wait already", hint="try again later")
            begun = db.execute(
                "INSERT OR IGNORE INTO operations VALUES (?, ?, 'running', 0, ?, '', '', ?)",
                (operation, json.dumps(asdict(request)), manifest.size or 0, self._clock()),
            )
        if begun.rowcount:
            self._threads.submit(self._run, operation, request)
        return self.look(operation)

    def look(self, operation: str) -> Operation:
        """How far an operation is.

        Raises:
            ImageNotFound: there is none of this id.
        """
        with self._journal.transaction() as db:
            row = db.execute(
                "SELECT state, done, total, error, code FROM operations WHERE operation = ?",
                (operation,),
            ).fetchone()
        if row is None:
            raise ImageNotFound(f"there is no operation {operation}", hint="begin it again")
        state, done, total, error, code = row
        with self._mutex:
            done, total = self._progress.get(operation, (done, total))
        return Operation(
            operation=operation, state=state, done=done, total=total, error=error, code=code
        )

    def _check(self, source: Unit, target: Unit, call: CopyImage, to_name: str) -> Manifest:
        """What can be said at once is said at once."""
        if spooled_draft(source, call.image, call.copy) is not None:
            raise Unsupported(
                f"image {call.image!r} is in the spool", hint="copy it when it is stored"
            )
        manifest = manifest_of(source, call.image, call.copy)
        same = source is target and to_name == call.image and manifest.copy == call.to_copy
        if same:
            raise SamePlace(
                f"image {call.image!r} copy {manifest.copy} cannot be copied onto itself",
                hint="choose another pool, name or copy number",
            )
        if source is target and source.settings.config.images_open < 2:
            raise Unsupported(
                "a copy within a pool reads one image and writes another",
                hint="set images_open of the pool to at least 2",
            )
        recalls.check_readable(source, manifest, may_ask=False)
        begun = target.drafts.find(to_name, call.to_copy)
        if target.index.get(to_name, call.to_copy) is not None or (
            begun is not None and begun.state != "complete"
        ):
            raise ImageExists(
                f"image {to_name!r} copy {call.to_copy} is in pool {target.name} already",
                hint="choose another name or copy number",
            )
        target.pool()
        check_keep(call.keep, target.settings, target.object_lock)
        target.space.check_create()
        return manifest

    # --- in a thread ---------------------------------------------------------------------

    def _run(self, operation: str, request: Request) -> None:
        """One try; a copy that must wait goes behind the others, so that those of a pool that is
        away keep nobody else's from theirs."""
        try:
            if self._stop.is_set() or self._ended(operation, request):
                return
        except Exception:
            log.exception("copy %s is tried again", operation)
        self._stop.wait(PAUSE_S)
        with contextlib.suppress(RuntimeError):  # the daemon ends: the next start takes it up
            self._threads.submit(self._run, operation, request)

    def _ended(self, operation: str, request: Request) -> bool:
        """Try; False when it must wait. Raises when not even its failure can be journaled."""
        try:
            return self._try(operation, request)
        except CopyStopped:
            return True
        except (TransientStoreError, StoreUnusable, PoolDown, JournalError) as exc:
            log.info("copy %s waits: %s", operation, exc.message)
            return False
        except PoolError as exc:
            self._failed(operation, request, exc)
        except Exception:
            log.exception("copy %s", operation)
            self._failed(operation, request, PoolError("a fault of the daemon, see its log"))
        return True

    def _try(self, operation: str, request: Request) -> bool:
        """Copy; False when it must wait."""
        source, target = self._unit(request.pool), self._unit(request.to_pool)
        name, to_name = names.decode(request.name), names.decode(request.to_name)
        try:
            reading = source.in_use.work(name, request.copy, "read", wait_s=PAUSE_S)
        except ImageBusy:
            return False
        if reading is None:
            return False
        try:
            writing = target.in_use.work(to_name, request.to_copy, "write", wait_s=PAUSE_S)
        except ImageBusy as exc:
            source.in_use.let_go(reading)
            raise ImageExists(exc.message, hint="somebody else writes there") from exc
        try:
            if writing is None:
                return False
            with source.noticing(), target.noticing():
                self._copy(operation, request, source, target)
            return True
        finally:
            source.in_use.let_go(reading)
            if writing is not None:
                target.in_use.let_go(writing)

    def _copy(self, operation: str, request: Request, source: Unit, target: Unit) -> None:
        name, to_name = names.decode(request.name), names.decode(request.to_name)
        manifest = manifest_of(source, Name(name), request.copy)
        now = target.clock()
        retention = retention_of(request.keep, target.settings, begun_at=now, now=now)
        storage_class = class_for(
            target.settings, request.keep, expected_size=manifest.size or 0, now=now
        )

        def committed(db: Any, copied: Manifest) -> None:
            target.on_commit(db, copied)
            target.announce(
                db, EventKind.COPIED, to_name, request.to_copy,
                operation=operation, source=f"{request.pool}/{request.name}",
            )  # fmt: skip

        def progress(done: int, total: int) -> None:
            with self._mutex:
                self._progress[operation] = (done, total)

        try:
            copied = copy_image(
                source.pool(),
                manifest,
                target.pool(),
                name=to_name,
                copy=request.to_copy,
                storage_class=storage_class,
                retention=retention,
                on_commit=committed,
                progress=progress,
                stop=self._stop.is_set,
            )
        except ImageExists:
            there = target.pool().find(to_name, request.to_copy)
            if there is None or there.sha256 != manifest.sha256 or there.size != manifest.size:
                raise
            copied = there  # a crash came between the commit and the receipt
        else:
            target.space.changed(to_name, request.to_copy)
        target.woken()
        target.told(Step.COPIED, to_name, request.to_copy, copied.token, operation=operation)
        self._end(operation, "done", copied.size or 0, "", "")

    def _failed(self, operation: str, request: Request, exc: PoolError) -> None:
        try:
            target = self._unit(request.to_pool)
            to_name = names.decode(request.to_name)
            target.say(
                EventKind.COPY_FAILED, to_name, request.to_copy,
                operation=operation, why=exc.message,
            )  # fmt: skip
            forget_copy(target.pool(), to_name, request.to_copy)
        except PoolError as second:
            log.warning("copy %s: what it left is removed later: %s", operation, second.message)
        self._end(operation, "failed", 0, str(exc), failure_of(exc).code)

    def _end(self, operation: str, state: str, done: int, error: str, code: str) -> None:
        with self._journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE operations SET state = ?, done = ?, error = ?, code = ?, at = ?"
                " WHERE operation = ?",
                (state, done, error[:1000], code, self._clock(), operation),
            )
        with self._mutex:
            self._progress.pop(operation, None)


def _request(text: str) -> Request:
    fields = json.loads(text)
    return Request(keep=Keep(**fields.pop("keep")), **fields)
