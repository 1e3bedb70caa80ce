"""Archived images: price first, one ticket, nothing asked twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import ImageArchived, ImageNotFound, OverBudget, Unsupported
from catalog.ledger import Ledger
from catalog.model import NANOSECONDS, Kind, StorageClass
from connector.pool.prices import Prices
from connector.store.interface import RecallTier
from connector.store.memory import MemoryStore
from tests.pool.support import open_pool, read_image, some_bytes, store_image, tiny_store

HOUR = 3600 * NANOSECONDS
PRICES = Prices.load()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * NANOSECONDS

    def __call__(self) -> int:
        return self.now


class NamesOnly(MemoryStore):
    """A store that carries the names of cold classes and freezes nothing."""

    def read_into(
        self, key: str, buffer: memoryview, *, offset: int = 0, version_id: str | None = None
    ) -> None:
        buffer[:] = b"\0" * len(buffer)

    def recall(
        self, key: str, *, days: int, tier: RecallTier, version_id: str | None = None
    ) -> None:
        raise Unsupported("no recall here")


def test_an_archived_image_is_a_state_and_reading_it_asks_for_nothing(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=StorageClass.DEEP_ARCHIVE)
        with pytest.raises(ImageArchived, match="recall it first"):
            read_image(pool, "a")
        offer = pool.quote_recall([manifest], PRICES, tier=RecallTier.BULK, days=7)
        assert (len(offer.fragments), offer.recalling, offer.readable) == (3, 0, 0)


def test_a_recall_takes_its_time_and_then_the_image_can_be_read(tmp_path: Path) -> None:
    clock, data = Clock(), some_bytes(600)
    store = tiny_store(clock=clock)
    with open_pool(store, tmp_path, clock=clock) as pool:
        manifest = store_image(pool, "a", data, storage_class=StorageClass.GLACIER)
        offer = pool.quote_recall([manifest], PRICES, tier=RecallTier.STANDARD, days=2)
        assert offer.size == 600
        assert offer.hours == 5
        assert offer.cost == pytest.approx(3 * 0.05 / 1000, rel=0.02)
        ticket = pool.request_recall(offer, max_cost=1)
        assert not pool.recall_progress(ticket).done
        again = pool.quote_recall([manifest], PRICES, tier=RecallTier.STANDARD, days=2)
        assert (len(again.fragments), again.recalling) == (0, 3)
        assert again.ticket == ticket
        clock.now += 13 * HOUR
        progress = pool.recall_progress(ticket)
        assert progress.done
        assert progress.expires_at is not None
        assert read_image(pool, "a") == data
        clock.now += 5 * 24 * HOUR
        with pytest.raises(ImageArchived):
            read_image(pool, "a")


def test_a_ticket_survives_the_process(tmp_path: Path) -> None:
    clock = Clock()
    store = tiny_store(clock=clock)
    with open_pool(store, tmp_path, clock=clock) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=StorageClass.GLACIER)
        offer = pool.quote_recall([manifest], PRICES, tier=RecallTier.BULK, days=2)
        ticket = pool.request_recall(offer, max_cost=None)
    with open_pool(store, tmp_path, clock=clock) as pool:
        assert pool.recall_progress(ticket).total == 3
        with pytest.raises(ImageNotFound):
            pool.recall_progress("0123")


def test_above_the_budget_nothing_is_asked_for(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=StorageClass.GLACIER)
        offer = pool.quote_recall([manifest], PRICES, tier=RecallTier.EXPEDITED, days=2)
        with pytest.raises(OverBudget):
            pool.request_recall(offer, max_cost=0.001)
        after = pool.quote_recall([manifest], PRICES, tier=RecallTier.EXPEDITED, days=2)
        assert len(after.fragments) == 3


def test_a_tier_that_the_class_does_not_offer_is_refused_with_those_it_does(
    tmp_path: Path,
) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", b"x", storage_class=StorageClass.DEEP_ARCHIVE)
        with pytest.raises(Unsupported, match="Standard, Bulk"):
            pool.quote_recall([manifest], PRICES, tier=RecallTier.EXPEDITED, days=2)


def test_every_recall_is_a_row_of_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path / "ledger"))
    with open_pool(tiny_store(), tmp_path, ledger=ledger) as pool:
        manifest = store_image(pool, "a", some_bytes(10), storage_class=StorageClass.GLACIER)
        offer = pool.quote_recall([manifest], PRICES, tier=RecallTier.BULK, days=2)
        pool.request_recall(offer, max_cost=None)
        pool.flush()
    assert [fact.kind for fact in ledger.facts()] == [Kind.STORED, Kind.RECALLED]


def test_a_store_whose_cold_classes_are_only_names_needs_no_recall(tmp_path: Path) -> None:
    store = NamesOnly(smallest_part=1)
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=StorageClass.GLACIER)
        offer = pool.quote_recall([manifest], PRICES, tier=RecallTier.BULK, days=2)
        assert (len(offer.fragments), offer.readable) == (0, 3)
