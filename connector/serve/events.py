"""What happened, in order, for clients that ask: at least once, and bounded.

An event is first announced in the journal of its pool, in the transaction of what it tells, and
then moved to the one table that clients read, so that a crash can repeat an event and not lose
one. The table keeps the newest; who asks for older ones is told so (``CursorExpired``).
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from catalog.errors import CursorExpired
from connector.pool import names
from connector.pool.journal import Journal
from connector.wire.codec import fitting
from connector.wire.messages import MAX_LIST, MAX_TEXT, Event, EventPage, Name

KEPT = 100_000
"""Events that are kept, about 300 bytes each."""
ASK_S = 0.5
"""How often a call that waits looks whether its client is still there, in seconds."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL,
    pool TEXT NOT NULL, name TEXT, copy INTEGER, detail TEXT NOT NULL
);
"""
ANNOUNCED = """
CREATE TABLE IF NOT EXISTS announced (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT,
    copy INTEGER, detail TEXT NOT NULL
);
"""


class EventKind(StrEnum):
    """What an event tells. New kinds are added, never renamed."""

    CREATED = "created"
    INCOMPLETE = "incomplete"
    COMPLETE = "complete"
    SPOOLED = "spooled"
    STORED = "stored"  # a spooled image is in the store now
    REFUSED = "refused"  # a spooled image cannot be stored: see detail
    ABORTED = "aborted"
    ABANDONED = "abandoned"  # nobody resumed it in time
    DELETED = "deleted"
    HELD = "held"
    RELEASED = "released"
    EXTENDED = "extended"
    RECALL_ASKED = "recall_asked"
    RECALL_READY = "recall_ready"
    COPIED = "copied"
    COPY_FAILED = "copy_failed"
    VERIFIED = "verified"
    DAMAGED = "damaged"
    POOL_UP = "pool_up"
    POOL_DOWN = "pool_down"
    QUOTA_SOFT = "quota_soft"
    SPOOL_FULL = "spool_full"
    ORPHAN_FOUND = "orphan_found"
    ORPHAN_SWEPT = "orphan_swept"
    UNKNOWN_FILE = "unknown_file"


def announce(
    db: sqlite3.Connection,
    kind: EventKind,
    *,
    now: int,
    name: str | None = None,
    copy: int | None = None,
    **detail: object,
) -> None:
    """Announce an event in a pool's journal, within the caller's transaction."""
    text = json.dumps(detail, ensure_ascii=True)
    db.execute(
        "INSERT INTO announced (at, kind, name, copy, detail) VALUES (?, ?, ?, ?, ?)",
        (now, kind, None if name is None else names.encode(name), copy, _bounded(text)),
    )


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT else json.dumps({"cut": text[: MAX_TEXT // 2]})


class Events:
    """The table that clients read. Calls may come from several threads."""

    def __init__(self, journal: Journal, *, kept: int = KEPT) -> None:
        self._journal = journal
        self._kept = kept
        self._changed = threading.Condition()
        self._newest = self._last()
        self._moving = threading.Lock()
        self._closed = False

    def move(self, pool: str, source: Journal) -> int:
        """Take over what a pool announced; gives how many. In order, at least once."""
        with self._moving:
            with source.transaction() as db:
                rows = db.execute(
                    "SELECT id, at, kind, name, copy, detail FROM announced ORDER BY id LIMIT ?",
                    (MAX_LIST,),
                ).fetchall()
            if not rows:
                return 0
            with self._journal.transaction(durable=True) as db:
                db.executemany(
                    "INSERT INTO events (at, kind, pool, name, copy, detail)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [(at, kind, pool, *rest) for _, at, kind, *rest in rows],
                )
                newest = db.execute("SELECT max(cursor) FROM events").fetchone()[0]
                db.execute("DELETE FROM events WHERE cursor <= ?", (newest - self._kept,))
            with source.transaction() as db:
                db.execute("DELETE FROM announced WHERE id <= ?", (rows[-1][0],))
        with self._changed:
            self._newest = newest
            self._changed.notify_all()
        return len(rows)

    def page(
        self, cursor: int, limit: int, *, wait_s: float, gone: Callable[[], bool]
    ) -> EventPage:
        """Events after cursor; 0 is from the oldest kept, -1 from now. Waits for the first.

        Raises:
            CursorExpired: events after cursor were forgotten, or there never was such a cursor.
        """
        if cursor < 0:
            cursor = self._last()
        found: Sequence[Event] = self._after(cursor, limit)
        ends = time.monotonic() + wait_s
        while not found and not gone() and not self._closed:
            left = ends - time.monotonic()
            if left <= 0:
                break
            with self._changed:
                if self._newest <= cursor and not self._closed:
                    self._changed.wait(min(left, ASK_S))
            found = self._after(cursor, limit)
        found = fitting(found)
        return EventPage(events=tuple(found), cursor=found[-1].cursor if found else max(cursor, 0))

    def close(self) -> None:
        """Let those who wait go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _last(self) -> int:
        """The newest cursor that was ever given, also when its event is forgotten."""
        with self._journal.transaction() as db:
            return _last(db)

    def _after(self, cursor: int, limit: int) -> list[Event]:
        with self._journal.transaction() as db:
            newest = _last(db)  # what was moved a moment ago is there before anybody is told
            oldest = db.execute("SELECT min(cursor) FROM events").fetchone()[0]
            rows = db.execute(
                "SELECT cursor, at, kind, pool, name, copy, detail FROM events"
                " WHERE cursor > ? ORDER BY cursor LIMIT ?",
                (cursor, max(1, min(limit, MAX_LIST))),
            ).fetchall()
        first_kept = newest + 1 if oldest is None else int(oldest)
        if cursor > newest or 0 < cursor < first_kept - 1:
            raise CursorExpired(
                f"events after cursor {cursor} are not kept (kept: {first_kept} to {newest})",
                hint="begin anew with cursor 0, and list the images to be sure of their states",
            )
        return [
            Event(
                cursor=number,
                at=at,
                kind=kind,
                pool=pool,
                image=None if name is None else Name(names.decode(name)),
                copy=copy,
                detail=detail,
            )
            for number, at, kind, pool, name, copy, detail in rows
        ]


def _last(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row[0])
