"""Archived images: what a recall would take is told on opening; asking is ``prepare``'s alone.

Opening asks by itself only where the pool's configuration says so, within its budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from catalog.errors import ImageArchived, OverBudget, PoolError, TransientStoreError, Unsupported
from catalog.model import NANOSECONDS
from connector.logs import Step
from connector.pool import tickets as pool_tickets
from connector.pool.manifest import FragmentObject, Manifest
from connector.pool.pool import Pool
from connector.pool.recall import Wanted
from connector.serve.events import EventKind
from connector.serve.failures import ArchivedOffer
from connector.serve.units import Unit
from connector.serve.waiting import Patience
from connector.store.interface import RecallState, RecallTier, StoredObject
from connector.wire import messages
from connector.wire.messages import MAX_LIST

if TYPE_CHECKING:
    from connector.serve.session import ClientSession

WIDTH = 8
"""Objects that are asked about at once."""
DAY = 86_400 * NANOSECONDS


def stats(pool: Pool, fragments: Sequence[FragmentObject]) -> list[StoredObject]:
    """What the store says of fragments, in order."""
    store = pool.context.store
    if len(fragments) == 1:
        return [store.stat(fragments[0].key, version_id=fragments[0].version_id)]

    def look(context: Context, part: FragmentObject) -> StoredObject:
        return context.run(store.stat, part.key, version_id=part.version_id)

    contexts = [copy_context() for _ in fragments]  # the call's deadline holds in its threads too
    with ThreadPoolExecutor(WIDTH, thread_name_prefix="stat") as threads:
        return list(threads.map(look, contexts, fragments))


def may_be_archived(unit: Unit, manifest: Manifest) -> bool:
    """Whether the image can be in a cold class: by its own, or by a step of the pool."""
    if manifest.storage_class is not None and manifest.storage_class.archived:
        return True
    age = unit.clock() - manifest.created_at
    return any(
        step.storage_class.archived and age >= step.days * DAY for step in unit.settings.lifecycle
    )


def check_readable(unit: Unit, manifest: Manifest, *, may_ask: bool) -> None:
    """Refuse an image of which something is archived, with an offer.

    Where the pool recalls by itself, within its budgets, it is asked for instead of offered, if
    may_ask: only opening is somebody who wants the bytes; a round of verifications or copies
    through a whole archive must not become a bill.

    Raises:
        ImageArchived: with the ticket.
    """
    if not may_be_archived(unit, manifest):
        return
    wanted = [Wanted(manifest=manifest)]
    offer = unit.ask("pricing a recall", lambda pool: pool.prepare(wanted, dry_run=True))
    if offer.done == offer.total:
        return
    policy = unit.settings.recall
    if may_ask and policy.automatic and not offer.asked:
        try:
            offer = unit.ask(
                "recalling", lambda pool: pool.prepare(wanted, max_cost=policy.max_cost)
            )
            _asked(unit, offer, [manifest])
        except OverBudget:
            pass  # then it is only offered
    raise archived(unit, manifest, offer)


def archived(unit: Unit, manifest: Manifest, offer: pool_tickets.Ticket) -> ArchivedOffer:
    """The state of an archived image, as an error with its offer."""
    asked = "a recall is on its way" if offer.asked else "nothing was asked for"
    return ArchivedOffer(
        f"image {manifest.name!r} copy {manifest.copy} lies in {manifest.storage_class}: {asked};"
        f" {offer.total - offer.done} of {offer.total} objects cannot be read now",
        offer=to_message(offer),
        hint="prepare asks for it at the price of the offer; ticket tells when it can be read"
        if not offer.asked
        else "ticket tells when it can be read",
    )


def offer_for(unit: Unit, manifest: Manifest, error: ImageArchived) -> ImageArchived:
    """The error of a read that met a cold object, with an offer where one can be made."""
    try:
        wanted = [Wanted(manifest=manifest)]
        offer = unit.ask("pricing a recall", lambda pool: pool.prepare(wanted, dry_run=True))
    except PoolError:
        return error
    return archived(unit, manifest, offer)


def eta_hours(unit: Unit, stored: Iterable[StoredObject]) -> float | None:
    """The longest that the vendor names for what is on its way; None: nothing is, or unknown."""
    hours = 0.0
    for one in stored:
        if one.recall is RecallState.RECALLING:
            prices = unit.settings.prices.of(one.storage_class).recall
            hours = max([hours, *(price.hours for price in prices.values())])
    return hours or None


def to_message(ticket: pool_tickets.Ticket) -> messages.Ticket:
    """A ticket as clients get it."""
    return messages.Ticket(
        ticket=ticket.ticket,
        state=str(ticket.state),
        asked=ticket.asked,
        tier=str(ticket.tier),
        days=ticket.days,
        objects=ticket.objects,
        size=ticket.size,
        cost=ticket.cost,
        currency=ticket.currency,
        price_date=ticket.price_date,
        hours=ticket.hours,
        done=ticket.done,
        total=ticket.total,
        expires_at=ticket.expires_at,
        ready=tuple(messages.Range(offset=at, length=n) for at, n in ticket.ready[:MAX_LIST]),
        offers=tuple(
            messages.TierOffer(tier=str(one.tier), cost=one.cost, hours=one.hours)
            for one in ticket.offers
        ),
    )


def _tier(text: str) -> RecallTier | None:
    """A tier by its name in any case; empty is the pool's own choice."""
    if not text:
        return None
    for tier in RecallTier:
        if tier.value.lower() == text.lower():
            return tier
    raise Unsupported(
        f"there is no recall tier {text!r}",
        hint=f"use {', '.join(tier.value.lower() for tier in RecallTier)}",
    )


def prepare(session: ClientSession, call: messages.Prepare, wait: Patience) -> messages.Ticket:
    """Ask for images or ranges to be recalled, or only price it."""
    from connector.serve.operations_images import manifest_of
    from connector.serve.operations_writing import checked_name

    unit = session.unit(call.pool)
    tier = _tier(call.tier)
    if not call.images:
        raise PoolError("nothing to recall was named", hint="name at least one image")
    for one in call.images:
        checked_name(unit, one.image, one.copy)
    manifests = wait.unless_gone(
        "reading manifests",
        lambda: [manifest_of(unit, one.image, one.copy) for one in call.images],
    )
    wanted = [
        Wanted(manifest=manifest, ranges=tuple((r.offset, r.length) for r in one.ranges))
        for manifest, one in zip(manifests, call.images, strict=True)
    ]

    def ask() -> pool_tickets.Ticket:
        with unit.noticing():
            return unit.pool().prepare(
                wanted, tier=tier, days=call.days, max_cost=call.max_cost, dry_run=call.dry_run
            )

    ticket = wait.until_done("recalling", ask)
    if ticket.asked and not call.dry_run:
        _asked(unit, ticket, manifests)
    return to_message(ticket)


def _asked(unit: Unit, ticket: pool_tickets.Ticket, manifests: Sequence[Manifest]) -> None:
    """Remember to tell when it is ready, and that it was asked for; once for each ticket."""
    with unit.journal.transaction(durable=True) as db:
        known = db.execute(
            "INSERT OR IGNORE INTO watched_tickets VALUES (?, ?)", (ticket.ticket, unit.clock())
        )
        if known.rowcount == 0:
            return
        first = manifests[0]
        unit.announce(
            db,
            EventKind.RECALL_ASKED,
            first.name,
            first.copy,
            ticket=ticket.ticket,
            images=len(manifests),
            cost=round(ticket.cost, 4),
            currency=ticket.currency,
            hours=ticket.hours,
        )
    unit.woken()
    for manifest in manifests:
        unit.told(Step.RECALLED, manifest.name, manifest.copy, manifest.token, ticket=ticket.ticket)


def ticket(session: ClientSession, call: messages.GetTicket, wait: Patience) -> messages.Ticket:
    """How far a recall is; with cancel, stop what was not asked for yet."""
    unit = session.unit(call.pool)

    def look() -> pool_tickets.Ticket:
        with unit.noticing():
            pool = unit.pool()
            return pool.cancel_ticket(call.ticket) if call.cancel else pool.ticket(call.ticket)

    return to_message(wait.until_done("looking at a recall", look))


def watch(unit: Unit, pool: Pool) -> None:
    """Announce the tickets that have become ready; forget those that have ended.

    Raises:
        TransientStoreError: the store is away; tried again with the next look.
    """
    pool.continue_recalls()
    with unit.journal.transaction() as db:
        rows = db.execute("SELECT ticket, at FROM watched_tickets ORDER BY at").fetchall()
    for name, at in rows:
        try:
            found = pool.ticket(name)
        except TransientStoreError:
            raise
        except PoolError as exc:
            with unit.journal.transaction() as db:
                db.execute("DELETE FROM watched_tickets WHERE ticket = ?", (name,))
            unit.say(EventKind.RECALL_READY, ticket=name, state="lost", why=exc.message)
            continue
        if found.state is pool_tickets.TicketState.WAITING:
            continue
        with unit.journal.transaction(durable=True) as db:
            db.execute("DELETE FROM watched_tickets WHERE ticket = ?", (name,))
            unit.announce(
                db,
                EventKind.RECALL_READY,
                ticket=name,
                state=str(found.state),
                expires_at=found.expires_at,
                waited_s=(unit.clock() - at) // NANOSECONDS,
            )
        unit.woken()
