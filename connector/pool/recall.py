"""What a recall takes: which objects, in which state, at what price. Nothing here asks for one.

Only the fragments that hold the wanted bytes are looked at, each once and several at a time. The
store's word counts, not the manifest's: a lifecycle rule may have moved an object meanwhile.
``tickets.py`` keeps what was asked for, ``recalling.py`` asks.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from catalog.errors import ImageDamaged, ObjectArchived, ObjectNotFound, Unsupported
from catalog.model import NANOSECONDS, StorageClass
from connector.pool.context import PoolContext
from connector.pool.manifest import FragmentObject, Manifest
from connector.pool.prices import Prices
from connector.store.interface import RecallState, RecallTier, StoredObject

T = TypeVar("T")
R = TypeVar("R")

WIDTH = 16
"""Requests under way at once, whatever the size of a recall."""
AHEAD = 4 * WIDTH
"""Requests that wait for a thread, at most."""
DAY = 86_400 * NANOSECONDS
BY_SPEED = (RecallTier.EXPEDITED, RecallTier.STANDARD, RecallTier.BULK)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPolicy:
    """How a pool recalls.

    tier: what is used when a request names none; None is the cheapest within max_wait_hours.
    automatic: whether opening an archived image may ask by itself, up to max_cost each.
    monthly_budget bounds all that the pool asks for in a calendar month (UTC), in the currency of
    its price table.
    """

    tier: RecallTier | None = RecallTier.STANDARD
    days: int = 7
    automatic: bool = False
    max_cost: float | None = None
    monthly_budget: float | None = None
    max_wait_hours: float = 48.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A copy to be read; ranges are (offset, length) in bytes of it, none at all: the whole.

    mapped False: its bytes are not those that the caller counts (a tape file around an image), so
    all of it is needed and no range of it is told as ready.
    """

    manifest: Manifest
    ranges: tuple[tuple[int, int], ...] = ()
    mapped: bool = True

    def fragments(self) -> Iterator[FragmentObject]:
        """The fragments that hold a wanted byte."""
        for part in self.manifest.fragments:
            end = part.offset + part.size
            whole = not self.ranges or not self.mapped
            if part.size and (
                whole or any(at < end and at + n > part.offset for at, n in self.ranges if n > 0)
            ):
                yield part


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An object of a recall. image is the place of its image among those wanted, from 0; offset
    and length are its bytes within that image."""

    image: int
    key: str
    version_id: str | None
    offset: int
    length: int


class What(StrEnum):
    """What is asked of the store for one object."""

    NOTHING = ""
    NEW = "new"  # a copy of what is cold
    FASTER = "faster"  # a faster tier for a copy that is on its way
    LONGER = "longer"  # more days for a copy that is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A piece and what the store says of it; asked: in what tier and for how many days this
    journal asked for it, when it is on its way."""

    piece: Piece
    stored: StoredObject
    asked: tuple[RecallTier, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What one object of a recall needs, and its price. tier and days are what the store is asked
    for, which are not always those of the recall: see ``_faster`` and ``Prices.extending``."""

    looked: Looked
    what: What
    tier: RecallTier
    days: int
    cost: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TierOffer:
    """What one tier would take: cost in the currency of the price table, hours at the longest."""

    tier: RecallTier
    cost: float
    hours: float


def pieces(wanted: Iterable[Wanted]) -> tuple[list[Piece], list[Manifest]]:
    """Every object once, even if two images name it, and the images in order."""
    found: dict[tuple[str, str | None], Piece] = {}
    images: list[Manifest] = []
    for number, one in enumerate(wanted):
        images.append(one.manifest)
        for part in one.fragments():
            piece = Piece(
                image=number,
                key=part.key,
                version_id=part.version_id,
                offset=part.offset if one.mapped else 0,
                length=part.size if one.mapped else 0,
            )
            found.setdefault((part.key, part.version_id), piece)
    return list(found.values()), images


def ticket_name(wanted: Sequence[Piece], tier: RecallTier) -> str:
    """The same set of objects in the same tier has the same ticket, for ever."""
    keys = sorted([piece.key, piece.version_id or ""] for piece in wanted)
    return hashlib.sha256(json.dumps([keys, tier]).encode()).hexdigest()[:16]


def look(context: PoolContext, wanted: Sequence[Piece]) -> list[Looked]:
    """Ask the store for the state of every piece.

    Raises:
        ImageDamaged: an object is not there.
        Unsupported: one lies in an archive tier of INTELLIGENT_TIERING.
    """

    def stat(piece: Piece) -> StoredObject:
        try:
            return context.store.stat(piece.key, version_id=piece.version_id)
        except ObjectNotFound as exc:
            raise ImageDamaged(
                f"{piece.key} is not in the store: {exc.message}",
                hint="nothing was asked for; restore the object's version, or use another copy",
            ) from exc

    found = [Looked(piece=piece, stored=stored) for piece, stored in each(stat, wanted)]
    _check_tiering(found)
    cold = [one for one in found if one.stored.recall is RecallState.ARCHIVED and one.stored.size]
    if cold and not _is_frozen(context, cold[0].piece):
        return [_warm(one) for one in found]
    return found


def each(action: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Do something for every item, WIDTH at a time; results in the order of the items.

    The first error ends it: what has not begun is not begun.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(WIDTH, thread_name_prefix="recall") as threads:
        try:
            for item in items:
                waiting.append((item, threads.submit(action, item)))
                if len(waiting) >= AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def askings(
    prices: Prices,
    looked: Iterable[Looked],
    *,
    tier: RecallTier,
    days: int,
    now: int,
    longer: bool,
    faster: bool,
) -> list[Asking]:
    """What each object needs in a tier, with its price.

    faster: a copy that is on its way is sped up, but only when this journal knows that it was asked
    for in a slower tier: what others asked for costs nothing here. longer: copies that are there
    and would go before days are over get more days.

    Raises:
        Unsupported: a class among them has no such tier; names those it has.
    """
    return [_asking(prices, one, tier, days, now, longer=longer, faster=faster) for one in looked]


def _asking(
    prices: Prices,
    one: Looked,
    tier: RecallTier,
    days: int,
    now: int,
    *,
    longer: bool,
    faster: bool,
) -> Asking:
    stored = one.stored
    if stored.recall is RecallState.ARCHIVED:
        price = prices.recall_price(stored.storage_class, tier)
        cost = prices.reading(
            stored.storage_class, size=stored.size, objects=1, tier=tier, days=days
        )
        return Asking(looked=one, what=What.NEW, tier=tier, days=days, cost=cost, hours=price.hours)
    if stored.recall is RecallState.RECALLING:
        return _faster(prices, one, tier, days, wanted=faster)
    expires = stored.recall_expires_at
    if longer and expires is not None and expires < now + (days - 1) * DAY:
        return longer_copy(prices, one, days)
    return _nothing(one, tier, days, 0.0)


def longer_copy(prices: Prices, one: Looked, days: int) -> Asking:
    """Days from now for a copy that is there."""
    tier, cost = prices.extending(
        one.stored.storage_class, size=one.stored.size, objects=1, days=days
    )
    return Asking(looked=one, what=What.LONGER, tier=tier, days=days, cost=cost, hours=0.0)


def _nothing(one: Looked, tier: RecallTier, days: int, hours: float) -> Asking:
    return Asking(looked=one, what=What.NOTHING, tier=tier, days=days, cost=0.0, hours=hours)


def _faster(prices: Prices, one: Looked, tier: RecallTier, days: int, *, wanted: bool) -> Asking:
    """Source: S3 user guide, speed upgrade: a faster tier, and no other days than before."""
    known, size = prices.of(one.stored.storage_class).recall, one.stored.size
    if one.asked is None:
        slowest = max((price.hours for price in known.values()), default=0.0)
        return _nothing(one, tier, days, slowest)
    asked_tier, asked_days = one.asked
    if not wanted or BY_SPEED.index(tier) >= BY_SPEED.index(asked_tier):
        hours = known[asked_tier].hours if asked_tier in known else 0.0
        return _nothing(one, asked_tier, asked_days, hours)
    price = prices.recall_price(one.stored.storage_class, tier)
    cost = prices.upgrading(one.stored.storage_class, size=size, objects=1, tier=tier)
    return Asking(
        looked=one,
        what=What.FASTER,
        tier=tier,
        days=asked_days,
        cost=cost,
        hours=price.hours,
    )


def offers(
    prices: Prices, looked: Sequence[Looked], *, days: int, now: int, longer: bool, faster: bool
) -> list[TierOffer]:
    """Every tier that all objects can be had in, fastest first; none when nothing is to be had.

    faster: with what it costs to speed up what is on its way.
    """
    found: list[TierOffer] = []
    for tier in BY_SPEED:
        try:
            needed = askings(
                prices, looked, tier=tier, days=days, now=now, longer=longer, faster=faster
            )
        except Unsupported:
            continue
        if any(one.what in (What.NEW, What.FASTER) for one in needed):
            cost = sum(one.cost for one in needed)
            found.append(TierOffer(tier=tier, cost=cost, hours=max(one.hours for one in needed)))
    return found


def choose_tier(policy: RecallPolicy, offered: Sequence[TierOffer]) -> RecallTier:
    """The pool's own choice.

    The policy's tier, or the next slower one that is offered; without one the cheapest that keeps
    max_wait_hours, or the fastest when none does.
    """
    if not offered:
        return policy.tier or RecallTier.STANDARD
    if policy.tier is not None:
        rank = BY_SPEED.index(policy.tier)
        slower = [one.tier for one in offered if BY_SPEED.index(one.tier) >= rank]
        return slower[0] if slower else offered[-1].tier
    in_time = [one for one in offered if one.hours <= policy.max_wait_hours]
    return min(in_time or offered[:1], key=lambda one: one.cost).tier


def _check_tiering(found: Iterable[Looked]) -> None:
    for one in found:
        tiered = one.stored.storage_class is StorageClass.INTELLIGENT_TIERING
        if tiered and one.stored.recall is RecallState.ARCHIVED:
            raise Unsupported(
                f"{one.piece.key} lies in an archive tier of INTELLIGENT_TIERING, which Tapelift"
                " does not recall",
                hint="bring it back with aws s3api restore-object, without Days, and turn the"
                " bucket's archive tiers off",
            )


def _is_frozen(context: PoolContext, piece: Piece) -> bool:
    """Whether a store's cold class is really cold: some only carry the name, and have no recall."""
    try:
        context.store.read_into(piece.key, memoryview(bytearray(1)), version_id=piece.version_id)
    except ObjectArchived:
        return True
    return False


def _warm(one: Looked) -> Looked:
    return Looked(piece=one.piece, stored=replace(one.stored, recall=RecallState.READABLE))
