"""Facts on their way to the ledger: a crash can delay a row, never lose or double it.

A fact is put into the outbox in the same transaction as what it tells. A batch is prepared once,
its exact bytes are journaled, and only then is it committed; after a crash the same bytes are
committed again, and a ledger that has them already says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from catalog.errors import CommitConflict
from catalog.files import name_of
from catalog.ledger import Commit, Ledger
from catalog.model import (
    Fact,
    Kind,
    LockMode,
    ScheduleType,
    StorageClass,
    StoredFragment,
    TapePlace,
)
from connector.pool.journal import Journal

_ENUMS: dict[str, Callable[[str], Any]] = {
    "kind": Kind,
    "schedule_type": ScheduleType,
    "storage_class": StorageClass,
    "lock_mode": LockMode,
}


def new_fact_id() -> str:
    """An id that no other fact has or will have."""
    return str(uuid.uuid4())


def add(db: sqlite3.Connection, facts: Iterable[Fact]) -> None:
    """Put facts into the outbox, within the caller's transaction."""
    db.executemany(
        "INSERT INTO outbox (fact) VALUES (?)", ((fact_to_json(fact),) for fact in facts)
    )


class Outbox:
    """Moves facts from a journal to a ledger in batches.

    batch_rows: most rows of one commit. batch_seconds: longest that a fact waits while others
    come, before ``flush_due`` sends it.
    """

    def __init__(
        self, journal: Journal, ledger: Ledger, *, batch_rows: int, batch_seconds: float
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._batch_rows = batch_rows
        self._batch_seconds = batch_seconds
        self._last_flush = time.monotonic()
        self._flushing = threading.Lock()

    def flush_due(self) -> None:
        """Commit if enough rows wait, or if some have waited long enough."""
        waited = time.monotonic() - self._last_flush
        if waited >= self._batch_seconds or self.waiting() >= self._batch_rows:
            self.flush()

    def waiting(self) -> int:
        """Facts that are not in the ledger yet."""
        with self._journal.transaction() as db:
            return int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def flush(self) -> None:
        """Commit everything that waits.

        Raises:
            CatalogError, StoreError: the ledger cannot be reached; the facts stay in the outbox.
        """
        with self._flushing:  # two at once would commit the same facts twice
            self._last_flush = time.monotonic()
            self._finish_journaled()
            while batch := self._next_batch():
                self._commit_batch(*batch)
            self._ledger.anchor_due()

    def _commit_batch(self, last_fact: int, facts: list[Fact]) -> None:
        commit = self._ledger.prepare(facts, self._ledger.head())
        with self._journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO ledger_commit VALUES (1, ?, ?, ?, ?)",
                (commit.sequence, commit.data, last_fact, commit.rows),
            )
        self._commit(commit, last_fact)

    def _next_batch(self) -> tuple[int, list[Fact]] | None:
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT id, fact FROM outbox ORDER BY id LIMIT ?", (self._batch_rows,)
            ).fetchall()
        return (rows[-1][0], [_from_json(text) for _, text in rows]) if rows else None

    def _finish_journaled(self) -> None:
        with self._journal.transaction() as db:
            row = db.execute("SELECT sequence, data, last_fact, rows FROM ledger_commit").fetchone()
        if row is not None:
            sequence, data, last_fact, rows = row
            commit = Commit(
                sequence=sequence,
                name=name_of(sequence),
                data=data,
                sha256=hashlib.sha256(data).hexdigest(),
                rows=rows,
            )
            self._commit(commit, last_fact)

    def _commit(self, commit: Commit, last_fact: int) -> None:
        try:
            self._ledger.commit(commit)
        except CommitConflict:
            # another writer has this number, so these bytes can never appear under it
            with self._journal.transaction(durable=True) as db:
                db.execute("DELETE FROM ledger_commit")
            return
        with self._journal.transaction(durable=True) as db:
            db.execute("DELETE FROM ledger_commit")
            db.execute("DELETE FROM outbox WHERE id <= ?", (last_fact,))


def fact_to_json(fact: Fact) -> str:
    """A fact as the journal keeps it."""
    fields = {key: value for key, value in dataclasses.asdict(fact).items() if value is not None}
    return json.dumps(fields, separators=(",", ":"))


def _from_json(text: str) -> Fact:
    fields: dict[str, Any] = json.loads(text)
    for key, enum in _ENUMS.items():
        if key in fields:
            fields[key] = enum(fields[key])
    fields["problems"] = tuple(fields["problems"])
    fields["media"] = tuple(fields["media"])
    fields["places"] = tuple(TapePlace(**place) for place in fields["places"])
    fields["fragments"] = tuple(StoredFragment(**part) for part in fields["fragments"])
    return Fact(**fields)
