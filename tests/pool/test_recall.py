"""What a recall takes: looked at first, priced for every tier, and nothing asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import ImageArchived, ImageDamaged, OverBudget, Unsupported
from catalog.model import NANOSECONDS, StorageClass
from connector.pool.manifest import Manifest
from connector.pool.prices import Prices
from connector.pool.recall import RecallPolicy, TierOffer, Wanted, choose_tier, each
from connector.pool.tickets import TicketState, merged
from connector.store.interface import RecallState, RecallTier, StoredObject
from connector.store.memory import MemoryStore
from tests.pool.support import open_pool, read_image, some_bytes, store_image, tiny_store

HOUR = 3600 * NANOSECONDS
PRICES = Prices.load()
COLD = StorageClass.GLACIER


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


class Told(MemoryStore):
    """A store that says of every object what a test wants it to say."""

    says: Callable[[StoredObject], StoredObject] = staticmethod(lambda stored: stored)

    def stat(self, key: str, *, version_id: str | None = None) -> StoredObject:
        return self.says(super().stat(key, version_id=version_id))


def whole(*manifests: Manifest) -> list[Wanted]:
    return [Wanted(manifest=manifest) for manifest in manifests]


def test_an_archived_image_is_a_state_and_an_offer_asks_for_nothing(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=StorageClass.DEEP_ARCHIVE)
        with pytest.raises(ImageArchived, match="recall it first"):
            read_image(pool, "a")
        offer = pool.prepare(whole(manifest), tier=RecallTier.BULK, dry_run=True)
        assert (offer.state, offer.asked) == (TicketState.OFFERED, False)
        assert (offer.objects, offer.size, offer.done, offer.total) == (3, 600, 0, 3)
        assert store.stat(manifest.fragments[0].key).recall is RecallState.ARCHIVED


def test_every_tier_is_offered_with_its_price_and_hours(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=COLD)
        offers = pool.prepare(whole(manifest), dry_run=True).offers
        assert [(one.tier, one.hours) for one in offers] == [
            (RecallTier.EXPEDITED, 0.1),
            (RecallTier.STANDARD, 5),
            (RecallTier.BULK, 12),
        ]
        for one in offers:
            price = PRICES.reading(COLD, size=600, objects=3, tier=one.tier, days=7)
            assert one.cost == pytest.approx(price)
        assert offers[0].cost > offers[1].cost > offers[2].cost


def test_of_two_classes_only_the_tiers_of_both_are_offered(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        one = store_image(pool, "a", b"a", storage_class=COLD)
        two = store_image(pool, "b", b"b", storage_class=StorageClass.DEEP_ARCHIVE)
        offers = pool.prepare(whole(one, two), dry_run=True).offers
        assert [(offer.tier, offer.hours) for offer in offers] == [
            (RecallTier.STANDARD, 12),
            (RecallTier.BULK, 48),
        ]


@pytest.mark.parametrize(
    ("ranges", "fragments"),
    [
        (((0, 1),), [1]),
        (((255, 1),), [1]),
        (((256, 1),), [2]),
        (((255, 2),), [1, 2]),
        (((0, 1), (599, 1)), [1, 3]),
        (((300, 10**9),), [2, 3]),
        (((300, 0),), []),
        (((600, 5),), []),
        ((), [1, 2, 3]),
    ],
)
def test_of_ranges_only_the_fragments_that_hold_them_are_wanted(
    tmp_path: Path, ranges: tuple[tuple[int, int], ...], fragments: list[int]
) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=COLD)
        wanted = Wanted(manifest=manifest, ranges=ranges)
        assert [part.number for part in wanted.fragments()] == fragments
        assert pool.prepare([wanted], dry_run=True).objects == len(fragments)


def test_an_object_that_two_requests_name_is_recalled_once(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=COLD)
        twice = [Wanted(manifest=manifest, ranges=((0, 300),)), Wanted(manifest=manifest)]
        assert pool.prepare(twice, dry_run=True).total == 3


def test_a_tier_that_the_class_does_not_offer_is_refused_with_those_it_does(
    tmp_path: Path,
) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", b"x", storage_class=StorageClass.DEEP_ARCHIVE)
        with pytest.raises(Unsupported, match="Standard, Bulk"):
            pool.prepare(whole(manifest), tier=RecallTier.EXPEDITED, dry_run=True)


def test_above_max_cost_nothing_is_asked_for_and_a_cheaper_tier_is_named(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=COLD)
        with pytest.raises(OverBudget, match=r"Bulk is 0\.00 and up to 12 h"):
            pool.prepare(whole(manifest), tier=RecallTier.EXPEDITED, max_cost=0.001)
        offer = pool.prepare(whole(manifest), tier=RecallTier.EXPEDITED, dry_run=True)
        assert (offer.objects, offer.asked) == (3, False)


def test_a_store_whose_cold_classes_are_only_names_needs_no_recall(tmp_path: Path) -> None:
    store = NamesOnly(smallest_part=1)
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=COLD)
        ticket = pool.prepare(whole(manifest), tier=RecallTier.BULK)
        assert (ticket.objects, ticket.done, ticket.state) == (0, 3, TicketState.READY)


def test_what_a_lifecycle_rule_made_cold_is_recalled_as_what_the_store_says_it_is(
    tmp_path: Path,
) -> None:
    store = Told(smallest_part=1)
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=StorageClass.STANDARD)
        for versions in store._versions.values():
            versions[-1].options = replace(
                versions[-1].options, storage_class=StorageClass.DEEP_ARCHIVE
            )
        offer = pool.prepare(whole(manifest), dry_run=True)
        assert manifest.storage_class is StorageClass.STANDARD
        assert [one.hours for one in offer.offers] == [12, 48]


def test_an_object_in_an_archive_tier_of_intelligent_tiering_is_refused_clearly(
    tmp_path: Path,
) -> None:
    store = Told(smallest_part=1)
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(
            pool, "a", some_bytes(10), storage_class=StorageClass.INTELLIGENT_TIERING
        )
        assert pool.prepare(whole(manifest), dry_run=True).state is TicketState.READY
        store.says = lambda stored: replace(stored, recall=RecallState.ARCHIVED)
        with pytest.raises(Unsupported, match="archive tier of INTELLIGENT_TIERING"):
            pool.prepare(whole(manifest), dry_run=True)


def test_a_missing_object_is_told_before_anything_is_spent(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600), storage_class=COLD)
        store.delete(manifest.fragments[1].key)
        with pytest.raises(ImageDamaged, match="nothing was asked for"):
            pool.prepare(whole(manifest))
        assert store.stat(manifest.fragments[0].key).recall is RecallState.ARCHIVED


def test_an_empty_image_needs_no_recall(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", b"", storage_class=COLD)
        assert pool.prepare(whole(manifest)).state is TicketState.READY
        assert read_image(pool, "a") == b""


OFFERS = [
    TierOffer(tier=RecallTier.EXPEDITED, cost=10, hours=0.1),
    TierOffer(tier=RecallTier.STANDARD, cost=2, hours=5),
    TierOffer(tier=RecallTier.BULK, cost=1, hours=12),
]


@pytest.mark.parametrize(
    ("policy", "offers", "chosen"),
    [
        (RecallPolicy(), OFFERS, RecallTier.STANDARD),
        (RecallPolicy(tier=RecallTier.EXPEDITED), OFFERS, RecallTier.EXPEDITED),
        (RecallPolicy(tier=RecallTier.EXPEDITED), OFFERS[1:], RecallTier.STANDARD),
        (RecallPolicy(tier=RecallTier.BULK), OFFERS[:2], RecallTier.STANDARD),
        (RecallPolicy(tier=None), OFFERS, RecallTier.BULK),
        (RecallPolicy(tier=None, max_wait_hours=5), OFFERS, RecallTier.STANDARD),
        (RecallPolicy(tier=None, max_wait_hours=1), OFFERS, RecallTier.EXPEDITED),
        (RecallPolicy(tier=None, max_wait_hours=1), OFFERS[1:], RecallTier.STANDARD),
        (RecallPolicy(tier=None), [], RecallTier.STANDARD),
    ],
)
def test_the_pool_chooses_the_tier_that_its_policy_says(
    policy: RecallPolicy, offers: list[TierOffer], chosen: RecallTier
) -> None:
    assert choose_tier(policy, offers) is chosen


def test_ranges_that_touch_are_told_as_one() -> None:
    assert merged([(0, 5), (5, 5), (12, 3), (13, 1)]) == ((0, 10), (12, 3))


def test_many_are_done_at_once_in_order_and_an_error_ends_it() -> None:
    assert [found for _, found in each(lambda n: n * 2, range(500))] == list(range(0, 1000, 2))
    begun: list[int] = []

    def fail(number: int) -> None:
        begun.append(number)
        raise Unsupported("no")

    with pytest.raises(Unsupported):
        list(each(fail, range(10_000)))
    assert len(begun) < 200
