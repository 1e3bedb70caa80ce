"""Writing on a pool that stores: create, write, flush, close, resume, settle, abort, discard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import (
    DigestMismatch,
    ImageBusy,
    ImageComplete,
    ImageExists,
    ImageNotFound,
    NameInvalid,
    NoHandle,
    NoPool,
    NoSpace,
    OffsetMismatch,
    PoolError,
    QuotaExceeded,
    SizeMismatch,
    StoreError,
    TooBusy,
    Unsupported,
)
from connector.pool import names
from connector.serve.service import Service
from connector.settings import ClientLimits
from connector.wire import messages
from connector.wire.messages import Keep, Name, Source
from tests.pool.support import some_bytes
from tests.serve.support import OTHER, TOKEN, Caller, World, eventually, feed, fill, sha256

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


def uploads(world: World, pool: str = "main") -> list[object]:
    return list(world.store(pool).uploads("images/"))


def objects(world: World, pool: str = "main") -> list[str]:
    return [stored.key for stored in world.store(pool).scan("images/")]


# --- create -----------------------------------------------------------------------------------


def test_create_with_the_same_token_gives_the_same_handle(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA[:300])
    again: messages.Writing = caller(messages.Create(pool="main", image=Name("a"), token=TOKEN))
    assert (again.handle, again.offset) == (handle, 300)


def test_create_of_a_complete_image_says_exists(caller: Caller) -> None:
    caller.put("a", DATA)
    with pytest.raises(ImageExists):
        caller.create("a", OTHER)
    with pytest.raises(ImageExists):
        caller.create("a", TOKEN)


def test_create_of_an_image_that_another_host_wrote_says_exists(
    world: World, service: Service, caller: Caller
) -> None:
    world.store("main").put(names.manifest_key("a", 1), _foreign_manifest("a"))
    with pytest.raises(ImageExists):
        caller.create("a")
    assert service.unit("main").drafts.find("a", 1) is None


def _foreign_manifest(name: str) -> bytes:
    from catalog.model import StorageClass
    from connector.pool.digest import crc64
    from connector.pool.manifest import FragmentObject, Manifest
    from tests.pool.support import FOREVER, NOTHING

    part = FragmentObject(
        number=1, key="images/x/1/t-00000", version_id=None, offset=0, size=3,
        sha256=sha256(b"abc"), crc64nvme=crc64(b"abc"), store_checksum="CRC64NVME", etag="",
        part_size=64, storage_class=StorageClass.STANDARD, part_crc64nvme=(crc64(b"abc"),),
    )  # fmt: skip
    return Manifest(
        name=name, copy=1, token="t", created_at=0, writer="w", size=3, sha256=sha256(b"abc"),
        fragments=(part,), origin=NOTHING, retention=FOREVER,
    ).to_json()  # fmt: skip


def test_create_with_another_token_on_an_incomplete_image_needs_replace(
    world: World, caller: Caller
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    caller.close(handle, complete=False)
    with pytest.raises(ImageExists):
        caller.create("a", OTHER)
    handle = caller.create("a", OTHER, replace=True)
    caller.write(handle, b"new")
    caller.close(handle)
    assert caller.get("a") == b"new"
    with pytest.raises(ImageComplete):
        caller.resume("a", TOKEN)


def test_replace_never_takes_a_complete_image(caller: Caller) -> None:
    caller.put("a", DATA)
    with pytest.raises(ImageExists):
        caller.create("a", OTHER, replace=True)
    assert caller.get("a") == DATA


def test_an_image_that_another_session_writes_is_busy_for_its_token_and_in_use_for_others(
    service: Service, caller: Caller
) -> None:
    caller.create("a")
    second = Caller(service, "bob@host")
    with pytest.raises(TooBusy):
        second.create("a", TOKEN)
    with pytest.raises(ImageExists):
        second.create("a", OTHER)
    with pytest.raises(ImageBusy):
        second.create("a", OTHER, replace=True)


def test_two_clients_of_one_image_cannot_mix_bytes(service: Service, caller: Caller) -> None:
    second = Caller(service, "bob@host")
    handle = caller.create("a")
    with pytest.raises(ImageExists):
        second.create("a", OTHER)
    caller.write(handle, DATA)
    caller.close(handle)
    assert second.get("a") == DATA


@pytest.mark.parametrize("name", ["", "x" * 1025])
def test_names_that_cannot_be_keys_are_refused_and_leave_no_trace(
    world: World, service: Service, caller: Caller, name: str
) -> None:
    with pytest.raises(NameInvalid):
        caller.create(name)
    assert not objects(world)
    assert not service.unit("main").drafts.in_states(["writing"])


@pytest.mark.parametrize("copy", [0, -1, 2**32])
def test_copy_numbers_out_of_bounds_are_refused(caller: Caller, copy: int) -> None:
    with pytest.raises(NameInvalid):
        caller.create("a", copy=copy)


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "a/b/../c", "a\x00b", "%2E%2E", "manifest.json", "\udcff\udcfe", "é"],
)
def test_hostile_names_are_images_of_their_own(caller: Caller, name: str) -> None:
    caller.put("neighbour", b"untouched")
    caller.put(name, DATA, OTHER)
    assert set(caller.list()) == {"neighbour", name}
    assert caller.get(name) == DATA
    assert caller.get("neighbour") == b"untouched"


def test_short_tokens_are_refused(caller: Caller) -> None:
    with pytest.raises(PoolError):
        caller.create("a", "short")


def test_a_pool_that_is_not_served_is_named_so(caller: Caller) -> None:
    with pytest.raises(NoPool):
        caller.create("a", pool="other")


def test_a_session_has_no_more_handles_than_it_may(world: World) -> None:
    with world.running(limits=ClientLimits(handles=2)) as service:
        caller = Caller(service)
        caller.create("a")
        caller.create("b")
        with pytest.raises(TooBusy):
            caller.create("c")


def test_a_pool_has_no_more_open_images_than_its_memory_allows(world: World) -> None:
    pool = world.pool(sizes={"images_open": 2})
    with world.running(pool) as service:
        first, second = Caller(service), Caller(service)
        done = first.create("done")
        first.close(done)
        first.create("a")
        second.open("done")
        with pytest.raises(TooBusy):
            second.create("b")
        with pytest.raises(TooBusy):
            second.open("done")
        assert service.memory_bound() == 2 * 5 * 64
        first.session.end()
        second.create("b")


def test_the_definition_is_durable_before_create_is_answered(
    world: World, service: Service, caller: Caller
) -> None:
    source = Source(product="p", client="c", policy="o", schedule="s", backup_time=5 * DAY)
    caller.create("a", source=source, keep=Keep(expires_at=10**18 * 2), block_size=512)
    draft = service.unit("main").drafts.find("a", 1)
    assert draft is not None
    assert (draft.definition.source, draft.definition.block_size) == (source, 512)


def test_the_definition_ends_up_in_the_manifest(world: World, caller: Caller) -> None:
    source = Source(product="p", client="c", schedule_type="weekly", backup_time=5 * DAY)
    handle = caller.create("a", source=source, keep=Keep(expires_at=3 * 10**18), block_size=512)
    caller.close(handle)
    props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    assert (props.source.product, props.source.client) == ("p", "c")
    assert (props.source.schedule_type, props.source.backup_time) == ("OTHER", 5 * DAY)
    assert (props.facts.expires_at, props.facts.infinite) == (3 * 10**18, False)


def test_a_lock_that_the_bucket_cannot_keep_is_refused_at_create(tmp_path: Path) -> None:
    world = World(tmp_path, object_lock=False, versioning=False)
    with world.running() as service, pytest.raises(Unsupported):
        Caller(service).create("a", keep=Keep(lock="compliance", expires_at=3 * 10**18))


def test_a_lock_ends_after_ten_years_at_most(caller: Caller, world: World) -> None:
    far = 9 * 10**18  # the year 2255, by a clock or a product that is wrong
    handle = caller.create("a", keep=Keep(lock="compliance", expires_at=far))
    caller.close(handle)
    props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    assert props.facts.expires_at == far
    assert props.facts.lock == "compliance"
    assert props.facts.lock_until is not None
    assert props.facts.lock_until <= world.clock() + 3651 * DAY


def test_a_client_cannot_weaken_the_lock_of_its_pool(world: World) -> None:
    from catalog.model import LockMode

    with world.running(world.pool(lock=LockMode.COMPLIANCE, keep_days=10)) as service:
        caller = Caller(service)
        caller.close(caller.create("a", keep=Keep(lock="none")))
        props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
        assert props.facts.lock == "compliance"


# --- write ------------------------------------------------------------------------------------


def test_a_repeated_write_is_accepted_when_it_is_the_last_and_its_bytes_are_equal(
    caller: Caller,
) -> None:
    handle = caller.create("a")
    writer = caller.session.writing(handle)
    feed(writer, DATA[:100])
    feed(writer, DATA[100:350])  # crosses parts
    assert not writer.begin(100, 250)
    writer.repeated(memoryview(DATA[100:350]))
    feed(writer, DATA[350:])
    caller.close(handle, sha256=sha256(DATA))
    assert caller.get("a") == DATA


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 100), (100, 251), (101, 250), (400, 1), (349, 1)]
)
def test_other_offsets_and_lengths_are_refused_with_the_right_offset(
    caller: Caller, offset: int, length: int
) -> None:
    writer = caller.session.writing(caller.create("a"))
    feed(writer, DATA[:100])
    feed(writer, DATA[100:350])
    with pytest.raises(OffsetMismatch) as refused:
        writer.begin(offset, length)
    assert refused.value.offset == 350
    feed(writer, DATA[350:])


def test_a_repeated_write_with_other_bytes_is_refused(caller: Caller) -> None:
    writer = caller.session.writing(caller.create("a"))
    feed(writer, DATA[:100])
    assert not writer.begin(0, 100)
    with pytest.raises(OffsetMismatch):
        writer.repeated(memoryview(b"\0" * 100))


def test_bytes_of_unknown_length_are_never_a_repetition(caller: Caller) -> None:
    writer = caller.session.writing(caller.create("a"))
    assert writer.begin(0, 0)
    fill(writer, DATA)
    with pytest.raises(OffsetMismatch):
        writer.begin(0, 0)


def test_an_error_behind_is_told_by_a_later_call_and_by_every_one_after_it(
    world: World, caller: Caller
) -> None:
    handle = caller.create("a")
    world.store("main").failing["put_part"] = StoreError("refused (HTTP 400, request id X1)")
    with pytest.raises(StoreError):
        caller.write(handle, DATA * 10)
    world.store("main").failing.clear()
    for call in (messages.Flush(handle=handle), messages.Close(handle=handle)):
        with pytest.raises(StoreError):
            caller(call)
    assert caller.list() == []


def test_flush_tells_what_is_durable_and_a_checkpoint_makes_everything_so(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA[:100])
    flushed: messages.Durable = caller(messages.Flush(handle=handle))
    assert (flushed.durable, flushed.offset) == (64, 100)
    flushed = caller(messages.Flush(handle=handle, checkpoint=True))
    assert (flushed.durable, flushed.offset) == (100, 100)


# --- quotas -----------------------------------------------------------------------------------


def test_the_hard_quota_refuses_writes_with_the_durable_offset_and_what_was_taken_can_be_closed(
    world: World,
) -> None:
    with world.running(world.pool(hard_quota=500)) as service:
        caller = Caller(service)
        handle = caller.create("a")
        caller.write(handle, DATA[:400])
        writer = caller.session.writing(handle)
        with pytest.raises(NoSpace) as refused:
            writer.begin(400, 101)
        assert refused.value.offset == 384
        caller.close(handle, size=400, sha256=sha256(DATA[:400]))
        assert caller.get("a") == DATA[:400]


def test_bytes_of_unknown_length_stop_at_the_hard_quota(world: World) -> None:
    with world.running(world.pool(hard_quota=500)) as service:
        caller = Caller(service)
        writer = caller.session.writing(caller.create("a"))
        writer.begin(0, 0)
        with pytest.raises(NoSpace):
            fill(writer, DATA)
        assert writer.offset == 500


def test_the_hard_quota_refuses_create_until_something_is_deleted(world: World) -> None:
    with world.running(world.pool(hard_quota=1000)) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        with pytest.raises(QuotaExceeded):
            caller.create("b")
        caller(messages.Delete(pool="main", image=Name("a"), reason="test"))
        caller.create("b")


def test_the_soft_quota_warns_and_is_told_once(world: World) -> None:
    with world.running(world.pool(soft_quota=500)) as service:
        caller = Caller(service)
        handle = caller.create("a")
        writer = caller.session.writing(handle)
        feed(writer, DATA[:400])
        assert not writer.low_space
        feed(writer, DATA[400:700])
        feed(writer, DATA[700:])
        assert writer.low_space
        caller.close(handle)
        eventually(lambda: "complete" in caller.kinds())
        assert caller.kinds().count("quota_soft") == 1


# --- close ------------------------------------------------------------------------------------


def test_close_repeated_in_the_session_gives_the_same_answer(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    assert caller.close(handle) == caller.close(handle)


def test_close_with_another_size_commits_nothing_and_can_be_repeated_with_the_right_one(
    caller: Caller,
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    with pytest.raises(SizeMismatch):
        caller.close(handle, size=999)
    assert caller.list() == []
    caller.close(handle, size=1000)
    assert caller.list() == ["a"]


def test_close_with_another_digest_commits_nothing_and_the_image_can_be_aborted(
    world: World, caller: Caller
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    with pytest.raises(DigestMismatch):
        caller.close(handle, sha256=sha256(b"other"))
    with pytest.raises(DigestMismatch):
        caller.close(handle, sha256=sha256(DATA))
    assert caller.list("any") == ["a"]
    caller(messages.Abort(handle=handle))
    assert caller.list("any") == []
    assert not objects(world)
    caller.put("a", DATA)


def test_the_digest_may_be_in_upper_case(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    assert caller.close(handle, sha256=sha256(DATA).upper()).sha256 == sha256(DATA)


def test_close_after_another_host_committed_the_name_says_exists_and_leaves_nothing(
    world: World, service: Service, caller: Caller
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    world.store("main").put(names.manifest_key("a", 1), _foreign_manifest("a"))
    with pytest.raises(ImageExists):
        caller.close(handle)
    with pytest.raises(ImageExists):
        caller.close(handle)
    assert objects(world) == ["images/a/1/manifest.json"]
    assert not uploads(world)
    assert not service.unit("main").in_use.is_open("a", 1)
    caller.session.end()
    assert "incomplete" not in caller.kinds()


def test_an_empty_image_is_an_image(caller: Caller) -> None:
    caller.put("empty", b"")
    assert caller.get("empty") == b""


def test_close_incomplete_keeps_everything_and_resume_goes_on_there(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA[:333])
    closed = caller.close(handle, complete=False)
    assert (closed.state, closed.offset, closed.sha256) == ("incomplete", 333, None)
    assert caller.list() == []
    assert caller.list("incomplete") == ["a"]
    going = caller.resume("a")
    assert going.offset == 333
    caller.write(going.handle, DATA[333:])
    caller.close(going.handle, size=1000, sha256=sha256(DATA))
    assert caller.get("a") == DATA


def test_a_handle_that_was_closed_incomplete_takes_no_more_bytes(caller: Caller) -> None:
    handle = caller.create("a")
    caller.close(handle, complete=False)
    with pytest.raises(NoHandle):
        caller.session.writing(handle)


# --- resume -----------------------------------------------------------------------------------


def test_resume_of_what_does_not_exist_or_is_complete_says_so(caller: Caller) -> None:
    with pytest.raises(ImageNotFound):
        caller.resume("a")
    caller.put("a", DATA)
    with pytest.raises(ImageComplete):
        caller.resume("a")


def test_resume_with_another_token_finds_nothing(caller: Caller) -> None:
    caller.close(caller.create("a"), complete=False)
    with pytest.raises(ImageNotFound):
        caller.resume("a", OTHER)


def test_a_client_that_left_finds_its_image_incomplete(service: Service, caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA[:333])
    caller.session.end()
    second = Caller(service, "alice@host again")
    assert second.list("incomplete") == ["a"]
    going = second.resume("a")
    assert going.offset == 333
    second.write(going.handle, DATA[333:])
    second.close(going.handle, sha256=sha256(DATA))
    assert second.get("a") == DATA


def test_a_client_that_comes_back_at_once_waits_for_its_old_session_to_end(world: World) -> None:
    import threading

    with world.running(handover_s=5.0) as service:
        first = Caller(service)
        first.write(first.create("a"), DATA[:333])
        late = threading.Timer(0.3, first.session.end)
        late.start()
        second = Caller(service)
        assert second.resume("a").offset == 333
        late.join()


# --- settle -----------------------------------------------------------------------------------


def test_settle_repeats_the_answer_of_a_close_that_was_lost(
    service: Service, caller: Caller
) -> None:
    closed = caller.put("a", DATA)
    again = Caller(service)
    assert again.settle("a", size=1000, sha256=sha256(DATA)) == closed
    assert again.settle("a") == closed


@pytest.mark.parametrize("fields", [{"size": 999}, {"sha256": sha256(b"other")}])
def test_settle_with_another_size_or_digest_says_exists(
    caller: Caller, fields: dict[str, object]
) -> None:
    caller.put("a", DATA)
    with pytest.raises(ImageExists):
        caller.settle("a", **fields)


def test_settle_of_an_incomplete_image_says_so_and_where_to_go_on(caller: Caller) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA[:333])
    caller.close(handle, complete=False)
    settled = caller.settle("a", size=1000, sha256=sha256(DATA))
    assert (settled.state, settled.offset) == ("incomplete", 333)


def test_settle_of_what_nobody_knows_finds_nothing(caller: Caller) -> None:
    with pytest.raises(ImageNotFound):
        caller.settle("a", size=1, sha256=sha256(b"x"))


def test_settle_with_a_token_that_is_not_known_believes_equal_bytes_only(caller: Caller) -> None:
    caller.put("a", DATA)
    settled = caller.settle("a", OTHER, size=1000, sha256=sha256(DATA))
    assert settled.state == "complete"
    with pytest.raises(ImageExists):
        caller.settle("a", OTHER)
    with pytest.raises(ImageExists):
        caller.settle("a", OTHER, size=1000, sha256=sha256(b"other"))


def test_settle_while_another_session_has_the_image_open_is_busy(
    service: Service, caller: Caller
) -> None:
    caller.create("a")
    with pytest.raises(TooBusy):
        Caller(service).settle("a")


# --- abort and discard ------------------------------------------------------------------------


def test_an_image_that_is_aborted_leaves_nothing(
    world: World, service: Service, caller: Caller
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    caller(messages.Abort(handle=handle))
    assert caller.list("any") == []
    assert not uploads(world)
    assert not objects(world)
    assert service.unit("main").drafts.find("a", 1) is None
    caller(messages.Abort(handle=handle))
    with pytest.raises(NoHandle):
        caller(messages.Flush(handle=handle))


def test_discard_removes_an_incomplete_image_and_not_an_open_or_complete_one(
    world: World, service: Service, caller: Caller
) -> None:
    handle = caller.create("a")
    caller.write(handle, DATA)
    with pytest.raises(ImageBusy):
        caller(messages.Discard(pool="main", image=Name("a")))
    caller.close(handle, complete=False)
    with pytest.raises(ImageNotFound):
        caller(messages.Discard(pool="main", image=Name("a"), token=OTHER))
    caller(messages.Discard(pool="main", image=Name("a"), token=TOKEN))
    assert caller.list("any") == []
    assert not objects(world)
    with pytest.raises(ImageNotFound):
        caller(messages.Discard(pool="main", image=Name("a")))
    caller.put("a", DATA)
    with pytest.raises(ImageComplete):
        caller(messages.Discard(pool="main", image=Name("a")))


def test_a_handle_of_another_kind_or_session_is_refused(service: Service, caller: Caller) -> None:
    caller.put("a", DATA)
    reading = caller.open("a").handle
    with pytest.raises(NoHandle):
        caller.session.writing(reading)
    with pytest.raises(NoHandle):
        Caller(service).session.reading(reading)
    with pytest.raises(NoHandle):
        caller.session.reading(caller.create("b"))
