"""Archived images: a quote before anything is asked for, one ticket for all objects of a recall.

An archived fragment is a state with a price and a time. ``quote`` looks and asks for nothing;
``request`` asks for everything at once (fragment after fragment would multiply the wait) and keeps
what was asked in the journal, so that a killed process asks for the rest and not again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catalog.errors import ImageNotFound, ObjectArchived, OverBudget
from catalog.model import Kind, StorageClass
from connector.pool import outbox
from connector.pool.commit import image_fact
from connector.pool.context import PoolContext
from connector.pool.manifest import FragmentObject, Manifest
from connector.pool.prices import Prices
from connector.store.interface import RecallState, RecallTier


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQuote:
    """What a recall would take. fragments are those that are cold and not on their way yet.

    size is bytes; hours the longest that the vendor names; cost is an estimate in currency, from
    the price table of price_date. recalling counts those that somebody asked for already.
    """

    manifests: tuple[Manifest, ...]
    fragments: tuple[FragmentObject, ...]
    tier: RecallTier
    days: int
    size: int
    cost: float
    hours: float
    currency: str
    price_date: str
    readable: int
    recalling: int

    @property
    def ticket(self) -> str:
        """The same set of objects in the same tier has the same ticket."""
        keys = sorted(part.key for manifest in self.manifests for part in manifest.fragments)
        text = json.dumps([keys, self.tier])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallProgress:
    """How far a ticket is, in objects. expires_at is when the first copy goes again."""

    ready: int
    total: int
    expires_at: int | None

    @property
    def done(self) -> bool:
        """Whether everything can be read."""
        return self.ready == self.total


def quote(
    context: PoolContext,
    manifests: Sequence[Manifest],
    prices: Prices,
    *,
    tier: RecallTier,
    days: int,
) -> RecallQuote:
    """Look at every fragment's state and say what a recall costs. Asks for nothing."""
    cold: list[FragmentObject] = []
    recalling = readable = 0
    cost = hours = 0.0
    frozen: bool | None = None
    for fragment in _fragments(manifests):
        stored = context.store.stat(fragment.key, version_id=fragment.version_id)
        if stored.recall is RecallState.ARCHIVED and frozen is None:
            frozen = _is_frozen(context, fragment)
        if stored.recall is RecallState.ARCHIVED and frozen:
            cold.append(fragment)
            price = prices.recall_price(stored.storage_class, tier)
            hours = max(hours, price.hours)
            cost += prices.reading(
                stored.storage_class, size=fragment.size, objects=1, tier=tier, days=days
            )
        elif stored.recall is RecallState.RECALLING:
            recalling += 1
            if stored.storage_class.archived:
                hours = max(hours, _hours(prices, stored.storage_class, tier))
        else:
            readable += 1
    return RecallQuote(
        manifests=tuple(manifests),
        fragments=tuple(cold),
        tier=tier,
        days=days,
        size=sum(fragment.size for fragment in cold),
        cost=cost,
        hours=hours,
        currency=prices.currency,
        price_date=prices.date,
        readable=readable,
        recalling=recalling,
    )


def request(context: PoolContext, offer: RecallQuote, *, max_cost: float | None) -> str:
    """Ask for every fragment of a quote; gives the ticket.

    Raises:
        OverBudget: the estimate passes max_cost; nothing was asked for.
    """
    if max_cost is not None and offer.cost > max_cost:
        raise OverBudget(
            f"the recall is estimated at {offer.cost:.2f} {offer.currency}, more than"
            f" {max_cost:.2f}",
            hint="raise --max-cost, or use a cheaper tier",
        )
    ticket = offer.ticket
    with context.journal.transaction(durable=True) as db:
        text = json.dumps({"tier": offer.tier, "days": offer.days})
        db.execute(
            "INSERT OR IGNORE INTO tickets VALUES (?, ?, ?)", (ticket, text, context.clock())
        )
        db.executemany(
            "INSERT OR IGNORE INTO ticket_objects VALUES (?, ?, ?, ?, 0)",
            [
                (ticket, part.key, part.version_id, part.size)
                for part in _fragments(offer.manifests)
            ],
        )
    for fragment in offer.fragments:
        context.store.recall(
            fragment.key, days=offer.days, tier=offer.tier, version_id=fragment.version_id
        )
        with context.journal.transaction() as db:
            db.execute(
                "UPDATE ticket_objects SET asked = 1 WHERE ticket = ? AND key = ?",
                (ticket, fragment.key),
            )
    if offer.fragments:
        detail: dict[str, object] = {
            "tier": offer.tier,
            "days": offer.days,
            "estimate": round(offer.cost, 4),
            "currency": offer.currency,
            "ticket": ticket,
        }
        with context.journal.transaction(durable=True) as db:
            outbox.add(
                db,
                [image_fact(context, m, Kind.RECALLED, detail=detail) for m in offer.manifests],
            )
    return ticket


def progress(context: PoolContext, ticket: str) -> RecallProgress:
    """How far a ticket is, from the store itself.

    Raises:
        ImageNotFound: there is no such ticket in this journal.
    """
    with context.journal.transaction() as db:
        rows = db.execute(
            "SELECT key, version_id FROM ticket_objects WHERE ticket = ?", (ticket,)
        ).fetchall()
    if not rows:
        raise ImageNotFound(f"there is no recall ticket {ticket}", hint="ask again with prepare")
    ready = 0
    expiries: list[int] = []
    for key, version_id in rows:
        stored = context.store.stat(key, version_id=version_id)
        if stored.recall in (RecallState.READABLE, RecallState.RECALLED):
            ready += 1
            if stored.recall_expires_at is not None:
                expiries.append(stored.recall_expires_at)
    return RecallProgress(ready=ready, total=len(rows), expires_at=min(expiries, default=None))


def _fragments(manifests: Iterable[Manifest]) -> list[FragmentObject]:
    """Every fragment once, even if two manifests name it."""
    return list({part.key: part for m in manifests for part in m.fragments}.values())


def _is_frozen(context: PoolContext, fragment: FragmentObject) -> bool:
    """Whether a store's cold class is really cold: some only carry the name, and have no recall."""
    if fragment.size == 0:
        return True
    try:
        context.store.read_into(
            fragment.key, memoryview(bytearray(1)), version_id=fragment.version_id
        )
    except ObjectArchived:
        return True
    return False


def _hours(prices: Prices, storage_class: StorageClass, tier: RecallTier) -> float:
    recall = prices.of(storage_class).recall
    return recall[tier].hours if tier in recall else 0.0
