"""Once the manifest is up the image is complete: what fails after it never takes it away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.errors import ObjectLocked, StoreError
from catalog.model import NANOSECONDS, LockMode
from connector.pool import Retention
from connector.pool.verify import Depth
from connector.store.interface import PutOptions, StoredObject
from connector.store.memory import MemoryStore
from tests.pool.support import NOTHING, open_pool, read_image, some_bytes, tiny_store

DAY = 86_400 * NANOSECONDS
NOW = 20_000 * DAY


def locked(until: int) -> Retention:
    return Retention(expires_at=until, lock_mode=LockMode.GOVERNANCE, lock_until=until)


class Refusing(MemoryStore):
    """Refuses every lock, as a policy may."""

    refusing = True

    def set_lock(self, key: str, **settings: Any) -> None:
        if self.refusing:
            raise StoreError("locks are refused")
        super().set_lock(key, **settings)


def test_an_image_whose_lock_is_refused_keeps_its_bytes(tmp_path: Path) -> None:
    store = Refusing(smallest_part=1, versioning=True, object_lock=True, clock=lambda: NOW)
    data = some_bytes(300)
    with open_pool(store, tmp_path, clock=lambda: NOW) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data)
        with pytest.raises(StoreError, match="locks are refused"):
            writer.close(origin=NOTHING, retention=locked(NOW + DAY))
        pool.abort(writer)
        assert read_image(pool, "a") == data
    with open_pool(store, tmp_path, clock=lambda: NOW) as pool:
        assert pool.recover() == [], "it cannot be finished, and keeps nothing else back"
        store.refusing = False
        (manifest,) = pool.recover()
        assert pool.verify(manifest, Depth.FULL).ok
        assert pool.pending() == []


def test_an_image_whose_manifest_was_refused_is_cleaned_away(tmp_path: Path) -> None:
    class NoManifests(MemoryStore):
        def put(
            self,
            key: str,
            body: bytes | bytearray | memoryview,
            options: PutOptions | None = None,
            *,
            only_if_absent: bool = False,
        ) -> StoredObject:
            if key.endswith("manifest.json"):
                raise StoreError("refused")
            return super().put(key, body, options, only_if_absent=only_if_absent)

    store = NoManifests(smallest_part=1, versioning=False, object_lock=False)
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(300))
        with pytest.raises(StoreError, match="refused"):
            writer.close(origin=NOTHING, retention=Retention())
        pool.abort(writer)
        assert pool.pending() == []
    assert list(store.scan("images/")) == []


def test_a_lock_that_has_ended_before_it_could_be_put_is_not_missed(tmp_path: Path) -> None:
    store = tiny_store(object_lock=True, clock=lambda: NOW)
    with open_pool(store, tmp_path, clock=lambda: NOW) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(300))
        manifest = writer.close(origin=NOTHING, retention=locked(NOW - 1))
        assert pool.verify(manifest, Depth.CHECKSUM).ok
        assert store.stat(manifest.fragments[0].key).lock_until is None


def test_a_longer_lock_that_the_bucket_puts_by_itself_stands(tmp_path: Path) -> None:
    class LocksByItself(MemoryStore):
        def set_lock(self, key: str, **settings: Any) -> None:
            if self.stat(key).lock_until is None:
                super().set_lock(key, mode=LockMode.COMPLIANCE, until=NOW + 90 * DAY)
            super().set_lock(key, **settings)

    store = LocksByItself(smallest_part=1, versioning=True, object_lock=True, clock=lambda: NOW)
    with open_pool(store, tmp_path, clock=lambda: NOW) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(300))
        manifest = writer.close(origin=NOTHING, retention=locked(NOW + DAY))
        assert pool.verify(manifest, Depth.CHECKSUM).ok
        key = manifest.fragments[0].key
        assert store.stat(key).lock_until == NOW + 90 * DAY
        with pytest.raises(ObjectLocked):
            store.delete(key, version_id=manifest.fragments[0].version_id)
