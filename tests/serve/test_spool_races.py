"""The spool between writer, uploader, readers and deletes: nothing doubled, mixed, misreported."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    ImageBusy,
    ImageLocked,
    ImageNotFound,
    JournalError,
    NameInvalid,
    NoSpace,
    TransientStoreError,
)
from catalog.model import LockMode
from connector.pool.journal import Journal
from connector.serve import spool_files
from connector.serve.service import Service
from connector.serve.spool import Spool
from connector.serve.spool_files import SpoolRow
from connector.serve.units import Unit
from connector.wire import messages
from connector.wire.messages import Name
from tests.pool.support import open_pool, some_bytes, store_image, tiny_store
from tests.serve.support import OTHER, Caller, World, drop, eventually, sha256

DATA = some_bytes(1000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@contextmanager
def away(world: World, **settings: Any) -> Iterator[tuple[Service, Caller]]:
    """A spooling pool whose store has never answered."""
    world.store("main").away = True
    service = world.service(world.spooled(**settings))
    service.start(wait_s=0.1)
    try:
        yield service, Caller(service)
    finally:
        service.close()


def come_back(world: World, service: Service) -> None:
    world.store("main").away = False
    eventually(lambda: service.unit("main").up)


@contextmanager
def full_journal(service: Service, statement: str) -> Iterator[None]:
    """Every such statement fails as on a full disk."""
    journal = service.unit("main").journal
    fill_journal(journal, statement)
    yield
    empty_journal(journal)


def fill_journal(journal: Journal, statement: str) -> None:
    with journal.transaction() as db:
        db.execute(
            f"CREATE TRIGGER full BEFORE {statement}"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )


def empty_journal(journal: Journal) -> None:
    with journal.transaction() as db:
        db.execute("DROP TRIGGER full")


def test_a_journal_that_is_full_in_the_middle_of_a_stream_doubles_no_byte(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_files, "SYNC_EVERY", 300)
    with away(world) as (service, caller):
        handle = caller.create("a")
        sent = 0
        with full_journal(service, "UPDATE ON spool_files"):
            while sent < len(DATA):
                try:
                    caller.write(handle, DATA[sent : sent + 100])
                except NoSpace:
                    break
                sent += 100
        writer = caller.session.writing(handle)
        caller.write(handle, DATA[writer.offset :])
        assert caller.close(handle, size=len(DATA)).sha256 == sha256(DATA)
        assert caller.get("a") == DATA


# --- deletes ----------------------------------------------------------------------------------


def delete(caller: Caller, image: str, copy: int | None = None) -> str:
    answer: messages.Deleted = caller(
        messages.Delete(pool="main", image=Name(image), reason="test", copy=copy)
    )
    return answer.state


def test_an_image_written_anew_after_its_spooled_one_was_deleted_in_the_middle_of_its_upload(
    world: World,
) -> None:
    store, other = world.store("main"), some_bytes(900, seed=7)
    with world.running(world.spooled()) as service:
        caller, unit = Caller(service), service.unit("main")
        store.failing["complete_upload"] = TransientStoreError("no answer", hint="wait")
        caller.put("a", DATA)
        eventually(lambda: len(_parts(unit)) > 2)
        eventually(lambda: _tried(lambda: delete(caller, "a")) == "deleted")
        store.failing.clear()
        caller.put("a", other, OTHER)
        eventually(lambda: caller.list("complete") == ["a"])
        assert caller.get("a") == other
    assert not list(store.uploads("images/"))
    assert len({key.key.rpartition("/")[2].partition("-")[0] for key in store.scan("images/")}) == 2


def test_what_was_uploaded_of_a_deleted_image_is_removed_when_the_store_is_back(
    world: World,
) -> None:
    store = world.store("main")
    with world.running(world.spooled()) as service:
        caller, unit = Caller(service), service.unit("main")
        store.failing["complete_upload"] = TransientStoreError("no answer", hint="wait")
        caller.put("a", DATA)
        eventually(lambda: list(store.uploads("images/")))
        store.away = True
        eventually(lambda: not unit.up)
        eventually(lambda: _tried(lambda: delete(caller, "a")) == "deleted")
        assert caller.list("any") == []
        store.failing.clear()
        come_back(world, service)
        eventually(lambda: not list(store.uploads("images/")))
        eventually(lambda: unit.drafts.find("a", 1) is None)


def test_an_image_that_leaves_the_spool_while_it_is_deleted_is_deleted_from_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with away(world) as (service, caller):
        unit = service.unit("main")
        caller.put("a", DATA)
        real = unit.in_use.alone

        def late(name: str, copy: int, **waiting: float) -> Any:
            monkeypatch.undo()
            come_back(world, service)
            eventually(lambda: unit.index.get("a", 1) and not unit.in_use.is_open("a", 1))
            return real(name, copy, **waiting)

        monkeypatch.setattr(unit.in_use, "alone", late)
        assert delete(caller, "a") == "deleted"
        assert caller.list("any") == []
        assert not [one.key for one in world.store("main").scan("images/")]


def test_a_delete_without_a_copy_number_is_refused_when_other_copies_are_in_the_spool(
    world: World,
) -> None:
    with away(world) as (_, caller):
        caller.put("a", DATA)
        caller.put("a", DATA, copy=2)
        with pytest.raises(NameInvalid):
            delete(caller, "a")
        assert caller.list("any") == ["a", "a"]
        assert delete(caller, "a", 1) == "deleted"
        assert caller.list("any") == ["a"]


def test_an_image_that_its_pool_will_lock_is_not_deleted_from_the_spool(tmp_path: Path) -> None:
    world = World(tmp_path, versioning=True, object_lock=True)
    with world.running(world.spooled(lock=LockMode.GOVERNANCE, keep_days=9)) as service:
        caller = Caller(service)
        world.store("main").failing["put_part"] = TransientStoreError("no answer", hint="wait")
        world.store("main").failing["put"] = TransientStoreError("no answer", hint="wait")
        caller.put("a", DATA)
        with pytest.raises(ImageLocked):
            eventually(lambda: _tried(lambda: delete(caller, "a")))
        assert caller.list("spooled") == ["a"]


def _parts(unit: Unit) -> list[Any]:
    with unit.journal.transaction() as db:
        return db.execute("SELECT * FROM parts").fetchall()


def _tried(action: Any) -> Any:
    """Once more later, when the uploader has the image just now."""
    try:
        return action()
    except ImageBusy:
        return None


# --- readers ----------------------------------------------------------------------------------


def test_an_image_that_leaves_the_spool_while_it_is_opened_is_read_from_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with away(world) as (service, caller):
        unit = service.unit("main")
        caller.put("a", DATA)
        real = unit.spool.source

        def late(draft: Any) -> Any:
            monkeypatch.undo()
            come_back(world, service)
            eventually(lambda: unit.index.get("a", 1) and unit.spool.row("a", 1) is None)
            return real(draft)

        monkeypatch.setattr(unit.spool, "source", late)
        assert caller.get("a") == DATA


def test_an_image_that_leaves_the_spool_while_it_is_verified_is_not_called_damaged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with away(world) as (service, caller):
        unit = service.unit("main")
        caller.put("a", DATA)
        real = unit.spool.verify

        def late(draft: Any) -> Any:
            monkeypatch.undo()
            come_back(world, service)
            eventually(lambda: unit.index.get("a", 1) and unit.spool.row("a", 1) is None)
            return real(draft)

        monkeypatch.setattr(unit.spool, "verify", late)
        found: messages.Verified = caller(
            messages.Verify(pool="main", image=Name("a"), depth="full")
        )
        assert (found.ok, found.problems) == (True, ())


def test_a_file_that_is_gone_because_the_store_has_it_is_not_called_damaged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "dispose", lambda self, row: Path(row.path).unlink())
    with away(world) as (service, caller):
        caller.put("a", DATA)
        draft = service.unit("main").drafts.find("a", 1)
        assert draft is not None
        come_back(world, service)
        eventually(lambda: caller.list("complete") == ["a"])
        with pytest.raises(ImageNotFound):
            service.unit("main").spool.source(draft)


# --- the uploader -----------------------------------------------------------------------------


def test_a_file_that_could_not_be_removed_never_becomes_a_later_image(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = some_bytes(500, seed=3)
    with world.running(world.spooled()) as service:
        caller = Caller(service)

        def refused(self: Spool, row: SpoolRow) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(Spool, "dispose", refused)
        caller.put("a", DATA)
        eventually(lambda: caller.list("complete") == ["a"])
        eventually(lambda: _tried(lambda: delete(caller, "a")) == "deleted")
        monkeypatch.undo()
        handle = caller.create("a", OTHER)
        assert caller.session.writing(handle).offset == 0
        caller.write(handle, other)
        caller.close(handle, size=len(other), sha256=sha256(other))
        eventually(lambda: caller.list("complete") == ["a"])
        assert caller.get("a") == other


def test_the_uploader_outlives_a_journal_that_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with away(world) as (service, caller):
        failed = threading.Event()
        real = service.unit("main").spool.next_ready

        def broken(after: set[str]) -> Any:
            if not failed.is_set():
                failed.set()
                raise JournalError("disk I/O error", hint="check the disk")
            return real(after)

        caller.put("a", DATA)
        monkeypatch.setattr(service.unit("main").spool, "next_ready", broken)
        come_back(world, service)
        eventually(lambda: caller.list("complete") == ["a"])
        assert failed.is_set()


def test_an_upload_whose_commit_a_kill_interrupted_is_finished_and_its_file_removed(
    world: World,
) -> None:
    service = world.service(world.spooled())
    service.start()
    caller, store = Caller(service), world.store("main")
    path = service.unit("main").journal.path
    fill_journal(service.unit("main").journal, "INSERT ON outbox")
    caller.put("a", DATA)
    eventually(lambda: [o for o in store.scan("images/") if o.key.endswith("manifest.json")])
    drop(service)
    journal = Journal(path)
    empty_journal(journal)
    journal.close()
    with world.running(world.spooled()) as service:
        caller = Caller(service)
        eventually(lambda: caller.list("complete") == ["a"])
        eventually(lambda: service.unit("main").spool.backlog().files == 0)
        eventually(lambda: not list((world.folder / "spool" / "main").iterdir()))


def test_an_image_that_took_the_name_of_a_spooled_one_does_not_cost_it_its_file(
    world: World,
) -> None:
    with open_pool(tiny_store(), world.folder / "elsewhere") as elsewhere:
        manifest = store_image(elsewhere, "a", some_bytes(10, seed=5))
    with away(world) as (service, caller):
        caller.put("a", DATA)
        unit = service.unit("main")
        with unit.journal.transaction(durable=True) as db:
            unit.on_commit(db, manifest)
        draft = unit.drafts.find("a", 1)
        assert draft is not None
        assert draft.state == "spooled"
        assert unit.spool.verify(draft) == ()
