"""Drafts: images as clients began them, in a pool's journal, until long after they are closed.

A draft says whose token an image belongs to, how the client defined it, and how it ended. It
answers the two questions of a client that lost its connection: may I go on, and did my close
succeed. The bytes are elsewhere: in the pool's own attempts, or in the spool.

States: ``writing`` and ``incomplete`` (go on with the token), ``spooled``, ``complete`` (kept for
``settle``), ``refused`` (spooled here, but the store has another image of this name), ``aborted``
(what is left of it in the store is still to be removed).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from catalog.model import NANOSECONDS
from connector.pool import names
from connector.pool.journal import Journal
from connector.wire.messages import Keep, Source

SCHEMA = """
CREATE TABLE IF NOT EXISTS drafts (
    name TEXT NOT NULL, copy INTEGER NOT NULL, token TEXT NOT NULL, state TEXT NOT NULL,
    definition TEXT NOT NULL, id TEXT NOT NULL, durable INTEGER NOT NULL, sha256 TEXT,
    begun_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, PRIMARY KEY (name, copy)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS drafts_by_state ON drafts (state, changed_at);
CREATE TABLE IF NOT EXISTS own_attempts (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
"""

DAY = 86_400 * NANOSECONDS
KEPT_FOR_SETTLE = 30 * DAY
MOST_KEPT = 200_000
"""How long, and how many, ended drafts are remembered: a client that lost the answer to its close
may ask about it as long. About 400 bytes each."""
OWN_KEPT = 180 * DAY
"""How long it is remembered that an attempt was this host's, so that its orphans can be swept."""


class DraftState(StrEnum):
    """Where a draft is between its create and being forgotten."""

    WRITING = "writing"
    INCOMPLETE = "incomplete"
    SPOOLED = "spooled"
    COMPLETE = "complete"
    REFUSED = "refused"
    ABORTED = "aborted"


RESUMABLE = (DraftState.WRITING, DraftState.INCOMPLETE)
IN_SPOOL = (DraftState.SPOOLED, DraftState.REFUSED)
"""Drafts that were acknowledged, and whose bytes are in the spool only."""
LISTED = (*RESUMABLE, *IN_SPOOL)
"""Drafts that no index of complete images knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a client said at ``create``; storage_class was chosen then."""

    source: Source
    keep: Keep
    expected_size: int
    block_size: int
    storage_class: str
    client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row. durable: bytes known to be safe; the whole size once closed. id names the attempt
    for ever."""

    name: str
    copy: int
    token: str
    state: DraftState
    definition: Definition
    id: str
    durable: int = 0
    sha256: str | None = None
    begun_at: int
    changed_at: int


_COLUMNS = "name, copy, token, state, definition, id, durable, sha256, begun_at, changed_at"


class Drafts:
    """The drafts of one pool. Calls may come from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def find(self, name: str, copy: int) -> Draft | None:
        """The draft of an image and copy, if there is one."""
        with self._journal.transaction() as db:
            return find(db, name, copy)

    def begin(self, draft: Draft) -> None:
        """Journal a draft, durably, in place of an earlier one."""
        with self._journal.transaction(durable=True) as db:
            put(db, draft)

    def change(
        self,
        draft: Draft,
        state: DraftState,
        *,
        durable: int,
        now: int,
        id: str | None = None,
    ) -> None:
        """Journal a new state, durably."""
        with self._journal.transaction(durable=True) as db:
            change(db, draft, state, durable=durable, now=now, id=id)

    def drop(self, name: str, copy: int) -> None:
        """Forget a draft."""
        with self._journal.transaction(durable=True) as db:
            drop(db, name, copy)

    def in_states(self, states: Iterable[DraftState], *, before: int | None = None) -> list[Draft]:
        """Drafts in any of these states, the longest unchanged first; before: not changed since."""
        wanted = list(states)
        marks = ", ".join("?" for _ in wanted)
        with self._journal.transaction() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM drafts WHERE state IN ({marks})"
                " AND (? IS NULL OR changed_at < ?) ORDER BY changed_at",
                (*wanted, before, before),
            ).fetchall()
        return [_draft(row) for row in rows]

    def own(self, token: str) -> bool:
        """Whether this host made the attempt of this id."""
        with self._journal.transaction() as db:
            row = db.execute("SELECT 1 FROM own_attempts WHERE id = ?", (token,)).fetchone()
        return row is not None

    def forget_old(self, now: int) -> None:
        """Drop what need not be remembered any longer."""
        with self._journal.transaction() as db:
            db.execute(
                "DELETE FROM drafts WHERE state = ? AND (changed_at < ? OR changed_at <"
                " (SELECT changed_at FROM drafts WHERE state = ? ORDER BY changed_at DESC"
                " LIMIT 1 OFFSET ?))",
                (DraftState.COMPLETE, now - KEPT_FOR_SETTLE, DraftState.COMPLETE, MOST_KEPT),
            )
            db.execute("DELETE FROM own_attempts WHERE at < ?", (now - OWN_KEPT,))


def find(db: sqlite3.Connection, name: str, copy: int) -> Draft | None:
    """The draft, within the caller's transaction."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM drafts WHERE name = ? AND copy = ?", (names.encode(name), copy)
    ).fetchone()
    return None if row is None else _draft(row)


def put(db: sqlite3.Connection, draft: Draft) -> None:
    """Write a draft, within the caller's transaction."""
    db.execute(
        f"INSERT OR REPLACE INTO drafts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            names.encode(draft.name),
            draft.copy,
            draft.token,
            draft.state,
            json.dumps(asdict(draft.definition)),
            draft.id,
            draft.durable,
            draft.sha256,
            draft.begun_at,
            draft.changed_at,
        ),
    )
    _remember_own(db, draft.id, draft.changed_at)


def change(
    db: sqlite3.Connection,
    draft: Draft,
    state: DraftState,
    *,
    durable: int,
    now: int,
    id: str | None = None,
    sha256: str | None = None,
) -> None:
    """Give a draft a new state, within the caller's transaction."""
    db.execute(
        "UPDATE drafts SET state = ?, durable = ?, changed_at = ?, id = coalesce(?, id),"
        " sha256 = coalesce(?, sha256) WHERE name = ? AND copy = ? AND token = ?",
        (state, durable, now, id, sha256, names.encode(draft.name), draft.copy, draft.token),
    )
    if id is not None:
        _remember_own(db, id, now)


def drop(db: sqlite3.Connection, name: str, copy: int) -> None:
    """Forget a draft, within the caller's transaction."""
    db.execute("DELETE FROM drafts WHERE name = ? AND copy = ?", (names.encode(name), copy))


def _remember_own(db: sqlite3.Connection, id: str, now: int) -> None:
    if id:
        db.execute("INSERT OR REPLACE INTO own_attempts VALUES (?, ?)", (id, now))


def _draft(row: tuple[Any, ...]) -> Draft:
    name, copy, token, state, text, id, durable, sha256, begun_at, changed_at = row
    fields = json.loads(text)
    return Draft(
        name=names.decode(name),
        copy=copy,
        token=token,
        state=DraftState(state),
        definition=Definition(
            source=Source(**fields.pop("source")), keep=Keep(**fields.pop("keep")), **fields
        ),
        id=id,
        durable=durable,
        sha256=sha256,
        begun_at=begun_at,
        changed_at=changed_at,
    )
