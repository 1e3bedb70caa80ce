"""Retention and holds live in the store, grow only, and survive a crash at any step."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from catalog.errors import (
    CorruptObject,
    ImageErased,
    ImageHeld,
    ImageLocked,
    ImageNotFound,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
    WouldShorten,
)
from catalog.model import NANOSECONDS, LockMode
from connector.pool import Manifest, Pool, Retention, sidecar
from connector.pool.coding import ClientKey, Coding
from connector.pool.delete import delete_image
from connector.pool.erase import erase_image
from connector.pool.index import Entry, Index
from connector.pool.keep import ENDLESS_LOCK, extend_retention, finish_keeps, set_hold
from connector.pool.sidecar import Change, Kept, read_kept, sidecar_key
from connector.pool.verify import Depth
from connector.store.interface import ObjectStore
from connector.store.memory import MemoryStore
from connector.store.s3 import S3Store
from tests.pool.indexed import (
    DAY,
    Clock,
    Killed,
    Mortal,
    facts,
    indexed_pool,
    keep_image,
    listing,
)
from tests.pool.support import read_image, some_bytes, tiny_store
from tests.support.servers import new_bucket

WHY = {"actor": "the auditor", "reason": "case 7"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def locking(clock: Clock) -> MemoryStore:
    return tiny_store(object_lock=True, clock=clock)


@pytest.fixture
def plain(clock: Clock) -> MemoryStore:
    return tiny_store(clock=clock)


def objects(store: ObjectStore, manifest: Manifest) -> list[tuple[LockMode, int | None, bool]]:
    found = [store.stat(part.key, version_id=part.version_id) for part in manifest.fragments]
    found.append(store.stat(manifest.key))
    return [(one.lock_mode, one.lock_until, one.hold) for one in found]


def listed(index: Index, name: str = "a") -> Entry:
    entry = index.get(name)
    assert entry is not None
    return entry


def second(time: int) -> int:
    return -(-time // NANOSECONDS) * NANOSECONDS


def test_every_object_is_locked_until_then(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    until = clock.now + 30 * DAY
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(700))
        entry = extend_retention(pool, index, manifest, until=until, **WHY)
        whole = second(until)
        assert objects(locking, manifest) == [(LockMode.GOVERNANCE, whole, False)] * 4
        assert (entry.expires_at, entry.lock_until, entry.infinite) == (whole, whole, False)
        assert entry == listed(index)
        assert index.totals(clock.now).locked == 700
        fact = facts(pool)[-1]
        assert (fact["kind"], fact["actor"], fact["reason"]) == (
            "retention_extended",
            "the auditor",
            "case 7",
        )
        assert (fact["lock_until"], fact["expires_at"]) == (whole, whole)


def test_a_lock_keeps_its_mode_when_it_grows(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    lock = Retention(
        expires_at=clock.now + DAY, lock_mode=LockMode.COMPLIANCE, lock_until=clock.now + DAY
    )
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", retention=lock)
        extend_retention(pool, index, manifest, until=clock.now + 9 * DAY, **WHY)
        assert {mode for mode, _, _ in objects(locking, manifest)} == {LockMode.COMPLIANCE}
        assert listed(index).lock_mode is LockMode.COMPLIANCE


@pytest.mark.parametrize("locks", [False, True], ids=["plain", "locks"])
def test_retention_never_shrinks(clock: Clock, tmp_path: Path, locks: bool) -> None:
    store = tiny_store(object_lock=locks, clock=clock)
    first = Retention(expires_at=clock.now + 10 * DAY)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", retention=first)
        for earlier in (1, 9.9):
            with pytest.raises(WouldShorten, match="only ever extended"):
                extend_retention(pool, index, manifest, until=clock.now + int(earlier * DAY), **WHY)
        extend_retention(pool, index, manifest, until=clock.now + 20 * DAY, **WHY)
        before = listing(index), objects(store, manifest), len(facts(pool))
        with pytest.raises(WouldShorten):
            extend_retention(pool, index, manifest, until=clock.now + 19 * DAY, **WHY)
        extend_retention(pool, index, manifest, until=clock.now + 20 * DAY, **WHY)  # as it is
        assert (listing(index), objects(store, manifest), len(facts(pool))) == before


@pytest.mark.parametrize("locks", [False, True], ids=["plain", "locks"])
def test_for_ever_is_for_ever_and_is_locked_for_ten_years(
    clock: Clock, tmp_path: Path, locks: bool
) -> None:
    store = tiny_store(object_lock=locks, clock=clock)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", retention=Retention(expires_at=clock.now + DAY))
        entry = extend_retention(pool, index, manifest, infinite=True, **WHY)
        assert (entry.infinite, entry.expires_at) == (True, None)
        if locks:
            until = second(clock.now + ENDLESS_LOCK)
            assert objects(store, manifest) == [(LockMode.GOVERNANCE, until, False)] * 3
        with pytest.raises(WouldShorten, match="for ever"):
            extend_retention(pool, index, manifest, until=clock.now + 20 * 365 * DAY, **WHY)
        told = len(facts(pool))
        clock.days(10)
        extend_retention(pool, index, manifest, infinite=True, **WHY)
        assert len(facts(pool)) == told
        clock.days(4000)
        with pytest.raises(ImageLocked, match="for ever"):
            delete_image(pool, index, "a", 1, **WHY)
        assert index.totals(clock.now).locked == 300
        extend_retention(pool, index, manifest, infinite=True, **WHY)  # renews the lock
        if locks:
            assert objects(store, manifest)[0][1] == second(clock.now + ENDLESS_LOCK)


def test_an_image_without_an_end_may_be_given_one(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", retention=Retention(expires_infinite=True))
        entry = extend_retention(pool, index, manifest, until=clock.now + DAY, **WHY)
        assert not entry.infinite
        with pytest.raises(ImageLocked):
            delete_image(pool, index, "a", 1, **WHY)


def test_a_date_that_must_be_a_mistake_is_refused(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a")
        with pytest.raises(Unsupported, match="hundred years"):
            extend_retention(pool, index, manifest, until=clock.now + 101 * 365 * DAY, **WHY)
        with pytest.raises(ValueError, match="either"):
            extend_retention(pool, index, manifest, **WHY)


def test_without_object_lock_the_sidecar_alone_keeps_an_image(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a")
        entry = extend_retention(pool, index, manifest, until=clock.now + 5 * DAY, **WHY)
        assert (entry.lock_mode, entry.lock_until) == (LockMode.NONE, second(clock.now + 5 * DAY))
        assert index.totals(clock.now).locked == 300
        with pytest.raises(ImageLocked, match="is kept until"):
            delete_image(pool, index, "a", 1, **WHY)
        entry = set_hold(pool, index, manifest, on=True, **WHY)
        assert entry.hold
        clock.days(6)
        with pytest.raises(ImageHeld, match="placed by the auditor"):
            delete_image(pool, index, "a", 1, **WHY)
        set_hold(pool, index, manifest, on=False, **WHY)
        delete_image(pool, index, "a", 1, **WHY)
        assert plain.uri == "memory:test"
        assert [one.key for one in plain.scan("images/")] == []


def test_a_hold_is_on_every_object_and_goes_from_every_one(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(600))
        assert set_hold(pool, index, manifest, on=True, **WHY).hold
        assert {hold for _, _, hold in objects(locking, manifest)} == {True}
        assert set_hold(pool, index, manifest, on=True, **WHY).hold
        assert not set_hold(pool, index, manifest, on=False, **WHY).hold
        assert {hold for _, _, hold in objects(locking, manifest)} == {False}
        kinds = [fact["kind"] for fact in facts(pool)]
        assert kinds == ["stored", "hold_placed", "hold_released"]
        assert [fact["hold"] for fact in facts(pool)] == [False, True, False]


def test_a_longer_lock_leaves_a_hold_alone_that_somebody_placed_by_hand(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a")
        locking.set_hold(manifest.fragments[0].key, on=True)
        extend_retention(pool, index, manifest, until=clock.now + DAY, **WHY)
        assert objects(locking, manifest)[0][2]


def test_an_object_that_is_locked_longer_stays_so(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(600))
        keys = [part.key for part in manifest.fragments]
        far, near = second(clock.now + 50 * DAY), second(clock.now + DAY)
        locking.set_lock(keys[0], mode=LockMode.GOVERNANCE, until=far)
        locking.set_lock(keys[1], mode=LockMode.COMPLIANCE, until=near)
        extend_retention(pool, index, manifest, until=clock.now + 9 * DAY, **WHY)
        until = second(clock.now + 9 * DAY)
        assert [one[:2] for one in objects(locking, manifest)] == [
            (LockMode.GOVERNANCE, far),
            (LockMode.COMPLIANCE, until),
            (LockMode.GOVERNANCE, until),
            (LockMode.GOVERNANCE, until),
        ]


def change(pool: Pool, index: Index, manifest: Manifest, what: str) -> Entry:
    if what == "extend":
        until = 1_800_000_000 * NANOSECONDS + 40 * DAY
        return extend_retention(pool, index, manifest, until=until, **WHY)
    return set_hold(pool, index, manifest, on=what == "hold", **WHY)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("by_call", [False, True], ids=["recovered", "repeated"])
@pytest.mark.parametrize("what", ["extend", "hold", "release"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_change_that_was_killed_anywhere_is_finished_once(
    locking: MemoryStore,
    clock: Clock,
    tmp_path: Path,
    step: int,
    what: str,
    by_call: bool,
    after: bool,
) -> None:
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(
            pool, index, "a", some_bytes(500), retention=Retention(hold=what == "release")
        )
        pool.flush()
    mortal = Mortal(locking, step, after=after, error=Killed())
    with (
        indexed_pool(mortal, tmp_path, clock=clock) as (pool, index),  # type: ignore[arg-type]
        pytest.raises(Killed),
    ):
        change(pool, index, manifest, what)
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        if by_call:
            change(pool, index, manifest, what)
        else:
            assert finish_keeps(pool, index) == 1
        assert finish_keeps(pool, index) == 0
        wanted = change(pool, index, manifest, what)
        assert listed(index) == wanted
        assert len(set(objects(locking, manifest))) == 1
        assert objects(locking, manifest)[0][2] is wanted.hold
        assert [fact["reason"] for fact in facts(pool)] == ["case 7"]
        assert len(read_kept(locking, manifest).history) == 1


def test_a_store_that_goes_away_is_asked_again_and_one_that_refuses_is_not(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a")
    for error, left in ((TransientStoreError("away"), 1), (StoreUnusable("no right"), 0)):
        store = Mortal(plain, 1, after=False, error=error)
        with indexed_pool(store, tmp_path, clock=clock) as (pool, index):  # type: ignore[arg-type]
            with pytest.raises(type(error)):
                set_hold(pool, index, manifest, on=True, **WHY)
            assert not listed(index).hold
            assert finish_keeps(pool, index) == left
            assert listed(index).hold is bool(left)
            set_hold(pool, index, manifest, on=False, **WHY)


def test_an_image_that_is_gone_or_another_is_not_kept(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a")
        delete_image(pool, index, "a", 1, **WHY)
        with pytest.raises(ImageNotFound):
            set_hold(pool, index, manifest, on=True, **WHY)
        keep_image(pool, index, "a")
        with pytest.raises(ImageNotFound):
            set_hold(pool, index, manifest, on=True, **WHY)
        assert not listed(index).hold


def test_a_sidecar_of_an_earlier_image_says_nothing(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        old = keep_image(pool, index, "a")
        plain.put(sidecar_key("b", 1), sidecar.to_json(old, Kept(hold=True)))
        keep_image(pool, index, "b")
        assert not read_kept(plain, pool.stat("b", 1)).hold
        delete_image(pool, index, "b", 1, **WHY)


def test_a_sidecar_is_read_back_as_it_was_written_and_its_history_is_bounded(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "n\udcff\u00e4me")
        changes = tuple(
            Change(id=str(n), at=n * NANOSECONDS, what="hold_placed", actor="a", reason="ü" * 4096)
            for n in range(150)
        )
        kept = Kept(
            expires_at=NANOSECONDS,
            lock_mode=LockMode.COMPLIANCE,
            lock_until=2 * NANOSECONDS,
            hold=True,
            history=changes,
        )
        data = sidecar.to_json(manifest, kept)
        assert len(data) <= sidecar.HISTORY_BYTES * 1.1
        token, again = sidecar.from_json(data, where="test")
        assert token == manifest.token
        assert again.history == changes[-len(again.history) :]
        assert 5 < len(again.history) < 100
        assert json.loads(data)["expires_at"] == "1970-01-01T00:00:01Z"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"format": "tapelift-retention/9"}', b"\xff"], ids=repr
)
def test_a_sidecar_that_cannot_be_read_keeps_everything_as_it_is(
    plain: MemoryStore, clock: Clock, tmp_path: Path, data: bytes
) -> None:
    with indexed_pool(plain, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a")
        plain.put(sidecar_key("a", 1), data)
        with pytest.raises(CorruptObject):
            set_hold(pool, index, manifest, on=False, **WHY)
        assert plain.read(sidecar_key("a", 1), ceiling=100) == data


def test_a_real_server_keeps_an_image_by_object_lock(
    moto_endpoint: str, clock: Clock, tmp_path: Path
) -> None:
    store = S3Store(new_bucket(moto_endpoint, object_lock=True, prefix="p"))
    with indexed_pool(store, tmp_path, config=None) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(1000))
        until = time.time_ns() + DAY
        extend_retention(pool, index, manifest, until=until, **WHY)
        set_hold(pool, index, manifest, on=True, **WHY)
        assert objects(store, manifest) == [(LockMode.GOVERNANCE, second(until), True)] * 2
        with pytest.raises(ImageHeld):
            delete_image(pool, index, "a", 1, **WHY)
        set_hold(pool, index, manifest, on=False, **WHY)
        with pytest.raises(ImageLocked, match="GOVERNANCE"):
            delete_image(pool, index, "a", 1, **WHY)
        with pytest.raises(WouldShorten):
            extend_retention(pool, index, manifest, until=until - DAY // 2, **WHY)
    store.close()


def test_verification_asks_for_what_was_decided_last(
    locking: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(locking, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", retention=Retention(hold=True))
        set_hold(pool, index, manifest, on=False, **WHY)
        assert pool.verify(manifest, Depth.HEAD).ok
        set_hold(pool, index, manifest, on=True, **WHY)
        locking.set_hold(manifest.fragments[0].key, on=False)
        (problem,) = pool.verify(manifest, Depth.HEAD).problems
        assert "lost its legal hold" in problem
        locking.put(sidecar_key("a", 1), b"{}")
        assert not pool.verify(manifest, Depth.HEAD).ok


def test_a_held_image_is_not_erased_without_object_lock_either(
    plain: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    coding = Coding(client_key=ClientKey(id="k1", key=bytes(32)))
    with indexed_pool(plain, tmp_path, clock=clock, coding=coding) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(500))
        set_hold(pool, index, manifest, on=True, **WHY)
        with pytest.raises(ImageHeld):
            erase_image(pool, manifest, **WHY)
        assert read_image(pool, "a") == some_bytes(500)
        set_hold(pool, index, manifest, on=False, **WHY)
        erase_image(pool, manifest, **WHY)
        with pytest.raises(ImageErased):
            read_image(pool, "a")
