"""Images go in and come out, byte for byte."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import (
    ImageDamaged,
    ImageExists,
    ImageNotFound,
    PoolError,
    StoreUnusable,
)
from catalog.ledger import Ledger
from catalog.model import Kind, LockMode, StorageClass
from connector.pool import PoolConfig, Retention
from connector.pool.manifest import Within
from connector.pool.verify import Depth
from connector.store.interface import Capabilities
from connector.store.memory import MemoryStore
from tests.pool.support import (
    FOREVER,
    NOTHING,
    open_pool,
    read_image,
    some_bytes,
    store_image,
    tiny_config,
    tiny_store,
)

SIZES = [0, 1, 63, 64, 65, 255, 256, 257, 320, 511, 512, 513, 1000]


@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_any_size_comes_back(tmp_path: Path, size: int) -> None:
    data = some_bytes(size)
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", data)
        assert manifest.size == size
        assert manifest.sha256 == hashlib.sha256(data).hexdigest()
        assert read_image(pool, "a") == data


@pytest.mark.parametrize("size", SIZES)
def test_fragments_are_the_image_and_nothing_else(tmp_path: Path, size: int) -> None:
    store, data = tiny_store(), some_bytes(size)
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", data)
    joined = b"".join(store.read(part.key, ceiling=10_000) for part in manifest.fragments)
    assert joined == data
    for part in manifest.fragments:
        piece = data[part.offset : part.offset + part.size]
        assert hashlib.sha256(piece).hexdigest() == part.sha256
    assert list(store.uploads("")) == []


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(max_size=200), max_size=12),
    part=st.integers(1, 90),
    parts=st.integers(1, 5),
    cuts=st.sets(st.integers(0, 11)),
)
def test_however_a_stream_arrives_and_is_cut_the_image_is_its_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[bytes],
    part: int,
    parts: int,
    cuts: set[int],
) -> None:
    config = tiny_config(part, part * parts)
    with open_pool(tiny_store(), tmp_path_factory.mktemp("pool"), config=config) as pool:
        writer = pool.write_image("a", 1)
        for at, piece in enumerate(pieces):
            writer.write(piece)
            if at in cuts:
                writer.cut()
        data = b"".join(pieces)
        assert writer.offset == len(data)
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert manifest.sha256 == hashlib.sha256(data).hexdigest()
        assert read_image(pool, "a") == data
        reader = pool.open_image(manifest)
        rng = random.Random(len(data))
        for _ in range(5):
            low = rng.randrange(len(data) + 2)
            size = rng.randrange(100)
            assert reader.read(low, size) == data[low : low + size]
            streamed = b"".join(bytes(view) for view in reader.stream(low, size))
            assert streamed == data[low : low + size]


def test_bytes_received_into_the_buffer_are_the_image(tmp_path: Path) -> None:
    data = some_bytes(700)
    with open_pool(tiny_store(), tmp_path) as pool:
        writer = pool.write_image("a", 1)
        at = 0
        while at < len(data):
            room = writer.buffer()
            size = min(len(room), 33, len(data) - at)
            room[:size] = data[at : at + size]
            writer.advance(size)
            at += size
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data


def test_an_image_is_not_listed_before_it_is_closed(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(1000))
        writer.cut()
        assert list(pool.images()) == []
        assert pool.find("a", 1) is None
        writer.close(origin=NOTHING, retention=FOREVER)
        assert list(pool.images()) == [("a", 1)]


def test_a_name_is_taken_once_and_the_first_image_stays(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        store_image(pool, "a", b"first")
        with pytest.raises(ImageExists):
            pool.write_image("a", 1)
        store_image(pool, "a", b"second copy", copy=2)
        assert read_image(pool, "a", 1) == b"first"
        assert pool.copies("a") == [1, 2]


def test_the_later_of_two_writers_sees_exists_and_leaves_nothing(tmp_path: Path) -> None:
    store = tiny_store()
    with (
        open_pool(store, tmp_path / "one") as one,
        open_pool(store, tmp_path / "two") as two,
    ):
        slow = one.write_image("a", 1)
        slow.write(some_bytes(600, seed=1))
        quick = store_image(two, "a", b"quick")
        with pytest.raises(ImageExists, match="another writer"):
            slow.close(origin=NOTHING, retention=FOREVER)
        assert one.pending() == []
        assert read_image(one, "a") == b"quick"
        keys = {stored.key for stored in store.scan("images/")}
        assert keys == {part.key for part in quick.fragments} | {quick.key}


def test_a_size_or_digest_that_disagrees_is_never_committed(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        for wrong in ({"size": 3}, {"sha256": "0" * 64}):
            writer = pool.write_image("a", 1)
            writer.write(b"four")
            with pytest.raises(ImageDamaged, match="the sender says"):
                writer.close(origin=NOTHING, retention=FOREVER, **wrong)
            pool.abort(writer)
        assert pool.find("a", 1) is None
        assert list(store.scan("images/")) == []


def test_an_aborted_image_leaves_no_object_no_part_and_no_row(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(1000))
        pool.abort(writer)
        assert pool.pending() == []
        with pytest.raises(PoolError):
            writer.write(b"more")
    assert list(store.scan("images/")) == []
    assert list(store.uploads("")) == []


def test_a_changed_object_is_damaged_and_named_never_returned(tmp_path: Path) -> None:
    store, data = tiny_store(), some_bytes(300)
    with open_pool(store, tmp_path) as pool:
        manifest = store_image(pool, "a", data)
        broken = bytearray(data[:256])
        broken[100] ^= 1
        store.put(manifest.fragments[0].key, bytes(broken))
        with pytest.raises(ImageDamaged, match="bytes 64 to 127"):
            read_image(pool, "a")
        assert pool.open_image(manifest).read(0, 64) == data[:64]


def test_an_image_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool, pytest.raises(ImageNotFound):
        pool.stat("nothing")


def test_a_lock_is_put_on_every_object_at_the_commit_and_not_before(tmp_path: Path) -> None:
    store = tiny_store(object_lock=True)
    until = 4_102_444_800 * 10**9
    lock = Retention(lock_mode=LockMode.COMPLIANCE, lock_until=until, hold=True)
    with open_pool(store, tmp_path) as pool:
        pool.check_lock(LockMode.COMPLIANCE)
        writer = pool.write_image("a", 1, storage_class=StorageClass.GLACIER)
        writer.write(some_bytes(600))
        writer.cut()
        assert all(s.lock_until is None for s in map(_stat(store), store.scan("images/")))
        manifest = writer.close(origin=NOTHING, retention=lock)
    for key in [part.key for part in manifest.fragments] + [manifest.key]:
        stored = store.stat(key)
        assert (stored.lock_mode, stored.lock_until, stored.hold) == (
            LockMode.COMPLIANCE,
            until,
            True,
        )
    assert store.stat(manifest.key).storage_class is StorageClass.STANDARD
    assert store.stat(manifest.fragments[0].key).storage_class is StorageClass.GLACIER


def _stat(store: MemoryStore):  # type: ignore[no-untyped-def]
    return lambda stored: store.stat(stored.key)


def test_a_lock_that_cannot_be_kept_is_refused_before_anything(tmp_path: Path) -> None:
    with (
        open_pool(tiny_store(), tmp_path) as pool,
        pytest.raises(PoolError, match="no Object Lock"),
    ):
        pool.check_lock(LockMode.GOVERNANCE)


def test_an_image_within_a_tape_file_names_its_place(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        store_image(pool, "tape-file", some_bytes(500))
        place = Within(image="tape-file", copy=1, fragment_number=1, size=100)
        pool.place_image("a", 1, within=[place], origin=NOTHING, retention=FOREVER, size=100)
        assert pool.stat("a").within == (place,)
        assert pool.stat("a").sha256 is None


def test_every_stored_image_becomes_one_row_of_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path / "ledger"))
    with open_pool(tiny_store(), tmp_path, ledger=ledger, run_id="r1") as pool:
        for n in range(5):
            store_image(pool, f"image {n}", some_bytes(n * 100))
        pool.flush()
        pool.flush()
    facts = list(ledger.facts())
    assert [fact.image for fact in facts] == [f"image {n}" for n in range(5)]
    assert {fact.kind for fact in facts} == {Kind.STORED}
    assert facts[3].size == 300
    assert facts[3].fragments[0].key.startswith("images/image%203/1/")
    assert len({fact.fact_id for fact in facts}) == 5


def test_memory_stays_within_the_formula(tmp_path: Path) -> None:
    config = tiny_config(64, 256, images_open=1, parts_in_flight=2)
    with open_pool(tiny_store(), tmp_path, config=config) as pool:
        store_image(pool, "a", some_bytes(10_000))
        one = pool.write_image("b", 1)
        held = [one.buffer()]
        arena = pool.context.arena
        taken = [arena.take() for _ in range(2)]
        with pytest.raises(PoolError, match="images_open"):
            arena.take()
        assert len(held) + len(taken) == config.parts_in_flight + 1


def test_a_configuration_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(PoolError, match="10000 parts"):
        PoolConfig(part_size=5 * 2**20, fragment_size=100 * 2**30)


def test_foreign_keys_below_the_images_do_not_disturb_a_listing(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        store_image(pool, "a", b"x")
        for key in ("images/b c/1/manifest.json", "images/readme", "images/d/x/manifest.json"):
            store.put(key, b"{}")
        assert list(pool.images()) == [("a", 1)]
        assert pool.copies("d") == []


def test_a_prefix_that_holds_something_else_is_not_taken_for_a_pool(tmp_path: Path) -> None:
    store = tiny_store()
    store.put("pool.json", b'{"format": "other/1"}')
    with pytest.raises(PoolError, match="another prefix"), open_pool(store, tmp_path):
        pass


class ReadOnlyStore(MemoryStore):
    """A store whose credentials may read and nothing else."""

    def probe(self) -> Capabilities:
        raise StoreUnusable("putting .probe: AccessDenied")


def test_who_may_only_read_can_read_and_verify(tmp_path: Path) -> None:
    store, data = ReadOnlyStore(smallest_part=1), some_bytes(600)
    writable = tiny_store()
    with open_pool(writable, tmp_path / "writer") as pool:
        store_image(pool, "a", data)
    for stored in writable.scan(""):
        store.put(stored.key, writable.read(stored.key, ceiling=10_000))
    with open_pool(store, tmp_path / "reader", create=False) as pool:
        assert read_image(pool, "a") == data
        assert pool.verify(pool.stat("a"), Depth.HEAD).ok
    with pytest.raises(StoreUnusable), open_pool(store, tmp_path / "other"):
        pass
