"""Which storage class an image goes to: a fixed one, or the cheapest that fits, with the reason.

``auto`` computes, it has no rules of thumb: writing, keeping (with the minimum durations and the
bytes billed per object), and the restores that are expected. Classes that take longer to read than
the user can wait, or that keep one zone only, are left out and named.
"""

from __future__ import annotations

from dataclasses import dataclass

from catalog.errors import ConfigError
from catalog.model import NANOSECONDS, StorageClass
from connector.pool.prices import Prices
from connector.store.interface import RecallTier

FOREVER_DAYS = 10 * 365
"""Days that an image without an end is computed for."""
UNKNOWN_DAYS = 365
_DAY = 86_400 * NANOSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPolicy:
    """How classes are chosen. fixed None is ``auto``.

    expected_restores: how often each image will be read, over its whole life. max_wait_hours: how
    long a restore may wait for its data. recall_days: how long a recalled copy is kept.
    """

    fixed: StorageClass | None = StorageClass.STANDARD
    expected_restores: float = 0.05
    max_wait_hours: float = 48.0
    recall_days: int = 7
    one_zone: bool = False

    @classmethod
    def parse(cls, text: str, **settings: float) -> ClassPolicy:
        """``auto`` or a class's name in any case.

        Raises:
            ConfigError: there is no such class.
        """
        if text.lower() == "auto":
            return cls(fixed=None, **settings)  # type: ignore[arg-type]
        try:
            return cls(fixed=StorageClass(text.upper()), **settings)  # type: ignore[arg-type]
        except ValueError:
            raise ConfigError(
                f"there is no storage class {text!r}",
                hint=f"use auto, {', '.join(name.lower() for name in StorageClass)}",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chosen class and why. costs: what each class would cost over the image's life."""

    storage_class: StorageClass
    costs: tuple[tuple[StorageClass, float], ...]
    left_out: tuple[tuple[StorageClass, str], ...]
    days: float

    def explain(self, currency: str) -> str:
        """One line: the class, its cost, the next best, what was left out."""
        ranked = sorted(self.costs, key=lambda item: item[1])
        shown = ", ".join(f"{name} {cost:.4f}" for name, cost in ranked[:3])
        out = "; ".join(f"{name}: {why}" for name, why in self.left_out)
        return f"{self.storage_class} for {self.days:.0f} days ({currency}: {shown})" + (
            f"; left out: {out}" if out else ""
        )


def remaining_days(*, now: int, expires_at: int | None, infinite: bool) -> float:
    """Days that an image will still be kept: an unknown end counts as a year."""
    if infinite:
        return FOREVER_DAYS
    if expires_at is None:
        return UNKNOWN_DAYS
    return max(0.0, (expires_at - now) / _DAY)


def choose(policy: ClassPolicy, prices: Prices, *, size: int, days: float, objects: int) -> Choice:
    """The class for an image of size bytes in objects that is kept for days."""
    if policy.fixed is not None:
        cost = prices.storing(policy.fixed, size=size, days=days, objects=objects)
        return Choice(
            storage_class=policy.fixed, costs=((policy.fixed, cost),), left_out=(), days=days
        )
    costs: list[tuple[StorageClass, float]] = []
    left_out: list[tuple[StorageClass, str]] = []
    for name, price in prices.classes.items():
        if price.zones < 3 and not policy.one_zone:
            left_out.append((name, "kept in one zone only"))
            continue
        tier = _tier_within(prices, name, policy.max_wait_hours)
        if price.archive and tier is None:
            left_out.append((name, f"no recall within {policy.max_wait_hours:g} h"))
            continue
        read = prices.reading(
            name,
            size=size,
            objects=objects,
            tier=tier or RecallTier.BULK,
            days=policy.recall_days,
        )
        cost = prices.storing(name, size=size, days=days, objects=objects)
        costs.append((name, cost + policy.expected_restores * read))
    if not costs:
        raise ConfigError(
            "no storage class of the price table fits the policy",
            hint="allow a longer wait, or add classes to the price table",
        )
    best = min(costs, key=lambda item: item[1])[0]
    return Choice(storage_class=best, costs=tuple(costs), left_out=tuple(left_out), days=days)


def _tier_within(prices: Prices, name: StorageClass, hours: float) -> RecallTier | None:
    """The cheapest recall tier that is fast enough."""
    tiers = [
        (recall.per_gb, tier)
        for tier, recall in prices.of(name).recall.items()
        if recall.hours <= hours
    ]
    return min(tiers, default=(0.0, None))[1]
