"""Recall tickets as the journal keeps them: what was asked for, what it cost, how far it is.

A row of ``recalls`` is a ticket, its objects are rows of ``recall_objects``. Every object says what
is asked of the store for it, and whether that was sent; so a process that dies in the middle goes
on where it was. Its ``pending`` is the price of what is not sent yet, its ``cost`` of what was.
``recall_costs`` is what was spent, and only ever grows: it is what a monthly
budget is summed from, and outlives the tickets. Nothing here talks to the store.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from catalog.errors import ImageNotFound
from catalog.model import NANOSECONDS, StorageClass
from connector.pool.journal import Journal
from connector.pool.recall import BY_SPEED, Asking, Piece, TierOffer, What
from connector.store.interface import RecallState, RecallTier

MAX_RANGES = 1000
"""Most ready ranges that a ticket tells."""
REMEMBERED_DAYS = 90
"""How long a ticket can be asked for after its copies have gone."""


class TicketState(StrEnum):
    """Where a ticket is. offered is never kept: nothing was asked for."""

    OFFERED = "offered"
    WAITING = "waiting"
    READY = "ready"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class ObjectState(StrEnum):
    """Where one object of a ticket is. readable_until says more: until when a copy is there."""

    INSTANT = "instant"  # it needs no recall
    UNSENT = "unsent"  # the store is to be asked
    SENT = "sent"  # on its way, whoever asked
    READY = "ready"  # there, when it was last looked at
    EXPIRED = "expired"  # gone again
    DROPPED = "dropped"  # cancelled before the store was asked
    LOST = "lost"  # no such object any more


SEEN = {
    RecallState.READABLE: ObjectState.INSTANT,
    RecallState.RECALLED: ObjectState.READY,
    RecallState.RECALLING: ObjectState.SENT,
    RecallState.ARCHIVED: ObjectState.EXPIRED,
}
"""What the store's word makes of an object that is not to be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A recall: only offered (asked is False, nothing was billed) or asked for.

    objects, size (bytes) and cost are of those that had to be asked for; of a cancelled ticket of
    those that were, which is what is billed. done of total objects can be read now, recalling are
    on their way. expires_at is when the first copy goes again. ready: the byte ranges (offset,
    length) of the first image that can be read. unsent: objects that the store was not asked for
    yet. offers: what tiers would take, while something is
    to be asked for or can be sped up; for what is on its way it is the price of the upgrade.
    """

    ticket: str
    state: TicketState
    asked: bool
    tier: RecallTier
    days: int
    objects: int
    size: int
    cost: float
    currency: str
    price_date: str
    hours: float
    done: int
    total: int
    recalling: int
    unsent: int
    asked_at: int | None
    expires_at: int | None
    ready: tuple[tuple[int, int], ...] = ()
    offers: tuple[TierOffer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An object of a ticket, as far as it is asked for or looked at."""

    number: int
    image: int
    key: str
    version_id: str | None
    storage_class: StorageClass
    size: int
    tier: RecallTier
    days: int
    state: ObjectState
    readable_until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A ticket's own row."""

    ticket: str
    tier: RecallTier
    days: int
    cancelled: bool
    asked_at: int
    hours: float
    currency: str
    price_date: str


def head(journal: Journal, ticket: str) -> Head:
    """A ticket's row.

    Raises:
        ImageNotFound: there is no such ticket in this journal.
    """
    found = heads(journal, [ticket])
    if not found:
        raise ImageNotFound(f"there is no recall ticket {ticket}", hint="ask again with prepare")
    return found[0]


def heads(journal: Journal, tickets: Iterable[str]) -> list[Head]:
    """Those of the tickets that there are."""
    found: list[Head] = []
    with journal.transaction() as db:
        for ticket in tickets:
            row = db.execute(
                "SELECT tier, days, cancelled, asked_at, hours, currency, price_date"
                " FROM recalls WHERE ticket = ?",
                (ticket,),
            ).fetchone()
            if row is not None:
                tier, days, cancelled, asked_at, hours, currency, price_date = row
                found.append(
                    Head(
                        ticket=ticket,
                        tier=RecallTier(tier),
                        days=days,
                        cancelled=bool(cancelled),
                        asked_at=asked_at,
                        hours=hours,
                        currency=currency,
                        price_date=price_date,
                    )
                )
    return found


def write(
    db: sqlite3.Connection, one: Head, needed: Sequence[Asking], facts: Iterable[str]
) -> None:
    """Keep a new ticket in the place of an older one of the same name, and book its cost.

    facts are those of its images, in order, as the outbox writes them.
    """
    forget_at = one.asked_at + round((one.days + REMEMBERED_DAYS) * 86_400 + one.hours * 3600) * (
        NANOSECONDS
    )
    db.execute(
        "INSERT OR REPLACE INTO recalls VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)",
        (
            one.ticket, one.tier, one.days, one.asked_at, one.hours, one.currency,
            one.price_date, forget_at,
        ),
    )  # fmt: skip
    db.execute("DELETE FROM recall_objects WHERE ticket = ?", (one.ticket,))
    db.execute("DELETE FROM recall_facts WHERE ticket = ?", (one.ticket,))
    db.executemany(
        f"INSERT INTO recall_objects VALUES ({', '.join('?' * 18)})",
        (_object(one, number, asking) for number, asking in enumerate(needed)),
    )
    keep_facts(db, one.ticket, facts)
    book(db, one.ticket, sum(asking.cost for asking in needed), one.asked_at)


def _object(one: Head, number: int, asking: Asking) -> tuple[object, ...]:
    piece, stored = asking.looked.piece, asking.looked.stored
    state = ObjectState.UNSENT if asking.what is not What.NOTHING else SEEN[stored.recall]
    return (
        one.ticket, number, piece.image, piece.key, piece.version_id, piece.offset, piece.length,
        stored.size, stored.storage_class, asking.what, asking.tier, asking.days, asking.cost,
        0.0, 0, state, stored.recall_expires_at, one.asked_at,
    )  # fmt: skip


def keep_facts(db: sqlite3.Connection, ticket: str, facts: Iterable[str]) -> None:
    """Facts of a ticket's images, in order, for when the store was asked; see ``tell``."""
    db.executemany(
        "INSERT INTO recall_facts (ticket, image, fact) VALUES (?, ?, ?)",
        ((ticket, image, fact) for image, fact in enumerate(facts)),
    )


def book(db: sqlite3.Connection, ticket: str, cost: float, at: int) -> None:
    """Add to what was spent; a negative cost is what was not spent after all."""
    if cost:
        db.execute(
            "INSERT INTO recall_costs (at, ticket, cost) VALUES (?, ?, ?)", (at, ticket, cost)
        )


def spent(db: sqlite3.Connection, now: int) -> float:
    """What this journal asked for in the calendar month (UTC) of now."""
    moment = dt.datetime.fromtimestamp(now // NANOSECONDS, dt.UTC)
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    row = db.execute(
        "SELECT coalesce(sum(cost), 0) FROM recall_costs WHERE at >= ?",
        (int(first.timestamp()) * NANOSECONDS,),
    ).fetchone()
    return float(row[0])


def forget(db: sqlite3.Connection, now: int) -> None:
    """Drop tickets whose copies went long ago; what they cost stays."""
    for table in ("recall_objects", "recall_facts"):
        db.execute(
            f"DELETE FROM {table} WHERE ticket IN (SELECT ticket FROM recalls WHERE forget_at < ?)",
            (now,),
        )
    db.execute("DELETE FROM recalls WHERE forget_at < ?", (now,))


def asked_before(journal: Journal, piece: Piece) -> tuple[RecallTier, int] | None:
    """In which tier, at the fastest, and for how many days an object that is on its way was asked
    for by this journal; None when it was not."""
    with journal.transaction() as db:
        rows = db.execute(
            "SELECT tier, days FROM recall_objects"
            " WHERE key = ? AND version_id IS ? AND state = 'sent' AND what IN ('new', 'faster')",
            (piece.key, piece.version_id),
        ).fetchall()
    asked = [(RecallTier(tier), int(days)) for tier, days in rows]
    return min(asked, key=lambda one: BY_SPEED.index(one[0]), default=None)


_ROW = "number, image, key, version_id, storage_class, size, tier, days, state, readable_until"


def unsent(db: sqlite3.Connection, ticket: str, most: int) -> list[Row]:
    """The next objects that the store is to be asked for; none when the ticket was cancelled."""
    return _rows(
        db,
        f"SELECT {_ROW} FROM recall_objects WHERE ticket = ? AND state = 'unsent'"
        " AND NOT (SELECT cancelled FROM recalls WHERE recalls.ticket = recall_objects.ticket)"
        " ORDER BY number LIMIT ?",
        (ticket, most),
    )


def uncertain(db: sqlite3.Connection, ticket: str, now: int, most: int) -> list[Row]:
    """Objects whose state the journal cannot know, those first that were not looked at longest."""
    return _rows(
        db,
        f"SELECT {_ROW} FROM recall_objects WHERE ticket = ?"
        " AND (state = 'sent' OR (state = 'ready' AND readable_until <= ?))"
        " ORDER BY looked_at, number LIMIT ?",
        (ticket, now, most),
    )


def every(db: sqlite3.Connection, ticket: str) -> list[Row]:
    """All objects of a ticket."""
    return _rows(
        db, f"SELECT {_ROW} FROM recall_objects WHERE ticket = ? ORDER BY number", (ticket,)
    )


def _rows(db: sqlite3.Connection, query: str, values: tuple[object, ...]) -> list[Row]:
    return [
        Row(
            number=number,
            image=image,
            key=key,
            version_id=version_id,
            storage_class=StorageClass(storage_class),
            size=size,
            tier=RecallTier(tier),
            days=days,
            state=ObjectState(state),
            readable_until=until,
        )
        for number, image, key, version_id, storage_class, size, tier, days, state, until in (
            db.execute(query, values)
        )
    ]


def sent(db: sqlite3.Connection, ticket: str, number: int, now: int) -> None:
    """The receipt: the store was asked."""
    db.execute(
        "UPDATE recall_objects SET state = 'sent', asked = asked + 1, cost = cost + pending,"
        " pending = 0, looked_at = ? WHERE ticket = ? AND number = ?",
        (now, ticket, number),
    )


def seen(
    db: sqlite3.Connection,
    ticket: str,
    number: int,
    state: ObjectState,
    until: int | None,
    now: int,
) -> None:
    """Keep what the store said of an object that is not to be asked for."""
    db.execute(
        "UPDATE recall_objects SET state = ?, readable_until = ?, looked_at = ?"
        " WHERE ticket = ? AND number = ?",
        (state, until, now, ticket, number),
    )


def ask_again(
    db: sqlite3.Connection,
    ticket: str,
    number: int,
    *,
    what: What,
    tier: RecallTier,
    days: int,
) -> None:
    """The store is to be asked for an object once more; its price is pending already."""
    db.execute(
        "UPDATE recall_objects SET state = 'unsent', what = ?, tier = ?, days = ?"
        " WHERE ticket = ? AND number = ?",
        (what, tier, days, ticket, number),
    )


def reserve(db: sqlite3.Connection, ticket: str, number: int, cost: float) -> None:
    """Add to the price of what an object will still be asked for."""
    db.execute(
        "UPDATE recall_objects SET pending = pending + ?,"
        " what = CASE what WHEN '' THEN 'longer' ELSE what END WHERE ticket = ? AND number = ?",
        (cost, ticket, number),
    )


def release(db: sqlite3.Connection, ticket: str, now: int, number: int | None = None) -> None:
    """Give back what was reserved and is not sent, of one object or of all."""
    which = "ticket = :ticket" + ("" if number is None else " AND number = :number")
    values = {"ticket": ticket, "number": number}
    row = db.execute(f"SELECT total(pending) FROM recall_objects WHERE {which}", values).fetchone()
    book(db, ticket, -float(row[0]), now)
    db.execute(f"UPDATE recall_objects SET pending = 0 WHERE {which}", values)


def cancel(db: sqlite3.Connection, ticket: str, now: int) -> None:
    """Stop what is not sent."""
    db.execute("UPDATE recalls SET cancelled = 1 WHERE ticket = ?", (ticket,))
    release(db, ticket, now)
    db.execute(
        "UPDATE recall_objects SET"
        " state = CASE WHEN readable_until IS NULL THEN 'dropped' ELSE 'ready' END"
        " WHERE ticket = ? AND state = 'unsent'",
        (ticket,),
    )


def tell(db: sqlite3.Connection, ticket: str) -> None:
    """Put the facts of those images on their way to the ledger of which something was asked."""
    db.execute(
        "INSERT INTO outbox (fact) SELECT fact FROM recall_facts WHERE ticket = ? AND image IN"
        " (SELECT image FROM recall_objects WHERE ticket = ? AND asked > 0) ORDER BY id",
        (ticket, ticket),
    )
    db.execute("DELETE FROM recall_facts WHERE ticket = ?", (ticket,))


_READABLE = (
    "(state = 'instant' OR (state IN ('ready', 'sent', 'unsent') AND readable_until > :now))"
)

_SUMMARY = f"""
SELECT count(*) AS total,
    total({_READABLE} IS TRUE) AS done,
    total(state IN ('sent', 'unsent') AND {_READABLE} IS NOT TRUE) AS waiting,
    total(state IN ('expired', 'ready') AND {_READABLE} IS NOT TRUE) AS expired,
    total(state = 'unsent') AS unsent,
    total(what != '') AS objects,
    total(CASE WHEN what != '' THEN size END) AS size,
    total(asked > 0) AS billed_objects,
    total(CASE WHEN asked > 0 THEN size END) AS billed_size,
    total(cost) AS billed, total(cost + pending) AS cost,
    min(CASE WHEN state != 'instant' AND readable_until > :now THEN readable_until END) AS until
FROM recall_objects WHERE ticket = :ticket AND state != 'lost'
"""


def view(journal: Journal, one: Head, now: int) -> Ticket:
    """A ticket as the journal knows it."""
    values = {"ticket": one.ticket, "now": now}
    with journal.transaction() as db:
        (
            total, done, waiting, expired, unsent_, objects, size,
            billed_objects, billed_size, billed, cost, until,
        ) = db.execute(_SUMMARY, values).fetchone()  # fmt: skip
        ranges = db.execute(
            "SELECT offset, length FROM recall_objects"
            f" WHERE ticket = :ticket AND image = 0 AND length > 0 AND {_READABLE} ORDER BY offset",
            values,
        ).fetchall()
    state = TicketState.READY
    if one.cancelled:
        state, objects, size, cost = TicketState.CANCELLED, billed_objects, billed_size, billed
    elif waiting:
        state = TicketState.WAITING
    elif expired:
        state = TicketState.EXPIRED
    return Ticket(
        ticket=one.ticket,
        state=state,
        asked=True,
        tier=one.tier,
        days=one.days,
        objects=int(objects),
        size=int(size),
        cost=cost,
        currency=one.currency,
        price_date=one.price_date,
        hours=one.hours,
        done=int(done),
        total=int(total),
        recalling=int(waiting),
        unsent=int(unsent_),
        asked_at=one.asked_at,
        expires_at=until,
        ready=merged(ranges),
    )


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges (offset, length) in order, those that touch joined; at most MAX_RANGES."""
    out: list[tuple[int, int]] = []
    for offset, length in ranges:
        if out and out[-1][0] + out[-1][1] >= offset:
            end = max(out[-1][0] + out[-1][1], offset + length)
            out[-1] = (out[-1][0], end - out[-1][0])
        elif len(out) == MAX_RANGES:
            break
        else:
            out.append((offset, length))
    return tuple(out)
