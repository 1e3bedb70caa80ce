"""Erased is unreadable for ever, and proved; master keys change without touching data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    ConfigError,
    ImageErased,
    ImageHeld,
    ImageLocked,
    PoolError,
    TransientStoreError,
    Unsupported,
)
from catalog.ledger import Ledger
from catalog.model import Kind, LockMode
from connector.pool import Retention, erase, keys
from connector.pool.coding import ClientKey, Coding, Compression
from connector.pool.erase import erase_image
from connector.pool.keys import KeyOf
from connector.pool.manifest import Manifest
from connector.pool.verify import Depth
from connector.store.interface import PutOptions, StoredObject
from connector.store.memory import MemoryStore
from tests.pool.support import (
    NOTHING,
    open_pool,
    read_image,
    some_bytes,
    store_image,
    tiny_store,
)

OLD = ClientKey(id="2024", key=bytes(range(32)))
NEW = ClientKey(id="2025", key=bytes(range(32, 64)))
SEALED = Coding(client_key=OLD, frame_size=16)
LATER = 4_102_444_800 * 10**9


def whose(manifest: Manifest) -> KeyOf:
    return KeyOf(name=manifest.name, copy=manifest.copy, token=manifest.token)


def kept(store: MemoryStore, key: str) -> list[str | None]:
    return [one.version_id for one in store.scan_versions(key)]


@pytest.mark.parametrize("object_lock", [False, True])
def test_an_erased_image_is_told_from_a_damaged_one_and_its_proofs_stay(
    tmp_path: Path, object_lock: bool
) -> None:
    store, ledger = tiny_store(object_lock=object_lock), Ledger.open(str(tmp_path / "ledger"))
    with open_pool(store, tmp_path, ledger=ledger, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(600))
        other = store_image(pool, "b", some_bytes(600))
        done = erase_image(pool, manifest, reason="the client asked", actor="alice")
        assert not done.already
        with pytest.raises(ImageErased, match="by alice: the client asked") as caught:
            pool.open_image(pool.stat("a"))
        assert caught.value.code == "erased"
        assert kept(store, done.key) == []
        assert pool.stat("a") == Manifest.from_json(manifest.to_json(), where="")
        assert pool.verify(manifest, Depth.CHECKSUM).ok
        found = pool.verify(manifest, Depth.FULL)
        assert (found.problems, found.ok) == ((), False)
        assert "was erased" in found.unknown[0]
        assert read_image(pool, other.name) == some_bytes(600)
        pool.flush()
    stored, _, fact = ledger.facts()
    assert (fact.kind, fact.image, fact.reason, fact.actor) == (
        Kind.ERASED, "a", "the client asked", "alice",
    )  # fmt: skip
    assert (fact.fact_id, fact.sha256, fact.size) == (done.fact_id, stored.sha256, 600)
    assert (done.sha256, done.manifest_key) == (manifest.sha256, manifest.key)


def test_a_lock_keeps_no_image_from_being_erased_and_a_hold_does(tmp_path: Path) -> None:
    store = tiny_store(object_lock=True)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(300))
        lock = Retention(lock_mode=LockMode.COMPLIANCE, lock_until=LATER)
        manifest = writer.close(origin=NOTHING, retention=lock)
        assert store.stat(whose(manifest).object).lock_until is None
        store.set_hold(manifest.key, on=True)
        with pytest.raises(ImageHeld):
            erase_image(pool, manifest, reason="r", actor="a")
        assert read_image(pool, "a") == some_bytes(300)
        store.set_hold(manifest.key, on=False)
        erase_image(pool, manifest, reason="r", actor="a")
        with pytest.raises(ImageErased):
            pool.open_image(manifest)


def test_erasing_twice_is_told_once(tmp_path: Path) -> None:
    store, ledger = tiny_store(), Ledger.open(str(tmp_path / "ledger"))
    with open_pool(store, tmp_path, ledger=ledger, coding=SEALED) as pool:
        manifest = store_image(pool, "a", b"x")
        first = erase_image(pool, manifest, reason="first", actor="a")
        second = erase_image(pool, manifest, reason="second", actor="b")
        assert (second.already, second.fact_id, second.reason) == (True, first.fact_id, "first")
        pool.flush()
    assert [fact.kind for fact in ledger.facts()] == [Kind.STORED, Kind.ERASED]


@pytest.mark.parametrize("coding", [Coding(), Coding(compression=Compression.ZSTD)])
def test_an_image_without_a_key_cannot_be_erased(tmp_path: Path, coding: Coding) -> None:
    with open_pool(tiny_store(), tmp_path, coding=coding) as pool:
        manifest = store_image(pool, "a", b"x")
        with pytest.raises(Unsupported, match="no key"):
            erase_image(pool, manifest, reason="r", actor="a")
        assert read_image(pool, "a") == b"x"


class LockingStore(MemoryStore):
    """A bucket that locks every new object by itself."""

    def put(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        options: PutOptions | None = None,
        *,
        only_if_absent: bool = False,
    ) -> StoredObject:
        stored = super().put(key, body, options, only_if_absent=only_if_absent)
        self.set_lock(key, mode=LockMode.COMPLIANCE, until=LATER, version_id=stored.version_id)
        return stored


def test_a_bucket_that_locks_keys_too_is_named_and_the_image_stays(tmp_path: Path) -> None:
    store = LockingStore(smallest_part=1)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(300))
        with pytest.raises(ImageLocked, match="default retention"):
            erase_image(pool, manifest, reason="r", actor="a")
        assert read_image(pool, "a") == some_bytes(300)
        assert pool.recover() == []


class DyingStore(MemoryStore):
    """A store that is gone after a number of writes and deletes."""

    left = -1

    def _count(self) -> None:
        if self.left == 0:
            raise TransientStoreError("gone")
        self.left -= 1

    def put(self, key: str, *args: Any, **settings: Any) -> StoredObject:
        self._count()
        return super().put(key, *args, **settings)

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        self._count()
        super().delete(key, version_id=version_id)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_erasure_that_a_crash_interrupts_is_finished_and_told_once(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ledger = DyingStore(smallest_part=1), Ledger.open(str(tmp_path / "ledger"))
    with open_pool(store, tmp_path, ledger=ledger, coding=SEALED) as pool:
        manifest = store_image(pool, "a", b"x")
        store.left = steps
        if steps == 2:  # dead before the fact
            monkeypatch.setattr(erase, "_record", lambda *_: store.delete("x"))
        with pytest.raises(TransientStoreError):
            erase_image(pool, manifest, reason="r", actor="alice")
        store.left = -1
        monkeypatch.undo()
    with open_pool(store, tmp_path, ledger=ledger, coding=SEALED) as pool:
        pool.recover()
        with pytest.raises(ImageErased, match="alice"):
            pool.open_image(manifest)
        pool.recover()
        pool.flush()
    assert [fact.kind for fact in ledger.facts()] == [Kind.STORED, Kind.ERASED]


def test_a_key_that_somebody_lost_is_not_called_damage(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", b"x")
        store.delete(whose(manifest).object)
        with pytest.raises(ImageErased, match="look into the ledger"):
            pool.open_image(manifest)


# --- other master keys ------------------------------------------------------------------------


@pytest.mark.parametrize("object_lock", [False, True])
def test_a_new_master_key_opens_everything_once_keys_are_wrapped_anew(
    tmp_path: Path, object_lock: bool
) -> None:
    store = tiny_store(object_lock=object_lock)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        images = [store_image(pool, name, some_bytes(300)) for name in ("a", "b%/\n")]
        etags = [store.stat(part.key).etag for part in images[0].fragments]
    both = Coding(client_key=NEW, earlier_keys=(OLD,), frame_size=16)
    with open_pool(store, tmp_path, coding=both) as pool:
        store_image(pool, "c", some_bytes(300))
        assert read_image(pool, "a") == some_bytes(300)
        result = keys.rewrap_all(store, both, clock=pool.context.clock)
        assert (result.done, result.already, result.left) == (2, 1, ())
        assert keys.rewrap_all(store, both, clock=pool.context.clock).done == 0
    only_new = Coding(client_key=NEW, frame_size=16)
    with open_pool(store, tmp_path, coding=only_new) as pool:
        for name in ("a", "b%/\n", "c"):
            assert read_image(pool, name) == some_bytes(300)
    assert [store.stat(part.key).etag for part in images[0].fragments] == etags
    assert len(kept(store, whose(images[0]).object)) == 1, "an earlier wrapping is left"
    with (
        open_pool(store, tmp_path, coding=SEALED) as pool,
        pytest.raises(ConfigError, match="2025"),
    ):
        pool.open_image(images[0])


def test_keys_that_no_given_master_key_opens_are_named_and_left(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(300))
    result = keys.rewrap_all(store, Coding(client_key=NEW), clock=lambda: 0)
    ((left, why),) = result.left
    assert (left, result.done) == (whose(manifest), 0)
    assert "2024" in why
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        assert read_image(pool, "a") == some_bytes(300)


def test_a_key_that_is_wrapped_anew_while_its_image_is_erased_does_not_come_back(
    tmp_path: Path,
) -> None:
    store = tiny_store(object_lock=True)
    both = Coding(client_key=NEW, earlier_keys=(OLD,), frame_size=16)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(300))
        put = store.put

        def erased_before(key: str, *args: Any, **settings: Any) -> StoredObject:
            if key.startswith("keys/"):
                erase_image(pool, manifest, reason="r", actor="a")
            return put(key, *args, **settings)

        store.put = erased_before  # type: ignore[method-assign]
        with pytest.raises(ImageErased):
            keys.rewrap(store, both, whose(manifest), clock=lambda: 0)
        assert kept(store, whose(manifest).object) == []


def test_a_key_object_of_another_image_opens_nothing(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        one, two = (store_image(pool, name, some_bytes(300)) for name in "ab")
        store.put(whose(one).object, store.read(whose(two).object, ceiling=10_000))
        with pytest.raises(ConfigError, match="does not open"):
            pool.open_image(one)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"format": "other/1"}', b"\xff", b"x" * 100_000]
)
def test_what_is_no_key_object_is_damage(tmp_path: Path, text: bytes) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(300))
        store.put(whose(manifest).object, text)
        with pytest.raises(PoolError, match="is not a key") as caught:
            pool.open_image(manifest)
        assert caught.value.code == "damaged"


def test_keys_lie_apart_so_that_rules_for_images_can_leave_them_out(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(300))
    expected = {part.key for part in manifest.fragments} | {manifest.key}
    assert {one.key for one in store.scan("images/")} == expected
    assert [one.key for one in store.scan("keys/")] == [whose(manifest).object]
