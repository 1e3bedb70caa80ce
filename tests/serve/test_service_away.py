"""Stores that are away, restarts, kills, clocks: what is promised on bad days."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    ImageComplete,
    ImageExists,
    PoolDown,
    PoolError,
    StoreUnusable,
    TransientStoreError,
)
from connector.pool import names
from connector.serve.failures import failure_of
from connector.settings import ClientLimits
from connector.store.interface import Upload
from connector.wire import messages
from connector.wire.messages import Name
from tests.pool.support import some_bytes
from tests.serve.support import OTHER, TOKEN, Caller, World, drop, eventually, sha256

DATA = some_bytes(1000)
DAY_S = 86_400


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def uploads(world: World) -> list[Upload]:
    return list(world.store("main").uploads("images/"))


def objects(world: World) -> list[str]:
    return [stored.key for stored in world.store("main").scan("images/")]


# --- the store is away ------------------------------------------------------------------------


def test_a_daemon_starts_while_its_store_is_away_and_the_pool_comes_up_by_itself(
    world: World,
) -> None:
    world.store("main").away = True
    with world.running() as service:
        caller = Caller(service)
        props = caller.pool_props()
        assert props.state == "down"
        assert "does not answer" in props.why
        assert service.status().state == "down"
        world.store("main").away = False
        eventually(lambda: caller.pool_props().state == "up")
        assert caller.put("a", DATA).state == "complete"


def test_a_bucket_that_may_not_be_used_keeps_the_pool_down_and_not_the_daemon(
    world: World,
) -> None:
    world.store("bad").failing["probe"] = StoreUnusable("no such bucket", hint="create it")
    with world.running(world.pool("bad"), world.pool("main")) as service:
        caller = Caller(service)
        assert "no such bucket" in caller.pool_props("bad").why
        assert caller.put("a", DATA).state == "complete"
        with pytest.raises(PoolDown):
            caller.create("a", pool="bad")


def test_a_pool_that_goes_away_is_noticed_and_answers_down_at_once(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        caller.put("a", DATA)
        world.store("main").away = True
        eventually(lambda: caller.pool_props().state == "down")
        began = time.monotonic()
        for call in (
            lambda: caller.create("b"),
            lambda: caller.open("a"),
            lambda: caller(messages.GetProps(pool="main", image=Name("a"))),
            lambda: caller(messages.Delete(pool="main", image=Name("a"), reason="x")),
            lambda: caller(messages.Verify(pool="main", image=Name("a"))),
        ):
            with pytest.raises(PoolDown) as down:
                call()
            failure = failure_of(down.value)
            assert (failure.code, failure.retryable) == ("down", True)
            assert failure.retry_after_s > 0
        assert time.monotonic() - began < 2
        assert caller.list() == ["a"]  # what the index knows is told all the same
        world.store("main").away = False
        eventually(lambda: caller.pool_props().state == "up")
        assert caller.get("a") == DATA
        assert caller.kinds().count("pool_down") == 1


def test_the_first_call_that_meets_an_outage_has_the_pool_probed_at_once(world: World) -> None:
    with world.running(pace=_slow()) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        world.store("main").away = True
        with pytest.raises(PoolDown):
            caller.open("a")
        eventually(lambda: caller.pool_props().state == "down", 3.0)


def _slow() -> Any:
    from dataclasses import replace

    from tests.serve.support import QUICK

    return replace(QUICK, probe_s=3600.0, tidy_s=3600.0)


def test_an_open_writer_fails_with_down_and_its_image_can_be_resumed(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        handle = caller.create("a")
        caller.write(handle, DATA[:400])
        caller(messages.Flush(handle=handle))
        world.store("main").away = True
        with pytest.raises(TransientStoreError) as down:
            caller.write(handle, DATA[400:] * 10)
        assert failure_of(down.value).code == "down"
        with pytest.raises(TransientStoreError):
            caller.close(handle)
        caller.session.end()
        world.store("main").away = False
        eventually(lambda: service.unit("main").up)
        second = Caller(service)
        going = second.resume("a")
        assert 384 <= going.offset <= 1000
        second.write(going.handle, DATA[going.offset :])
        second.close(going.handle, sha256=sha256(DATA))
        assert second.get("a") == DATA


def test_an_abort_while_the_store_is_away_is_done_when_it_is_back(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        handle = caller.create("a")
        caller.write(handle, DATA)
        caller(messages.Flush(handle=handle))
        world.store("main").away = True
        caller(messages.Abort(handle=handle))
        assert caller.list("any") == []
        world.store("main").away = False
        eventually(lambda: not uploads(world) and not objects(world))
        eventually(lambda: service.unit("main").up)
        caller.put("a", b"new", OTHER)


def test_a_close_whose_commit_is_lost_in_an_outage_is_settled_by_the_daemon(
    world: World,
) -> None:
    with world.running() as service:
        caller = Caller(service)
        handle = caller.create("a")
        caller.write(handle, DATA)
        store, real = world.store("main"), world.store("main")._store.put

        def put(key: str, *args: Any, **kwargs: Any) -> Any:
            stored = real(key, *args, **kwargs)
            if key.endswith("manifest.json"):
                store.away = True
                raise TransientStoreError("the answer was lost")
            return stored

        store._store.put = put  # type: ignore[method-assign]
        with pytest.raises(TransientStoreError):
            caller.close(handle, sha256=sha256(DATA))
        caller.session.end()
        store._store.put = real  # type: ignore[method-assign]
        eventually(lambda: not service.unit("main").up)
        store.away = False
        eventually(lambda: service.unit("main").up)
        second = Caller(service)
        settled = second.settle("a", size=1000, sha256=sha256(DATA))
        assert settled.state == "complete"
        with pytest.raises(ImageComplete):
            second.resume("a")
        assert second.get("a") == DATA
        eventually(lambda: "complete" in second.kinds())
        assert second.kinds().count("complete") == 1


def test_a_store_that_accepts_and_never_answers_holds_no_control_call(world: World) -> None:
    """The store's own deadline ends each call; here it is the test that lets go."""
    with world.running() as service:
        caller = Caller(service)
        caller.put("a", DATA)
        world.store("main").gate.clear()
        other = threading.Thread(target=caller.open, args=("a",))
        other.start()
        second = Caller(service)
        began = time.monotonic()
        assert second.list() == ["a"]
        assert second.pool_props().images == 1
        assert second(messages.Claim(name="main")).mine
        assert time.monotonic() - began < 1
        world.store("main").gate.set()
        other.join(5)


# --- restarts and kills -----------------------------------------------------------------------


def test_a_killed_daemon_lists_its_open_images_as_incomplete_and_resumes_them(
    world: World,
) -> None:
    service = world.service()
    service.start()
    caller = Caller(service)
    handle = caller.create("a")
    caller.write(handle, DATA[:400])
    caller(messages.Flush(handle=handle))
    drop(service)
    with world.running() as service:
        caller = Caller(service)
        assert caller.list("incomplete") == ["a"]
        assert caller.list() == []
        going = caller.resume("a")
        assert going.offset == 384
        caller.write(going.handle, DATA[384:])
        caller.close(going.handle, sha256=sha256(DATA))
        assert caller.get("a") == DATA
        assert not uploads(world)


def test_create_with_the_same_token_after_a_kill_goes_on_too(world: World) -> None:
    service = world.service()
    service.start()
    caller = Caller(service)
    caller.write(caller.create("a"), DATA[:400])
    drop(service)
    with world.running() as service:
        caller = Caller(service)
        answer: messages.Writing = caller(
            messages.Create(pool="main", image=Name("a"), token=TOKEN)
        )
        assert answer.offset % 64 == 0
        caller.write(answer.handle, DATA[answer.offset :])
        caller.close(answer.handle, sha256=sha256(DATA))
        assert caller.get("a") == DATA


@pytest.mark.parametrize("answered", [False, True])
def test_a_kill_around_the_commit_is_settled_after_the_restart(
    world: World, answered: bool
) -> None:
    service = world.service()
    service.start()
    caller = Caller(service)
    handle = caller.create("a")
    caller.write(handle, DATA)
    store, real = world.store("main"), world.store("main")._store.put

    def put(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith("manifest.json"):
            if answered:
                real(key, *args, **kwargs)
            raise TransientStoreError("killed")
        return real(key, *args, **kwargs)

    store._store.put = put  # type: ignore[method-assign]
    with pytest.raises(TransientStoreError):
        caller.close(handle)
    drop(service)
    store._store.put = real  # type: ignore[method-assign]
    with world.running() as service:
        caller = Caller(service)
        assert caller.settle("a", size=1000, sha256=sha256(DATA)).state == "complete"
        assert caller.list() == ["a"]
        assert caller.get("a") == DATA
        with pytest.raises(ImageExists):
            caller.create("a")


def test_an_attempt_without_a_draft_is_given_up_at_the_start(world: World) -> None:
    service = world.service()
    service.start()
    caller = Caller(service)
    caller.write(caller.create("a"), DATA)
    drop(service)
    with sqlite3.connect(world.folder / "state/pools/main/journal.sqlite") as db:
        db.execute("DELETE FROM drafts")
    db.close()
    with world.running() as service:
        assert not uploads(world)
        Caller(service).put("a", DATA)


def test_a_lost_state_folder_is_made_anew_from_the_bucket(world: World) -> None:
    import shutil

    with world.running() as service:
        caller = Caller(service)
        for name in ("a", "b/c", "\udcff"):
            caller.put(name, DATA, f"token {name!r}")
        before: messages.Page = caller(messages.ListImages(pool="main", state="any"))
    shutil.rmtree(world.folder / "state")
    with world.running() as service:
        caller = Caller(service)
        assert caller(messages.ListImages(pool="main", state="any")) == before
        assert caller.get("b/c") == DATA
        assert caller.settle("a", "new-token", size=1000, sha256=sha256(DATA)).state == "complete"


# --- cleaning up ------------------------------------------------------------------------------


def test_an_image_that_nobody_resumes_is_given_up_after_its_time(world: World) -> None:
    with world.running(limits=ClientLimits(abandoned_s=0.3)) as service:
        caller = Caller(service)
        handle = caller.create("a")
        caller.write(handle, DATA)
        time.sleep(0.5)
        assert caller.list("writing") == ["a"]  # open: not abandoned, however slow
        caller.close(handle, complete=False)
        eventually(lambda: caller.list("any") == [])
        eventually(lambda: not objects(world) and not uploads(world))
        eventually(lambda: "abandoned" in caller.kinds())


@pytest.mark.parametrize("days", [400, -400])
def test_a_clock_that_jumps_gives_nothing_up(world: World, days: int) -> None:
    with world.running() as service:
        caller = Caller(service)
        handle = caller.create("a")
        caller.write(handle, DATA[:300])
        caller.close(handle, complete=False)
        world.skew = days * DAY_S * 10**9
        time.sleep(0.3)
        assert caller.list("incomplete") == ["a"]
        going = caller.resume("a")
        caller.write(going.handle, DATA[300:])
        caller.close(going.handle)
        assert caller.get("a") == DATA


def test_orphans_of_this_host_are_swept_and_those_of_others_told_and_left(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        own = caller.put("a", DATA).id
        store = world.store("main")
        store.start_upload(names.fragment_key("a", 1, own, 7))
        store.start_upload(names.fragment_key("x", 1, "0123456789abcdef", 0))
        eventually(lambda: len(uploads(world)) == 1)
        assert "0123456789abcdef" in uploads(world)[0].key
        eventually(lambda: {"orphan_swept", "orphan_found"} <= set(caller.kinds()))
        assert caller.kinds().count("orphan_found") == 1


def test_ledger_rows_reach_the_ledger_without_being_asked(world: World) -> None:
    with world.running(world.pool(sizes={"ledger_seconds": 0})) as service:
        Caller(service).put("a", DATA)
        eventually(lambda: service.status().pools[0].ledger_waiting == 0)
        assert world.open_ledger(service.unit("main").settings).head() is not None


def test_closing_the_service_keeps_open_images_resumable(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        caller.write(caller.create("a"), DATA[:333])
    with world.running() as service:
        assert Caller(service).resume("a").offset == 333


def test_a_status_is_told_while_everything_is_going_on(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        caller.put("a", DATA)
        caller.get("a")
        caller.create("b")
        with pytest.raises(PoolError):
            caller.get("c")
        pool = service.status().pools[0]
        assert (pool.bytes_in, pool.bytes_out) == (1000, 1000)
        assert (pool.writing, pool.reading, pool.stored) == (1, 0, 1)
        assert pool.images == {"created": 2, "completed": 1, "opened": 1}
        assert pool.journal_bytes > 0
