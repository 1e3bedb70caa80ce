"""The spool of one pool: images that are safe on this host's disk, and on their way to the store.

A bounded folder. Its room is reserved before bytes are taken, so that the bound holds whatever
clients do. ``close`` answers ``spooled`` only after the file, the folder and the journal's row are
on the disk; a file is removed only after the store has the image and the journal says so. Files
that the journal does not know are told of and never touched.

When the spool is full, a writer waits a little while uploads make room (backpressure is what a
backup product expects), and is told ``no_space`` when nothing can: the store is away, or the room
is held by images that are not complete. So no client hangs on a spool that does not drain.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigError, ImageDamaged, ImageNotFound, JournalFull, NoSpace
from catalog.model import NANOSECONDS
from connector.pool import names
from connector.serve import drafts
from connector.serve.drafts import Draft, DraftState
from connector.serve.events import EventKind
from connector.serve.sinks import Sink
from connector.serve.spool_files import SpoolRow, SpoolSink, SpoolSource

if TYPE_CHECKING:
    from connector.serve.units import Unit

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS spool_files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, copy INTEGER NOT NULL, path TEXT NOT NULL,
    state TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT, digest BLOB, pieces BLOB NOT NULL,
    ready_at INTEGER, UNIQUE (name, copy)
) WITHOUT ROWID;
"""
# states: open (being written, or incomplete) -> ready (acknowledged) -> stored (to be removed);
# refused: the store cannot take it, an operator must decide

CHUNK = 16 * 1024 * 1024
"""Room is reserved in pieces of this many bytes."""
WAIT_S = 30.0
"""How long a writer waits for room that uploads will make, in seconds."""
LOW = 0.9
"""Filled to this share, clients are told that space runs out."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is acknowledged and not in the store: bytes, files, age of the oldest in seconds."""

    size: int
    files: int
    oldest_s: float


class Spool:
    """One pool's spool. Calls may come from several threads.

    A pool without spool settings has one too: it takes nothing, and drains what an earlier
    configuration left.
    """

    def __init__(self, unit: Unit, *, wait_s: float = WAIT_S) -> None:
        self._unit = unit
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._reserved: dict[str, int] = {}
        self._was_full = False
        self.work = threading.Event()
        settings = unit.settings.spool
        self.limit = 0 if settings is None else settings.limit
        self._folder = None if settings is None else settings.folder / unit.name
        for row in self._rows():
            self._reserved[row.id] = row.size

    # --- recovery ------------------------------------------------------------------------

    def start(self) -> None:
        """Make the folder, and settle what an earlier process left.

        Raises:
            ConfigError: the folder cannot be used.
        """
        if self._folder is not None:
            _make_folder(self._folder)
        for row in self._rows():
            if row.state == "stored":
                self.dispose(row)
            elif row.state == "open" and self._unit.drafts.find(row.name, row.copy) is None:
                self.dispose(row)  # given up, and killed before the file was gone
            elif row.state == "ready" and not _is_whole(row):
                why = f"{row.path} is missing or too short; {row.size} bytes were acknowledged"
                log.error("pool %s: image %r: %s", self._unit.name, row.name, why)
                self._unit.say(EventKind.DAMAGED, row.name, row.copy, why=why)
        for path in self.unknown_files():
            log.warning("%s is in the spool, and the journal does not know it", path)
            self._unit.say(EventKind.UNKNOWN_FILE, path=str(path))
        self.work.set()

    def unknown_files(self) -> list[Path]:
        """Files in the folder that no row names."""
        if self._folder is None or not self._folder.is_dir():
            return []
        known = {Path(row.path).name for row in self._rows()}
        return sorted(path for path in self._folder.iterdir() if path.name not in known)

    # --- writing -------------------------------------------------------------------------

    def has(self, draft: Draft) -> bool:
        """Whether a draft's bytes are here."""
        return self.row(draft.name, draft.copy) is not None

    def open(self, draft: Draft) -> Sink:
        """Begin a draft's file, or go on at its durable offset.

        Raises:
            NoSpace: the spool is full.
        """
        row = self.row(draft.name, draft.copy)
        if row is None:
            if self.free() <= 0:
                raise self.full(0)
            row = self._begin(draft)
        with self._translated(row.size):
            return SpoolSink(self, draft, row)

    def _begin(self, draft: Draft) -> SpoolRow:
        if self._folder is None:
            raise ConfigError(
                f"pool {self._unit.name} has no spool", hint="set spool.folder and spool.limit"
            )
        self.clear(draft.name, draft.copy)
        id = secrets.token_hex(8)
        path = self._folder / f"{id}.image"
        row = SpoolRow(id=id, name=draft.name, copy=draft.copy, path=str(path), state="open")
        with self._unit.journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO spool_files VALUES (?, ?, ?, ?, 'open', 0, NULL, NULL, x'', NULL)",
                (id, names.encode(draft.name), draft.copy, str(path)),
            )
        return row

    def synced(self, row: SpoolRow) -> None:
        """Journal how far a file is safe.

        Raises:
            NoSpace: the journal's disk is full; what was safe before still is.
        """
        with self._translated(None), self._unit.journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE spool_files SET size = ?, digest = ?, pieces = ? WHERE id = ?",
                (row.size, row.digest, row.pieces, row.id),
            )

    def ready(self, row: SpoolRow, draft: Draft) -> None:
        """Journal that a file is whole: from now on its image is acknowledged.

        Raises:
            NoSpace: the journal's disk is full; nothing was acknowledged.
        """
        unit, now = self._unit, self._unit.clock()
        with self._translated(None), unit.journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE spool_files SET state = 'ready', size = ?, sha256 = ?, pieces = ?,"
                " digest = NULL, ready_at = ? WHERE id = ?",
                (row.size, row.sha256, row.pieces, now, row.id),
            )
            drafts.change(
                db, draft, DraftState.SPOOLED,
                durable=row.size, now=now, id=row.id, sha256=row.sha256,
            )  # fmt: skip
            unit.announce(
                db, EventKind.SPOOLED, draft.name, draft.copy, size=row.size, sha256=row.sha256
            )
        self.settle_reservation(row.id, row.size)
        unit.woken()
        self.work.set()

    @contextlib.contextmanager
    def _translated(self, durable: int | None) -> Iterator[None]:
        """A full disk of the journal is no space as well."""
        try:
            yield
        except JournalFull as exc:
            raise NoSpace(exc.message, offset=durable, hint=exc.hint) from exc

    # --- room ----------------------------------------------------------------------------

    def free(self) -> int:
        """Bytes that are not reserved."""
        with self._changed:
            return self._free()

    @property
    def low(self) -> bool:
        """Whether the spool is nearly full."""
        with self._changed:
            return self._free() <= (1 - LOW) * self.limit

    def reserve(self, id: str, size: int, *, durable: int) -> int:
        """Have room for size bytes of a file in all; gives how many it has room for.

        Waits while uploads make room, then NoSpace with the durable offset.
        """
        ends = time.monotonic() + self._wait_s
        with self._changed:
            while True:
                held = self._reserved.get(id, 0)
                if held >= size:
                    return held
                free = self._free()
                if held + free >= size:
                    self._reserved[id] = max(size, min(held + free, held + CHUNK))
                    self._was_full = False
                    return self._reserved[id]
                left = ends - time.monotonic()
                if left <= 0 or not self._draining():
                    break
                self._changed.wait(min(left, 1.0))
        raise self.full(durable)

    def settle_reservation(self, id: str, size: int) -> None:
        """Give back what a file does not need; 0: it is gone."""
        with self._changed:
            self._reserved.pop(id, None)
            if size:
                self._reserved[id] = size
            self._changed.notify_all()

    def full(self, durable: int) -> NoSpace:
        """The error, and once an event."""
        with self._changed:
            first, self._was_full = not self._was_full, True
        if first:
            self._unit.say(EventKind.SPOOL_FULL, limit=self.limit)
        return NoSpace(
            f"the spool of pool {self._unit.name} is full ({self.limit} bytes)",
            offset=durable,
            hint="wait until images are uploaded, or raise spool.limit",
        )

    def _free(self) -> int:
        return self.limit - sum(self._reserved.values())

    def _draining(self) -> bool:
        """Whether an upload will make room soon."""
        return self._unit.up and self.next_ready(set()) is not None

    # --- rows ----------------------------------------------------------------------------

    def row(self, name: str, copy: int) -> SpoolRow | None:
        """The file of an image, if there is one. One that is only to be removed is none."""
        row = self._any_row(name, copy)
        return None if row is None or row.state == "stored" else row

    def _any_row(self, name: str, copy: int) -> SpoolRow | None:
        return next(iter(self._rows("name = ? AND copy = ?", (names.encode(name), copy))), None)

    def next_ready(self, after: set[str]) -> SpoolRow | None:
        """The oldest file that is to be uploaded and is not among after."""
        for row in self._rows("state = 'ready' ORDER BY ready_at, id LIMIT 100", ()):
            if row.id not in after:
                return row
        return None

    def backlog(self) -> Backlog:
        """What is acknowledged and not in the store."""
        with self._unit.journal.transaction() as db:
            size, files, oldest = db.execute(
                "SELECT ifnull(sum(size), 0), count(*), min(ready_at) FROM spool_files"
                " WHERE state IN ('ready', 'refused')"
            ).fetchone()
        age = 0.0 if oldest is None else max(0.0, (self._unit.clock() - oldest) / NANOSECONDS)
        return Backlog(size, files, age)

    def _rows(self, where: str = "1", values: tuple[object, ...] = ()) -> list[SpoolRow]:
        with self._unit.journal.transaction() as db:
            found = db.execute(
                "SELECT id, name, copy, path, state, size, sha256, digest, pieces"
                f" FROM spool_files WHERE {where}",
                values,
            ).fetchall()
        return [_row(one) for one in found]

    # --- reading and ends ----------------------------------------------------------------

    def source(self, draft: Draft) -> SpoolSource:
        """Read a spooled image; goes on also when it is uploaded and removed meanwhile.

        Raises:
            ImageNotFound: it has just left for the store: open it again.
        """
        row = self.row(draft.name, draft.copy)
        try:
            if row is not None:
                return SpoolSource(row)
        except ImageDamaged:
            if self.row(draft.name, draft.copy) is not None:
                raise
        raise ImageNotFound(f"image {draft.name!r} has just left the spool", hint="open it again")

    def verify(self, draft: Draft) -> tuple[str, ...]:
        """Read a spooled image whole; what is wrong with it.

        Raises:
            ImageNotFound: it has just left for the store.
        """
        try:
            source = self.source(draft)
        except ImageDamaged as exc:
            return (exc.message,)
        with contextlib.closing(source):
            return source.problems()

    def discard(self, draft: Draft) -> None:
        """Remove the file of an image that is given up, if there is one."""
        row = self._any_row(draft.name, draft.copy)
        if row is not None:
            self.dispose(row)

    def clear(self, name: str, copy: int) -> None:
        """Remove the file of an image that the store has, if it is still there."""
        row = self._any_row(name, copy)
        if row is not None and row.state == "stored":
            self.dispose(row)

    def remove(self, draft: Draft, reason: str) -> None:
        """Delete a spooled image. What an upload of it left in the store is still to be given up:
        its draft says aborted until then, so that no later image of this name goes on with it."""
        log.info("pool %s: spooled image %r deleted: %s", self._unit.name, draft.name, reason)
        with self._unit.journal.transaction(durable=True) as db:
            drafts.change(db, draft, DraftState.ABORTED, durable=0, now=self._unit.clock())
            mark_stored(db, draft.name, draft.copy)  # from here on it is only to be unlinked
        self.clear(draft.name, draft.copy)

    def dispose(self, row: SpoolRow) -> None:
        """Remove a file and then its row; safe to repeat."""
        Path(row.path).unlink(missing_ok=True)
        with self._unit.journal.transaction(durable=True) as db:
            db.execute("DELETE FROM spool_files WHERE id = ?", (row.id,))
        self.settle_reservation(row.id, 0)


def mark(db: sqlite3.Connection, id: str, state: str) -> None:
    """Give a row a state, within the caller's transaction."""
    db.execute("UPDATE spool_files SET state = ? WHERE id = ?", (state, id))


def mark_stored(db: sqlite3.Connection, name: str, copy: int) -> None:
    """The store has the image: its file may go. Within the caller's transaction."""
    db.execute(
        "UPDATE spool_files SET state = 'stored' WHERE name = ? AND copy = ?",
        (names.encode(name), copy),
    )


def _row(row: tuple[Any, ...]) -> SpoolRow:
    id, name, copy, path, state, size, sha256, digest, pieces = row
    return SpoolRow(
        id=id,
        name=names.decode(name),
        copy=copy,
        path=path,
        state=state,
        size=size,
        sha256=sha256,
        digest=digest,
        pieces=pieces,
    )


def _is_whole(row: SpoolRow) -> bool:
    try:
        return Path(row.path).stat().st_size == row.size
    except OSError:
        return False


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as exc:
        raise ConfigError(
            f"the spool folder {folder} cannot be used: {exc.strerror}",
            hint="choose a folder of the daemon's own user on a local disk",
        ) from exc
