"""Does the store still hold what the manifest says?"""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.model import StorageClass
from connector.pool.manifest import Within
from connector.pool.verify import Depth
from tests.pool.support import FOREVER, NOTHING, open_pool, some_bytes, store_image, tiny_store


@pytest.mark.parametrize("depth", list(Depth))
@pytest.mark.parametrize("size", [0, 64, 600])
def test_a_good_image_is_good_at_every_depth(tmp_path: Path, depth: Depth, size: int) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(size))
        assert pool.verify(manifest, depth).ok


@pytest.mark.parametrize("depth", [Depth.CHECKSUM, Depth.FULL])
def test_a_changed_byte_is_found_by_checksum_and_by_reading(tmp_path: Path, depth: Depth) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600))
        key = manifest.fragments[1].key
        data = bytearray(store.read(key, ceiling=1000))
        data[7] ^= 1
        store.put(key, bytes(data))
        found = pool.verify(manifest, depth)
        assert not found.ok
        assert key in found.problems[0]


@pytest.mark.parametrize("depth", list(Depth))
def test_a_missing_object_and_a_short_one_are_found_at_every_depth(
    tmp_path: Path, depth: Depth
) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600))
        store.delete(manifest.fragments[0].key)
        store.put(manifest.fragments[2].key, b"short")
        problems = pool.verify(manifest, depth).problems
        assert any("is not there" in problem for problem in problems)
        assert any("has 5 bytes" in problem for problem in problems)


def test_an_archived_image_is_checked_without_a_recall_and_not_read(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(99), storage_class=StorageClass.DEEP_ARCHIVE)
        assert pool.verify(manifest, Depth.CHECKSUM).ok
        found = pool.verify(manifest, Depth.FULL)
        assert not found.problems
        assert "cannot be read now" in found.unknown[0]


def test_an_image_within_a_tape_file_is_as_good_as_the_tape_file(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        tape_file = store_image(pool, "tape-file", some_bytes(500))
        place = Within(image="tape-file", copy=1, fragment_number=1, size=100)
        manifest = pool.place_image(
            "a", 1, within=[place], origin=NOTHING, retention=FOREVER, size=100
        )
        assert pool.verify(manifest, Depth.FULL).ok
        store.delete(tape_file.fragments[0].key)
        assert "is not there" in pool.verify(manifest, Depth.CHECKSUM).problems[0]
        store.delete(tape_file.key)
        assert "not in the pool" in pool.verify(manifest, Depth.HEAD).problems[0]
