"""What a crash leaves is taken up: no byte is lost, no confirmed part is sent twice."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import PoolError, TransientStoreError
from catalog.ledger import Ledger
from connector.pool import digest
from connector.pool.coding import ClientKey, Coding, Compression
from connector.store.interface import Part, PutOptions, StoredObject, Upload
from connector.store.memory import MemoryStore
from tests.pool.support import (
    FOREVER,
    NOTHING,
    open_pool,
    read_image,
    some_bytes,
    tiny_config,
    tiny_store,
)


class DyingStore(MemoryStore):
    """A store whose process dies at the n-th request: before it arrives, or after it was done."""

    def __init__(self) -> None:
        super().__init__(smallest_part=1, versioning=False, object_lock=False)
        self.left = -1
        self.after = False
        self.calls = 0
        self.parts_accepted: list[tuple[str, int]] = []
        self._count = threading.Lock()

    def _request(self, done: Any) -> Any:
        with self._count:
            self.calls += 1
            dead = self.left == 0
            last = self.left == 1
            if self.left > 0:
                self.left -= 1
        if dead or (last and not self.after):
            raise TransientStoreError("the process is dead")
        result = done()
        if last:
            raise TransientStoreError("the process died before it heard the answer")
        return result

    def put(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        options: PutOptions | None = None,
        *,
        only_if_absent: bool = False,
    ) -> StoredObject:
        return self._request(
            lambda: MemoryStore.put(self, key, body, options, only_if_absent=only_if_absent)
        )

    def start_upload(self, key: str, options: PutOptions | None = None) -> Upload:
        return self._request(lambda: MemoryStore.start_upload(self, key, options))

    def put_part(self, upload: Upload, number: int, body: memoryview, *, crc64nvme: int) -> Part:
        def done() -> Part:
            part = MemoryStore.put_part(self, upload, number, body, crc64nvme=crc64nvme)
            self.parts_accepted.append((upload.key, number))
            return part

        return self._request(done)

    def complete_upload(self, upload: Upload, parts: Any, *, crc64nvme: int | None) -> StoredObject:
        return self._request(
            lambda: MemoryStore.complete_upload(self, upload, parts, crc64nvme=crc64nvme)
        )


def write_from(pool: Any, data: bytes) -> str:
    """Write an image as a source that can be read again would, from where it stopped."""
    pool.recover()
    found = pool.find("a", 1)
    if found is not None:
        return found.sha256
    writer = pool.write_image("a", 1)
    try:
        for at in range(writer.offset, len(data), 50):
            writer.write(data[at : at + 50])
        return writer.close(origin=NOTHING, retention=FOREVER).sha256
    except PoolError:
        writer.release()
        raise


CODINGS = {
    "plain": Coding(),
    "zstd": Coding(compression=Compression.ZSTD, frame_size=16),
    "sealed": Coding(client_key=ClientKey(id="k", key=bytes(32)), frame_size=16),
    "both": Coding(
        compression=Compression.ZSTD, client_key=ClientKey(id="k", key=bytes(32)), frame_size=16
    ),
}


@pytest.mark.parametrize("after", [False, True], ids=["unheard", "done but unheard"])
@pytest.mark.parametrize(
    ("size", "coding"),
    [
        *((size, "plain") for size in (40, 700, 1030)),
        *((size, "sealed") for size in (40, 700)),
        (700, "zstd"),
        pytest.param(1030, "both", marks=pytest.mark.deep),
    ],
)
def test_dying_at_every_request_loses_nothing(
    tmp_path: Path, size: int, coding: str, after: bool
) -> None:
    data = some_bytes(size)
    config = tiny_config(64, 256, parts_in_flight=2)
    settings: dict[str, Any] = {"config": config, "coding": CODINGS[coding]}
    whole = DyingStore()
    with open_pool(whole, tmp_path / "whole", **settings) as pool:
        write_from(pool, data)
    for n in range(1, whole.calls + 1):
        store, folder = DyingStore(), tmp_path / f"{n}"
        ledger = Ledger.open(str(folder / "ledger"))
        with open_pool(store, folder, ledger=ledger, **settings) as pool:
            store.after = after
            store.left = n
            with contextlib.suppress(PoolError):
                write_from(pool, data)
            store.left = -1
        with open_pool(store, folder, ledger=ledger, **settings) as pool:
            assert write_from(pool, data) == hashlib.sha256(data).hexdigest()
            assert read_image(pool, "a") == data
            assert pool.pending() == []
            pool.flush()
            manifest = pool.stat("a")
        assert [fact.image for fact in ledger.facts()] == ["a"]
        assert list(store.uploads("")) == []
        expected = {part.key for part in manifest.fragments} | {manifest.key}
        assert {stored.key for stored in store.scan("images/")} == expected
        of_keys = [stored.key for stored in store.scan("keys/")]
        key = manifest.coding.key if manifest.coding else None
        assert of_keys == ([] if key is None else [key])
        assert len(store.parts_accepted) == len(set(store.parts_accepted)), (
            "a part that the store had confirmed was sent again"
        )


def test_a_suspended_image_goes_on_behind_its_last_byte(tmp_path: Path) -> None:
    store, data = tiny_store(), some_bytes(900)
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:333])
        writer.suspend()
        with pytest.raises(PoolError, match="suspended"):
            writer.write(b"x")
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == 333
        writer.write(data[333:])
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert manifest.sha256 == hashlib.sha256(data).hexdigest()
        assert read_image(pool, "a") == data


def test_where_the_digest_cannot_be_taken_up_the_image_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data = tiny_store(), some_bytes(900)
    monkeypatch.setattr(digest, "_libcrypto", lambda: None)
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:600])
        writer.cut()
        writer.release()
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == 0
        writer.write(data)
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data
    keys = {stored.key for stored in store.scan("images/")}
    assert keys == {part.key for part in manifest.fragments} | {manifest.key}


def test_an_upload_that_was_removed_meanwhile_is_begun_again(tmp_path: Path) -> None:
    store, data = tiny_store(), some_bytes(600)
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:450])
        writer.release()
    for upload in list(store.uploads("")):
        store.abort_upload(upload)
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == 256
        writer.write(data[256:])
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data


def test_an_abandoned_image_leaves_nothing(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(600))
        writer.release()
    with open_pool(store, tmp_path) as pool:
        pool.abandon("a", 1)
        assert pool.pending() == []
    assert list(store.scan("images/")) == []
    assert list(store.uploads("")) == []


def test_uploads_that_this_journal_does_not_know_are_reported(tmp_path: Path) -> None:
    store = tiny_store()
    foreign = store.start_upload("images/b/1/0123456789abcdef-00000")
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(600))
        assert [upload.upload_id for upload in pool.orphans()] == [foreign.upload_id]
        pool.abort(writer)


class StrictStore(MemoryStore):
    """Refuses to complete an upload with a short part that is not the last, as S3 does."""

    def __init__(self) -> None:
        super().__init__(smallest_part=64, versioning=False, object_lock=False)
        self.die_in_complete = False

    def complete_upload(self, upload: Upload, parts: Any, *, crc64nvme: int | None) -> StoredObject:
        if self.die_in_complete:
            raise TransientStoreError("the process is dead")
        return super().complete_upload(upload, parts, crc64nvme=crc64nvme)


def test_a_fragment_whose_last_part_was_sent_is_ended_before_the_image_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data = StrictStore(), some_bytes(500)

    def die(*_: Any) -> None:
        raise TransientStoreError("the process is dead")

    with open_pool(store, tmp_path, config=tiny_config(64, 1024)) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:150])
        with monkeypatch.context() as patch:  # dead behind the last part's receipt
            patch.setattr(type(pool.context.attempts), "object_ending", die)
            with pytest.raises(TransientStoreError):
                writer.suspend()
        writer.release()
    with open_pool(store, tmp_path, config=tiny_config(64, 1024)) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == 150
        writer.write(data[150:])
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert [part.size for part in manifest.fragments] == [150, 350]
        assert read_image(pool, "a") == data


def test_an_upload_whose_start_was_not_heard_is_replaced_by_another(tmp_path: Path) -> None:
    store, data = DyingStore(), some_bytes(600)
    lost: list[Upload] = []
    start = store.start_upload

    def unheard(key: str, options: PutOptions | None = None) -> Upload:
        upload = start(key, options)
        if not lost:
            lost.append(upload)
            raise TransientStoreError("the answer was lost")
        return upload

    store.start_upload = unheard  # type: ignore[method-assign]
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data)
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data
    assert lost
    assert list(store.uploads("")) == []


@pytest.mark.parametrize("size", [0, 30, 64, 200, 256, 300, 700])
def test_what_is_durable_is_there_after_a_crash(tmp_path: Path, size: int) -> None:
    store, data = tiny_store(), some_bytes(900)
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:size])
        durable = writer.durable()
        assert durable == size // 64 * 64
        assert durable == writer.durable()
        writer.release()
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == durable
        writer.cut()
        assert writer.durable() == durable
        writer.write(data[durable:])
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data


def test_a_part_that_failed_is_told_by_durable(tmp_path: Path) -> None:
    store = DyingStore()
    with open_pool(store, tmp_path) as pool:
        writer = pool.write_image("a", 1)
        store.left = 2  # the start of the upload is heard, its first part is not
        writer.write(some_bytes(64))
        for _ in range(2):
            with pytest.raises(TransientStoreError):
                writer.durable()
        writer.release()


def test_nothing_is_durable_where_the_digest_cannot_be_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_libcrypto", lambda: None)
    with open_pool(tiny_store(), tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(600))
        assert writer.durable() == 0
        pool.abort(writer)


@pytest.mark.parametrize("coding", ["zstd", "sealed", "both"])
@pytest.mark.parametrize("size", [0, 30, 64, 100, 200, 256, 300, 700])
def test_what_is_durable_of_a_coded_image_is_there_after_a_crash(
    tmp_path: Path, coding: str, size: int
) -> None:
    store, data = tiny_store(), some_bytes(900)
    settings: dict[str, Any] = {"coding": CODINGS[coding]}
    with open_pool(store, tmp_path, **settings) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:size])
        durable = writer.durable()
        assert durable <= size
        assert size - durable < 64 + 64 * 9 + 16, "more than a part and what is being filled"
        writer.release()
    with open_pool(store, tmp_path, **settings) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == durable
        writer.cut()
        assert writer.durable() == durable
        writer.write(data[durable:])
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data


@pytest.mark.parametrize("coding", list(CODINGS))
def test_an_image_that_is_let_go_again_and_again_comes_to_its_end(
    tmp_path: Path, coding: str
) -> None:
    store, data = tiny_store(), some_bytes(5000)
    offsets = [-1]
    for _ in range(60):
        with open_pool(store, tmp_path, coding=CODINGS[coding]) as pool:
            writer = pool.write_image("a", 1)
            offsets.append(writer.offset)
            writer.write(data[writer.offset : writer.offset + 700])
            if writer.offset == len(data):
                writer.close(origin=NOTHING, retention=FOREVER)
                assert read_image(pool, "a") == data
                break
            writer.durable()
            writer.release()
    assert offsets == sorted(set(offsets)), "every round brought it forward"


@pytest.mark.parametrize("coding", ["sealed", "both"])
def test_other_bytes_after_a_crash_are_the_image_and_share_no_nonce(
    tmp_path: Path, coding: str
) -> None:
    """The client that died may send something else in place of what was not safe."""
    store, first, second = tiny_store(), some_bytes(250, seed=1), some_bytes(600, seed=2)
    with open_pool(store, tmp_path, coding=CODINGS[coding]) as pool:
        writer = pool.write_image("a", 1)
        writer.write(first)
        safe = writer.durable()
        writer.release()
    with open_pool(store, tmp_path, coding=CODINGS[coding]) as pool:
        writer = pool.write_image("a", 1)
        data = first[: writer.offset] + second
        assert writer.offset == safe
        writer.write(second)
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert manifest.sha256 == hashlib.sha256(data).hexdigest()
        assert read_image(pool, "a") == data


@pytest.mark.parametrize("coding", list(CODINGS))
def test_an_image_keeps_the_sizes_that_it_was_begun_with(tmp_path: Path, coding: str) -> None:
    store, data = tiny_store(), some_bytes(900)
    with open_pool(store, tmp_path, config=tiny_config(64), coding=CODINGS[coding]) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:300])
        writer.release()
    with open_pool(store, tmp_path, config=tiny_config(16, 32), coding=CODINGS[coding]) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[writer.offset :])
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert [part.size for part in manifest.fragments] == [256, 256, 256, 132]
        assert read_image(pool, "a") == data


def test_what_waits_for_a_thread_when_an_image_is_let_go_gives_its_memory_back(
    tmp_path: Path,
) -> None:
    config = tiny_config(64, 256, images_open=1, parts_in_flight=2)
    for coding in CODINGS.values():
        store = DyingStore()
        with open_pool(store, tmp_path / str(id(coding)), config=config, coding=coding) as pool:
            for at in range(6):
                writer = pool.write_image(f"image {at}", 1)
                store.left = store.calls % 3 + 1
                with contextlib.suppress(PoolError):
                    writer.write(some_bytes(2000))
                writer.release()
                store.left = -1
            for arena, count in ((pool.context.arena, 3), (pool.context.coded_arena, 4)):
                assert len([arena.take() for _ in range(count)]) == count
