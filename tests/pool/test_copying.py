"""A copy is the source to the byte, or there is none."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    CopyStopped,
    ImageArchived,
    ImageBusy,
    ImageDamaged,
    ImageExists,
    PoolError,
    SamePlace,
    TransientStoreError,
    Unsupported,
)
from catalog.model import NANOSECONDS, LockMode, ScheduleType, StorageClass
from connector.pool import Manifest, Origin, Pool, Retention
from connector.pool.copying import copy_image, forget_copy
from connector.pool.index import Index
from connector.pool.manifest import Within
from connector.store.interface import ObjectStore, RecallTier
from connector.store.memory import MemoryStore
from connector.store.s3 import S3Store
from tests.pool.indexed import DAY, Clock, Killed, Mortal, facts, indexed_pool, keep_image
from tests.pool.support import NOTHING, read_image, some_bytes, tiny_config
from tests.support.servers import new_bucket

DATA = some_bytes(1500)
ORIGIN = Origin(
    product="netbackup",
    client="db1",
    policy="p",
    schedule_type=ScheduleType.FULL,
    backup_time=1_700_000_000 * NANOSECONDS,
)


class Places:
    """Two pools on two stores."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder, self.clock = folder, clock
        self.near = MemoryStore(
            "near", smallest_part=1, versioning=False, object_lock=False, clock=clock
        )
        self.far = MemoryStore("far", smallest_part=1, clock=clock)

    @contextlib.contextmanager
    def open(self, near: Any = None, far: Any = None) -> Iterator[tuple[Pool, Index, Pool, Index]]:
        config = tiny_config(part_size=32, fragment_size=320)
        with (
            indexed_pool(near or self.near, self.folder / "near", clock=self.clock) as (a, i),
            indexed_pool(far or self.far, self.folder / "far", clock=self.clock, config=config) as (
                b,
                j,
            ),
        ):
            yield a, i, b, j


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, Clock())


def copied(
    source: Pool, manifest: Manifest, target: Pool, index: Index | None = None, **wanted: Any
) -> Manifest:
    settings: dict[str, Any] = {
        "name": manifest.name,
        "copy": manifest.copy,
        "storage_class": StorageClass.STANDARD_IA,
        "retention": Retention(),
        "on_commit": index.on_commit if index else None,
    }
    return copy_image(source, manifest, target, **(settings | wanted))


def written(pool: Pool, index: Index, name: str = "a", **facts_of: Any) -> Manifest:
    writer = pool.write_image(name, 1, on_commit=index.on_commit)
    writer.write(DATA)
    return writer.close(origin=ORIGIN, retention=Retention(), **facts_of)


def left_over(store: ObjectStore) -> list[str]:
    found = [one.key for one in store.scan_versions("images/")]
    return found + [one.key for one in store.uploads("images/")]


def test_a_copy_is_the_image_with_the_retention_that_was_asked_for(places: Places) -> None:
    lock = Retention(
        expires_at=places.clock.now + DAY,
        lock_mode=LockMode.GOVERNANCE,
        lock_until=places.clock.now + DAY,
    )
    with places.open() as (near, i, far, j):
        source = written(near, i, blocks=((500, 3),), gaps=())
        seen: list[tuple[int, int]] = []
        copy = copied(near, source, far, j, retention=lock, progress=lambda *at: seen.append(at))
        assert read_image(far, "a") == DATA
        assert (copy.sha256, copy.size, copy.origin, copy.blocks) == (
            source.sha256,
            1500,
            ORIGIN,
            ((500, 3),),
        )
        assert (copy.retention, copy.storage_class) == (lock, StorageClass.STANDARD_IA)
        assert copy.token != source.token
        assert seen[-1] == (1500, 1500)
        assert seen == sorted(set(seen))
        assert j.get("a") is not None
        assert [fact["kind"] for fact in facts(far)] == ["stored"]


def test_a_damaged_image_is_copied_with_its_gaps(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i, gaps=((100, 50),))
        assert copied(near, source, far, j).gaps == ((100, 50),)
        entry = j.get("a")
        assert entry is not None
        assert entry.state == "damaged"
        assert [fact["kind"] for fact in facts(far)] == ["damaged"]


def test_retention_of_the_source_is_never_inherited(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = keep_image(
            far, j, "a", DATA, retention=Retention(expires_infinite=True, hold=True)
        )
        copy = copied(far, source, near, i)
        assert copy.retention == Retention()


def test_a_copy_to_itself_is_the_same(places: Places) -> None:
    with places.open() as (near, i, _, _):
        source = written(near, i)
        with pytest.raises(SamePlace) as caught:
            copied(near, source, near, i)
        assert caught.value.code == "same"
        assert isinstance(caught.value, ImageExists)
        assert read_image(near, "a") == DATA


def test_a_copy_within_a_pool_gets_another_name_or_number(places: Places) -> None:
    with places.open() as (near, i, _, _):
        source = written(near, i)
        copied(near, source, near, i, copy=2)
        copied(near, source, near, i, name="b")
        assert read_image(near, "a", 2) == read_image(near, "b") == DATA


def test_an_image_that_is_there_is_not_replaced(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)
        keep_image(far, j, "a", b"other")
        before = left_over(places.far)
        with pytest.raises(ImageExists):
            copied(near, source, far, j)
        assert read_image(far, "a") == b"other"
        assert left_over(places.far) == before


def test_bytes_are_never_added_to_what_somebody_else_writes(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)
        theirs = far.write_image("a", 1)
        theirs.write(b"their first bytes, not a copy's")
        theirs.suspend()
        with pytest.raises(ImageBusy):
            copied(near, source, far, j)
        forget_copy(far, "a", 1)
        again = far.write_image("a", 1)
        again.write(b"; and their last")
        again.close(origin=NOTHING, retention=Retention())
        assert read_image(far, "a") == b"their first bytes, not a copy's; and their last"


def test_an_archived_image_is_not_begun_and_a_recalled_one_is_copied(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = keep_image(near, i, "a", DATA, storage_class=StorageClass.GLACIER)
        with pytest.raises(ImageArchived, match="recall it first"):
            copied(near, source, far, j)
        assert left_over(places.far) == []
        for part in source.fragments:
            places.near.recall(part.key, days=2, tier=RecallTier.STANDARD)
        with pytest.raises(ImageArchived):
            copied(near, source, far, j)
        places.clock.days(1)
        copied(near, source, far, j)
        assert read_image(far, "a") == DATA


@pytest.mark.parametrize("how", ["bytes", "gone", "manifest"])
def test_a_source_that_is_not_what_it_should_be_leaves_nothing(places: Places, how: str) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)
        last = source.fragments[-1]
        if how == "bytes":
            places.near.put(last.key, bytes(last.size))
        elif how == "gone":
            places.near.delete(last.key, version_id=last.version_id)
        else:
            source = dataclasses.replace(source, sha256="00" * 32)
        with pytest.raises(ImageDamaged):
            copied(near, source, far, j)
        assert left_over(places.far) == []
        assert far.pending() == []
        assert facts(far) == []


def test_a_copy_that_was_stopped_goes_on_where_it_was(places: Places) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 12

    with places.open() as (near, i, far, j):
        source = written(near, i)
        with pytest.raises(CopyStopped):
            copied(near, source, far, j, stop=stop)
        assert far.find("a", 1) is None
        assert j.get("a") is None
    with places.open() as (near, i, far, j):
        seen: list[int] = []
        copied(near, source, far, j, progress=lambda at, _: seen.append(at))
        assert seen[0] > 500
        assert read_image(far, "a") == DATA


def test_a_copy_that_is_given_up_leaves_nothing(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)
        with pytest.raises(CopyStopped):
            copied(near, source, far, j, stop=lambda: len(left_over(places.far)) > 2)
        assert left_over(places.far) != []
        forget_copy(far, "a", 1)
        assert left_over(places.far) == []
        assert far.pending() == []


def test_a_half_copy_of_another_image_is_not_gone_on_with(places: Places) -> None:
    with places.open() as (near, i, far, j):
        first = written(near, i)
        writer = near.write_image("b", 1)
        writer.write(some_bytes(1500, 9))
        second = writer.close(origin=NOTHING, retention=Retention())
        with pytest.raises(CopyStopped):
            copied(near, first, far, j, name="t", stop=lambda: len(left_over(places.far)) > 2)
        copied(near, second, far, j, name="t")
        assert read_image(far, "t") == some_bytes(1500, 9)
        assert all(far.stat("t", 1).token in key for key in left_over(places.far)[:-1])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 8))
def test_a_copy_that_was_killed_anywhere_is_finished_by_the_same_call(
    places: Places, step: int, after: bool
) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)
    mortal = Mortal(places.far, step, after=after, error=Killed())
    with places.open(far=mortal) as (near, i, far, j), contextlib.suppress(Killed):
        copied(near, source, far, j)
    with places.open() as (near, i, far, j):
        with contextlib.suppress(ImageExists):  # when no kill came in between
            copied(near, source, far, j)
        assert read_image(far, "a") == DATA
        manifest = far.stat("a", 1)
        assert sorted(left_over(places.far)) == sorted(
            [manifest.key, *(part.key for part in manifest.fragments)]
        )
        assert [fact["kind"] for fact in facts(far)] == ["stored"]
        assert j.get("a") is not None
        assert far.pending() == []


def test_a_commit_that_recovery_finished_is_the_answer_of_the_same_call(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)

    class DiesAtTheManifest:
        def __getattr__(self, name: str) -> Any:
            return getattr(places.far, name)

        def put(self, key: str, *body: Any, **rest: Any) -> None:
            places.far.put(key, *body, **rest)
            if key.endswith("manifest.json"):
                raise Killed

    with places.open(far=DiesAtTheManifest()) as (near, i, far, j), pytest.raises(Killed):
        copied(near, source, far, j)
    with places.open() as (near, i, far, j):
        (finished,) = far.recover(j.on_commit)
        assert copied(near, source, far, j).token == finished.token
        with pytest.raises(ImageExists):
            copied(near, source, far, j)


@pytest.mark.parametrize("side", ["near", "far"])
def test_a_store_that_goes_away_leaves_a_copy_to_be_gone_on_with(places: Places, side: str) -> None:
    with places.open() as (near, i, far, j):
        source = written(near, i)

    class Away:
        def __init__(self, store: MemoryStore) -> None:
            self._store, self._left = store, 20

        def __getattr__(self, name: str) -> Any:
            if name in ("read_into", "put_part"):
                self._left -= 1
                if self._left <= 0:
                    raise TransientStoreError("away")
            return getattr(self._store, name)

    away = {side: Away(getattr(places, side))}
    with places.open(**away) as (near, i, far, j):
        with pytest.raises(PoolError):
            copied(near, source, far, j)
        assert far.find("a", 1) is None
    with places.open() as (near, i, far, j):
        copied(near, source, far, j)
        assert read_image(far, "a") == DATA


def test_an_image_within_tape_files_is_not_copied_alone(places: Places) -> None:
    with places.open() as (near, i, far, j):
        part = Within(image="tape-file", copy=1, fragment_number=1, size=None)
        inner = near.place_image(
            "inner", 1, within=[part], origin=NOTHING, retention=Retention(),
            on_commit=i.on_commit,
        )  # fmt: skip
        with pytest.raises(Unsupported, match="tape-file"):
            copied(near, inner, far, j)


def test_an_empty_image_is_copied(places: Places) -> None:
    with places.open() as (near, i, far, j):
        source = keep_image(near, i, "empty", b"")
        assert copied(near, source, far, j).size == 0
        assert read_image(far, "empty") == b""


def test_a_real_server_gives_and_takes_a_copy(moto_endpoint: str, tmp_path: Path) -> None:
    near = S3Store(new_bucket(moto_endpoint, object_lock=False, prefix="p"))
    far = S3Store(new_bucket(moto_endpoint, object_lock=True, prefix="q"))
    data = some_bytes(100_000)
    with (
        indexed_pool(near, tmp_path / "near", config=None) as (a, i),
        indexed_pool(far, tmp_path / "far", config=None) as (b, j),
    ):
        source = keep_image(a, i, "x", data)
        copied(a, source, b, j)
        assert read_image(b, "x") == data
    near.close()
    far.close()
