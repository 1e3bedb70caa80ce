"""What a migration will cost in each storage class, before anything is spent.

Images are added one by one; nothing per image is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from catalog.model import StorageClass
from connector.pool.classes import Choice, ClassPolicy, choose
from connector.pool.config import PoolConfig
from connector.pool.prices import Prices

ASSUMED_SIZE = 1_000_000_000
"""What an image whose size no catalogue tells is taken for when it is counted and when its class is
chosen, in bytes: such images are whole tape files, and what counts is that they are not tiny."""


@dataclass(slots=True)
class ClassCost:
    """Totals of one class. size is bytes, requests are writes; costs are in the table's currency.

    once: writing. whole_life: writing and keeping until each image's expiry, minimum durations
    included.
    """

    storage_class: StorageClass
    images: int = 0
    objects: int = 0
    size: int = 0
    requests: int = 0
    once: float = 0.0
    whole_life: float = 0.0


class CostTable:
    """Adds up images, for the policy's choice and, as a comparison, for every class alone."""

    def __init__(self, prices: Prices, policy: ClassPolicy, config: PoolConfig) -> None:
        self.prices = prices
        self._policy = policy
        self._config = config
        self.unknown_sizes = 0
        self.chosen: dict[StorageClass, ClassCost] = {}
        self.alone = {name: ClassCost(name) for name in prices.classes}

    def add(self, size: int | None, days: float) -> Choice:
        """Count an image of size bytes (None: unknown) that is kept for days; gives its class."""
        if size is None:
            self.unknown_sizes += 1
            size = ASSUMED_SIZE
        objects = max(1, -(-size // self._config.fragment_size))
        parts = -(-size // self._config.part_size) if size > self._config.part_size else 0
        choice = choose(self._policy, self.prices, size=size, days=days, objects=objects)
        total = self.chosen.setdefault(choice.storage_class, ClassCost(choice.storage_class))
        for cost in (total, *self.alone.values()):
            self._count(cost, size, days, objects, parts)
        return choice

    def _count(self, cost: ClassCost, size: int, days: float, objects: int, parts: int) -> None:
        price = self.prices.of(cost.storage_class)
        cost.images += 1
        cost.objects += objects
        cost.size += size
        # a manifest for each image; create, parts and complete, or one put, for each object
        cost.requests += 1 + (parts + 2 * objects if parts else objects)
        once = objects * price.put_per_1k / 1000 + self._manifest()
        if parts:
            once += (parts + objects) * self.prices.staging_part_per_1k / 1000
        cost.once += once
        cost.whole_life += self._manifest() + self.prices.storing(
            cost.storage_class, size=size, days=days, objects=objects, parts=parts
        )

    def _manifest(self) -> float:
        return self.prices.of(StorageClass.STANDARD).put_per_1k / 1000
