"""Prices and durations of storage classes: a dated table that users replace.

Nothing here is a promise of a vendor; every estimate says which table, of which date, it used.
Source of the model: S3 price page and user guide; see docs/operations.md, "What it costs".
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from catalog.errors import ConfigError, Unsupported
from catalog.model import StorageClass
from connector.store.interface import RecallTier

GB = 1_000_000_000
DAYS_PER_MONTH = 30.4


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPrice:
    """Price and time of one recall tier. hours is the longest that the vendor names."""

    per_gb: float
    per_1k: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPrice:
    """Prices of one storage class. minimum_days and minimum_bytes are billed even if unused.

    move_per_1k: of moves into it by lifecycle rules, when that is not the price of a PUT.
    """

    storage_gb_month: float
    put_per_1k: float
    get_per_1k: float
    move_per_1k: float | None = None
    read_gb: float = 0.0
    minimum_days: int = 0
    minimum_bytes: int = 0
    monitoring_per_1k: float = 0.0
    zones: int = 3
    archive: bool = False
    recall: Mapping[RecallTier, RecallPrice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A price table."""

    date: str
    currency: str
    source: str
    archive_bytes: int
    standard_bytes: int
    staging_part_per_1k: float
    classes: Mapping[StorageClass, ClassPrice]

    @classmethod
    def load(cls, path: Path | None = None) -> Prices:
        """Read a table; without a path the example that comes with Tapelift.

        Raises:
            ConfigError: names the file and what is wrong with it.
        """
        where = str(path) if path else "connector/pool/prices.toml"
        try:
            if path:
                text = path.read_text()
            else:
                text = files("connector.pool").joinpath("prices.toml").read_text()
            return cls._from_table(tomllib.loads(text))
        except OSError as exc:
            raise ConfigError(f"cannot read the price table {where}: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as exc:
            raise ConfigError(
                f"the price table {where} is not usable: {type(exc).__name__}: {exc}",
                hint="start from the example that docs/operations.md shows",
            ) from exc

    @classmethod
    def _from_table(cls, table: dict[str, Any]) -> Prices:
        return cls(
            date=str(table["date"]),
            currency=str(table["currency"]),
            source=str(table["source"]),
            archive_bytes=int(table["archive_bytes"]),
            standard_bytes=int(table["standard_bytes"]),
            staging_part_per_1k=float(table["staging_part_per_1k"]),
            classes={
                StorageClass(name): _class_price(entry) for name, entry in table["class"].items()
            },
        )

    def of(self, storage_class: StorageClass) -> ClassPrice:
        """The prices of a class.

        Raises:
            ConfigError: the table does not have it.
        """
        try:
            return self.classes[storage_class]
        except KeyError:
            raise ConfigError(
                f"the price table of {self.date} has no class {storage_class}",
                hint="add a section for it",
            ) from None

    def storing(
        self,
        storage_class: StorageClass,
        *,
        size: int,
        days: float,
        objects: int = 1,
        parts: int = 0,
    ) -> float:
        """Cost of writing size bytes as objects and keeping them for days (at least the minimum).

        parts: multipart pieces in all, 0 when every object is one request.
        """
        price = self.of(storage_class)
        months = max(days, price.minimum_days) / DAYS_PER_MONTH
        cost = months * self.monthly(storage_class, size=size, objects=objects)
        # a multipart object is also created (STANDARD's price) and completed (the class's)
        if parts:
            cost += (parts + objects) * self.staging_part_per_1k / 1000
        return cost + objects * price.put_per_1k / 1000

    def monthly(self, storage_class: StorageClass, *, size: int, objects: int) -> float:
        """Cost of a month of size bytes in objects, with what is billed for each object."""
        price, standard = self.of(storage_class), self.of(StorageClass.STANDARD)
        cost = max(size, price.minimum_bytes * objects) / GB * price.storage_gb_month
        if price.archive:
            cost += objects * self.archive_bytes / GB * price.storage_gb_month
            cost += objects * self.standard_bytes / GB * standard.storage_gb_month
        return cost + objects * price.monitoring_per_1k / 1000

    def moving(self, storage_class: StorageClass, *, objects: int) -> float:
        """Cost of lifecycle moves into a class."""
        price = self.of(storage_class)
        fee = price.put_per_1k if price.move_per_1k is None else price.move_per_1k
        return objects * fee / 1000

    def reading(
        self, storage_class: StorageClass, *, size: int, objects: int, tier: RecallTier, days: int
    ) -> float:
        """Cost of reading size bytes in objects once: recall, temporary copy for days, GETs."""
        price = self.of(storage_class)
        cost = size / GB * price.read_gb + objects * price.get_per_1k / 1000
        if price.archive:
            recall = self.recall_price(storage_class, tier)
            copy = self.of(StorageClass.STANDARD).storage_gb_month * days / DAYS_PER_MONTH
            cost += size / GB * (recall.per_gb + copy) + objects * recall.per_1k / 1000
        return cost

    def upgrading(
        self, storage_class: StorageClass, *, size: int, objects: int, tier: RecallTier
    ) -> float:
        """Cost of a faster tier for what is on its way already; the copy itself was counted."""
        recall = self.recall_price(storage_class, tier)
        return size / GB * recall.per_gb + objects * recall.per_1k / 1000

    def extending(
        self, storage_class: StorageClass, *, size: int, objects: int, days: int
    ) -> tuple[RecallTier, float]:
        """Cost of keeping recalled copies for days from now, and the tier whose requests cost
        least: only the requests and the copies are billed, nothing is brought back again."""
        tiers = self.of(storage_class).recall
        tier = min(tiers, key=lambda one: tiers[one].per_1k, default=RecallTier.STANDARD)
        requests = tiers[tier].per_1k if tier in tiers else 0.0
        copy = self.of(StorageClass.STANDARD).storage_gb_month * days / DAYS_PER_MONTH
        return tier, size / GB * copy + objects * requests / 1000

    def recall_price(self, storage_class: StorageClass, tier: RecallTier) -> RecallPrice:
        """Price and time of a recall.

        Raises:
            Unsupported: this class is not recalled in this tier.
        """
        tiers = self.of(storage_class).recall
        if tier not in tiers:
            offered = ", ".join(tiers) or "none: it is readable at once"
            raise Unsupported(
                f"{storage_class} has no recall tier {tier}", hint=f"tiers offered: {offered}"
            )
        return tiers[tier]


def _class_price(entry: Mapping[str, Any]) -> ClassPrice:
    values = dict(entry)
    tiers = values.pop("recall", {})
    return ClassPrice(
        **values,
        recall={RecallTier(tier): RecallPrice(**price) for tier, price in tiers.items()},
    )
