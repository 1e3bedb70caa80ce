"""The store in memory keeps the promises of every store, and its clock is ours."""

from __future__ import annotations

import time

import pytest

from catalog.errors import ObjectLocked, StoreError, Unsupported
from catalog.model import LockMode, StorageClass
from connector.store.body import crc64nvme
from connector.store.interface import ObjectStore, PutOptions, RecallState, RecallTier
from connector.store.memory import RECALL_TIME, MemoryStore
from tests.conformance.store import HOUR, PassTime, StoreConformance, send


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = time.time_ns()

    def __call__(self) -> int:
        return self.now

    def advance(self, nanoseconds: int) -> None:
        self.now += nanoseconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> ObjectStore:
    return MemoryStore(versioning=False, object_lock=False, clock=clock)


@pytest.fixture
def locking_store(clock: Clock) -> ObjectStore:
    return MemoryStore(clock=clock)


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def fresh_store(self, locking_store: ObjectStore) -> ObjectStore:
        return locking_store

    @pytest.fixture
    def pass_time(self, clock: Clock) -> PassTime:
        return clock.advance


@pytest.mark.parametrize(("stored_in", "tier"), list(RECALL_TIME))
def test_a_recall_takes_the_time_of_its_tier(
    store: ObjectStore, clock: Clock, stored_in: StorageClass, tier: RecallTier
) -> None:
    store.put("a", b"cold", PutOptions(storage_class=stored_in))
    store.recall("a", days=1, tier=tier)
    clock.advance(RECALL_TIME[stored_in, tier] - 1)
    assert store.stat("a").recall is RecallState.RECALLING
    clock.advance(1)
    assert store.stat("a").recall is RecallState.RECALLED


def test_a_lock_ends_when_its_time_is_over(locking_store: ObjectStore, clock: Clock) -> None:
    version = locking_store.put("a", b"x").version_id
    locking_store.set_lock("a", mode=LockMode.COMPLIANCE, until=clock.now + HOUR)
    with pytest.raises(ObjectLocked):
        locking_store.delete("a", version_id=version)
    clock.advance(2 * HOUR)
    locking_store.delete("a", version_id=version)


def test_a_small_part_in_the_middle_is_refused(store: ObjectStore) -> None:
    upload = store.start_upload("a")
    parts = [send(store, upload, 1, b"small"), send(store, upload, 2, b"last")]
    with pytest.raises(StoreError, match="at least"):
        store.complete_upload(upload, parts, crc64nvme=crc64nvme(b"smalllast"))


def test_there_is_no_recall_of_an_instant_class(store: ObjectStore) -> None:
    store.put("a", b"x", PutOptions(storage_class=StorageClass.GLACIER_IR))
    with pytest.raises(Unsupported):
        store.recall("a", days=1, tier=RecallTier.STANDARD)
