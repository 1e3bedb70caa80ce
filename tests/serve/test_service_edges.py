"""The service where two things meet: aborts and commits, ends and calls, a reload and its pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    ConfigError,
    ImageBusy,
    ImageComplete,
    ImageExists,
    JournalError,
    PoolError,
    TransientStoreError,
)
from catalog.model import StorageClass
from catalog.retry import time_left
from connector.pool.classes import ClassPolicy
from connector.pool.journal import Journal
from connector.pool.recall import RecallPolicy
from connector.serve import recalls, spool_files
from connector.serve.service import Service
from connector.serve.spool_files import SpoolSink
from connector.wire import messages
from connector.wire.messages import Name
from tests.pool.support import some_bytes
from tests.serve.support import OTHER, Caller, World, eventually

DATA = some_bytes(1000)
AWAY = TransientStoreError("no answer", hint="wait")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    with world.running() as service:
        yield service


@pytest.fixture
def caller(service: Service) -> Caller:
    return Caller(service)


def fill_journal(journal: Journal) -> None:
    """The last step of a commit fails as on a full disk."""
    with journal.transaction() as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON outbox"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )


def empty_journal(journal: Journal) -> None:
    with journal.transaction() as db:
        db.execute("DROP TRIGGER full")


def begun(caller: Caller, image: str = "a") -> int:
    handle = caller.create(image)
    caller.write(handle, DATA)
    return handle


# --- aborts and commits -----------------------------------------------------------------------


def test_an_image_that_was_aborted_never_becomes_complete_behind_its_client(
    world: World, service: Service, caller: Caller
) -> None:
    store, unit = world.store("main"), service.unit("main")
    handle = begun(caller)
    put = store._store.put

    def no_manifest(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith("manifest.json"):
            raise AWAY
        return put(key, *args, **kwargs)

    store._store.put = no_manifest  # type: ignore[method-assign]
    with pytest.raises(PoolError):
        caller.close(handle)
    store.away = True
    eventually(lambda: not unit.up)
    caller(messages.Abort(handle=handle))
    store._store.put = put  # type: ignore[method-assign]
    store.away = False
    eventually(lambda: unit.up and unit.drafts.find("a", 1) is None)
    assert caller.list("any") == []
    assert [one.key for one in store.scan("images/")] == []
    assert "complete" not in caller.kinds()


def test_abort_of_an_image_whose_commit_had_happened_says_that_it_is_complete(
    service: Service, caller: Caller
) -> None:
    journal = service.unit("main").journal
    handle = begun(caller)
    fill_journal(journal)
    with pytest.raises(PoolError):
        caller.close(handle)
    empty_journal(journal)
    with pytest.raises(ImageComplete):
        caller(messages.Abort(handle=handle))
    assert caller.list() == ["a"]
    assert caller.get("a") == DATA
    assert not service.unit("main").in_use.is_open("a", 1)


def test_create_in_place_of_an_attempt_whose_commit_had_happened_says_exists(
    world: World,
) -> None:
    service = world.service(handover_s=0.05)
    service.start()
    unit, caller = service.unit("main"), Caller(service)
    handle = begun(caller)
    fill_journal(unit.journal)
    with pytest.raises(PoolError):
        caller.close(handle)
    for keeper in service._keepers.values():
        keeper.stop(5.0)
    caller.session.end()
    empty_journal(unit.journal)
    with pytest.raises(ImageExists):
        Caller(service).create("a", OTHER, replace=True)
    assert Caller(service).get("a") == DATA
    service.close()


# --- ends -------------------------------------------------------------------------------------


def test_every_handle_of_a_session_is_let_go_although_one_of_them_fails(
    world: World, service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = service.unit("main")
    caller.put("z", DATA)
    first, _ = begun(caller, "a"), begun(caller, "b")
    caller.open("z")
    sink = caller.session.writing(first)._sink

    def bug() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sink, "suspend", bug)
    with pytest.raises(RuntimeError):
        caller.session.end()
    assert not any(unit.in_use.is_open(name, 1) for name in "abz")
    assert caller.session not in service._sessions
    again = Caller(service)
    assert again.list("incomplete") == ["a", "b"]


def test_a_daemon_that_ends_waits_for_the_piece_that_is_just_being_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    real = SpoolSink._write

    def slow(self: SpoolSink, view: memoryview) -> None:
        inside.set()
        assert go_on.wait(10)
        assert self._fd >= 0, "the file was let go in the middle of a write"
        real(self, view)

    with world.running(world.spooled()) as service:
        caller = Caller(service)
        handle = caller.create("a")
        monkeypatch.setattr(SpoolSink, "_write", slow)
        with ThreadPoolExecutor(2) as threads:
            writing = threads.submit(caller.write, handle, DATA[:100])
            assert inside.wait(5)
            ending = threads.submit(caller.session.end)
            assert not ending.done()
            go_on.set()
            writing.result(5)
            ending.result(5)
        assert Caller(service).resume("a").offset == 100


def test_a_file_of_the_spool_that_cannot_be_gone_on_with_leaves_no_descriptor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.running(world.spooled()) as service:
        caller = Caller(service)
        caller.close(begun(caller), complete=False)

        def broken(self: SpoolSink) -> Any:
            raise ConfigError("a fault", hint="none")

        monkeypatch.setattr(SpoolSink, "_digest_so_far", broken)
        closed: list[int] = []
        real = spool_files.os.close
        monkeypatch.setattr(spool_files.os, "close", lambda fd: (closed.append(fd), real(fd)))
        with pytest.raises(ConfigError):
            caller.resume("a")
        assert closed
        monkeypatch.undo()
        assert caller.resume("a").offset == len(DATA)


# --- calls that wait --------------------------------------------------------------------------


def test_a_verification_that_is_given_up_before_it_begins_holds_nothing(
    service: Service, caller: Caller
) -> None:
    caller.put("a", DATA)
    free = threading.Event()
    service.workers = ThreadPoolExecutor(1)
    service.workers.submit(free.wait, 10)
    caller.gone = True
    with pytest.raises(PoolError):
        caller(messages.Verify(pool="main", image=Name("a")))
    free.set()
    with service.unit("main").in_use.alone("a", 1):
        pass


def test_a_verification_of_what_is_deleted_at_the_same_time_finds_no_damage(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.put("a", DATA)
    unit = service.unit("main")
    pool = unit.pool()
    real = pool.stat

    def late(name: str, copy: int | None = None) -> Any:
        found = real(name, copy)
        with pytest.raises(ImageBusy):
            caller(messages.Delete(pool="main", image=Name("a"), reason="test"))
        return found

    monkeypatch.setattr(pool, "stat", late)
    found: messages.Verified = caller(messages.Verify(pool="main", image=Name("a"), depth="full"))
    assert (found.ok, found.problems) == (True, ())


def test_the_deadline_of_a_call_holds_in_the_threads_that_ask_for_its_objects(
    world: World, service: Service, caller: Caller
) -> None:
    caller.put("a", DATA)
    store, seen = world.store("main"), []
    real = store._store.stat

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(time_left())
        return real(*args, **kwargs)

    store._store.stat = noting  # type: ignore[method-assign]
    caller(messages.GetProps(pool="main", image=Name("a")))
    assert len(seen) > 1
    assert all(left is not None and left <= 2.0 for left in seen)


def test_an_automatic_recall_is_begun_by_opening_and_not_by_verifying_or_copying(
    world: World,
) -> None:
    pool = world.pool(
        policy=ClassPolicy(fixed=StorageClass.GLACIER),
        recall=RecallPolicy(automatic=True, max_cost=1e6),
    )
    with world.running(pool, world.pool("other")) as service:
        caller, store = Caller(service), world.store("main")
        caller.put("a", DATA)
        for call in (
            messages.Verify(pool="main", image=Name("a"), depth="full"),
            messages.CopyImage(pool="main", image=Name("a"), to_pool="other", token=OTHER),
        ):
            with pytest.raises(recalls.ArchivedOffer) as refused:
                caller(call)
            assert not refused.value.offer.asked
        assert "recall" not in store.calls
        with pytest.raises(recalls.ArchivedOffer) as refused:
            caller.open("a")
        assert refused.value.offer.asked


# --- copies and reload ------------------------------------------------------------------------


def test_copies_of_a_pool_that_is_away_keep_no_other_copy_waiting(world: World) -> None:
    pools = (world.pool(), world.pool("other"), world.pool("away"))
    with world.running(*pools) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        world.store("away").failing["put_part"] = AWAY
        world.store("away").failing["start_upload"] = AWAY
        world.store("away").failing["put"] = AWAY
        for to, number in (("away", 1), ("away", 2), ("away", 3), ("other", 1)):
            last: messages.Operation = caller(
                messages.CopyImage(
                    pool="main", image=Name("a"), to_pool=to, to_copy=number, token=OTHER
                )
            )
        looked = messages.GetOperation(operation=last.operation)
        eventually(lambda: caller(looked).state == "done", 15.0)
        assert caller.get("a", pool="other") == DATA
        world.store("away").failing.clear()


def test_a_copy_whose_end_could_not_be_journaled_is_done_and_not_failed(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.put("a", DATA)
    real, failed = service.copies._end, []

    def full(*args: Any) -> None:
        if not failed:
            failed.append(args)
            raise JournalError("disk I/O error", hint="check the disk")
        real(*args)

    monkeypatch.setattr(service.copies, "_end", full)
    operation: messages.Operation = caller(
        messages.CopyImage(pool="main", image=Name("a"), to_pool="main", to_copy=2, token=OTHER)
    )
    looked = messages.GetOperation(operation=operation.operation)
    eventually(lambda: caller(looked).state == "done")
    assert "copy_failed" not in caller.kinds()
    assert caller.get("a", 2) == DATA


def test_a_reload_that_cannot_use_a_spool_can_be_repeated_once_it_can(world: World) -> None:
    with world.running() as service:
        spooled = world.spooled("new")
        assert spooled.spool is not None
        spooled.spool.folder.parent.mkdir(parents=True, exist_ok=True)
        spooled.spool.folder.write_text("in the way")
        settings = world.settings(world.pool(), spooled)
        with pytest.raises(ConfigError):
            service.reload(settings)
        assert service.pool_names() == ["main"]
        spooled.spool.folder.unlink()
        assert service.reload(settings) == []
        eventually(lambda: service.unit("new").up)
        caller = Caller(service)
        caller.put("a", DATA, pool="new")
        eventually(lambda: caller.list("complete", pool="new") == ["a"])


# --- what the daemon looks after itself ---------------------------------------------------------


@pytest.mark.parametrize("what", ["open", "delete"])
def test_a_client_waits_while_the_daemon_itself_has_the_image_for_a_moment(
    service: Service, caller: Caller, what: str
) -> None:
    caller.put("a", DATA)
    in_use, held, free = service.unit("main").in_use, threading.Event(), threading.Event()

    def looking_after() -> None:
        with in_use.alone("a", 1):
            held.set()
            assert free.wait(10)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(looking_after)
        assert held.wait(5)
        threading.Timer(0.1, free.set).start()
        if what == "open":
            assert caller.get("a") == DATA
        else:
            caller(messages.Delete(pool="main", image=Name("a"), reason="test"))
            assert caller.list("any") == []
