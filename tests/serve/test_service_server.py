"""claim, server_props, list_pools, pool_props, events, copies: the daemon as a whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    CursorExpired,
    ImageExists,
    ImageNotFound,
    JournalError,
    NoPool,
    SamePlace,
    TooBusy,
    Unsupported,
)
from connector.serve.events import Events
from connector.serve.interface import Peer
from connector.serve.service import Service
from connector.serve.session import OPERATIONS
from connector.settings import ClientLimits
from connector.wire import messages
from connector.wire.messages import MAX_INT, Keep, Name
from tests.pool.support import some_bytes
from tests.serve.support import TOKEN, Caller, World, drop, eventually

DATA = some_bytes(1000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    with world.running(world.pool("main"), world.pool("second")) as service:
        yield service


@pytest.fixture
def caller(service: Service) -> Caller:
    return Caller(service)


def test_every_call_but_the_doors_own_is_answered_by_somebody() -> None:
    doors = {messages.Hello, messages.ReadRange, messages.ReadTo, messages.WriteFrom}
    assert set(messages.CALLS.values()) == set(OPERATIONS) | doors


def test_claim_knows_the_pools_and_has_no_side_effect(service: Service, caller: Caller) -> None:
    assert caller(messages.Claim(name="main")).mine
    assert not caller(messages.Claim(name="other")).mine
    with pytest.raises(Unsupported):
        caller(messages.Hello(versions=(1,)))


def test_pools_are_listed_in_pages(caller: Caller) -> None:
    page: messages.PoolNames = caller(messages.ListPools(limit=1))
    assert (page.pools, page.cursor) == (("main",), "main")
    page = caller(messages.ListPools(limit=1, cursor=page.cursor))
    assert (page.pools, page.cursor) == (("second",), None)
    assert caller(messages.ListPools(prefix="se")).pools == ("second",)


def test_server_props_show_the_live_handles(service: Service, caller: Caller) -> None:
    caller.put("a", DATA)
    caller.open("a")
    writer = caller.create("b")
    caller.write(writer, DATA[:300])
    props: messages.ServerProps = Caller(service)(messages.GetServerProps())
    assert [(h.mode, h.image, h.offset) for h in props.handles] == [
        ("read", "a", 0),
        ("write", "b", 300),
    ]
    assert props.handles[1].unsafe == 300
    assert (props.state, props.backlog, props.connections) == ("up", 0, 2)
    assert "WORM" not in props.capabilities


def test_capacity_moves_as_data_arrives_and_is_deleted(caller: Caller) -> None:
    before = caller.pool_props()
    caller.put("a", DATA)
    after = caller.pool_props()
    assert before.free - after.free == 1000
    assert (after.used_logical, after.used_physical, after.images) == (1000, 1000, 1)
    caller(messages.Delete(pool="main", image=Name("a"), reason="test"))
    assert caller.pool_props().free == before.free
    writer = caller.create("b")
    caller.write(writer, DATA[:300])
    assert caller.pool_props().used_logical == 300
    with pytest.raises(NoPool):
        caller.pool_props("third")


@pytest.mark.parametrize(("capacity", "shown"), [(0, 1), (2**70, MAX_INT), (500, 500)])
def test_capacity_is_never_0_nor_too_large_and_free_never_negative(
    world: World, capacity: int, shown: int
) -> None:
    with world.running(world.pool(capacity=capacity)) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        props = caller.pool_props()
        assert props.capacity == shown
        assert props.free == max(0, shown - 1000)


def test_locked_bytes_and_capabilities_of_the_bucket_are_shown(caller: Caller) -> None:
    caller.put("a", DATA, keep=Keep(hold=True))
    props = caller.pool_props()
    assert props.locked == 1000
    assert props.capabilities == ("WORM", "LEGAL_HOLD")


def test_too_many_sessions_are_refused(world: World) -> None:
    with world.running(limits=ClientLimits(connections=1)) as service:
        first = Caller(service)
        with pytest.raises(TooBusy):
            service.session(Peer(name="x"))
        first.session.end()
        first.session.end()
        Caller(service)


def test_a_second_daemon_on_the_same_state_is_refused(world: World, service: Service) -> None:
    with pytest.raises(JournalError):
        world.service()


def test_draining_waits_for_open_images_and_lets_none_begin(
    service: Service, caller: Caller
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    assert not service.drain(0.2)
    with pytest.raises(TooBusy):
        caller.create("b")
    assert service.status().state == "draining"
    caller.close(handle)
    assert service.drain(5.0)


def test_reload_takes_over_what_it_can_and_says_what_it_cannot(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        pool = world.pool(hard_quota=1)
        notes = service.reload(world.settings(pool, world.pool("new")))
        assert notes == []
        assert caller.pool_props().hard_quota == 1
        eventually(lambda: caller.pool_props("new").state == "up")
        caller.put("x", DATA, pool="new")
        notes = service.reload(world.settings(replace(pool, bucket="elsewhere")))
        assert len(notes) == 2
        assert caller(messages.Claim(name="new")).mine


def test_the_index_can_be_made_anew_while_serving(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        caller.put("a", DATA)
        service.rebuild("main")
        assert caller.list() == ["a"]


# --- events -----------------------------------------------------------------------------------


def events_after(caller: Caller, cursor: int, **fields: Any) -> messages.EventPage:
    page: messages.EventPage = caller(messages.GetEvents(cursor=cursor, **fields))
    return page


def test_events_come_in_order_and_a_cursor_goes_on(caller: Caller) -> None:
    caller.put("a", DATA)
    eventually(lambda: "complete" in caller.kinds())
    page = events_after(caller, 0)
    assert [e.kind for e in page.events if e.image] == ["created", "complete"]
    assert [e.cursor for e in page.events] == sorted(e.cursor for e in page.events)
    first = events_after(caller, 0, limit=1)
    assert events_after(caller, first.cursor).events == page.events[1:]
    assert events_after(caller, page.cursor).events == ()


def test_a_call_that_waits_gets_the_first_event_soon(service: Service, caller: Caller) -> None:
    waiting = Caller(service)
    eventually(lambda: len(caller.kinds()) == 2)
    cursor = events_after(caller, -1).cursor
    found: list[messages.EventPage] = []
    thread = threading.Thread(target=lambda: found.append(events_after(waiting, cursor, wait_s=10)))
    thread.start()
    caller.create("a")
    thread.join(5.0)
    assert not thread.is_alive()
    assert found[0].events[0].kind == "created"


def test_a_waiting_call_ends_with_its_client_and_with_its_time(caller: Caller) -> None:
    eventually(lambda: len(caller.kinds()) == 2)
    assert events_after(caller, -1, wait_s=1).events == ()
    caller.gone = True
    assert events_after(caller, -1, wait_s=60).events == ()


def test_a_cursor_of_what_was_moved_this_moment_has_not_expired(
    service: Service, caller: Caller
) -> None:
    eventually(lambda: len(caller.kinds()) == 2)
    service.events._newest -= 1  # as between the move and the telling of it
    cursor = events_after(caller, 0).cursor
    assert events_after(caller, cursor).events == ()
    assert events_after(caller, -1).events == ()


def test_a_cursor_behind_what_is_kept_has_expired(service: Service, caller: Caller) -> None:
    service.events._kept = 3
    for number in range(5):
        caller.put(f"i{number}", b"")
    eventually(lambda: events_after(caller, -1).cursor >= 12)
    with pytest.raises(CursorExpired):
        events_after(caller, 1)
    assert len(events_after(caller, 0).events) == 3
    with pytest.raises(CursorExpired):
        events_after(caller, 999)


def test_events_survive_restarts_and_are_repeated_rather_than_lost(world: World) -> None:
    service = world.service()
    service.start()
    caller = Caller(service)
    caller.create("a")
    eventually(lambda: "created" in caller.kinds())
    cursor = events_after(caller, 0).cursor
    with service.unit("main").journal.transaction() as db:
        service.unit("main").announce(db, "deleted", "a", 1)  # type: ignore[arg-type]
    drop(service)  # before it was moved
    with world.running() as service:
        caller = Caller(service)
        eventually(lambda: "deleted" in [e.kind for e in events_after(caller, cursor).events])
        assert isinstance(service.events, Events)


# --- copies -----------------------------------------------------------------------------------


def copy(image: str = "a", **fields: Any) -> messages.CopyImage:
    return messages.CopyImage(
        **{"pool": "main", "image": Name(image), "to_pool": "second", "token": TOKEN, **fields}
    )


def ended(caller: Caller, operation: str) -> messages.Operation:
    def look() -> messages.Operation:
        found: messages.Operation = caller(messages.GetOperation(operation=operation))
        return found

    eventually(lambda: look().state != "running")
    return look()


def test_an_image_is_copied_behind_and_its_end_is_told(caller: Caller) -> None:
    caller.put("a", DATA)
    begun: messages.Operation = caller(copy(keep=Keep(infinite=True, hold=True)))
    assert caller(copy(keep=Keep(infinite=True, hold=True))).operation == begun.operation
    done = ended(caller, begun.operation)
    assert (done.state, done.done, done.total) == ("done", 1000, 1000)
    assert caller.get("a", pool="second") == DATA
    props: messages.Props = caller(messages.GetProps(pool="second", image=Name("a")))
    assert props.facts.hold
    eventually(lambda: "copied" in caller.kinds())


def test_a_copy_within_a_pool_has_another_number(caller: Caller) -> None:
    caller.put("a", DATA)
    ended(caller, caller(copy(to_pool="main", to_copy=2)).operation)
    assert caller.get("a", 2) == DATA


def test_copies_that_cannot_be_are_refused_at_once(caller: Caller) -> None:
    with pytest.raises(ImageNotFound):
        caller(copy())
    caller.put("a", DATA)
    caller.put("a", b"other", pool="second")
    with pytest.raises(SamePlace):
        caller(copy(to_pool="main"))
    with pytest.raises(ImageExists):
        caller(copy())
    with pytest.raises(NoPool):
        caller(copy(to_pool="third"))
    with pytest.raises(ImageNotFound):
        caller(messages.GetOperation(operation="x"))


def test_a_copy_that_fails_leaves_nothing_and_is_told(world: World, caller: Caller) -> None:
    caller.put("a", DATA)
    memory: Any = world.store("main")._store
    key = next(key for key in memory._keys if key.endswith("-00002"))
    memory._versions[key][-1].data = b"x" * 256
    failed = ended(caller, caller(copy()).operation)
    assert (failed.state, failed.code) == ("failed", "damaged")
    assert caller.list("any", pool="second") == []
    assert not list(world.store("second").scan("images/"))
    assert not list(world.store("second").uploads("images/"))
    eventually(lambda: "copy_failed" in caller.kinds())


def test_an_interrupted_copy_goes_on_after_a_restart(world: World) -> None:
    pools = world.pool("main"), world.pool("second")
    service = world.service(*pools)
    service.start()
    caller = Caller(service)
    caller.put("a", DATA)
    world.store("second").away = True
    eventually(lambda: not service.unit("second").up)
    world.store("second").away = False
    eventually(lambda: service.unit("second").up)
    world.store("second").failing["put_part"] = _away()
    begun: messages.Operation = caller(copy())
    eventually(lambda: "put_part" in world.store("second").calls)
    service.copies._stop.set()
    drop(service)
    world.store("second").failing.clear()
    with world.running(*pools) as service:
        caller = Caller(service)
        assert ended(caller, begun.operation).state == "done"
        assert caller.get("a", pool="second") == DATA


def _away() -> Any:
    from catalog.errors import TransientStoreError

    return TransientStoreError("away")
