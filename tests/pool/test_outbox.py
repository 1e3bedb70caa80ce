"""Facts reach the ledger once, whatever happens on the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from catalog.anchor import Anchoring
from catalog.audit import verify
from catalog.errors import CatalogError, CommitUnknown
from catalog.files import MemoryFiles
from catalog.ledger import Commit, Ledger
from tests.catalog.keyring import MadeKey
from tests.pool.support import open_pool, store_image, tiny_config, tiny_store


class BrokenLedger(Ledger):
    """A ledger whose answers get lost: before the commit arrives, or after it was made."""

    def __init__(self, files: MemoryFiles) -> None:
        super().__init__(files)
        self.script: list[str] = []

    def commit(self, commit: Commit) -> None:
        what = self.script.pop(0) if self.script else "ok"
        if what == "before":
            raise CatalogError("away")
        super().commit(commit)
        if what == "after":
            raise CommitUnknown("the answer was lost")


@pytest.mark.parametrize("what", ["before", "after"])
def test_a_commit_whose_answer_is_lost_is_made_once(tmp_path: Path, what: str) -> None:
    files = MemoryFiles()
    ledger = BrokenLedger(files)
    store = tiny_store()
    with open_pool(store, tmp_path, ledger=ledger) as pool:
        store_image(pool, "a", b"a")
        ledger.script = [what]
        with pytest.raises(CatalogError):
            pool.flush()
        store_image(pool, "b", b"b")
    with open_pool(store, tmp_path, ledger=Ledger(files)) as pool:  # a later process
        pool.flush()
    assert [fact.image for fact in Ledger(files).facts()] == ["a", "b"]


def test_another_writer_who_is_faster_only_costs_another_number(tmp_path: Path) -> None:
    files = MemoryFiles()
    ledger = BrokenLedger(files)
    with (
        open_pool(tiny_store(), tmp_path / "one", ledger=ledger) as one,
        open_pool(tiny_store(), tmp_path / "two", ledger=Ledger(files)) as two,
    ):
        store_image(one, "a", b"a")
        store_image(two, "b", b"b")
        ledger.script = ["before"]
        with pytest.raises(CatalogError):
            one.flush()  # its commit is journaled for the number that two takes now
        two.flush()
        one.flush()
    assert [fact.image for fact in Ledger(files).facts()] == ["b", "a"]


def test_threads_that_flush_at_once_commit_every_fact_once(tmp_path: Path) -> None:
    files = MemoryFiles()
    config = tiny_config(ledger_rows=3)
    with open_pool(tiny_store(), tmp_path, config=config, ledger=Ledger(files)) as pool:
        for n in range(40):
            store_image(pool, f"image {n:02d}", b"x")
        threads = [threading.Thread(target=pool.flush) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(fact.image or "" for fact in Ledger(files).facts()) == [
        f"image {n:02d}" for n in range(40)
    ]


def test_the_head_is_signed_after_a_commit_and_a_commit_stands_without(tmp_path: Path) -> None:
    class Away(MemoryFiles):
        away = True

        def create(self, name: str, data: bytes) -> None:
            if self.away:
                raise CatalogError("away")
            super().create(name, data)

    files, place = MemoryFiles(), Away()
    how = Anchoring(signer=MadeKey(), every_commits=1, place=place)
    with open_pool(tiny_store(), tmp_path, ledger=Ledger(files, how)) as pool:
        store_image(pool, "a", b"a")
        pool.flush()
        assert [fact.image for fact in Ledger(files).facts()] == ["a"]
        assert verify(files, checkpoints=place).anchored is None
        place.away = False
        store_image(pool, "b", b"b")
        pool.flush()
    verdict = verify(files, checkpoints=place)
    assert (verdict.bad, verdict.files, verdict.anchored) == (None, 2, 1)
