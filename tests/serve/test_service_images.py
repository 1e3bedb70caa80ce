"""open, read, props, list, map, verify, delete, retention and holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import (
    CursorExpired,
    ImageBusy,
    ImageDamaged,
    ImageHeld,
    ImageLocked,
    ImageNotFound,
    NameInvalid,
    PoolError,
    Unsupported,
    WouldShorten,
)
from connector.serve.service import Service
from connector.wire import messages
from connector.wire.messages import Keep, Name
from tests.pool.support import some_bytes
from tests.serve.support import OTHER, Caller, World, eventually

DATA = some_bytes(1000)
DAY = 86_400_000_000_000


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


def spoil(world: World, image: str, fragment: int = 0) -> None:
    """Change a byte of an object where it lies."""
    memory = world.store("main")._store
    key = next(
        key for key in memory._keys if f"/{image}/" in key and key.endswith(f"{fragment:05d}")
    )
    version = memory._versions[key][-1]
    version.data = bytes([version.data[0] ^ 1]) + version.data[1:]


# --- reading ----------------------------------------------------------------------------------


def test_open_of_what_is_not_there_finds_nothing(caller: Caller) -> None:
    for copy in (None, 7):
        with pytest.raises(ImageNotFound):
            caller.open("a", copy)
    with pytest.raises(NameInvalid):
        caller.open("")


def test_an_incomplete_image_cannot_be_opened(caller: Caller) -> None:
    caller.close(caller.create("a"), complete=False)
    with pytest.raises(ImageNotFound):
        caller.open("a")


def test_open_without_a_copy_takes_the_lowest(caller: Caller) -> None:
    caller.put("a", b"two", copy=2)
    caller.put("a", b"three", OTHER, copy=3)
    opened = caller.open("a")
    assert (opened.copy, opened.size, opened.state) == (2, 3, "complete")
    assert caller.get("a", 3) == b"three"


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (63, 2), (255, 2), (999, 1), (999, 5), (1000, 1), (5000, 1), (3, 0)],
)
def test_any_range_is_read_and_is_short_only_at_the_end(
    caller: Caller, offset: int, length: int
) -> None:
    caller.put("a", DATA)
    handle = caller.open("a").handle
    assert caller.read(handle, offset, length) == DATA[offset : offset + length]


def test_a_short_read_fetches_one_part_and_its_neighbours_nothing_more(
    world: World, caller: Caller
) -> None:
    caller.put("a", DATA)
    handle = caller.open("a").handle
    world.store("main").calls.clear()
    for at in range(300, 320):
        assert caller.read(handle, at, 1) == DATA[at : at + 1]
    gets = [call for call in world.store("main").calls if call == "read_into"]
    assert len(gets) <= 2


def test_reads_in_order_fetch_ahead_and_give_every_byte_once(world: World, caller: Caller) -> None:
    data = some_bytes(64 * 40)
    caller.put("a", data)
    handle = caller.open("a").handle
    world.store("main").calls.clear()
    out = b"".join(caller.read(handle, at, 17) for at in range(0, len(data), 17))
    assert out == data
    gets = [call for call in world.store("main").calls if call == "read_into"]
    assert len(gets) <= 40 + 6
    assert caller.read(handle, 5, 9) == data[5:14]  # a jump back ends the stream
    assert caller.read(handle, 14, 200) == data[14:214]


def test_a_damaged_part_is_told_as_such_and_other_images_are_fine(
    world: World, caller: Caller
) -> None:
    caller.put("a", DATA)
    caller.put("b", DATA, OTHER)
    spoil(world, "a")
    with pytest.raises(ImageDamaged):
        caller.get("a")
    assert caller.get("b") == DATA
    eventually(lambda: "damaged" in caller.kinds())


def test_closing_a_reader_lets_its_place_go(service: Service, caller: Caller) -> None:
    caller.put("a", DATA)
    caller.close(caller.open("a").handle)
    assert not service.unit("main").in_use.is_open("a", 1)
    caller.open("a")
    caller.session.end()
    assert not service.unit("main").in_use.is_open("a", 1)


# --- props and list ---------------------------------------------------------------------------


def test_props_tell_everything_about_an_image(caller: Caller) -> None:
    closed = caller.put("a", DATA, keep=Keep(infinite=True, hold=True))
    props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    assert (props.facts.id, props.facts.sha256, props.facts.state) == (
        closed.id,
        closed.sha256,
        "complete",
    )
    assert (props.facts.hold, props.facts.infinite) == (True, True)
    assert [part.size for part in props.fragments] == [256, 256, 256, 232]
    assert (props.recall, props.more) == ("readable", False)
    with pytest.raises(ImageNotFound):
        caller(messages.GetProps(pool="main", image=Name("b")))


def test_props_of_an_incomplete_image_say_what_is_durable(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA[:300])
    caller.close(handle, complete=False)
    props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    assert (props.facts.state, props.facts.size) == ("incomplete", 300)


def test_a_list_has_stable_pages_while_images_come_and_go(caller: Caller) -> None:
    for name in ("a", "b", "d", "e"):
        caller.put(name, name.encode())
    first: messages.Page = caller(messages.ListImages(pool="main", limit=2))
    assert [facts.image for facts in first.images] == ["a", "b"]
    caller(messages.Delete(pool="main", image=Name("b"), reason="test"))
    caller.put("c", b"c")
    caller.put("0", b"0")
    second: messages.Page = caller(messages.ListImages(pool="main", limit=2, cursor=first.cursor))
    assert [facts.image for facts in second.images] == ["c", "d"]
    third: messages.Page = caller(messages.ListImages(pool="main", limit=2, cursor=second.cursor))
    assert ([facts.image for facts in third.images], third.cursor) == (["e"], None)


def test_a_list_is_in_the_order_of_the_bytes_with_what_is_not_complete_in_its_place(
    caller: Caller,
) -> None:
    for name in ("b", "a/x", "a", "a-x", "\udcff", "é"):
        caller.put(name, b"1")
    caller.close(caller.create("a.x"), complete=False)
    caller.create("open")
    found = caller.list("any")
    raw = [name.encode("utf-8", "surrogateescape") for name in found]
    assert raw == sorted(raw)
    assert len(found) == 8
    assert caller.list("incomplete") == ["a.x"]
    assert caller.list("writing") == ["open"]


def test_a_list_can_be_filtered(caller: Caller, world: World) -> None:
    caller.put("client_1", b"1")
    caller.put("client_2", b"2")
    caller.put("other", b"3")
    assert caller.list(prefix=Name("client_")) == ["client_1", "client_2"]
    assert caller.list(created_before=world.clock() - 60 * 10**9) == []
    assert len(caller.list(created_after=world.clock() - 60 * 10**9)) == 3
    with pytest.raises(PoolError):
        caller.list("unheard of")


@pytest.mark.parametrize("cursor", ["x", "AAAA", "WyJhIl0=", "W10=", "\udcff", "bnVsbA=="])
def test_a_cursor_that_is_none_is_refused_as_expired(caller: Caller, cursor: str) -> None:
    with pytest.raises(CursorExpired):
        caller.list(cursor=cursor)


# --- map and verify ---------------------------------------------------------------------------


def test_a_map_covers_the_image(caller: Caller) -> None:
    caller.put("a", DATA)
    found: messages.Extents = caller(messages.Map(pool="main", image=Name("a"), offset=10))
    assert found.extents[0].offset == 10
    assert sum(extent.length for extent in found.extents) == 990
    assert found.next is None


@pytest.mark.parametrize("depth", ["head", "checksum", "full"])
def test_verify_finds_a_good_image_good(caller: Caller, depth: str) -> None:
    caller.put("a", DATA)
    found: messages.Verified = caller(messages.Verify(pool="main", image=Name("a"), depth=depth))
    assert (found.ok, found.problems) == (True, ())


def test_a_full_verification_finds_a_changed_byte(
    world: World, service: Service, caller: Caller
) -> None:
    caller.put("a", DATA)
    spoil(world, "a", 2)
    found: messages.Verified = caller(messages.Verify(pool="main", image=Name("a"), depth="full"))
    assert not found.ok
    assert found.problems
    assert not service.unit("main").in_use.is_open("a", 1)
    with pytest.raises(Unsupported):
        caller(messages.Verify(pool="main", image=Name("a"), depth="deep"))


# --- delete -----------------------------------------------------------------------------------


def delete(caller: Caller, image: str, copy: int | None = None) -> str:
    answer: messages.Deleted = caller(
        messages.Delete(pool="main", image=Name(image), copy=copy, reason="test")
    )
    return answer.state


def test_delete_removes_an_image_and_the_second_call_says_deleted_as_well(
    world: World, caller: Caller
) -> None:
    caller.put("a", DATA)
    assert delete(caller, "a") == "deleted"
    assert delete(caller, "a") == "deleted"
    assert delete(caller, "a", 3) == "deleted"
    assert caller.list("any") == []
    with pytest.raises(ImageNotFound):
        caller.open("a")


def test_after_a_deletion_the_name_is_free_and_the_old_token_settles_nothing(
    caller: Caller,
) -> None:
    caller.put("a", DATA)
    delete(caller, "a")
    with pytest.raises(ImageNotFound):
        caller.settle("a", size=1000)
    caller.put("a", b"new", OTHER)
    assert caller.get("a") == b"new"


def test_a_delete_that_is_repeated_never_takes_another_copy(caller: Caller) -> None:
    for copy in (1, 2):
        caller.put("a", DATA, token=f"token-of-copy-{copy}", copy=copy)
    caller.put("ab", DATA, token="token-of-another")
    with pytest.raises(NameInvalid, match="several copies"):
        delete(caller, "a")
    assert delete(caller, "a", 1) == "deleted"
    assert delete(caller, "a", 1) == "deleted"
    assert caller.get("a", copy=2) == DATA


def test_an_image_that_somebody_reads_or_writes_is_not_deleted(
    service: Service, caller: Caller
) -> None:
    caller.put("a", DATA)
    handle = caller.open("a").handle
    with pytest.raises(ImageBusy):
        delete(Caller(service), "a")
    caller.close(handle)
    delete(caller, "a")
    caller.create("b")
    with pytest.raises(ImageBusy):
        delete(caller, "b")


def test_held_and_locked_images_are_not_deleted(world: World, caller: Caller) -> None:
    caller.put("held", DATA, keep=Keep(hold=True))
    until = world.clock() + 5 * DAY
    caller.put("locked", DATA, OTHER, keep=Keep(lock="compliance", expires_at=until))
    with pytest.raises(ImageHeld):
        delete(caller, "held")
    with pytest.raises(ImageLocked):
        delete(caller, "locked")
    assert caller.list() == ["held", "locked"]


# --- retention and holds ----------------------------------------------------------------------


def test_a_hold_is_placed_and_released_and_told(world: World, caller: Caller) -> None:
    caller.put("a", DATA)
    hold = messages.SetHold(pool="main", image=Name("a"), on=True, reason="case 1")
    kept: messages.Kept = caller(hold)
    assert kept.facts.hold
    assert any(stored.hold for stored in map(world.store("main").stat, _keys(world)))
    with pytest.raises(ImageHeld):
        delete(caller, "a")
    assert not caller(replace(hold, on=False)).facts.hold
    delete(caller, "a")
    eventually(lambda: "deleted" in caller.kinds())
    assert caller.kinds()[-3:] == ["held", "released", "deleted"]


def _keys(world: World) -> list[str]:
    return [stored.key for stored in world.store("main").scan("images/")]


def test_retention_is_extended_and_never_shortened(world: World, caller: Caller) -> None:
    now = world.clock()
    caller.put("a", DATA, keep=Keep(expires_at=now + 10 * DAY))
    longer = messages.SetRetention(
        pool="main", image=Name("a"), until=now + 20 * DAY, reason="audit"
    )
    kept: messages.Kept = caller(longer)
    assert kept.facts.expires_at is not None
    assert kept.facts.expires_at >= now + 20 * DAY - 10**9
    with pytest.raises(WouldShorten):
        caller(replace(longer, until=now + 15 * DAY))
    with pytest.raises(WouldShorten):
        caller(replace(longer, until=None))
    with pytest.raises(PoolError):
        caller(replace(longer, reason=""))
    with pytest.raises(ImageNotFound):
        caller(replace(longer, image=Name("b")))


def test_props_of_an_image_that_the_index_does_not_know_are_those_that_it_would_have(
    service: Service, caller: Caller
) -> None:
    caller.put("a", DATA, keep=Keep(infinite=True, hold=True))
    unit = service.unit("main")
    known: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    with unit.journal.transaction() as db:
        unit.index.forget(db, "a", 1)
    assert caller(messages.GetProps(pool="main", image=Name("a"))) == known
