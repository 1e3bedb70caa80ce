from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.audit import verify
from catalog.errors import CatalogError, ChainBroken, CommitConflict, CommitUnknown
from catalog.files import FolderFiles, LedgerFiles, MemoryFiles, name_of
from catalog.ledger import Head, Ledger
from catalog.s3 import S3Location
from catalog.s3_files import S3Files
from tests.catalog.samples import fact, stored


def test_an_empty_ledger_has_no_head() -> None:
    assert Ledger(MemoryFiles()).head() is None


def test_appended_facts_come_back_in_order(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path / "ledger"))
    facts = [stored(f"image{number}") for number in range(7)]
    ledger.append(facts[:3])
    ledger.append(facts[3:4])
    ledger.append(facts[4:])
    assert list(ledger.facts()) == facts
    assert list(ledger.facts(start=1)) == facts[3:]
    assert list(Ledger.open(str(tmp_path / "ledger")).facts()) == facts


def test_each_file_carries_the_digest_of_the_one_before_it() -> None:
    files = MemoryFiles()
    ledger = Ledger(files)
    commits = [ledger.append([fact()]) for _ in range(3)]
    assert [commit.name for commit in commits] == [name_of(number) for number in range(3)]
    for commit in commits:
        assert hashlib.sha256(files.read(commit.name)).hexdigest() == commit.sha256
    assert ledger.head() == Head(2, commits[2].sha256)
    assert Ledger(files).head() == Head(2, commits[2].sha256)
    assert verify(files).ok


def test_preparing_writes_nothing_and_gives_the_same_bytes_each_time() -> None:
    files = MemoryFiles()
    ledger = Ledger(files)
    facts = [stored(), fact()]
    assert ledger.prepare(facts, None) == ledger.prepare(facts, None)
    assert list(files.names()) == []


def test_a_commit_may_be_repeated_by_a_later_process() -> None:
    files = MemoryFiles()
    commit = Ledger(files).prepare([fact()], None)
    Ledger(files).commit(commit)
    Ledger(files).append([fact()])
    Ledger(files).commit(commit)
    assert list(files.names()) == [name_of(0), name_of(1)]


def test_who_comes_second_gets_a_conflict_and_then_the_next_number() -> None:
    files = MemoryFiles()
    mine, theirs = Ledger(files), Ledger(files)
    assert mine.head() is None
    theirs.append([fact()])
    theirs.append([fact()])
    with pytest.raises(CommitConflict):
        mine.commit(mine.prepare([fact()], None))
    assert mine.append([fact()]).sequence == 2
    assert verify(files).ok


def test_a_commit_for_another_ledger_is_refused() -> None:
    elsewhere = Ledger(MemoryFiles())
    elsewhere.append([fact()])
    commit = elsewhere.prepare([fact()], elsewhere.head())
    here = MemoryFiles()
    with pytest.raises(ChainBroken, match="no file before it"):
        Ledger(here).commit(commit)
    Ledger(here).append([fact()])
    with pytest.raises(ChainBroken, match="prepared upon another"):
        Ledger(here).commit(commit)
    assert list(here.names()) == [name_of(0)]


def test_a_commit_that_was_altered_is_refused() -> None:
    files = MemoryFiles()
    ledger = Ledger(files)
    commit = ledger.prepare([fact()], None)
    other = ledger.prepare([fact()], None)
    for wrong in (
        dataclasses.replace(commit, data=other.data),
        dataclasses.replace(commit, name=name_of(5)),
        dataclasses.replace(commit, sequence=5),
        dataclasses.replace(commit, data=commit.data[:-1]),
    ):
        with pytest.raises(CatalogError):
            ledger.commit(wrong)
    assert list(files.names()) == []


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"PAR1" * 10])
def test_nothing_is_chained_to_a_file_that_is_not_a_ledgers(rubbish: bytes) -> None:
    files = MemoryFiles()
    files.create(name_of(0), rubbish)
    with pytest.raises(ChainBroken, match="tapecatalog verify"):
        Ledger(files).append([fact()])


def test_nothing_is_chained_to_a_file_under_a_wrong_number() -> None:
    files = MemoryFiles()
    commit = Ledger(files).append([fact()])
    files.create(name_of(4), commit.data)
    with pytest.raises(ChainBroken, match="number 0"):
        Ledger(files).append([fact()])


def test_the_last_number_is_the_last() -> None:
    with pytest.raises(CatalogError, match="used up"):
        Ledger(MemoryFiles()).prepare([fact()], Head(2**63 - 1, "0" * 64))


class Stubborn(MemoryFiles):
    """Somebody else always takes the number first."""

    def create(self, name: str, data: bytes) -> None:
        raise CommitConflict(name)


def test_a_writer_that_always_loses_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.ledger._LONGEST_WAIT_S", 0)
    with pytest.raises(CommitConflict, match="200 times"):
        Ledger(Stubborn()).append([fact()])


class Forgetful(MemoryFiles):
    """Writes the first file, and says that it does not know."""

    def create(self, name: str, data: bytes) -> None:
        known = name in self.names()
        super().create(name, data)
        if not known:
            raise CommitUnknown(name)


def test_an_unknown_outcome_is_settled_by_the_same_commit() -> None:
    ledger = Ledger(Forgetful())
    commit = ledger.prepare([fact()], ledger.head())
    with pytest.raises(CommitUnknown):
        ledger.commit(commit)
    ledger.commit(commit)
    assert ledger.head() == Head(0, commit.sha256)
    assert len(list(ledger.facts())) == 1


# --- several writers ------------------------------------------------------------------------


def race(open_ledger: Callable[[], Ledger], writers: int, commits: int) -> list[str]:
    """Each writer appends its facts; returns their ids. An error in a thread fails the test."""
    facts = [[fact() for _ in range(commits)] for _ in range(writers)]
    barrier = threading.Barrier(writers)
    errors: list[BaseException] = []

    def write(mine: list[object]) -> None:
        try:
            ledger = open_ledger()
            barrier.wait(30)
            for one in mine:
                ledger.append([one])  # type: ignore[list-item]
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=write, args=(mine,)) for mine in facts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    return [one.fact_id for mine in facts for one in mine]


def one_chain(files: LedgerFiles, ids: list[str]) -> None:
    assert sorted(one.fact_id for one in Ledger(files).facts()) == sorted(ids)
    verdict = verify(files)
    assert verdict.ok, verdict
    assert verdict.files == len(ids)


def test_independent_writers_make_one_chain_in_a_folder(tmp_path: Path) -> None:
    ids = race(lambda: Ledger(FolderFiles(tmp_path)), writers=8, commits=6)
    one_chain(FolderFiles(tmp_path), ids)


def test_independent_writers_make_one_chain_in_memory() -> None:
    files = MemoryFiles()
    one_chain(files, race(lambda: Ledger(files), writers=8, commits=10))


def test_threads_of_one_process_share_a_ledger() -> None:
    files = MemoryFiles()
    ledger = Ledger(files)
    one_chain(files, race(lambda: ledger, writers=8, commits=10))


def test_independent_writers_make_one_chain_in_s3(
    moto_bucket: Callable[..., S3Location],
) -> None:
    location = moto_bucket(prefix="ledger")
    ids = race(lambda: Ledger(S3Files(location)), writers=4, commits=5)
    one_chain(S3Files(location), ids)


@pytest.mark.deep
def test_eight_writers_commit_two_hundred_times_each(tmp_path: Path) -> None:
    ids = race(lambda: Ledger(FolderFiles(tmp_path)), writers=8, commits=100)
    one_chain(FolderFiles(tmp_path), ids)
