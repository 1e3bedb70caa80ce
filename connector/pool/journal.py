"""The journal: what was intended, and what S3 has confirmed, on local disk.

Write the intent, act, write the receipt; recovery is reading the journal. One process at a time.
Everything in it can be lost without losing an image: the bucket is the truth, and then at worst
bytes that are not yet committed are sent again.

An attempt to write an image is a row of ``attempts``; its objects are rows of ``objects``; the
parts that S3 has confirmed of the object being written are rows of ``parts``, and what of the image
lies in the parts of coded objects are rows of ``coded_parts``. An attempt's rows
go when its facts are in the outbox, so the journal stays as small as the work in progress.

Recalls have tables of their own, see ``tickets.py``. Two tables of an earlier program are dropped:
who asks for the same objects again is not billed twice, for the store knows what is on its way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import JournalError, JournalFull

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (
    token TEXT PRIMARY KEY, name TEXT NOT NULL, copy INTEGER NOT NULL, state TEXT NOT NULL,
    request TEXT NOT NULL, manifest BLOB, UNIQUE (name, copy)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    token TEXT NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, upload_id TEXT,
    offset INTEGER NOT NULL, start_state BLOB, end_state BLOB, record TEXT,
    PRIMARY KEY (token, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    token TEXT NOT NULL, object INTEGER NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL,
    etag TEXT NOT NULL, crc64nvme BLOB NOT NULL, image_state BLOB, object_state BLOB,
    PRIMARY KEY (token, object, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coded_parts (
    token TEXT NOT NULL, object INTEGER NOT NULL, number INTEGER NOT NULL,
    plain INTEGER NOT NULL, plain_crc64nvme BLOB NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (token, object, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, fact TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ledger_commit (
    id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL, data BLOB NOT NULL,
    last_fact INTEGER NOT NULL, rows INTEGER NOT NULL
);
DROP TABLE IF EXISTS tickets;
DROP TABLE IF EXISTS ticket_objects;
CREATE TABLE IF NOT EXISTS recalls (
    ticket TEXT PRIMARY KEY, tier TEXT NOT NULL, days INTEGER NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0, asked_at INTEGER NOT NULL, hours REAL NOT NULL,
    currency TEXT NOT NULL, price_date TEXT NOT NULL, forget_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS recall_objects (
    ticket TEXT NOT NULL, number INTEGER NOT NULL, image INTEGER NOT NULL, key TEXT NOT NULL,
    version_id TEXT, offset INTEGER NOT NULL, length INTEGER NOT NULL, size INTEGER NOT NULL,
    storage_class TEXT NOT NULL, what TEXT NOT NULL, tier TEXT NOT NULL, days INTEGER NOT NULL,
    pending REAL NOT NULL, cost REAL NOT NULL, asked INTEGER NOT NULL,
    state TEXT NOT NULL, readable_until INTEGER, looked_at INTEGER NOT NULL,
    PRIMARY KEY (ticket, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS recall_objects_by_key ON recall_objects (key);
CREATE TABLE IF NOT EXISTS recall_facts (
    id INTEGER PRIMARY KEY, ticket TEXT NOT NULL, image INTEGER NOT NULL, fact TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS recall_costs (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, ticket TEXT NOT NULL, cost REAL NOT NULL
);
"""


class Journal:
    """An open journal, locked against other processes.

    ``transaction`` is the only way in. A transaction is safe against a kill at any moment; with
    durable=True it is on the disk, and so safe against a power cut, when it returns.
    """

    def __init__(self, path: Path, *, schema: str = "", read_only: bool = False) -> None:
        """Open or create; schema adds the tables of whoever shares the file.

        read_only looks at a journal while another process may be writing it, and takes no lock.

        Raises:
            JournalError: another process holds it, a newer program wrote it, or the disk fails.
        """
        self.path = path
        self._mutex = threading.RLock()
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        self._open = True
        if read_only:
            self._lock_fd = -1
            self._db = _connect_read_only(path)
            return
        self._lock_fd = _take_lock(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA busy_timeout=5000")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise JournalError(f"{path} was written by a newer Tapelift", hint="use that one")
            # one transaction: each of forty tables by itself would wait for the disk
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA}{schema} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
        except sqlite3.Error as exc:
            os.close(self._lock_fd)
            raise _journal_error(path, exc) from exc
        except JournalError:
            os.close(self._lock_fd)
            raise

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """All or nothing. Transactions of several threads follow one another."""
        with self._mutex:
            try:
                # a pragma inside a transaction has no effect, so it comes first
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute(self._begin)
                try:
                    yield self._db
                except BaseException:
                    if self._db.in_transaction:  # a full disk has rolled back by itself
                        self._db.execute("ROLLBACK")
                    raise
                self._commit()
            except sqlite3.Error as exc:
                raise _journal_error(self.path, exc) from exc

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:  # else no later transaction could begin
                self._db.execute("ROLLBACK")
            raise

    def setting(self, key: str) -> str | None:
        """A remembered value, or None."""
        with self.transaction() as db:
            row = db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, key: str, value: str) -> None:
        """Remember a value."""
        with self.transaction(durable=True) as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close and unlock. Closing twice does no harm."""
        with self._mutex:
            if self._open:
                self._open = False
                self._db.close()
                if self._lock_fd >= 0:
                    os.close(self._lock_fd)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise JournalError(f"there is no journal at {path}", hint="check --workdir")
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as exc:
        raise _journal_error(path, exc) from exc


def _take_lock(path: Path) -> int:
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise JournalError(
            f"cannot create {lock}: {exc.strerror}",
            hint="choose a work folder that you may write to, on a local disk",
        ) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise JournalError(
            f"{path} is in use by another process",
            hint="wait for it, or choose another work folder",
        ) from exc
    return fd


def _journal_error(path: Path, exc: sqlite3.Error) -> JournalError:
    text = str(exc)
    if "full" in text:
        return JournalFull(f"the disk under {path} is full", hint="make room, then try again")
    return JournalError(
        f"{path}: {text}",
        hint="check the disk; a work folder that is damaged can be set aside and begun anew",
    )
