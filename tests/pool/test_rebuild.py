"""All local state gone, the same listing again; nothing in the bucket is mistaken for an image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import TooBusy, TransientStoreError
from catalog.model import LockMode
from connector.pool import Retention, rebuild
from connector.pool.delete import delete_image, finish_deletes
from connector.pool.index import DAMAGED, DELETING, Index
from connector.pool.keep import extend_retention, set_hold
from connector.pool.manifest import Within
from connector.pool.rebuild import ORPHAN_AGE, Rebuilt
from connector.store.interface import ObjectStore, StoredObject
from connector.store.memory import MemoryStore
from connector.store.s3 import S3Store
from tests.pool.indexed import DAY, Clock, Killed, Mortal, indexed_pool, keep_image, listing
from tests.pool.support import NOTHING, read_image, some_bytes
from tests.support.servers import new_bucket

WHY = {"actor": "somebody", "reason": "a test"}
ODD = ["a", "a/b", "../x", ".", "%41", "n\udcffme", "\x00", "ä e", "a" * 300, "images", "1"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["plain", "locks"])
def store(request: pytest.FixtureRequest, clock: Clock) -> MemoryStore:
    locks = request.param == "locks"
    return MemoryStore(smallest_part=1, versioning=locks, object_lock=locks, clock=clock)


class Watched:
    """A store that does something when an object is read the first time, or a listing comes by."""

    def __init__(self, store: ObjectStore, act: Callable[[str], None]) -> None:
        self._store, self._act = store, act
        self.manifests_read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str, **rest: Any) -> bytes:
        self.manifests_read += key.endswith("manifest.json")
        return self._store.read(key, **rest)

    def scan(self, prefix: str) -> Iterator[StoredObject]:
        for stored in self._store.scan(prefix):
            self._act(stored.key)
            yield stored


def fill(store: MemoryStore, folder: Path, clock: Clock) -> tuple[bytes, Any]:
    """A pool with a bit of everything; gives its listing and its sums."""
    locks = store.probe().object_lock
    with indexed_pool(store, folder, clock=clock) as (pool, index):
        for number, name in enumerate(ODD):
            clock.now += 1_111_111_111
            retention = Retention(
                expires_at=clock.now + number * DAY,
                lock_mode=LockMode.GOVERNANCE if locks and number % 2 else LockMode.NONE,
                lock_until=clock.now + number * DAY + 5,
            )
            keep_image(pool, index, name, some_bytes(100 * number), retention=retention)
            keep_image(pool, index, name, some_bytes(70), copy=12)
        within = [Within(image="a", copy=1, fragment_number=1, size=None)]
        pool.place_image(
            "inner", 1, within=within, origin=NOTHING, retention=Retention(),
            on_commit=index.on_commit,
        )  # fmt: skip
        extend_retention(pool, index, pool.stat("a/b", 1), until=clock.now + 99 * DAY, **WHY)
        extend_retention(pool, index, pool.stat(".", 1), infinite=True, **WHY)
        set_hold(pool, index, pool.stat("ä e", 12), on=True, **WHY)
        keep_image(pool, index, "gone")
        delete_image(pool, index, "gone", 1, **WHY)
        return listing(index), index.totals(clock.now)


def test_the_listing_is_byte_equal_after_all_local_state_is_lost(
    store: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    before, sums = fill(store, tmp_path / "old", clock)
    shutil.rmtree(tmp_path / "old")
    with indexed_pool(store, tmp_path / "new", clock=clock) as (pool, index):
        assert not index.complete
        found = rebuild.rebuild(pool, index)
        assert listing(index) == before
        assert index.totals(clock.now) == sums
        assert index.complete
        assert index.within("a", 1) == ("inner", 1)
        assert found == Rebuilt(images=2 * len(ODD) + 1)


def test_a_second_rebuild_changes_nothing_and_leaves_no_rows(
    store: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    before, sums = fill(store, tmp_path, clock)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        for _ in range(2):
            rebuild.rebuild(pool, index)
            assert (listing(index), index.totals(clock.now)) == (before, sums)
        with index.journal.transaction() as db:
            generations = db.execute("SELECT DISTINCT generation FROM stored_images").fetchall()
            within = db.execute("SELECT count(*) FROM stored_within").fetchone()
            touched = db.execute("SELECT count(*) FROM index_touched").fetchone()
        assert (len(generations), within, touched) == (1, (1,), (0,))


def test_findings_are_reported_and_are_no_images(
    store: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        good = keep_image(pool, index, "good", some_bytes(600))
        torn = keep_image(pool, index, "torn", some_bytes(600))
        cut = keep_image(pool, index, "cut", some_bytes(600))
        keep_image(pool, index, "unreadable")
        keep_image(pool, index, "moved")
        abandoned = pool.write_image("mine", 1)
        abandoned.write(some_bytes(700))
        abandoned.suspend()
        store.delete(torn.fragments[1].key, version_id=torn.fragments[1].version_id)
        version = store.put(cut.fragments[0].key, b"short").version_id
        if version is not None:  # the version that the manifest names is still whole
            assert store.stat(cut.fragments[0].key).size == 5
        store.put("images/unreadable/1/manifest.json", b"{}")
        store.put("images/elsewhere/1/manifest.json", pool.stat("moved", 1).to_json())
        foreign = [
            "images/README",
            "images/a%2/1/manifest.json",
            "images/good/0/manifest.json",
            "images/good/1/notes",
            "images/good/1/sub/manifest.json",
            "images/good/x/manifest.json",
            "images/zz",
        ]
        for key in foreign:
            store.put(key, b"four")
        store.put("images/good/1/0123456789abcdef-00000", b"an orphan")
        store.put("images/only/3/0123456789abcdef-00000", b"another")
        store.start_upload("images/other/1/0123456789abcdef-00000")
        clock.now += ORPHAN_AGE + 1
        store.put("images/young/1/0123456789abcdef-00000", b"somebody writes")

        told: list[int] = []
        found = rebuild.rebuild(pool, index, lambda one: told.append(one.images))
        versions = store.probe().versioning
        assert [entry.name for entry in index.page()] == ["cut", "good", "moved", "torn"]
        states = {entry.name: entry.state for entry in index.page()}
        assert states["torn"] == DAMAGED
        assert states["cut"] == ("complete" if versions else DAMAGED)
        assert states["good"] == "complete"
        assert sorted(found.foreign.named) == foreign
        assert (found.foreign.count, found.foreign.size) == (7, 28)
        assert sorted(found.orphans.named) == [
            "images/good/1/0123456789abcdef-00000",
            "images/only/3/0123456789abcdef-00000",
        ]
        assert found.orphans.size == 16
        assert found.damaged.count == (3 if versions else 4)
        assert "images/torn/1/" in "".join(found.damaged.named)
        assert found.uploads.named == ["images/other/1/0123456789abcdef-00000"]
        assert told[-1] == found.images == 4
        assert read_image(pool, "good") == some_bytes(600)
        assert good.token in [entry.token for entry in index.page()]


@pytest.mark.parametrize("failure", [TransientStoreError("away"), Killed()], ids=["away", "kill"])
def test_an_interrupted_rebuild_leaves_the_old_index_and_goes_on(
    store: MemoryStore,
    clock: Clock,
    tmp_path: Path,
    failure: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", 3)
    monkeypatch.setattr(rebuild, "READERS", 1)
    before, sums = fill(store, tmp_path / "old", clock)
    for key in ("images/README", "images/a/1/notes", "images/zz"):
        store.put(key, b"foreign")
    with indexed_pool(store, tmp_path / "new", clock=clock) as (pool, index):
        keep_image(pool, index, "here")
        old = listing(index)
    asked = 0

    def fail(key: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 60:
            raise failure

    watched = Watched(store, fail)
    with indexed_pool(watched, tmp_path / "new", clock=clock) as (pool, index):  # type: ignore[arg-type]
        with pytest.raises(type(failure)):
            rebuild.rebuild(pool, index)
        assert listing(index) == old
    again = Watched(store, lambda key: None)
    with indexed_pool(again, tmp_path / "new", clock=clock) as (pool, index):  # type: ignore[arg-type]
        keep_image(pool, index, "00 meanwhile")  # in order before what was looked at already
        delete_image(pool, index, "\x00", 1, **WHY)
        again.manifests_read = 0
        found = rebuild.rebuild(pool, index)
        assert 0 < again.manifests_read < len(ODD)
        assert found.foreign.count == 3
        gone = {("\x00", 1)}
        here = {("here", 1), ("00 meanwhile", 1)}
        was = {(entry["name"], entry["copy"]) for entry in map(json.loads, before.split(b"\n"))}
        assert {(entry.name, entry.copy) for entry in index.page()} == was - gone | here
        sums_now = index.totals(clock.now)
        assert sums_now.images == sums.images + 1
        after = listing(index)
        rebuild.rebuild(pool, index)
        assert (listing(index), index.totals(clock.now)) == (after, sums_now)


def test_a_rebuild_that_was_begun_long_ago_begins_anew(
    store: MemoryStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", 1)
    monkeypatch.setattr(rebuild, "READERS", 1)
    before, _ = fill(store, tmp_path / "old", clock)
    seen: list[str] = []

    def fail(key: str) -> None:
        seen.append(key)
        if len(seen) == 50:
            raise TransientStoreError("away")

    watched = Watched(store, fail)
    with indexed_pool(watched, tmp_path / "new", clock=clock) as (pool, index):  # type: ignore[arg-type]
        with pytest.raises(TransientStoreError):
            rebuild.rebuild(pool, index)
        store.delete("images/1/1/manifest.json")  # by hand, behind the place where it stopped
        clock.days(2)
        rebuild.rebuild(pool, index)
        assert index.get("1", 1) is None
        assert len(index.page()) == 2 * len(ODD)
        assert listing(index) != before


def test_what_changes_during_a_rebuild_is_right_in_the_end(
    store: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    """A commit, a deletion and a hold, each behind the listing and before it."""
    names = [f"m{n:02}" for n in range(40)]
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        for name in names:
            keep_image(pool, index, name, some_bytes(20))

        def change(key: str) -> None:
            if done or not key.startswith("images/m20/"):
                return
            done.append(key)
            for one in ("m03", "m33"):
                delete_image(pool, index, one, 1, **WHY)
                set_hold(pool, index, pool.stat(f"{one[:2]}4", 1), on=True, **WHY)
                keep_image(pool, index, f"{one}x", some_bytes(10))

        done: list[str] = []
        watched = Watched(store, change)
        with indexed_pool(watched, tmp_path / "w", clock=clock) as (other, _):  # type: ignore[arg-type]
            rebuild.rebuild(other, index)
        assert done
        wanted = sorted({*names, "m03x", "m33x"} - {"m03", "m33"})
        assert [entry.name for entry in index.page()] == wanted
        assert [entry.name for entry in index.page() if entry.hold] == ["m04", "m34"]
        after = listing(index), index.totals(clock.now)
        rebuild.rebuild(pool, index)
        assert (listing(index), index.totals(clock.now)) == after


def test_what_is_being_deleted_does_not_come_back(
    store: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        keep_image(pool, index, "a")
    away = Mortal(store, 1, after=False, error=TransientStoreError("away"))
    with indexed_pool(away, tmp_path, clock=clock) as (pool, index):  # type: ignore[arg-type]
        delete_image(pool, index, "a", 1, **WHY)
        rebuild.rebuild(pool, index)
        (entry,) = index.page()
        assert entry.state == DELETING
        assert index.totals(clock.now).images == 0
        assert finish_deletes(pool, index) == []
        assert index.page() == []


def test_two_rebuilds_at_once_are_one_too_many(
    store: MemoryStore, clock: Clock, tmp_path: Path
) -> None:
    refused: list[Index] = []
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        keep_image(pool, index, "a")

        def again(_: str) -> None:
            if not refused:
                refused.append(index)
                with pytest.raises(TooBusy):
                    rebuild.rebuild(pool, index)

        watched = Watched(store, again)
        with indexed_pool(watched, tmp_path / "w", clock=clock) as (other, _):  # type: ignore[arg-type]
            rebuild.rebuild(other, index)
        assert refused
        rebuild.rebuild(pool, index)


def test_memory_holds_no_more_manifests_than_the_bound(
    store: MemoryStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BYTES_ON_THEIR_WAY", 10_000)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        for number in range(40):
            keep_image(pool, index, f"m{number:02}", some_bytes(1500, number))
        largest = max(one.size for one in store.scan("images/") if one.key.endswith(".json"))
        ahead: list[int] = []
        out = 0

        def listed(key: str) -> None:
            nonlocal out
            out += key.endswith("manifest.json")
            ahead.append(out)

        watched = Watched(store, listed)
        with indexed_pool(watched, tmp_path / "w", clock=clock) as (other, _):  # type: ignore[arg-type]
            taken: list[int] = []
            take = rebuild._Rebuild._take

            def count(self: Any, looked: Any) -> None:
                taken.append(ahead[-1])
                take(self, looked)

            monkeypatch.setattr(rebuild._Rebuild, "_take", count)
            rebuild.rebuild(other, index)
        most = max(seen - number for number, seen in enumerate(taken))
        assert most <= 10_000 // (largest // 2) + 3
        assert len(index.page()) == 40


@pytest.mark.parametrize("object_lock", [False, True], ids=["plain", "locks"])
def test_a_real_server_gives_the_same_listing(
    moto_endpoint: str, tmp_path: Path, object_lock: bool
) -> None:
    store = S3Store(new_bucket(moto_endpoint, object_lock=object_lock, prefix="p"))
    with indexed_pool(store, tmp_path / "old", config=None) as (pool, index):
        for name in ODD:
            keep_image(pool, index, name, some_bytes(50))
        set_hold(pool, index, pool.stat("a", 1), on=True, **WHY)
        before = listing(index)
    with indexed_pool(store, tmp_path / "new", config=None) as (pool, index):
        found = rebuild.rebuild(pool, index)
        assert listing(index) == before
        assert found == Rebuilt(images=len(ODD))
        set_hold(pool, index, pool.stat("a", 1), on=False, **WHY)
    store.close()
