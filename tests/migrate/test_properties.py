"""Whatever lies on the tapes in whatever order: every image comes back byte for byte.

The runs are the command's own ``run``, on a store in memory with tiny parts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.ledger import Ledger
from catalog.model import Kind, LockMode
from connector.pool.classes import ClassPolicy
from connector.pool.config import PoolConfig
from connector.pool.manifest import Manifest
from connector.pool.prices import Prices
from connector.store.interface import StoredObject
from connector.store.memory import MemoryStore
from migrate import facts
from migrate import run as runner
from migrate.assembly import ImageJob
from migrate.inventory import ImportOptions
from migrate.run import RunResult
from migrate.selection import Outcome
from migrate.session import Session
from migrate.settings import Migration
from migrate.source.shelf import Shelf
from tests.migrate.support import Run, TapeSet, backup_header, media_header, some_bytes
from tests.source.tapes import END, MARK, Item, tap

BLOCK = 64
SIZES = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 100, 399, 400, 401, 1000])
TAPES = ["TAPE01", "TAPE02", "TAPE03", "TAPE04"]

fast = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
deep = settings(fast, max_examples=600)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[MemoryStore]:
    """The store that the next run writes to: the last of the list."""
    stores: list[MemoryStore] = []
    monkeypatch.setattr(runner, "S3Store", lambda *_, **__: stores[-1])
    monkeypatch.setattr("connector.pool.config.MIN_PART", 1)
    return stores


def migrate(folder: Path, catalog: Path, shelf: Path, drives: int) -> RunResult:
    return runner.run(
        Migration(
            catalogs=(catalog,),
            options=ImportOptions(),
            shelf=Shelf(shelf),
            drives=drives,
            to="s3://memory/pool",
            endpoint_url=None,
            workdir=folder / "work",
            ledger=str(folder / "ledger"),
            policy=ClassPolicy(),
            prices=Prices.load(None),
            lock=LockMode.NONE,
            config=PoolConfig(part_size=100, fragment_size=400),
            buffer_bytes=4096,
        ),
        quiet=True,
    )


def manifests(store: MemoryStore) -> dict[str, Manifest]:
    found = (
        Manifest.from_json(store.read(stored.key, ceiling=10**6), where=stored.key)
        for stored in store.scan("images/")
        if stored.key.endswith("/manifest.json")
    )
    return {manifest.name: manifest for manifest in found}


def image(store: MemoryStore, manifest: Manifest) -> bytes:
    return b"".join(store.read(part.key, ceiling=10**6) for part in manifest.fragments)


def assert_nothing_else(store: MemoryStore) -> None:
    named = {part.key for manifest in manifests(store).values() for part in manifest.fragments}
    named |= {manifest.key for manifest in manifests(store).values()}
    assert {stored.key for stored in store.scan("images/")} == named
    assert list(store.uploads("")) == []


@st.composite
def tape_sets(draw: st.DrawFn) -> TapeSet:
    """Images in fragments on tapes in any order: interleaved, spanning, contradicting."""
    number = draw(st.integers(1, 4))
    tapes: dict[str, list[Run]] = {name: [] for name in TAPES[:number]}
    runs: list[tuple[str, Run]] = []
    seeds = itertools.count()
    for which in range(draw(st.integers(1, 7))):
        name = f"client{which}_17000000{which:02d}"
        for fragment in range(1, draw(st.integers(1, 4)) + 1):
            data = some_bytes(draw(SIZES), next(seeds))
            runs.append((draw(st.sampled_from(TAPES[:number])), Run(name, fragment, data)))
    for tape, run in draw(st.permutations(runs)):
        tapes[tape].append(run)
    return TapeSet({name: on_tape for name, on_tape in tapes.items() if on_tape})


def check_images(tapes: TapeSet, drives: int, stores: list[MemoryStore]) -> None:
    stores.append(MemoryStore(smallest_part=1, versioning=False, object_lock=False))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog, shelf = tapes.write(folder, BLOCK)
        result = migrate(folder, catalog, shelf, drives)
        assert result.images[Outcome.STORED] == len(tapes.images()), result
        assert sorted(result.released) == sorted(tapes.tapes)
        found = manifests(stores[-1])
        assert {n: image(stores[-1], m) for n, m in found.items()} == tapes.images()
        assert {n: m.sha256 for n, m in found.items()} == tapes.sha256s()
        assert_nothing_else(stores[-1])
        rows = list(Ledger.open(str(folder / "ledger")).facts())
        for kind in (Kind.STORED, Kind.VERIFIED):
            assert sorted(str(fact.image) for fact in rows if fact.kind is kind) == sorted(found)


@fast
@given(tapes=tape_sets(), drives=st.integers(1, 3))
def test_every_image_comes_back_whatever_the_order_on_tape(
    store: list[MemoryStore], tapes: TapeSet, drives: int
) -> None:
    check_images(tapes, drives, store)


@pytest.mark.deep
@pytest.mark.timeout(900)
@deep
@given(tapes=tape_sets(), drives=st.integers(1, 3))
def test_every_image_comes_back_from_many_more_tape_sets(
    store: list[MemoryStore], tapes: TapeSet, drives: int
) -> None:
    check_images(tapes, drives, store)


# --- multiplexed tape files -----------------------------------------------------------------------

Layout = dict[str, list[list[str]]]


@st.composite
def multiplexed_sets(draw: st.DrawFn) -> Layout:
    """For each tape its tape files, for each file the images that are interleaved in it."""
    images = [f"client{which}_17000000{which:02d}" for which in range(draw(st.integers(2, 5)))]
    files = st.lists(st.sampled_from(images), min_size=1, max_size=4, unique=True)
    tapes = draw(st.integers(1, 3))
    return {name: draw(st.lists(files, min_size=1, max_size=3)) for name in TAPES[:tapes]}


def write_multiplexed(layout: Layout, folder: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """The shelf, the catalogue, and what each tape file's records joined are."""
    shelf = folder / "shelf"
    shelf.mkdir()
    fragments: dict[str, list[dict[str, object]]] = {}
    joined: dict[str, bytes] = {}
    for media, files in layout.items():
        items: list[Item] = [media_header(media), MARK]
        for number, images in enumerate(files, start=1):
            records = [backup_header(name) for name in images]
            records += [some_bytes(size, number) for size in (BLOCK, BLOCK, 30)]
            items += [*records, MARK]
            joined[facts.tape_file_name(media, number)] = b"".join(records)
            for name in images:
                parts = fragments.setdefault(name, [])
                parts.append({"media_id": media, "tape_file_number": number, "multiplexed": True})
        (shelf / f"{media}.tap").write_bytes(tap([*items, END]))
    entries = [{"image_id": n, "copies": [{"fragments": parts}]} for n, parts in fragments.items()]
    catalog = folder / "catalog.json"
    catalog.write_text(json.dumps({"product": "netbackup", "images": entries}))
    return catalog, shelf, joined


@fast
@given(layout=multiplexed_sets(), drives=st.integers(1, 3))
def test_every_multiplexed_tape_file_is_moved_once_and_its_images_name_it(
    store: list[MemoryStore], layout: Layout, drives: int
) -> None:
    store.append(MemoryStore(smallest_part=1, versioning=False, object_lock=False))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog, shelf, joined = write_multiplexed(layout, folder)
        result = migrate(folder, catalog, shelf, drives)
        found = manifests(store[-1])
        files = {n: image(store[-1], m) for n, m in found.items() if not m.within}
        assert files == joined
        images = {name for on_tape in layout.values() for names in on_tape for name in names}
        assert result.images[Outcome.STORED] == len(images)
        assert set(found) == set(joined) | images
        for image_id in images:
            places = [
                facts.tape_file_name(media, number)
                for media, on_tape in layout.items()
                for number, names in enumerate(on_tape, start=1)
                if image_id in names
            ]
            assert [part.image for part in found[image_id].within] == places
        assert_nothing_else(store[-1])
        assert sorted(result.released) == sorted(layout)
        digests = {n: hashlib.sha256(data).hexdigest() for n, data in joined.items()}
        assert {n: found[n].sha256 for n in joined} == digests


def test_more_interleaved_images_than_may_be_open_are_no_problem(
    store: list[MemoryStore],
) -> None:
    names = [f"client{which}_17000000{which:02d}" for which in range(30)]
    rounds = [
        Run(name, fragment, some_bytes(150, which * 10 + fragment))
        for fragment in (1, 2, 3)
        for which, name in enumerate(names)
    ]
    check_images(TapeSet({"TAPE01": rounds}), 1, store)


class SlowManifests(MemoryStore):
    """Commits take so long that two of them meet."""

    def put(self, key: str, *args: Any, **settings: Any) -> StoredObject:
        if key.endswith("manifest.json"):
            time.sleep(0.03)
        return super().put(key, *args, **settings)


def test_two_drives_that_end_an_image_at_the_same_time_place_it_once(
    store: list[MemoryStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Session.place_if_complete

    def by_two(session: Session, job: ImageJob) -> None:
        with ThreadPoolExecutor(2) as drives:
            for done in [drives.submit(place, session, job) for _ in range(2)]:
                done.result()

    monkeypatch.setattr(Session, "place_if_complete", by_two)
    store.append(SlowManifests(smallest_part=1, versioning=False, object_lock=False))
    names = [f"client{which}_17000000{which:02d}" for which in range(4)]
    catalog, shelf, _ = write_multiplexed({"TAPE01": [names], "TAPE02": [names]}, tmp_path)
    result = migrate(tmp_path, catalog, shelf, 1)
    assert result.images[Outcome.STORED] == 4, result
    rows = list(Ledger.open(str(tmp_path / "ledger")).facts())
    for kind in (Kind.STORED, Kind.VERIFIED):
        told = [str(fact.image) for fact in rows if fact.kind is kind]
        assert sorted(told) == sorted(manifests(store[-1]))


def test_a_name_that_cannot_be_a_key_fails_alone(store: list[MemoryStore], tmp_path: Path) -> None:
    store.append(MemoryStore(smallest_part=1, versioning=False, object_lock=False))
    names = ["short_1700000001", "x" * 1100]
    catalog, shelf, joined = write_multiplexed({"TAPE01": [names]}, tmp_path)
    result = migrate(tmp_path, catalog, shelf, 1)
    assert (result.images[Outcome.STORED], result.images[Outcome.FAILED]) == (1, 1)
    assert set(manifests(store[-1])) == {names[0], *joined}
    assert result.released == []
