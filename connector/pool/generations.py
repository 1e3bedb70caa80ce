"""Generations of the index: how a new one is built beside the one that answers, and takes over.

A generation that is being built is recognised by ``started_at``. One that is neither live nor being
built is needed by nobody: ``sweep`` removes its rows, a few at a time, so that nobody waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from connector.pool.index import (
    COLUMNS,
    DELETING,
    SCAN_ROWS,
    Row,
    insert_row,
    live_generation,
    name_bytes,
)
from connector.pool.journal import Journal


def building(journal: Journal) -> tuple[int, str, str | None] | None:
    """A rebuild that was begun: (started_at, position, report), or None."""
    with journal.transaction() as db:
        row = db.execute(
            "SELECT started_at, position, report FROM index_generations WHERE NOT live"
            " AND started_at ORDER BY generation DESC LIMIT 1"
        ).fetchone()
    return None if row is None else (row[0], row[1], row[2])


def begin(journal: Journal, now: int) -> None:
    """Begin a generation beside the live one; one that was begun before is given up.

    What is being deleted is taken over: the bucket may still show it.
    """
    with journal.transaction(durable=True) as db:
        db.execute("UPDATE index_generations SET started_at = 0 WHERE NOT live")
        db.execute("DELETE FROM index_touched")
        live = live_generation(db)
        new = db.execute("SELECT max(generation) + 1 FROM index_generations").fetchone()[0]
        db.execute(
            "INSERT INTO index_generations (generation, live, complete, started_at)"
            " VALUES (?, 0, 0, ?)",
            (new, max(now, 1)),
        )
        db.execute("INSERT OR IGNORE INTO index_touched SELECT name, copy FROM deletions")
        db.execute(
            f"INSERT INTO stored_images (generation, {COLUMNS}, endless)"
            f" SELECT ?, {COLUMNS}, endless"
            " FROM stored_images WHERE generation = ? AND state = ?"
            " AND (name, copy) IN (SELECT name, copy FROM deletions)",
            (new, live, DELETING),
        )
    sweep(journal)


def add(journal: Journal, rows: Collection[Row], *, position: str, report: str) -> None:
    """Add what a rebuild read, and where it stands. Copies touched meanwhile stay as they are."""
    with journal.transaction() as db:
        new = _building(db)
        for row in rows:
            touched = db.execute(
                "SELECT 1 FROM index_touched WHERE name = ? AND copy = ?",
                (name_bytes(row.entry.name), row.entry.copy),
            ).fetchone()
            if touched is None:
                insert_row(db, new, row)
        db.execute(
            "UPDATE index_generations SET position = ?, report = ? WHERE generation = ?",
            (position, report, new),
        )


def take_over(journal: Journal) -> None:
    """Make the new generation the live one, at once; then remove the old one bit by bit."""
    with journal.transaction(durable=True) as db:
        new = _building(db)
        db.execute("UPDATE index_generations SET live = 0 WHERE live")
        db.execute(
            "UPDATE index_generations SET live = 1, complete = 1, started_at = 0, report = NULL"
            " WHERE generation = ?",
            (new,),
        )
        db.execute("DELETE FROM index_touched")
    sweep(journal)


def sweep(journal: Journal) -> None:
    """Remove generations that are neither live nor being built, a few rows at a time."""
    while True:
        with journal.transaction() as db:
            row = db.execute(
                "SELECT generation FROM index_generations WHERE NOT live AND NOT started_at"
            ).fetchone()
            if row is None:
                return
            left = 0
            for table in ("stored_images", "stored_within"):
                rest = "tape_name, tape_copy, " if table == "stored_within" else ""
                left += db.execute(
                    f"DELETE FROM {table} WHERE (generation, {rest}name, copy) IN"
                    f" (SELECT generation, {rest}name, copy FROM {table}"
                    f" WHERE generation = ? LIMIT {SCAN_ROWS // 4})",
                    row,
                ).rowcount
            if not left:
                db.execute("DELETE FROM index_generations WHERE generation = ?", row)


def _building(db: sqlite3.Connection) -> int:
    row = db.execute(
        "SELECT max(generation) FROM index_generations WHERE NOT live AND started_at"
    ).fetchone()
    assert row[0] is not None, "no rebuild was begun"
    return int(row[0])
