"""The index lists exactly the copies there are, in the order of their names' bytes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from catalog.model import NANOSECONDS, LockMode, StorageClass
from connector.pool.index import DELETING, LISTED, SCHEMA, Index, Totals, entry_of
from connector.pool.journal import Journal
from connector.pool.manifest import FragmentObject, Manifest, Origin, Retention, Within
from connector.pool.sidecar import kept_by

SECOND = NANOSECONDS
START = 1_800_000_000 * SECOND


def manifest(
    name: str,
    copy: int = 1,
    *,
    size: int = 100,
    created_at: int = START,
    retention: Retention | None = None,
    token: str = "0123456789abcdef",
) -> Manifest:
    fragment = FragmentObject(
        number=1,
        key="k",
        version_id=None,
        offset=0,
        size=size,
        sha256="ab" * 32,
        crc64nvme=1,
        store_checksum="CRC64NVME",
        etag="e",
        storage_class=StorageClass.STANDARD,
        part_size=1 << 40,
        part_crc64nvme=(1,),
    )
    return Manifest(
        name=name,
        copy=copy,
        token=token,
        created_at=created_at,
        writer="test",
        size=size,
        sha256="cd" * 32,
        fragments=(fragment,),
        origin=Origin(),
        retention=retention or Retention(),
    )


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    journal = Journal(tmp_path / "journal.sqlite", schema=SCHEMA)
    yield Index(journal)
    journal.close()


def add(index: Index, *manifests: Manifest) -> None:
    with index.journal.transaction() as db:
        for one in manifests:
            index.on_commit(db, one)


def remove(index: Index, name: str, copy: int = 1) -> None:
    with index.journal.transaction() as db:
        index.forget(db, name, copy)


def test_an_entry_says_what_the_manifest_says_to_the_second(index: Index) -> None:
    retention = Retention(
        expires_at=START + 7, lock_mode=LockMode.COMPLIANCE, lock_until=START + 9, hold=True
    )
    one = manifest("a", 2, created_at=START + 5, retention=retention)
    add(index, one)
    entry = index.get("a", 2)
    assert entry == entry_of(one, kept_by(retention))
    again = Manifest.from_json(one.to_json(), where="test")
    assert entry == entry_of(again, kept_by(again.retention))
    assert (entry.created_at, entry.lock_until, entry.hold) == (START, START, True)
    assert (entry.size, entry.stored_size, entry.sha256) == (100, 100, "cd" * 32)


def test_a_date_without_a_lock_is_no_lock(index: Index) -> None:
    add(index, manifest("a", retention=Retention(lock_until=START + 9 * SECOND)))
    entry = index.get("a")
    assert entry is not None
    assert entry.lock_until is None
    assert index.totals(START).locked == 0


def test_the_lowest_copy_is_found_without_a_number(index: Index) -> None:
    add(index, manifest("a", 3), manifest("a", 2), manifest("b", 1))
    found = index.get("a")
    assert found is not None
    assert found.copy == 2
    with index.journal.transaction() as db:
        index.mark_deleting(db, "a", 2)
    assert [entry.state for entry in index.page(prefix="a")] == [DELETING, "complete"]
    going, staying = index.get("a", 2), index.get("a")
    assert going is not None
    assert going.state == DELETING
    assert staying is not None
    assert staying.copy == 3
    assert index.get("c") is None
    assert index.get("b", 2) is None


def test_names_that_are_not_utf8_are_told_apart_and_ordered_by_their_bytes(index: Index) -> None:
    raw = [b"\xff", b"\xc3\xa9", b"e", b"e\xcc\x81", b"\xc3", b"\x80a", b"\xf0\x9f\x98\x80", b"E"]
    names = [one.decode("utf-8", "surrogateescape") for one in raw]
    add(index, *(manifest(name) for name in names))
    listed = [entry.name.encode("utf-8", "surrogateescape") for entry in index.page()]
    assert listed == sorted(raw)
    for name in names:
        entry = index.get(name)
        assert entry is not None
        assert entry.name == name
    prefix = b"\xc3".decode("utf-8", "surrogateescape")
    assert len(index.page(prefix=prefix)) == 2
    assert len(index.page(prefix=b"\xff".decode("utf-8", "surrogateescape"))) == 1


def test_pages_stay_where_they_are_while_images_come_and_go(index: Index) -> None:
    add(index, *(manifest(f"m{n:03}") for n in range(0, 200, 2)))
    seen: list[str] = []
    after = None
    step = 0
    while page := index.page(after=after, limit=7):
        seen += [entry.name for entry in page]
        after = (page[-1].name, page[-1].copy)
        add(index, manifest(f"m{step:03}x"))  # behind us sooner or later
        remove(index, page[0].name)
        remove(index, after[0])  # what the cursor names may be gone
        step += 1
    there = [f"m{n:03}" for n in range(0, 200, 2)]
    assert [name for name in seen if not name.endswith("x")] == there
    assert seen == sorted(set(seen))


def test_a_page_filters_by_time_state_and_prefix(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector.pool.index.SCAN_ROWS", 3)
    add(index, *(manifest(f"a{n}", created_at=START + n * SECOND) for n in range(10)))
    add(index, manifest("b"))
    with index.journal.transaction() as db:
        index.mark_deleting(db, "a7", 1)
    within = index.page(
        prefix="a", created_after=START + 2 * SECOND, created_before=START + 9 * SECOND
    )
    assert [entry.name for entry in within] == ["a3", "a4", "a5", "a6", "a7", "a8"]
    assert [entry.name for entry in index.page(states=LISTED, prefix="a", after=("a5", 1))] == [
        "a6",
        "a8",
        "a9",
    ]
    assert [entry.name for entry in index.page(states=(DELETING,))] == ["a7"]
    assert index.page(states=()) == []
    late = index.page(created_after=START + 5 * SECOND, limit=2)
    assert [entry.name for entry in late] == ["a6", "a7"]
    assert index.page(limit=0) == []


def test_totals_follow_every_change(index: Index) -> None:
    lock = Retention(lock_mode=LockMode.GOVERNANCE, lock_until=START + 10 * SECOND)
    add(
        index,
        manifest("a", size=1),
        manifest("b", size=10, retention=lock),
        manifest("c", size=100, retention=Retention(hold=True)),
    )
    assert index.totals(START) == Totals(images=3, logical=111, physical=111, locked=110)
    assert index.totals(START + 10 * SECOND).locked == 100  # a lock ends at its time
    assert index.totals(START + 9 * SECOND).locked == 110  # and a clock may go back
    add(index, manifest("b", size=20, retention=lock))
    assert index.totals(START + 9 * SECOND).locked == 120
    with index.journal.transaction() as db:
        index.mark_deleting(db, "a", 1)
    assert index.totals(START) == Totals(images=2, logical=120, physical=121, locked=120)
    for name in "abc":
        remove(index, name)
    assert index.totals(START) == Totals(images=0, logical=0, physical=0, locked=0)


def test_a_change_that_is_rolled_back_never_was(index: Index) -> None:
    def add_and_fail() -> None:
        with index.journal.transaction() as db:
            index.on_commit(db, manifest("a"))
            raise KeyError

    with pytest.raises(KeyError):
        add_and_fail()
    assert index.page() == []
    assert index.totals(START).images == 0


def test_bytes_of_a_multiplexed_image_count_with_its_tape_file(index: Index) -> None:
    part = Within(image="tape-1", copy=1, fragment_number=1, size=None)
    inner = dataclasses.replace(
        manifest("inner", size=50), fragments=(), within=(part,), sha256=None
    )
    add(index, manifest("tape-1", size=70), inner)
    assert index.totals(START) == Totals(images=2, logical=70, physical=70, locked=0)
    assert index.within("tape-1", 1) == ("inner", 1)
    remove(index, "inner")
    assert index.within("tape-1", 1) is None


def test_forgetting_by_token_leaves_a_later_image_of_the_name(index: Index) -> None:
    add(index, manifest("a", token="2" * 16))
    with index.journal.transaction() as db:
        index.forget(db, "a", 1, token="1" * 16)
    assert index.get("a") is not None


def test_listing_asks_no_sort_and_skips_nothing(index: Index) -> None:
    """Whatever is asked for is one range of the primary key."""
    add(index, manifest("a"))
    plans: list[str] = []
    with index.journal.transaction() as db:
        for query in (
            "SELECT * FROM stored_images WHERE generation = 1 AND (name, copy) > (x'61', 1)"
            " AND name < x'62' ORDER BY name, copy LIMIT 10",
            "SELECT sum(stored_size) FROM stored_images WHERE generation = 1 AND lock_until > 1"
            " AND lock_until <= 2 AND endless = 0",
        ):
            plans += [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert not any("SCAN" in plan or "B-TREE" in plan for plan in plans), plans
    assert any("stored_images_locked" in plan for plan in plans)


NAMES = st.binary(min_size=1, max_size=3).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


class IndexIsASortedList(RuleBasedStateMachine):
    """Random changes, and a dictionary beside that is sorted whenever it is asked."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Journal(Path(self.folder.name) / "journal.sqlite", schema=SCHEMA)
        self.index = Index(self.journal)
        self.model: dict[tuple[bytes, int], Manifest] = {}
        self.deleting: set[tuple[bytes, int]] = set()
        self.now = START

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.folder.cleanup()

    @rule(
        name=NAMES,
        copy=st.integers(1, 3),
        size=st.integers(0, 1000),
        lock=st.integers(0, 20),
        hold=st.booleans(),
        at=st.integers(0, 20),
    )
    def commit(self, name: str, copy: int, size: int, lock: int, hold: bool, at: int) -> None:
        mode = LockMode.GOVERNANCE if lock else LockMode.NONE
        retention = Retention(lock_mode=mode, lock_until=START + lock * SECOND, hold=hold)
        one = manifest(name, copy, size=size, retention=retention, created_at=START + at * SECOND)
        add(self.index, one)
        key = (name.encode("utf-8", "surrogateescape"), copy)
        self.model[key] = one
        self.deleting.discard(key)

    @rule(data=st.data())
    def change_one(self, data: st.DataObject) -> None:
        if not self.model:
            return
        key = data.draw(st.sampled_from(sorted(self.model)))
        name = key[0].decode("utf-8", "surrogateescape")
        with self.journal.transaction() as db:
            if data.draw(st.booleans()):
                self.index.forget(db, name, key[1])
                del self.model[key]
                self.deleting.discard(key)
            else:
                self.index.mark_deleting(db, name, key[1])
                self.deleting.add(key)

    @rule(seconds=st.integers(-5, 10))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(prefix=NAMES | st.just(""), after=NAMES, copy=st.integers(0, 3), limit=st.integers(0, 4))
    def page(self, prefix: str, after: str, copy: int, limit: int) -> None:
        low = (after.encode("utf-8", "surrogateescape"), copy)
        raw = prefix.encode("utf-8", "surrogateescape")
        wanted = [key for key in sorted(self.model) if key > low and key[0].startswith(raw)]
        found = self.index.page(prefix=prefix, after=(after, copy), limit=limit)
        assert [
            (entry.name.encode("utf-8", "surrogateescape"), entry.copy) for entry in found
        ] == wanted[:limit]

    @invariant()
    def sums_are_right(self) -> None:
        if not hasattr(self, "model"):
            return
        listed = [one for key, one in self.model.items() if key not in self.deleting]
        locked = [
            one.stored_size
            for one in self.model.values()
            if one.retention.hold
            or (
                one.retention.lock_mode is not LockMode.NONE
                and (one.retention.lock_until or 0) > self.now
            )
        ]
        assert self.index.totals(self.now) == Totals(
            images=len(listed),
            logical=sum(one.size or 0 for one in listed),
            physical=sum(one.stored_size for one in self.model.values()),
            locked=sum(locked),
        )


TestIndexIsASortedList = IndexIsASortedList.TestCase
TestIndexIsASortedList.settings = hypothesis_settings(
    max_examples=25, stateful_step_count=25, deadline=None
)
