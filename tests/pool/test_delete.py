"""Deletion: durable once answered, nothing of the image left, nothing of anybody else's gone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from catalog.errors import (
    CorruptObject,
    ImageBusy,
    ImageHeld,
    ImageLocked,
    StoreUnusable,
    TransientStoreError,
)
from catalog.model import Kind, LockMode
from connector.pool import Retention
from connector.pool.coding import ClientKey, Coding
from connector.pool.delete import DeleteState, delete_image, finish_deletes, pending_deletes
from connector.pool.index import DELETING
from connector.pool.manifest import Within
from connector.pool.sidecar import sidecar_key
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
    keys,
)
from tests.pool.support import NOTHING, read_image, some_bytes, tiny_store
from tests.support.servers import new_bucket

WHY = {"reason": "a test", "actor": "somebody"}


@pytest.fixture(params=["plain", "versions", "locks"])
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(
        smallest_part=1,
        versioning=request.param != "plain",
        object_lock=request.param == "locks",
    )


def kinds(found: list[dict[str, object]]) -> list[object]:
    return [fact["kind"] for fact in found]


def test_nothing_of_a_deleted_image_is_left(store: MemoryStore, tmp_path: Path) -> None:
    with indexed_pool(store, tmp_path) as (pool, index):
        keep_image(pool, index, "a", some_bytes(900))
        neighbour = keep_image(pool, index, "a", some_bytes(500, 2), copy=2)
        assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.DELETED
        assert keys(store) == keys(store, "images/a/2/")
        assert [entry.copy for entry in index.page()] == [2]
        assert pool.find("a", 1) is None
        assert read_image(pool, "a", 2) == some_bytes(500, 2)
        assert pending_deletes(index) == []
        last = facts(pool)[-1]
        assert (last["kind"], last["actor"], last["reason"]) == ("deleted", "somebody", "a test")
        assert (last["image"], last["size"], last["copy"]) == ("a", 900, 1)
        assert neighbour.token in "".join(keys(store))


def test_the_second_deletion_says_deleted_and_records_nothing(
    store: MemoryStore, tmp_path: Path
) -> None:
    with indexed_pool(store, tmp_path) as (pool, index):
        keep_image(pool, index, "a")
        for _ in range(3):
            assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.DELETED
        assert delete_image(pool, index, "never", 1, **WHY) is DeleteState.DELETED
        assert kinds(facts(pool)) == [Kind.STORED, Kind.DELETED]


def test_a_name_can_be_used_again_after_its_image_was_deleted(
    store: MemoryStore, tmp_path: Path
) -> None:
    with indexed_pool(store, tmp_path) as (pool, index):
        for seed in (1, 2, 3):
            keep_image(pool, index, "a", some_bytes(700, seed))
            assert read_image(pool, "a") == some_bytes(700, seed)
            delete_image(pool, index, "a", 1, **WHY)
        assert keys(store) == []


def test_older_versions_and_markers_of_its_keys_go_with_an_image(tmp_path: Path) -> None:
    store = MemoryStore(smallest_part=1, object_lock=False)
    with indexed_pool(store, tmp_path) as (pool, index):
        first = keep_image(pool, index, "a", some_bytes(600))
        for part in first.fragments:
            store.put(part.key, b"overwritten by hand")
        store.delete(first.fragments[0].key)
        store.delete(first.key)  # somebody else's delete: hidden, not gone
        keep_image(pool, index, "a", some_bytes(400, 2))
        delete_image(pool, index, "a", 1, **WHY)
        left = keys(store)
        assert all(first.token in key for key in left)  # that image was never deleted by us
        assert pool.find("a", 1) is None


def test_an_earlier_version_of_the_manifest_never_comes_back(tmp_path: Path) -> None:
    store = MemoryStore(smallest_part=1)
    clock = Clock()
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        first = keep_image(pool, index, "a", some_bytes(600))
        version = store.stat(first.key).version_id
        store.set_lock(
            first.key,
            mode=LockMode.COMPLIANCE,
            until=2**62,
            version_id=version,
        )
        store.delete(first.key)
        keep_image(pool, index, "a", some_bytes(400, 2))
        assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.PENDING
        assert pool.find("a", 1) is None
        assert list(pool.images()) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 9))
def test_a_deletion_that_was_killed_anywhere_is_finished(
    store: MemoryStore, tmp_path: Path, step: int, after: bool
) -> None:
    data = some_bytes(700)
    with indexed_pool(store, tmp_path) as (pool, index):
        keep_image(pool, index, "a", data)
        keep_image(pool, index, "b", data)
        pool.flush()
    mortal = Mortal(store, step, after=after, error=Killed())
    with indexed_pool(mortal, tmp_path) as (pool, index):  # type: ignore[arg-type]
        try:
            delete_image(pool, index, "a", 1, **WHY)
        except Killed:
            listed = pool.find("a", 1)
            assert listed is None or read_image(pool, "a") == data  # whole or not at all
    with indexed_pool(store, tmp_path) as (pool, index):
        assert finish_deletes(pool, index) == []
        assert keys(store) == keys(store, "images/b/")
        assert [entry.name for entry in index.page()] == ["b"]
        assert kinds(facts(pool)) == [Kind.DELETED]
        assert read_image(pool, "b") == data
        assert index.totals(0).images == 1


def test_a_new_image_of_the_name_outlives_the_deletion_of_the_old_one(
    store: MemoryStore, tmp_path: Path
) -> None:
    """Killed when the manifest was gone and nobody had written that down yet."""
    with indexed_pool(store, tmp_path) as (pool, index):
        keep_image(pool, index, "a", some_bytes(700))
    mortal = Mortal(store, 1, after=True, error=Killed())
    with (
        indexed_pool(mortal, tmp_path) as (pool, index),  # type: ignore[arg-type]
        pytest.raises(Killed),
    ):
        delete_image(pool, index, "a", 1, **WHY)
    with indexed_pool(store, tmp_path) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(500, 2))
        assert finish_deletes(pool, index) == []
        assert read_image(pool, "a") == some_bytes(500, 2)
        assert all(manifest.token in key or key == manifest.key for key in keys(store))
        entry = index.get("a")
        assert entry is not None
        assert (entry.token, entry.state) == (manifest.token, "complete")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_goes_away_leaves_a_deletion_pending(
    store: MemoryStore, tmp_path: Path, after: bool
) -> None:
    for step in (1, 2, 3):
        folder = tmp_path / str(step)
        with indexed_pool(store, folder) as (pool, index):
            keep_image(pool, index, f"a{step}", some_bytes(700))
        away = Mortal(store, step, after=after, error=TransientStoreError("away"))
        with indexed_pool(away, folder) as (pool, index):  # type: ignore[arg-type]
            state = delete_image(pool, index, f"a{step}", 1, **WHY)
            assert state is DeleteState.PENDING
            assert [row.name for row in pending_deletes(index)] == [f"a{step}"]
            entry = index.get(f"a{step}")
            assert entry is not None
            assert entry.state == DELETING
            assert delete_image(pool, index, f"a{step}", 1, **WHY) is DeleteState.DELETED
            assert kinds(facts(pool)) == [Kind.STORED, Kind.DELETED]
    assert keys(store) == []


def test_a_deletion_that_is_refused_at_once_never_was(store: MemoryStore, tmp_path: Path) -> None:
    with indexed_pool(store, tmp_path) as (pool, index):
        keep_image(pool, index, "a", some_bytes(700))
        before = index.page()
    forbidden = Mortal(store, 1, after=False, error=StoreUnusable("no right to delete"))
    with indexed_pool(forbidden, tmp_path) as (pool, index):  # type: ignore[arg-type]
        with pytest.raises(StoreUnusable):
            delete_image(pool, index, "a", 1, **WHY)
        assert pending_deletes(index) == []
        assert index.page() == before
        assert read_image(pool, "a") == some_bytes(700)
        assert kinds(facts(pool)) == [Kind.STORED]


def test_a_locked_image_is_refused_until_its_lock_ends(tmp_path: Path) -> None:
    clock = Clock()
    store = tiny_store(object_lock=True, clock=clock)
    lock = Retention(lock_mode=LockMode.COMPLIANCE, lock_until=clock.now + 10 * DAY)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        keep_image(pool, index, "a", retention=lock)
        before = index.page()
        with pytest.raises(ImageLocked, match="locked in COMPLIANCE mode until 2027-01-2"):
            delete_image(pool, index, "a", 1, **WHY)
        assert index.page() == before
        assert pending_deletes(index) == []
        clock.days(11)
        assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.DELETED
        assert keys(store) == []


@pytest.mark.parametrize("which", [0, -1], ids=["fragment", "manifest"])
def test_a_lock_that_only_the_store_knows_is_respected(tmp_path: Path, which: int) -> None:
    clock = Clock()
    store = tiny_store(object_lock=True, clock=clock)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(600))
        key = [*(part.key for part in manifest.fragments), manifest.key][which]
        store.set_hold(key, on=True)
        with pytest.raises(ImageHeld, match="legal hold"):
            delete_image(pool, index, "a", 1, **WHY)
        store.set_hold(key, on=False)
        store.set_lock(key, mode=LockMode.GOVERNANCE, until=clock.now + DAY)
        with pytest.raises(ImageLocked, match="GOVERNANCE"):
            delete_image(pool, index, "a", 1, **WHY)
        assert read_image(pool, "a") == some_bytes(600)


def test_what_a_lock_keeps_is_freed_when_it_ends(tmp_path: Path) -> None:
    """An older version of a fragment is locked: the image goes, its space waits."""
    clock = Clock()
    store = tiny_store(object_lock=True, clock=clock)
    with indexed_pool(store, tmp_path, clock=clock) as (pool, index):
        manifest = keep_image(pool, index, "a", some_bytes(600))
        key = manifest.fragments[0].key
        extra = store.put(key, b"a later version").version_id
        store.set_lock(key, mode=LockMode.COMPLIANCE, until=clock.now + DAY, version_id=extra)
        assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.PENDING
        assert pool.find("a", 1) is None
        assert keys(store) == [key]
        (row,) = finish_deletes(pool, index)
        assert "locked until" in row.problem
        assert index.totals(clock.now).images == 0
        assert index.totals(clock.now).physical == 600
        assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.PENDING
        clock.days(2)
        assert finish_deletes(pool, index) == []
        assert keys(store) == []
        assert index.totals(clock.now).physical == 0
        assert kinds(facts(pool)) == [Kind.STORED, Kind.DELETED]


def test_a_tape_file_stays_while_images_lie_in_it(store: MemoryStore, tmp_path: Path) -> None:
    with indexed_pool(store, tmp_path) as (pool, index):
        keep_image(pool, index, "tape-file", some_bytes(600))
        within = [Within(image="tape-file", copy=1, fragment_number=1, size=None)]
        pool.place_image(
            "inner", 1, within=within, origin=NOTHING, retention=Retention(),
            on_commit=index.on_commit,
        )  # fmt: skip
        with pytest.raises(ImageBusy, match="'inner'"):
            delete_image(pool, index, "tape-file", 1, **WHY)
        delete_image(pool, index, "inner", 1, **WHY)
        delete_image(pool, index, "tape-file", 1, **WHY)
        assert keys(store) == []


def test_an_image_whose_commit_is_not_finished_is_busy(store: MemoryStore, tmp_path: Path) -> None:
    """Else the commit, taken up again, would bring back what was deleted."""
    mortal = Mortal(store, 6, after=True, error=Killed())  # two parts and one put, the manifest
    with indexed_pool(mortal, tmp_path / "x") as (pool, index):  # type: ignore[arg-type]
        for step in range(1, 6):
            mortal._left, mortal.died = step, False
            try:
                keep_image(pool, index, f"b{step}", some_bytes(300))
            except Killed:
                if pool.find(f"b{step}", 1) is None:
                    continue
                mortal.died, mortal._left = False, -1
                with pytest.raises(ImageBusy, match="not finished"):
                    delete_image(pool, index, f"b{step}", 1, **WHY)
                pool.recover(index.on_commit)
                delete_image(pool, index, f"b{step}", 1, **WHY)
                assert pool.recover(index.on_commit) == []
                assert pool.find(f"b{step}", 1) is None
                break
        else:
            pytest.fail("no kill fell between the manifest and the end of the commit")


def test_a_manifest_that_cannot_be_read_keeps_everything(tmp_path: Path) -> None:
    store = tiny_store()
    with indexed_pool(store, tmp_path) as (pool, index):
        manifest = keep_image(pool, index, "a")
        before = keys(store)
        store.put(sidecar_key("a", 1), b"{}")
        with pytest.raises(CorruptObject):
            delete_image(pool, index, "a", 1, **WHY)
        store.delete(sidecar_key("a", 1))
        store.put(manifest.key, b"{}")
        with pytest.raises(CorruptObject):
            delete_image(pool, index, "a", 1, **WHY)
        assert keys(store) == before


def test_a_manifest_that_names_anothers_objects_does_not_delete_them(tmp_path: Path) -> None:
    store = tiny_store()
    with indexed_pool(store, tmp_path) as (pool, index):
        victim = keep_image(pool, index, "victim", some_bytes(200))
        manifest = keep_image(pool, index, "a", some_bytes(200))
        part = dataclasses.replace(manifest.fragments[0], key=victim.fragments[0].key)
        evil = dataclasses.replace(manifest, fragments=(part,))
        store.put(manifest.key, evil.to_json())
        delete_image(pool, index, "a", 1, **WHY)
        assert read_image(pool, "victim") == some_bytes(200)


def test_an_image_that_another_host_deleted_leaves_the_index(
    store: MemoryStore, tmp_path: Path
) -> None:
    with indexed_pool(store, tmp_path / "here") as (pool, index):
        keep_image(pool, index, "a")
        with indexed_pool(store, tmp_path / "there") as (other, others):
            delete_image(other, others, "a", 1, **WHY)
        assert index.get("a") is not None
        assert delete_image(pool, index, "a", 1, **WHY) is DeleteState.DELETED
        assert index.get("a") is None


@pytest.mark.parametrize("object_lock", [False, True], ids=["plain", "locks"])
def test_a_real_server_keeps_nothing_of_a_deleted_image(
    moto_endpoint: str, tmp_path: Path, object_lock: bool
) -> None:
    store: ObjectStore = S3Store(new_bucket(moto_endpoint, object_lock=object_lock, prefix="p"))
    with indexed_pool(store, tmp_path, config=None) as (pool, index):
        keep_image(pool, index, "a/b \udcff", some_bytes(3000))
        keep_image(pool, index, "b", some_bytes(10))
        if object_lock:
            manifest = pool.stat("b", 1)
            store.set_hold(manifest.fragments[0].key, on=True)
            with pytest.raises(ImageHeld):
                delete_image(pool, index, "b", 1, **WHY)
            store.set_hold(manifest.fragments[0].key, on=False)
        assert delete_image(pool, index, "a/b \udcff", 1, **WHY) is DeleteState.DELETED
        assert {key.split("/")[1] for key in keys(store)} == {"b"}
        delete_image(pool, index, "b", 1, **WHY)
        assert keys(store) == []
    store.close()


def test_the_key_of_an_encrypted_image_goes_with_it(store: MemoryStore, tmp_path: Path) -> None:
    coding = Coding(client_key=ClientKey(id="k1", key=bytes(32)))
    with indexed_pool(store, tmp_path, coding=coding) as (pool, index):
        keep_image(pool, index, "a", some_bytes(600))
        keep_image(pool, index, "b", some_bytes(600, 2))
        assert len(keys(store, "keys/")) == 2
        delete_image(pool, index, "a", 1, **WHY)
        assert keys(store) == keys(store, "images/b/")
        assert keys(store, "keys/") == keys(store, "keys/b/")
        assert read_image(pool, "b") == some_bytes(600, 2)
