"""The local index: which complete copies a pool holds, in the journal's file.

The bucket is the truth; the index makes listing, looking up and counting cheap, and
``rebuild.py`` makes it anew from the bucket alone. A row changes in the transaction of the commit,
deletion or retention that it tells of. Names are kept as bytes, so order and equality are exact.

Rows belong to a *generation*. One generation is live. A rebuild fills the next one beside it
(``generations.py``); until that takes over, every change goes into both, and is *touched*, so that
what a rebuild read before the change cannot undo it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from catalog.model import NANOSECONDS, LockMode, StorageClass
from connector.pool.journal import Journal
from connector.pool.manifest import Manifest
from connector.pool.sidecar import Kept, kept_by

COMPLETE, DAMAGED, DELETING = "complete", "damaged", "deleting"
LISTED = (COMPLETE, DAMAGED)

SCAN_ROWS = 20_000
"""Rows that one transaction of a filtered listing looks at; writers get their turn in between."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS index_generations (
    generation INTEGER PRIMARY KEY, live INTEGER NOT NULL, complete INTEGER NOT NULL,
    images INTEGER NOT NULL DEFAULT 0, logical INTEGER NOT NULL DEFAULT 0,
    physical INTEGER NOT NULL DEFAULT 0, locked INTEGER NOT NULL DEFAULT 0,
    locked_at INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL DEFAULT 0, position TEXT NOT NULL DEFAULT '', report TEXT
);
INSERT INTO index_generations (generation, live, complete)
    SELECT 1, 1, 0 WHERE NOT EXISTS (SELECT 1 FROM index_generations WHERE live);
CREATE TABLE IF NOT EXISTS stored_images (
    generation INTEGER NOT NULL, name BLOB NOT NULL, copy INTEGER NOT NULL, token TEXT NOT NULL,
    state TEXT NOT NULL, size INTEGER, stored_size INTEGER NOT NULL, created_at INTEGER NOT NULL,
    sha256 BLOB, storage_class TEXT, expires_at INTEGER, infinite INTEGER NOT NULL,
    lock_mode TEXT NOT NULL, lock_until INTEGER, hold INTEGER NOT NULL, endless INTEGER NOT NULL,
    PRIMARY KEY (generation, name, copy)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stored_images_locked ON stored_images
    (generation, lock_until, stored_size) WHERE lock_until IS NOT NULL AND endless = 0;
CREATE TABLE IF NOT EXISTS stored_within (
    generation INTEGER NOT NULL, tape_name BLOB NOT NULL, tape_copy INTEGER NOT NULL,
    name BLOB NOT NULL, copy INTEGER NOT NULL,
    PRIMARY KEY (generation, tape_name, tape_copy, name, copy)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stored_within_image ON stored_within (generation, name, copy);
CREATE TABLE IF NOT EXISTS index_touched (
    name BLOB NOT NULL, copy INTEGER NOT NULL, PRIMARY KEY (name, copy)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deletions (
    token TEXT PRIMARY KEY, name BLOB NOT NULL, copy INTEGER NOT NULL, asked_at INTEGER NOT NULL,
    hidden INTEGER NOT NULL, versions TEXT NOT NULL, fact TEXT NOT NULL, problem TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deletions_image ON deletions (name, copy);
CREATE TABLE IF NOT EXISTS keep_changes (
    id TEXT PRIMARY KEY, name BLOB NOT NULL, copy INTEGER NOT NULL, token TEXT NOT NULL,
    sidecar BLOB NOT NULL, fact TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keep_changes_image ON keep_changes (name, copy);
CREATE TABLE IF NOT EXISTS copies (
    name BLOB NOT NULL, copy INTEGER NOT NULL, source TEXT NOT NULL, token TEXT,
    PRIMARY KEY (name, copy)
) WITHOUT ROWID;
"""

# endless: kept by a hold, or for ever, so that no time frees it.
# An image within tape files has no bytes of its own: they are counted with the tape file.
_COUNTED = """
    images = images {op} ({row}.state <> 'deleting'),
    logical = logical {op} CASE WHEN {row}.state <> 'deleting' AND {row}.storage_class IS NOT NULL
        THEN ifnull({row}.size, 0) ELSE 0 END,
    physical = physical {op} {row}.stored_size,
    locked = locked {op} CASE WHEN {row}.endless OR ifnull({row}.lock_until, 0) > locked_at
        THEN {row}.stored_size ELSE 0 END
    WHERE generation = {row}.generation;"""
_ADD = "UPDATE index_generations SET" + _COUNTED.format(op="+", row="NEW")
_TAKE = "UPDATE index_generations SET" + _COUNTED.format(op="-", row="OLD")
_TRIGGERS = f"""
CREATE TRIGGER IF NOT EXISTS stored_images_added AFTER INSERT ON stored_images BEGIN {_ADD} END;
CREATE TRIGGER IF NOT EXISTS stored_images_taken AFTER DELETE ON stored_images BEGIN {_TAKE} END;
CREATE TRIGGER IF NOT EXISTS stored_images_changed AFTER UPDATE ON stored_images
    BEGIN {_TAKE} {_ADD} END;
"""

SCHEMA = _SCHEMA + _TRIGGERS
"""For ``Journal(path, schema=SCHEMA)``: the tables of this room that share the journal's file."""

COLUMNS = (
    "name, copy, token, state, size, stored_size, created_at, sha256, storage_class, expires_at,"
    " infinite, lock_mode, lock_until, hold"
)
_MARKS = ", ".join("?" * 15)
_INSERT = (
    f"INSERT INTO stored_images (generation, {COLUMNS}, endless) VALUES (?, {_MARKS})"
    " ON CONFLICT (generation, name, copy) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in (*COLUMNS.split(", ")[2:], "endless"))
)
_LIVE = "generation = (SELECT generation FROM index_generations WHERE live)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A complete copy as the index knows it.

    state is ``complete``, ``damaged`` or ``deleting``. size is None where nobody knows it (an image
    within tape files); stored_size is bytes in the store. Times are whole seconds, as manifests
    keep them. lock_until with lock_mode NONE: Tapelift alone keeps it, the store does not.
    """

    name: str
    copy: int
    token: str
    state: str
    size: int | None
    stored_size: int
    created_at: int
    sha256: str | None
    storage_class: StorageClass | None
    expires_at: int | None
    infinite: bool
    lock_mode: LockMode
    lock_until: int | None
    hold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the pool's images come to, in bytes; images is their number.

    physical still counts what is being deleted. locked: stored bytes under a lock that has not
    ended, or under a hold.
    """

    images: int
    logical: int
    physical: int
    locked: int


def entry_of(manifest: Manifest, kept: Kept, *, damaged: bool = False) -> Entry:
    """The entry of a manifest and of what is kept beside it; the same from either side.

    Two ways lead here, the commit and a rebuild, and both must give the same entry: so times are
    cut to the seconds that JSON keeps.
    """
    return Entry(
        name=manifest.name,
        copy=manifest.copy,
        token=manifest.token,
        state=DAMAGED if manifest.gaps or damaged else COMPLETE,
        size=manifest.size,
        stored_size=manifest.stored_size,
        created_at=_seconds(manifest.created_at),
        sha256=manifest.sha256,
        storage_class=manifest.storage_class,
        expires_at=None if kept.expires_at is None else _seconds(kept.expires_at),
        infinite=kept.expires_infinite,
        lock_mode=kept.lock_mode,
        lock_until=None if kept.lock_until is None else _seconds(kept.lock_until),
        hold=kept.hold,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with what only the index needs: whether no time frees it, what it lies within."""

    entry: Entry
    endless: bool
    within: tuple[tuple[bytes, int], ...]


def row_of(manifest: Manifest, kept: Kept, *, damaged: bool = False) -> Row:
    """What the index keeps of a copy."""
    return Row(
        entry_of(manifest, kept, damaged=damaged),
        kept.hold or kept.lock_infinite,
        tuple((name_bytes(part.image), part.copy) for part in manifest.within),
    )


class Index:
    """Complete copies of one pool, in its journal, which must be opened with ``SCHEMA``."""

    SCHEMA: str = SCHEMA

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.rebuilding = threading.Lock()
        self._changing = tuple(threading.RLock() for _ in range(64))

    @property
    def complete(self) -> bool:
        """Whether the bucket was read once, so that what is not listed is not there."""
        with self.journal.transaction() as db:
            return bool(
                db.execute(f"SELECT complete FROM index_generations WHERE {_LIVE}").fetchone()[0]
            )

    @contextlib.contextmanager
    def changing(self, name: str, copy: int) -> Iterator[None]:
        """Let nobody else in this process delete this copy or change how it is kept."""
        with self._changing[hash((name, copy)) % len(self._changing)]:
            yield

    # --- changes, within the caller's transaction ------------------------------------------

    def on_commit(self, db: sqlite3.Connection, manifest: Manifest) -> None:
        """Add a copy that was just committed; an ``OnCommit``."""
        self.store(db, manifest, kept_by(manifest.retention))

    def store(self, db: sqlite3.Connection, manifest: Manifest, kept: Kept) -> None:
        """Add or replace a copy."""
        row = row_of(manifest, kept)
        for generation in self._touch(db, name_bytes(manifest.name), manifest.copy):
            insert_row(db, generation, row)

    def mark_deleting(self, db: sqlite3.Connection, name: str, copy: int) -> None:
        """Say that a copy is on its way out: not listed as complete, its space not free yet."""
        raw = name_bytes(name)
        for generation in self._touch(db, raw, copy):
            db.execute(
                "UPDATE stored_images SET state = ? WHERE generation = ? AND name = ? AND copy = ?",
                (DELETING, generation, raw, copy),
            )

    def forget(
        self, db: sqlite3.Connection, name: str, copy: int, *, token: str | None = None
    ) -> None:
        """Drop a copy; with a token only the copy that this attempt wrote."""
        raw = name_bytes(name)
        for generation in self._touch(db, raw, copy):
            key = (generation, raw, copy)
            where = "generation = ? AND name = ? AND copy = ?"
            row = db.execute(f"SELECT token FROM stored_images WHERE {where}", key).fetchone()
            if row is not None and token in (None, row[0]):
                db.execute(f"DELETE FROM stored_images WHERE {where}", key)
                db.execute(f"DELETE FROM stored_within WHERE {where}", key)

    def _touch(self, db: sqlite3.Connection, raw: bytes, copy: int) -> list[int]:
        """The generations that a change goes into; more than the live one while rebuilding."""
        rows = db.execute("SELECT generation FROM index_generations WHERE live OR started_at")
        generations = [row[0] for row in rows]
        if len(generations) > 1:
            db.execute("INSERT OR IGNORE INTO index_touched VALUES (?, ?)", (raw, copy))
        return generations

    # --- questions --------------------------------------------------------------------------

    def get(self, name: str, copy: int | None = None) -> Entry | None:
        """One copy; without a number the lowest, one that is being deleted only if no other is."""
        where = "name = ?" if copy is None else "name = ? AND copy = ?"
        values = (name_bytes(name),) if copy is None else (name_bytes(name), copy)
        with self.journal.transaction() as db:
            row = db.execute(
                f"SELECT {COLUMNS} FROM stored_images WHERE {_LIVE} AND {where}"
                " ORDER BY state = 'deleting', copy LIMIT 1",
                values,
            ).fetchone()
        return None if row is None else _entry(row)

    def within(self, name: str, copy: int) -> tuple[str, int] | None:
        """One image that lies inside this one (a multiplexed tape file), if there is any."""
        with self.journal.transaction() as db:
            row = db.execute(
                f"SELECT name, copy FROM stored_within WHERE {_LIVE}"
                " AND tape_name = ? AND tape_copy = ? LIMIT 1",
                (name_bytes(name), copy),
            ).fetchone()
        return None if row is None else (name_text(row[0]), row[1])

    def page(
        self,
        *,
        prefix: str = "",
        after: tuple[str, int] | None = None,
        limit: int = 1000,
        created_after: int | None = None,
        created_before: int | None = None,
        states: Collection[str] | None = None,
    ) -> list[Entry]:
        """Up to limit copies behind ``after``, in the order of names' bytes and copy numbers.

        Fewer than limit means that there are no more. What comes or goes meanwhile moves nothing
        else: the place is a name, not a number. created_after and created_before exclude their own
        instant; with a filter, rows are looked at one after the other. states None: all.
        """
        wanted, values = _filter(created_after, created_before, states)
        at, end = _bounds(prefix, after)
        # of complete copies there are so many that a page is full soon
        sparse = created_after is not None or created_before is not None
        sparse = sparse or (states is not None and COMPLETE not in states)
        found: list[Entry] = []
        while len(found) < limit:
            with self.journal.transaction() as db:
                generation = live_generation(db)
                edge = _edge(db, generation, at, end) if sparse else None
                rows = db.execute(
                    f"SELECT {COLUMNS} FROM stored_images WHERE generation = ?"
                    " AND (name, copy) > (?, ?)"
                    + (" AND name < ?" if end is not None else "")
                    + (" AND (name, copy) <= (?, ?)" if edge else "")
                    + wanted
                    + " ORDER BY name, copy LIMIT ?",
                    (
                        generation,
                        *at,
                        *((end,) if end is not None else ()),
                        *(edge or ()),
                        *values,
                        limit - len(found),
                    ),
                ).fetchall()
            found += map(_entry, rows)
            if edge is None:
                break
            at = edge
        return found

    def totals(self, now: int) -> Totals:
        """Sums at a time (UTC nanoseconds). The cost is that of the locks that ended since the
        last call: each is taken off once, and put back should the clock go back."""
        with self.journal.transaction() as db:
            generation = live_generation(db)
            select = (
                "SELECT images, logical, physical, locked, locked_at FROM index_generations"
                " WHERE generation = ?"
            )
            images, logical, physical, locked, then = db.execute(select, (generation,)).fetchone()
            if now != then:
                low, high = sorted((now, then))
                moved = db.execute(
                    "SELECT ifnull(sum(stored_size), 0) FROM stored_images WHERE generation = ?"
                    " AND lock_until > ? AND lock_until <= ? AND endless = 0",
                    (generation, low, high),
                ).fetchone()[0]
                locked += moved if now < then else -moved
                db.execute(
                    "UPDATE index_generations SET locked = ?, locked_at = ? WHERE generation = ?",
                    (locked, now, generation),
                )
        return Totals(images=images, logical=logical, physical=physical, locked=locked)


def name_bytes(name: str) -> bytes:
    """A name as the bytes that it stands for."""
    return name.encode("utf-8", "surrogateescape")


def name_text(raw: bytes) -> str:
    """The bytes of a name as text."""
    return raw.decode("utf-8", "surrogateescape")


def live_generation(db: sqlite3.Connection) -> int:
    """The generation that answers."""
    row = db.execute("SELECT generation FROM index_generations WHERE live").fetchone()
    return int(row[0])


def insert_row(db: sqlite3.Connection, generation: int, row: Row) -> None:
    """Add a row to a generation, or replace it."""
    entry = row.entry
    raw = name_bytes(entry.name)
    db.execute(
        _INSERT,
        (
            generation, raw, entry.copy, entry.token, entry.state, entry.size, entry.stored_size,
            entry.created_at, None if entry.sha256 is None else bytes.fromhex(entry.sha256),
            entry.storage_class, entry.expires_at, entry.infinite, entry.lock_mode,
            entry.lock_until, entry.hold, row.endless,
        ),
    )  # fmt: skip
    if row.within:
        db.executemany(
            "INSERT OR IGNORE INTO stored_within VALUES (?, ?, ?, ?, ?)",
            [(generation, tape, number, raw, entry.copy) for tape, number in row.within],
        )


def _entry(row: tuple[Any, ...]) -> Entry:
    sha256, stored_in = row[7], row[8]
    return Entry(
        name=name_text(row[0]),
        copy=row[1],
        token=row[2],
        state=row[3],
        size=row[4],
        stored_size=row[5],
        created_at=row[6],
        sha256=None if sha256 is None else sha256.hex(),
        storage_class=None if stored_in is None else StorageClass(stored_in),
        expires_at=row[9],
        infinite=bool(row[10]),
        lock_mode=LockMode(row[11]),
        lock_until=row[12],
        hold=bool(row[13]),
    )


def _seconds(time: int) -> int:
    return time // NANOSECONDS * NANOSECONDS


def _filter(
    created_after: int | None, created_before: int | None, states: Collection[str] | None
) -> tuple[str, tuple[object, ...]]:
    """The rest of a WHERE, and its values."""
    text, values = "", list[object]()
    if created_after is not None:
        text += " AND created_at > ?"
        values.append(created_after)
    if created_before is not None:
        text += " AND created_at < ?"
        values.append(created_before)
    if states is not None:
        text += f" AND state IN ({', '.join('?' * len(states))})"
        values += states
    return text, tuple(values)


def _bounds(prefix: str, after: tuple[str, int] | None) -> tuple[tuple[bytes, int], bytes | None]:
    """Where a listing begins (excluded) and, in names' bytes, where it ends (excluded)."""
    raw = name_bytes(prefix)
    at = (raw, -1)  # copies count from 1
    if after is not None:
        at = max(at, (name_bytes(after[0]), after[1]))
    stem = raw.rstrip(b"\xff")
    return at, stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _edge(
    db: sqlite3.Connection, generation: int, at: tuple[bytes, int], end: bytes | None
) -> tuple[bytes, int] | None:
    """The key SCAN_ROWS behind ``at``, or None when fewer rows are left."""
    row = db.execute(
        "SELECT name, copy FROM stored_images WHERE generation = ? AND (name, copy) > (?, ?)"
        + (" AND name < ?" if end is not None else "")
        + f" ORDER BY name, copy LIMIT 1 OFFSET {SCAN_ROWS - 1}",
        (generation, *at, *((end,) if end is not None else ())),
    ).fetchone()
    return None if row is None else (row[0], row[1])
