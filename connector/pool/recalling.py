"""Asking for recalls: price first, one batch, nothing asked twice, whatever happens in between.

``prepare`` looks, refuses what is too dear, writes the ticket and then asks the store for
everything at once (fragment after fragment would multiply the wait). What was sent is known to the
journal in groups; a group that was sent and not yet written down is sent again, which S3 answers
with "already in progress" and does not bill. The rules are those of docs/semantics.md, "Recalls".
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from catalog.errors import (
    ObjectNotFound,
    OverBudget,
    PoolError,
    TransientStoreError,
    Unsupported,
)
from catalog.model import Kind
from connector.pool import outbox, recall, tickets
from connector.pool.commit import image_fact
from connector.pool.context import PoolContext
from connector.pool.manifest import Manifest
from connector.pool.prices import Prices
from connector.pool.recall import Asking, Looked, Piece, RecallPolicy, Wanted, What
from connector.pool.tickets import Head, ObjectState, Row, Ticket, TicketState
from connector.store.interface import RecallState, RecallTier, StoredObject

log = logging.getLogger(__name__)

GROUP = 256
"""Objects between two receipts in the journal: what a crash can cause to be asked for again."""
LOOKS = 10_000
"""Most objects that one look at a ticket asks the store about."""
MAX_DAYS = 36_500
"""Longest that a copy can be asked for, in days."""
SENDS = 2_000
"""Most objects that one look at a ticket asks the store for, when a process died over it."""


class Recalls:
    """The recalls of one pool. Calls may come from several threads."""

    def __init__(self, context: PoolContext, prices: Prices, policy: RecallPolicy) -> None:
        self.prices = prices
        self.policy = policy
        self._context = context
        self._journal = context.journal
        self._mutex = threading.Lock()
        self._sending: dict[str, threading.Lock] = {}

    # --- the three questions ----------------------------------------------------------------

    def prepare(
        self,
        wanted: Iterable[Wanted],
        *,
        tier: RecallTier | None = None,
        days: int = 0,
        max_cost: float | None = None,
        dry_run: bool = False,
    ) -> Ticket:
        """See ``Pool.prepare``."""
        if not 0 <= days <= MAX_DAYS:
            raise Unsupported(
                f"a recall for {days} days", hint=f"use 1 to {MAX_DAYS} days, or 0 for the pool's"
            )
        pieces, images = recall.pieces(wanted)
        live = self._live(pieces, tier)
        if live is not None:
            return self._again(live, images, days=days, max_cost=max_cost, dry_run=dry_run)
        looked = [self._with_history(one) for one in recall.look(self._context, pieces)]
        now, longer = self._context.clock(), days > 0
        days = days or self.policy.days
        offers, plain = (
            recall.offers(self.prices, looked, days=days, now=now, longer=longer, faster=faster)
            for faster in (True, False)
        )
        # the pool's own choice never speeds up what is on its way: that is asked for by its name
        chosen = tier or recall.choose_tier(self.policy, plain)
        needed = recall.askings(
            self.prices,
            looked,
            tier=chosen,
            days=days,
            now=now,
            longer=longer,
            faster=tier is not None,
        )
        head = Head(
            ticket=recall.ticket_name(pieces, chosen),
            tier=chosen,
            days=days,
            cancelled=False,
            asked_at=now,
            hours=max((one.hours for one in needed), default=0.0),
            currency=self.prices.currency,
            price_date=self.prices.date,
        )
        offer = replace(_offer(head, needed, now), offers=tuple(offers))
        if dry_run:
            return offer
        self._refuse_dear(offer, max_cost)
        self._write(head, needed, images)
        self._send(head.ticket)
        return self._view(head.ticket)

    def ticket(self, ticket: str) -> Ticket:
        """See ``Pool.ticket``."""
        tickets.head(self._journal, ticket)
        self._send(ticket, most=SENDS, wait=False)
        self._refresh(ticket)
        return self._view(ticket)

    def cancel(self, ticket: str) -> Ticket:
        """See ``Pool.cancel_ticket``."""
        tickets.head(self._journal, ticket)
        with self._journal.transaction(durable=True) as db:
            # whoever is sending stops at this word; then, with the lock, its receipts are written
            db.execute("UPDATE recalls SET cancelled = 1 WHERE ticket = ?", (ticket,))
        with self._lock(ticket, wait=True), self._journal.transaction(durable=True) as db:
            tickets.cancel(db, ticket, self._context.clock())
            tickets.tell(db, ticket)
        return self._view(ticket)

    def resume(self) -> int:
        """See ``Pool.continue_recalls``."""
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT DISTINCT ticket FROM recall_objects WHERE state = 'unsent'"
                " UNION SELECT ticket FROM recall_facts"
            ).fetchall()
        for (ticket,) in rows:
            if tickets.head(self._journal, ticket).cancelled:
                self.cancel(ticket)
            else:
                self._send(ticket)
        return len(rows)

    # --- a ticket that there is already -----------------------------------------------------

    def _live(self, pieces: Sequence[Piece], tier: RecallTier | None) -> Ticket | None:
        """The ticket of these objects that waits or is ready; of several the fastest."""
        tiers = recall.BY_SPEED if tier is None else (tier,)
        for head in tickets.heads(self._journal, (recall.ticket_name(pieces, t) for t in tiers)):
            self._refresh(head.ticket)
            found = self._view(head.ticket)
            if found.state in (TicketState.WAITING, TicketState.READY):
                return found
        return None

    def _again(
        self,
        live: Ticket,
        images: Sequence[Manifest],
        *,
        days: int,
        max_cost: float | None,
        dry_run: bool,
    ) -> Ticket:
        """Nothing new is asked for but more days, when more are wanted than before."""
        if dry_run:
            return replace(live, offers=tuple(self._speed_ups(live)))
        if days > live.days:
            self._extend(live, images, days, max_cost)
        self._send(live.ticket)
        return self._view(live.ticket)

    def _speed_ups(self, live: Ticket) -> Iterator[recall.TierOffer]:
        """What faster tiers would cost for what is still on its way."""
        with self._journal.transaction() as db:
            rows = tickets.every(db, live.ticket)
        waiting = [
            row for row in rows if row.state is ObjectState.SENT and row.readable_until is None
        ]
        if not waiting:
            return
        for tier in recall.BY_SPEED[: recall.BY_SPEED.index(live.tier)]:
            try:
                yield recall.TierOffer(
                    tier=tier,
                    cost=sum(
                        self.prices.upgrading(
                            row.storage_class, size=row.size, objects=1, tier=tier
                        )
                        for row in waiting
                    ),
                    hours=max(
                        self.prices.recall_price(row.storage_class, tier).hours for row in waiting
                    ),
                )
            except Unsupported:
                continue

    def _extend(
        self, live: Ticket, images: Sequence[Manifest], days: int, max_cost: float | None
    ) -> None:
        """More days for all copies: for those that are there now, for the others when they come."""
        now = self._context.clock()
        with self._lock(live.ticket, wait=True), self._journal.transaction(durable=True) as db:
            rows = [
                row
                for row in tickets.every(db, live.ticket)
                if row.state in (ObjectState.UNSENT, ObjectState.SENT, ObjectState.READY)
            ]
            costs = [
                self.prices.extending(row.storage_class, size=row.size, objects=1, days=days)
                for row in rows
            ]
            extra = sum(cost for _, cost in costs)
            self._check_cost(extra, max_cost, "the longer recall", "ask for fewer days")
            self._check_budget(db, extra, now)
            shares = [0.0] * len(images)
            for row, (tier, cost) in zip(rows, costs, strict=True):
                shares[row.image] += cost
                tickets.reserve(db, live.ticket, row.number, cost)
                if row.state is ObjectState.READY:
                    tickets.ask_again(
                        db, live.ticket, row.number, what=What.LONGER, tier=tier, days=days
                    )
            tickets.book(db, live.ticket, extra, now)
            tickets.keep_facts(
                db, live.ticket, self._facts(live.ticket, live.tier, days, images, shares)
            )
            db.execute("UPDATE recalls SET days = ? WHERE ticket = ?", (days, live.ticket))

    # --- money ------------------------------------------------------------------------------

    def _refuse_dear(self, offer: Ticket, max_cost: float | None) -> None:
        cheaper = [one for one in offer.offers if one.cost < offer.cost]
        hint = "raise --max-cost, or use a cheaper tier"
        if cheaper:
            best = min(cheaper, key=lambda one: one.cost)
            hint = (
                f"raise --max-cost, or use a cheaper tier: {best.tier} is {best.cost:.2f}"
                f" and up to {best.hours:g} h"
            )
        self._check_cost(offer.cost, max_cost, "the recall", hint)

    def _check_cost(self, cost: float, max_cost: float | None, what: str, hint: str) -> None:
        if max_cost is not None and cost > max_cost:
            raise OverBudget(
                f"{what} is estimated at {cost:.2f} {self.prices.currency}, more than"
                f" {max_cost:.2f}",
                hint=hint,
            )

    def _check_budget(self, db: sqlite3.Connection, cost: float, now: int) -> None:
        budget = self.policy.monthly_budget
        if budget is None or not cost:
            return
        spent = tickets.spent(db, now)
        if spent + cost > budget:
            raise OverBudget(
                f"the recall is estimated at {cost:.2f} {self.prices.currency}; of this month's"
                f" {budget:.2f} the pool has asked for {spent:.2f} already",
                hint="wait for next month, raise the pool's monthly_budget, or use a cheaper tier",
            )

    # --- asking -----------------------------------------------------------------------------

    def _write(self, head: Head, needed: Sequence[Asking], images: Sequence[Manifest]) -> None:
        """The intent, durable before the first request; refused when the month's budget is spent.

        When another thread was first, its ticket stands.
        """
        now = self._context.clock()
        with self._lock(head.ticket, wait=True):
            for there in tickets.heads(self._journal, [head.ticket]):
                state = tickets.view(self._journal, there, now).state
                if state in (TicketState.WAITING, TicketState.READY):
                    return
            costs = [0.0] * len(images)
            for one in needed:
                costs[one.looked.piece.image] += one.cost
            facts = self._facts(head.ticket, head.tier, head.days, images, costs)
            with self._journal.transaction(durable=True) as db:
                self._check_budget(db, sum(one.cost for one in needed), now)
                tickets.forget(db, now)
                tickets.write(db, head, needed, facts)

    def _facts(
        self,
        ticket: str,
        tier: RecallTier,
        days: int,
        images: Sequence[Manifest],
        costs: Sequence[float],
    ) -> Iterator[str]:
        for manifest, cost in zip(images, costs, strict=True):
            detail: dict[str, object] = {
                "tier": tier,
                "days": days,
                "estimate": round(cost, 4),
                "currency": self.prices.currency,
                "ticket": ticket,
            }
            fact = image_fact(self._context, manifest, Kind.RECALLED, detail=detail)
            yield outbox.fact_to_json(fact)

    def _send(self, ticket: str, *, most: int | None = None, wait: bool = True) -> None:
        """Ask the store for what it was not asked for yet; ends early when cancelled.

        Raises:
            TransientStoreError: the ticket goes on from here when it is looked at again.
            PoolError: the store refuses; the ticket is cancelled.
        """
        with self._lock(ticket, wait=wait) as mine:
            if not mine:
                return
            left = most
            while left is None or left > 0:
                with self._journal.transaction() as db:
                    rows = tickets.unsent(db, ticket, min(GROUP, left or GROUP))
                if not rows:
                    break
                left = None if left is None else left - len(rows)
                self._send_group(ticket, rows)
            with self._journal.transaction(durable=True) as db:
                if not tickets.unsent(db, ticket, 1):
                    tickets.tell(db, ticket)

    def _send_group(self, ticket: str, rows: Sequence[Row]) -> None:
        failed = threading.Event()
        errors: list[PoolError] = []

        def ask(row: Row) -> ObjectState | None:
            if failed.is_set():
                return None
            try:
                return self._ask(row)
            except PoolError as exc:
                failed.set()
                errors.append(exc)
                return None

        outcomes = list(recall.each(ask, rows))
        now = self._context.clock()
        with self._journal.transaction(durable=True) as db:
            for row, outcome in outcomes:
                if outcome is ObjectState.SENT:
                    tickets.sent(db, ticket, row.number, now)
                elif outcome is not None:
                    tickets.release(db, ticket, now, row.number)
                    tickets.seen(db, ticket, row.number, outcome, None, now)
            if errors and not isinstance(errors[0], TransientStoreError):
                tickets.cancel(db, ticket, now)
                tickets.tell(db, ticket)
        if errors:
            raise errors[0]

    def _ask(self, row: Row) -> ObjectState:
        """SENT, or what the object is instead by now."""
        store = self._context.store
        try:
            store.recall(row.key, days=row.days, tier=row.tier, version_id=row.version_id)
        except ObjectNotFound:
            log.warning("%s is gone; it is not recalled", row.key)
            return ObjectState.LOST
        except Unsupported:
            stored = store.stat(row.key, version_id=row.version_id)
            if stored.recall is RecallState.READABLE:  # moved to an instant class meanwhile
                return ObjectState.INSTANT
            raise
        return ObjectState.SENT

    # --- looking ----------------------------------------------------------------------------

    def _refresh(self, ticket: str) -> None:
        """Look at what the journal cannot know, and stop when it seems that nothing has changed.

        What is known to be there is not asked about again before it goes. Of the others a few at
        a time are looked at, those first that were not looked at longest: while a group brings
        news the next one is looked at too. So a recall of 100,000 objects that are all still on
        their way costs a handful of requests at each look.
        """
        with self._lock(ticket, wait=False) as mine:
            if mine:
                self._look_again(ticket, self._context.clock())

    def _look_again(self, ticket: str, now: int) -> None:
        days = tickets.head(self._journal, ticket).days
        with self._journal.transaction() as db:
            rows = tickets.uncertain(db, ticket, now, LOOKS)
        for at in range(0, len(rows), recall.AHEAD):
            group = rows[at : at + recall.AHEAD]
            found = list(recall.each(self._stat, group))
            with self._journal.transaction() as db:
                for row, stored in found:
                    self._keep(db, ticket, row, stored, days, now)
            if all(one is not None and one.recall is RecallState.RECALLING for _, one in found):
                return

    def _stat(self, row: Row) -> StoredObject | None:
        try:
            return self._context.store.stat(row.key, version_id=row.version_id)
        except ObjectNotFound:
            log.warning("%s was recalled and is gone", row.key)
            return None

    def _keep(
        self,
        db: sqlite3.Connection,
        ticket: str,
        row: Row,
        stored: StoredObject | None,
        days: int,
        now: int,
    ) -> None:
        state = ObjectState.LOST if stored is None else tickets.SEEN[stored.recall]
        until = None if stored is None else stored.recall_expires_at
        tickets.seen(db, ticket, row.number, state, until, now)
        if state is ObjectState.READY and row.days < days:
            tier, _ = self.prices.extending(row.storage_class, size=row.size, objects=1, days=days)
            tickets.ask_again(db, ticket, row.number, what=What.LONGER, tier=tier, days=days)

    # --- within -----------------------------------------------------------------------------

    def _with_history(self, one: Looked) -> Looked:
        if one.stored.recall is not RecallState.RECALLING:
            return one
        return replace(one, asked=tickets.asked_before(self._journal, one.piece))

    def _view(self, ticket: str) -> Ticket:
        return tickets.view(
            self._journal, tickets.head(self._journal, ticket), self._context.clock()
        )

    @contextmanager
    def _lock(self, ticket: str, *, wait: bool) -> Iterator[bool]:
        """One thread at a time sends for a ticket; gives whether it is ours."""
        with self._mutex:
            lock = self._sending.setdefault(ticket, threading.Lock())
        mine = lock.acquire(blocking=wait)
        try:
            yield mine
        finally:
            if mine:
                lock.release()


def _offer(head: Head, needed: Sequence[Asking], now: int) -> Ticket:
    """A ticket that nobody asked for yet."""
    asked = [one for one in needed if one.what is not What.NOTHING]
    states = [one.looked.stored.recall for one in needed]
    there = (RecallState.READABLE, RecallState.RECALLED)
    done = [one for one in needed if one.looked.stored.recall in there]
    expiries = [one.looked.stored.recall_expires_at or 0 for one in done]
    recalling = states.count(RecallState.RECALLING)
    state = TicketState.OFFERED
    if not asked:
        state = TicketState.WAITING if recalling else TicketState.READY
    ranges = sorted(
        (one.looked.piece.offset, one.looked.piece.length)
        for one in done
        if one.looked.piece.image == 0 and one.looked.piece.length
    )
    return Ticket(
        ticket=head.ticket,
        state=state,
        asked=False,
        tier=head.tier,
        days=head.days,
        objects=len(asked),
        size=sum(one.looked.stored.size for one in asked),
        cost=sum(one.cost for one in asked),
        currency=head.currency,
        price_date=head.price_date,
        hours=head.hours,
        done=len(done),
        total=len(needed),
        recalling=recalling,
        unsent=len(asked),
        asked_at=None,
        expires_at=min((one for one in expiries if one > now), default=None),
        ready=tickets.merged(ranges),
    )
