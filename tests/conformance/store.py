"""What every object store promises. A store joins by giving the fixtures ``store``,
``locking_store`` and ``pass_time``, and its name for a class of tests that starts with ``Test``.

A promise that an endpoint cannot keep is not skipped: the test then asks for the error that says
so (``probe`` tells which).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from catalog.errors import (
    CorruptObject,
    ObjectArchived,
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    Unsupported,
)
from catalog.model import NANOSECONDS, LockMode, StorageClass
from connector.store.body import crc64nvme
from connector.store.interface import (
    ObjectStore,
    Part,
    PutOptions,
    RecallState,
    RecallTier,
    Upload,
)

HOUR = 3600 * NANOSECONDS
MIB = 1024 * 1024

PassTime = Callable[[int], None] | None


def send(store: ObjectStore, upload: Upload, number: int, data: bytes) -> Part:
    return store.put_part(upload, number, memoryview(data), crc64nvme=crc64nvme(data))


def uploaded(store: ObjectStore, key: str, data: bytes) -> str | None:
    upload = store.start_upload(key)
    part = send(store, upload, 1, data)
    return store.complete_upload(upload, [part], crc64nvme=crc64nvme(data)).version_id


def bytes_at(store: ObjectStore, key: str, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    store.read_into(key, memoryview(buffer), offset=offset)
    return bytes(buffer)


def in_hours(hours: float) -> int:
    """A whole second, some hours from the real now."""
    return (int(time.time()) + int(hours * 3600)) * NANOSECONDS


def ids(store: ObjectStore, key: str) -> list[str | None]:
    """The ids of everything that is kept under a key."""
    return [one.version_id for one in store.scan_versions(key) if one.key == key]


class StoreConformance:
    """Keys of a test lie below its own folder, ``at``, so that stores can be shared."""

    @pytest.fixture
    def at(self) -> str:
        return f"t-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def pass_time(self) -> PassTime:
        """Lets nanoseconds pass in the store, where that can be done."""
        return None

    # --- put and read -----------------------------------------------------------------------

    def test_what_was_put_is_read_back(self, store: ObjectStore, at: str) -> None:
        put = store.put(f"{at}/a", b"one two three")
        assert store.read(f"{at}/a", ceiling=13) == b"one two three"
        stat = store.stat(f"{at}/a")
        assert (stat.key, stat.size, stat.etag) == (f"{at}/a", 13, put.etag)
        assert (put.key, put.size) == (f"{at}/a", 13)
        assert stat.recall is RecallState.READABLE
        assert abs(stat.modified_at or 0) > 0

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_flat_buffer_is_a_body(self, store: ObjectStore, at: str, kind: type) -> None:
        store.put(f"{at}/a", kind(b"body"))
        assert store.read(f"{at}/a", ceiling=4) == b"body"

    def test_an_empty_object_is_an_object(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/empty", b"")
        assert store.stat(f"{at}/empty").size == 0
        assert store.read(f"{at}/empty", ceiling=0) == b""
        assert bytes_at(store, f"{at}/empty", 0, 0) == b""

    def test_a_put_replaces_what_was_there(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/a", b"old")
        store.put(f"{at}/a", b"newer")
        assert store.read(f"{at}/a", ceiling=5) == b"newer"

    def test_a_put_only_if_absent_never_replaces(self, store: ObjectStore, at: str) -> None:
        if not store.probe().create_only:
            with pytest.raises(Unsupported):
                store.put(f"{at}/a", b"first", only_if_absent=True)
            return
        store.put(f"{at}/a", b"first", only_if_absent=True)
        with pytest.raises(ObjectExists):
            store.put(f"{at}/a", b"second", only_if_absent=True)
        with pytest.raises(ObjectExists):
            store.put(f"{at}/a", b"first", only_if_absent=True)
        assert store.read(f"{at}/a", ceiling=5) == b"first"

    def test_a_deleted_key_counts_as_absent(self, locking_store: ObjectStore, at: str) -> None:
        locking_store.put(f"{at}/a", b"first")
        locking_store.delete(f"{at}/a")
        with pytest.raises(ObjectNotFound):
            locking_store.stat(f"{at}/a")
        if locking_store.probe().create_only:
            locking_store.put(f"{at}/a", b"second", only_if_absent=True)
            assert locking_store.read(f"{at}/a", ceiling=6) == b"second"

    def test_every_version_of_a_key_is_named_and_can_be_removed(
        self, locking_store: ObjectStore, at: str
    ) -> None:
        locking_store.put(f"{at}/ab", b"a neighbour")
        for body in (b"first", b"second"):
            locking_store.put(f"{at}/a", body)
        locking_store.delete(f"{at}/a")
        kept = ids(locking_store, f"{at}/a")
        assert len(kept) == len(set(kept)) == 3
        for version in kept:
            locking_store.delete(f"{at}/a", version_id=version)
        assert ids(locking_store, f"{at}/a") == []
        assert len(ids(locking_store, f"{at}/ab")) == 1

    def test_without_versions_there_is_one_that_can_be_removed_by_its_id(
        self, store: ObjectStore, at: str
    ) -> None:
        if store.probe().versioning:
            return
        store.put(f"{at}/a", b"first")
        store.put(f"{at}/a", b"second")
        (only,) = ids(store, f"{at}/a")
        store.delete(f"{at}/a", version_id=only)
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/a")

    def test_of_many_writers_one_creates(self, store: ObjectStore, at: str) -> None:
        if not store.probe().create_only:
            pytest.skip("this store does not hold writers apart; put says Unsupported")
        outcomes: list[str] = []

        def write(body: bytes) -> None:
            try:
                store.put(f"{at}/a", body, only_if_absent=True)
            except ObjectExists:
                outcomes.append("exists")
            else:
                outcomes.append(body.decode())

        threads = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("exists") == 3
        (winner,) = (one for one in outcomes if one != "exists")
        assert store.read(f"{at}/a", ceiling=9).decode() == winner

    def test_a_read_has_a_ceiling(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/a", b"0123456789")
        with pytest.raises(CorruptObject):
            store.read(f"{at}/a", ceiling=9)

    def test_a_range_is_filled_exactly(self, store: ObjectStore, at: str) -> None:
        data = bytes(range(256)) * 1024
        store.put(f"{at}/a", data)
        for offset, size in ((0, len(data)), (0, 1), (len(data) - 1, 1), (1000, 200_000), (7, 0)):
            assert bytes_at(store, f"{at}/a", offset, size) == data[offset : offset + size]

    def test_a_range_fills_only_the_view_it_was_given(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/a", b"0123456789")
        buffer = bytearray(b"." * 8)
        store.read_into(f"{at}/a", memoryview(buffer)[2:5], offset=4)
        assert buffer == b"..456..."

    @pytest.mark.parametrize(("offset", "size"), [(0, 11), (9, 2), (10, 1), (500, 1), (11, 0)])
    def test_a_range_beyond_the_end_is_corrupt(
        self, store: ObjectStore, at: str, offset: int, size: int
    ) -> None:
        store.put(f"{at}/a", b"0123456789")
        with pytest.raises(CorruptObject):
            bytes_at(store, f"{at}/a", offset, size)

    def test_what_is_not_there_is_not_found(self, store: ObjectStore, at: str) -> None:
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/none")
        with pytest.raises(ObjectNotFound):
            store.read(f"{at}/none", ceiling=1)
        with pytest.raises(ObjectNotFound):
            bytes_at(store, f"{at}/none", 0, 1)
        with pytest.raises(ObjectNotFound):
            bytes_at(store, f"{at}/none", 0, 0)

    def test_a_full_checksum_is_kept_where_parts_have_one(
        self, store: ObjectStore, at: str
    ) -> None:
        store.put(f"{at}/a", b"123456789")
        assert store.stat(f"{at}/a").crc64nvme in (None, 0xAE8B14860A799888)
        if store.probe().part_checksum == "CRC64NVME":
            assert store.stat(f"{at}/a").crc64nvme == 0xAE8B14860A799888

    @pytest.mark.parametrize("stored_in", [StorageClass.STANDARD, StorageClass.DEEP_ARCHIVE])
    def test_the_storage_class_is_told(
        self, store: ObjectStore, at: str, stored_in: StorageClass
    ) -> None:
        options = PutOptions(
            storage_class=stored_in, tags=(("pool", "p 1+2=/@"),), metadata=(("sha256", "ab"),)
        )
        assert store.put(f"{at}/a", b"x", options).storage_class is stored_in
        assert store.stat(f"{at}/a").storage_class is stored_in
        upload = store.start_upload(f"{at}/b", options)
        store.complete_upload(upload, [send(store, upload, 1, b"y")], crc64nvme=crc64nvme(b"y"))
        listed = {one.key: one.storage_class for one in store.scan(f"{at}/")}
        assert listed == {f"{at}/a": stored_in, f"{at}/b": stored_in}

    # --- uploads ----------------------------------------------------------------------------

    def test_an_object_is_invisible_until_its_upload_completes(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        part = send(store, upload, 1, b"part")
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/a")
        assert list(store.scan(f"{at}/")) == []
        stored = store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"part"))
        assert (stored.key, stored.size) == (f"{at}/a", 4)
        assert store.read(f"{at}/a", ceiling=4) == b"part"
        assert list(store.uploads(f"{at}/")) == []

    def test_parts_are_joined_in_order_whatever_order_they_came_in(
        self, store: ObjectStore, at: str
    ) -> None:
        first, second = b"A" * (5 * MIB), b"B" * 1000
        upload = store.start_upload(f"{at}/a")
        two = send(store, upload, 2, second)
        one = send(store, upload, 1, first)
        stored = store.complete_upload(upload, [one, two], crc64nvme=crc64nvme(first + second))
        assert stored.size == len(first) + len(second)
        assert bytes_at(store, f"{at}/a", len(first) - 2, 4) == b"AABB"

    def test_the_parts_of_an_upload_are_listed_as_they_are(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        sent = [send(store, upload, number, b"x" * number) for number in (3, 1, 2)]
        listed = list(store.parts(upload))
        assert [part.number for part in listed] == [1, 2, 3]
        by_number = {part.number: part for part in sent}
        for part in listed:
            expected = by_number[part.number]
            known = part.crc64nvme is not None
            assert part == (expected if known else replace(expected, crc64nvme=None))
        store.abort_upload(upload)

    def test_a_part_that_is_sent_again_replaces_the_first(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        send(store, upload, 1, b"wrong")
        part = send(store, upload, 1, b"right!")
        assert [(one.number, one.size) for one in store.parts(upload)] == [(1, 6)]
        store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"right!"))
        assert store.read(f"{at}/a", ceiling=6) == b"right!"

    def test_a_part_with_another_checksum_is_not_accepted(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        with pytest.raises(CorruptObject):
            store.put_part(upload, 1, memoryview(b"data"), crc64nvme=crc64nvme(b"Data"))
        assert list(store.parts(upload)) == []
        store.abort_upload(upload)

    def test_an_upload_can_be_taken_up_by_its_name(self, store: ObjectStore, at: str) -> None:
        started = store.start_upload(f"{at}/a")
        send(store, started, 1, b"part")
        (found,) = store.uploads(f"{at}/a")
        assert (found.key, found.upload_id) == (started.key, started.upload_id)
        parts = list(store.parts(found))
        assert store.complete_upload(found, parts, crc64nvme=crc64nvme(b"part")).size == 4

    def test_parts_that_do_not_make_the_whole_are_not_joined(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        part = send(store, upload, 1, b"half")
        with pytest.raises(CorruptObject):
            store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"half and half"))
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/a")
        store.abort_upload(upload)

    def test_completing_never_replaces_an_object(self, store: ObjectStore, at: str) -> None:
        upload = store.start_upload(f"{at}/a")
        part = send(store, upload, 1, b"mine")
        store.put(f"{at}/a", b"theirs")
        with pytest.raises(ObjectExists):
            store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"mine"))
        assert store.read(f"{at}/a", ceiling=6) == b"theirs"
        store.abort_upload(upload)

    def test_completing_again_gives_the_same_object(self, store: ObjectStore, at: str) -> None:
        upload = store.start_upload(f"{at}/a")
        part = send(store, upload, 1, b"part")
        once = store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"part"))
        again = store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"part"))
        assert (again.size, again.etag, again.version_id) == (4, once.etag, once.version_id)

    def test_completing_an_upload_that_is_gone_finds_no_object(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        part = send(store, upload, 1, b"part")
        store.abort_upload(upload)
        with pytest.raises(ObjectNotFound):
            store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"part"))

    def test_anothers_object_is_not_taken_for_a_finished_upload(
        self, store: ObjectStore, at: str
    ) -> None:
        upload = store.start_upload(f"{at}/a")
        part = send(store, upload, 1, b"mine")
        store.abort_upload(upload)
        store.put(f"{at}/a", b"else")
        with pytest.raises(ObjectExists):
            store.complete_upload(upload, [part], crc64nvme=crc64nvme(b"mine"))

    def test_a_part_of_an_aborted_upload_is_not_found(self, store: ObjectStore, at: str) -> None:
        upload = store.start_upload(f"{at}/a")
        store.abort_upload(upload)
        with pytest.raises(ObjectNotFound):
            send(store, upload, 1, b"part")
        with pytest.raises(ObjectNotFound):
            list(store.parts(upload))

    def test_an_upload_that_is_aborted_leaves_no_part(self, store: ObjectStore, at: str) -> None:
        upload = store.start_upload(f"{at}/a")
        send(store, upload, 1, b"part")
        store.abort_upload(upload)
        store.abort_upload(upload)
        assert list(store.uploads(f"{at}/")) == []
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/a")

    def test_uploads_are_found_below_a_prefix(self, store: ObjectStore, at: str) -> None:
        started = [store.start_upload(f"{at}/{name}") for name in ("b/1", "a/1", "a/2", "a/2")]
        assert [one.key for one in store.uploads(f"{at}/a/")] == [
            f"{at}/a/1",
            f"{at}/a/2",
            f"{at}/a/2",
        ]
        assert {one.upload_id for one in store.uploads(f"{at}/")} == {
            one.upload_id for one in started
        }
        for upload in started:
            store.abort_upload(upload)

    def test_parts_are_sent_from_several_threads(self, store: ObjectStore, at: str) -> None:
        upload = store.start_upload(f"{at}/a")
        bodies = {number: b"%d" % number * 5000 for number in range(1, 9)}
        threads = [
            threading.Thread(target=send, args=(store, upload, number, body))
            for number, body in bodies.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        listed = {part.number: part.size for part in store.parts(upload)}
        assert listed == {number: len(body) for number, body in bodies.items()}
        store.abort_upload(upload)

    # --- listings ---------------------------------------------------------------------------

    def test_a_scan_is_in_key_order_and_relative(self, store: ObjectStore, at: str) -> None:
        names = ["b", "a/2", "a/10", "a-b/1", "ä%41+ .x"]
        for name in names:
            store.put(f"{at}/{name}", name.encode())
        found = list(store.scan(f"{at}/"))
        assert [one.key for one in found] == sorted(f"{at}/{name}" for name in names)
        assert [one.size for one in found] == [len(n.encode()) for n in sorted(names)]
        assert found[0].etag == store.stat(found[0].key).etag
        assert [one.key for one in store.scan(f"{at}/a/")] == [f"{at}/a/10", f"{at}/a/2"]
        assert list(store.scan(f"{at}/none")) == []

    def test_folders_are_the_names_directly_below(self, store: ObjectStore, at: str) -> None:
        for name in ("b/1", "a/x/1", "a/y/1", "a-b/1", "file"):
            store.put(f"{at}/{name}", b"")
        assert list(store.folders(at)) == ["a-b", "a", "b"]
        assert list(store.folders(f"{at}/a")) == ["x", "y"]
        assert list(store.folders(f"{at}/none")) == []
        assert at in store.folders("")

    # --- delete and versions ----------------------------------------------------------------

    def test_what_is_deleted_is_gone(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/a", b"x")
        store.delete(f"{at}/a")
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/a")
        assert list(store.scan(f"{at}/")) == []

    def test_deleting_what_is_gone_is_success(self, store: ObjectStore, at: str) -> None:
        store.delete(f"{at}/never")
        store.put(f"{at}/a", b"x")
        store.delete(f"{at}/a")
        store.delete(f"{at}/a")

    def test_versions_stay_readable(self, locking_store: ObjectStore, at: str) -> None:
        store = locking_store
        first = store.put(f"{at}/a", b"first").version_id
        second = store.put(f"{at}/a", b"second").version_id
        assert first is not None
        assert first != second
        assert store.read(f"{at}/a", ceiling=6, version_id=first) == b"first"
        assert store.stat(f"{at}/a", version_id=first).size == 5
        assert store.stat(f"{at}/a").version_id == second
        buffer = bytearray(3)
        store.read_into(f"{at}/a", memoryview(buffer), offset=2, version_id=first)
        assert buffer == b"rst"

    def test_one_version_is_deleted_and_the_one_before_is_back(
        self, locking_store: ObjectStore, at: str
    ) -> None:
        store = locking_store
        store.put(f"{at}/a", b"first")
        second = store.put(f"{at}/a", b"second").version_id
        store.delete(f"{at}/a", version_id=second)
        store.delete(f"{at}/a", version_id=second)
        assert store.read(f"{at}/a", ceiling=6) == b"first"
        with pytest.raises(ObjectNotFound):
            store.stat(f"{at}/a", version_id=second)

    def test_every_version_and_marker_is_listed(self, locking_store: ObjectStore, at: str) -> None:
        store = locking_store
        first = store.put(f"{at}/a", b"first").version_id
        second = store.put(f"{at}/a", b"second!").version_id
        store.delete(f"{at}/a")
        other = store.put(f"{at}/a b", b"").version_id
        store.put(f"{at}-not below", b"")
        found = {
            (one.key, one.marker, one.current, one.size): one.version_id
            for one in store.scan_versions(f"{at}/")
        }
        marker = found.pop((f"{at}/a", True, True, 0))
        assert marker is not None
        assert found == {
            (f"{at}/a", False, False, 5): first,
            (f"{at}/a", False, False, 7): second,
            (f"{at}/a b", False, True, 0): other,
        }

    def test_deleting_every_version_leaves_nothing(
        self, store: ObjectStore, locking_store: ObjectStore, at: str
    ) -> None:
        for one in (store, locking_store):
            one.put(f"{at}/a", b"first")
            one.put(f"{at}/a", b"second")
            one.delete(f"{at}/a")
            one.put(f"{at}/b", b"third")
            listed = list(one.scan_versions(f"{at}/"))
            assert (f"{at}/b", True, False, 5) in [
                (v.key, v.current, v.marker, v.size) for v in listed
            ]
            for version in listed:
                one.delete(version.key, version_id=version.version_id)
            assert list(one.scan_versions(f"{at}/")) == []
            assert list(one.scan(f"{at}/")) == []

    # --- locks and holds --------------------------------------------------------------------

    def test_a_locked_version_cannot_be_deleted(self, locking_store: ObjectStore, at: str) -> None:
        store = locking_store
        version = uploaded(store, f"{at}/a", b"keep")
        until = in_hours(2)
        store.set_lock(f"{at}/a", mode=LockMode.COMPLIANCE, until=until)
        stat = store.stat(f"{at}/a")
        assert (stat.lock_mode, stat.lock_until) == (LockMode.COMPLIANCE, until)
        with pytest.raises(ObjectLocked):
            store.delete(f"{at}/a", version_id=version)
        assert store.read(f"{at}/a", ceiling=4, version_id=version) == b"keep"

    def test_a_lock_is_extended_and_never_shortened(
        self, locking_store: ObjectStore, at: str
    ) -> None:
        store = locking_store
        for mode in (LockMode.GOVERNANCE, LockMode.COMPLIANCE):
            key = f"{at}/{mode}"
            store.put(key, b"keep")
            store.set_lock(key, mode=mode, until=in_hours(2))
            with pytest.raises(ObjectLocked):
                store.set_lock(key, mode=mode, until=in_hours(1))
            later = in_hours(3)
            store.set_lock(key, mode=mode, until=later)
            store.set_lock(key, mode=mode, until=later)
            assert store.stat(key).lock_until == later
            with pytest.raises(Unsupported):
                store.set_lock(key, mode=LockMode.NONE, until=later)

    def test_a_lock_is_never_weakened(self, locking_store: ObjectStore, at: str) -> None:
        store = locking_store
        store.put(f"{at}/a", b"keep")
        store.set_lock(f"{at}/a", mode=LockMode.GOVERNANCE, until=in_hours(1))
        strict = in_hours(2)
        try:  # not every store strengthens a lock
            store.set_lock(f"{at}/a", mode=LockMode.COMPLIANCE, until=strict)
        except ObjectLocked:
            assert store.stat(f"{at}/a").lock_mode is LockMode.GOVERNANCE
        else:
            with pytest.raises(ObjectLocked):
                store.set_lock(f"{at}/a", mode=LockMode.GOVERNANCE, until=in_hours(5))
            stat = store.stat(f"{at}/a")
            assert (stat.lock_mode, stat.lock_until) == (LockMode.COMPLIANCE, strict)

    def test_a_lock_ends_no_earlier_than_asked(self, locking_store: ObjectStore, at: str) -> None:
        locking_store.put(f"{at}/a", b"keep")
        until = in_hours(1) + 1
        locking_store.set_lock(f"{at}/a", mode=LockMode.GOVERNANCE, until=until)
        assert (locking_store.stat(f"{at}/a").lock_until or 0) >= until

    def test_a_held_version_cannot_be_deleted_until_it_is_released(
        self, locking_store: ObjectStore, at: str
    ) -> None:
        store = locking_store
        version = store.put(f"{at}/a", b"keep").version_id
        store.set_hold(f"{at}/a", on=True, version_id=version)
        assert store.stat(f"{at}/a").hold
        with pytest.raises(ObjectLocked):
            store.delete(f"{at}/a", version_id=version)
        store.set_hold(f"{at}/a", on=False, version_id=version)
        assert not store.stat(f"{at}/a").hold
        store.delete(f"{at}/a", version_id=version)

    def test_hiding_a_locked_object_keeps_its_version(
        self, locking_store: ObjectStore, at: str
    ) -> None:
        store = locking_store
        version = store.put(f"{at}/a", b"keep").version_id
        store.set_lock(f"{at}/a", mode=LockMode.GOVERNANCE, until=in_hours(1))
        store.delete(f"{at}/a")
        assert store.read(f"{at}/a", ceiling=4, version_id=version) == b"keep"

    def test_a_store_without_locks_says_so(self, store: ObjectStore, at: str) -> None:
        assert not store.probe().object_lock
        store.put(f"{at}/a", b"x")
        with pytest.raises(Unsupported):
            store.set_lock(f"{at}/a", mode=LockMode.GOVERNANCE, until=in_hours(1))
        with pytest.raises(Unsupported):
            store.set_hold(f"{at}/a", on=True)

    def test_what_is_not_there_cannot_be_locked(self, locking_store: ObjectStore, at: str) -> None:
        with pytest.raises(ObjectNotFound):
            locking_store.set_lock(f"{at}/a", mode=LockMode.GOVERNANCE, until=in_hours(1))
        with pytest.raises(ObjectNotFound):
            locking_store.set_hold(f"{at}/a", on=True)

    # --- cold classes -----------------------------------------------------------------------

    has_cold_classes = True
    """False where the classes are names only: nothing is frozen, and nothing can be recalled."""

    def test_a_cold_object_is_read_only_after_a_recall(
        self, store: ObjectStore, at: str, pass_time: PassTime
    ) -> None:
        store.put(f"{at}/a", b"cold", PutOptions(storage_class=StorageClass.DEEP_ARCHIVE))
        assert store.stat(f"{at}/a").recall is RecallState.ARCHIVED
        if not self.has_cold_classes:
            with pytest.raises(Unsupported):
                store.recall(f"{at}/a", days=1, tier=RecallTier.BULK)
            return
        with pytest.raises(ObjectArchived):
            store.read(f"{at}/a", ceiling=4)
        with pytest.raises(ObjectArchived):
            bytes_at(store, f"{at}/a", 0, 1)
        store.recall(f"{at}/a", days=2, tier=RecallTier.BULK)
        store.recall(f"{at}/a", days=2, tier=RecallTier.BULK)
        if pass_time:
            assert store.stat(f"{at}/a").recall is RecallState.RECALLING
            with pytest.raises(ObjectArchived):
                store.read(f"{at}/a", ceiling=4)
            pass_time(48 * HOUR)
        stat = store.stat(f"{at}/a")
        assert stat.recall is RecallState.RECALLED
        assert stat.storage_class is StorageClass.DEEP_ARCHIVE
        assert stat.recall_expires_at is not None
        assert store.read(f"{at}/a", ceiling=4) == b"cold"
        assert bytes_at(store, f"{at}/a", 1, 2) == b"ol"
        store.recall(f"{at}/a", days=3, tier=RecallTier.BULK)
        if pass_time:
            pass_time(73 * HOUR)
            assert store.stat(f"{at}/a").recall is RecallState.ARCHIVED
            with pytest.raises(ObjectArchived):
                store.read(f"{at}/a", ceiling=4)

    def test_deep_archive_has_no_expedited_recall(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/a", b"cold", PutOptions(storage_class=StorageClass.DEEP_ARCHIVE))
        with pytest.raises(Unsupported):
            store.recall(f"{at}/a", days=1, tier=RecallTier.EXPEDITED)

    def test_a_warm_object_is_not_recalled(self, store: ObjectStore, at: str) -> None:
        store.put(f"{at}/a", b"warm")
        with pytest.raises(Unsupported):
            store.recall(f"{at}/a", days=1, tier=RecallTier.BULK)
        with pytest.raises(Unsupported):
            store.recall(f"{at}/a", days=0, tier=RecallTier.BULK)

    def test_what_is_not_there_is_not_recalled(self, store: ObjectStore, at: str) -> None:
        if self.has_cold_classes:
            with pytest.raises(ObjectNotFound):
                store.recall(f"{at}/none", days=1, tier=RecallTier.BULK)

    # --- probe ------------------------------------------------------------------------------

    def test_a_probe_leaves_nothing_behind(self, fresh_store: ObjectStore) -> None:
        fresh_store.probe()
        assert fresh_store.probe() is fresh_store.probe()
        assert list(fresh_store.scan("")) == []
        assert list(fresh_store.uploads("")) == []

    def test_the_location_is_told_without_secrets(self, store: ObjectStore) -> None:
        assert store.uri.startswith(("s3://tapelift-", "s3://old-", "memory:"))
        assert "testing-secret" not in repr(store) + store.uri
