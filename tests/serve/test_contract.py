"""The contract as a table: for each operation, tests of success, of repetition, of each failure.

The operations and the failures of each are those of docs/protocols.md. An operation or a code that
no test is named for fails here, and so does a test that is named and does not exist. Codes that
mean the same for every operation are tried here on all of them.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    CorruptObject,
    ImageBusy,
    ImageNotFound,
    NoHandle,
    PoolError,
    StoreError,
    TransientStoreError,
    Unsupported,
)
from catalog.model import StorageClass
from connector.pool.classes import ClassPolicy
from connector.pool.coding import ClientKey, Coding
from connector.pool.erase import erase_image
from connector.pool.manifest import Within
from connector.serve import copies, operations_images
from connector.serve.failures import failure_of
from connector.serve.service import Service
from connector.wire import messages
from connector.wire.messages import CALLS, Call, Name, Wanted
from tests.pool.support import FOREVER, NOTHING, some_bytes
from tests.serve.support import OTHER, TOKEN, Caller, World, eventually

ROOT = Path(__file__).parents[2]
DATA = some_bytes(1000)
EVERYWHERE = {"no_pool", "name_invalid", "handle", "down"}
"""Codes that the tests at the end of this file try on each operation that can fail with them."""

W, I, R, S = "service_writing", "service_images", "service_recall", "service_server"  # noqa: E741
A, D, T, P, X, N = "service_away", "dialogue", "tcp", "spool", "descriptors", "contract"
SUCCESS, AGAIN = "success", "repeated"

# ruff: noqa: E501
# each line: what, the file below tests/serve without "test_", the test without "test_"
TABLE = f"""
hello
  {SUCCESS} {D} hello_says_limits_and_capabilities
  {AGAIN} {T} a_hello_that_was_recorded_opens_nothing
  version {D} a_version_that_nobody_speaks_is_refused
  auth {T} a_wrong_token_is_refused_and_leaves_no_trace
  busy {D} a_service_that_is_full_says_busy
  timeout listener a_peer_that_never_says_hello_is_cut
claim
  {SUCCESS} {S} claim_knows_the_pools_and_has_no_side_effect
  {AGAIN} {N} calls_that_only_look_can_be_repeated
server_props
  {SUCCESS} {S} server_props_show_the_live_handles
  {AGAIN} {N} calls_that_only_look_can_be_repeated
list_pools
  {SUCCESS} {S} pools_are_listed_in_pages
  {AGAIN} {N} calls_that_only_look_can_be_repeated
pool_props
  {SUCCESS} {S} capacity_moves_as_data_arrives_and_is_deleted
  {AGAIN} {N} calls_that_only_look_can_be_repeated
create
  {SUCCESS} {W} the_definition_ends_up_in_the_manifest
  {AGAIN} {W} create_with_the_same_token_gives_the_same_handle
  exists {W} create_of_a_complete_image_says_exists
  quota {W} the_hard_quota_refuses_create_until_something_is_deleted
  in_use {W} an_image_that_another_session_writes_is_busy_for_its_token_and_in_use_for_others
  busy {W} a_pool_has_no_more_open_images_than_its_memory_allows
  unsupported {W} a_lock_that_the_bucket_cannot_keep_is_refused_at_create
write
  {SUCCESS} {D} writes_of_all_sizes_arrive_whole_and_in_order
  {AGAIN} {W} a_repeated_write_is_accepted_when_it_is_the_last_and_its_bytes_are_equal
  offset {W} other_offsets_and_lengths_are_refused_with_the_right_offset
  no_space {W} the_hard_quota_refuses_writes_with_the_durable_offset_and_what_was_taken_can_be_closed
  io {W} an_error_behind_is_told_by_a_later_call_and_by_every_one_after_it
  handle {N} an_aborted_image_takes_no_more_bytes
write_from
  {SUCCESS} {X} a_pipe_is_read_to_its_end
  {AGAIN} {X} bytes_that_came_by_descriptor_cannot_be_repeated_by_it
  descriptor {X} what_is_no_stream_of_bytes_is_refused_and_closed
  offset {X} bytes_that_came_by_descriptor_cannot_be_repeated_by_it
  no_space {W} bytes_of_unknown_length_stop_at_the_hard_quota
  io {W} an_error_behind_is_told_by_a_later_call_and_by_every_one_after_it
  timeout {X} a_pipe_in_which_nothing_moves_is_given_up_and_the_handle_goes_on
flush
  {SUCCESS} {W} flush_tells_what_is_durable_and_a_checkpoint_makes_everything_so
  {AGAIN} {N} a_flush_can_be_repeated
  io {W} an_error_behind_is_told_by_a_later_call_and_by_every_one_after_it
  no_space spool_races a_journal_that_is_full_in_the_middle_of_a_stream_doubles_no_byte
close
  {SUCCESS} {W} an_empty_image_is_an_image
  {AGAIN} {W} close_repeated_in_the_session_gives_the_same_answer
  size {W} close_with_another_size_commits_nothing_and_can_be_repeated_with_the_right_one
  digest {W} close_with_another_digest_commits_nothing_and_the_image_can_be_aborted
  exists {W} close_after_another_host_committed_the_name_says_exists_and_leaves_nothing
  io {W} an_error_behind_is_told_by_a_later_call_and_by_every_one_after_it
  no_space {P} a_full_disk_under_the_journal_acknowledges_nothing
  damaged {N} an_image_that_the_store_changed_on_its_way_is_not_acknowledged
settle
  {SUCCESS} {W} settle_repeats_the_answer_of_a_close_that_was_lost
  {AGAIN} {W} settle_repeats_the_answer_of_a_close_that_was_lost
  not_found {W} settle_of_what_nobody_knows_finds_nothing
  exists {W} settle_with_another_size_or_digest_says_exists
  busy {W} settle_while_another_session_has_the_image_open_is_busy
resume
  {SUCCESS} {W} close_incomplete_keeps_everything_and_resume_goes_on_there
  {AGAIN} {N} a_resume_can_be_repeated
  not_found {W} resume_with_another_token_finds_nothing
  complete {W} resume_of_what_does_not_exist_or_is_complete_says_so
  busy {W} an_image_that_another_session_writes_is_busy_for_its_token_and_in_use_for_others
  in_use {N} a_resume_of_what_is_being_read_is_refused
abort
  {SUCCESS} {W} an_image_that_is_aborted_leaves_nothing
  {AGAIN} {W} an_image_that_is_aborted_leaves_nothing
  io {A} an_abort_while_the_store_is_away_is_done_when_it_is_back
  complete service_edges abort_of_an_image_whose_commit_had_happened_says_that_it_is_complete
discard
  {SUCCESS} {W} discard_removes_an_incomplete_image_and_not_an_open_or_complete_one
  {AGAIN} {W} discard_removes_an_incomplete_image_and_not_an_open_or_complete_one
  not_found {W} discard_removes_an_incomplete_image_and_not_an_open_or_complete_one
  in_use {W} discard_removes_an_incomplete_image_and_not_an_open_or_complete_one
  complete {W} discard_removes_an_incomplete_image_and_not_an_open_or_complete_one
open
  {SUCCESS} {I} any_range_is_read_and_is_short_only_at_the_end
  {AGAIN} {I} open_without_a_copy_takes_the_lowest
  not_found {I} open_of_what_is_not_there_finds_nothing
  archived {R} opening_an_archived_image_tells_price_and_time_and_asks_for_nothing
  erased {N} an_erased_image_is_told_as_such
  unsupported {N} an_image_within_tape_files_is_told_as_such
  busy {W} a_pool_has_no_more_open_images_than_its_memory_allows
read
  {SUCCESS} {D} ranges_come_back_exactly
  {AGAIN} {I} any_range_is_read_and_is_short_only_at_the_end
  archived {R} a_read_that_meets_a_cold_object_brings_the_offer_too
  io {N} a_read_that_the_store_refuses_says_so_and_can_be_repeated
  damaged {I} a_damaged_part_is_told_as_such_and_other_images_are_fine
read_to
  {SUCCESS} {X} an_image_is_written_to_a_pipe_from_any_offset
  {AGAIN} {I} any_range_is_read_and_is_short_only_at_the_end
  descriptor {X} what_is_no_stream_of_bytes_is_refused_and_closed
  archived {R} a_read_that_meets_a_cold_object_brings_the_offer_too
  io {N} a_read_that_the_store_refuses_says_so_and_can_be_repeated
  damaged {I} a_damaged_part_is_told_as_such_and_other_images_are_fine
  timeout {X} a_pipe_in_which_nothing_moves_is_given_up_and_the_handle_goes_on
props
  {SUCCESS} {I} props_tell_everything_about_an_image
  {AGAIN} {N} calls_that_only_look_can_be_repeated
  not_found {N} what_is_not_there_is_not_found
list
  {SUCCESS} {I} a_list_has_stable_pages_while_images_come_and_go
  {AGAIN} {N} calls_that_only_look_can_be_repeated
  cursor_expired {I} a_cursor_that_is_none_is_refused_as_expired
delete
  {SUCCESS} {I} delete_removes_an_image_and_the_second_call_says_deleted_as_well
  {AGAIN} {I} a_delete_that_is_repeated_never_takes_another_copy
  locked {I} held_and_locked_images_are_not_deleted
  held {I} held_and_locked_images_are_not_deleted
  in_use {I} an_image_that_somebody_reads_or_writes_is_not_deleted
set_retention
  {SUCCESS} {I} retention_is_extended_and_never_shortened
  {AGAIN} {N} a_change_of_how_an_image_is_kept_can_be_repeated
  not_found {N} what_is_not_there_is_not_found
  would_shorten {I} retention_is_extended_and_never_shortened
  unsupported {N} a_retention_beyond_a_hundred_years_is_refused
set_hold
  {SUCCESS} {I} a_hold_is_placed_and_released_and_told
  {AGAIN} {N} a_change_of_how_an_image_is_kept_can_be_repeated
  not_found {N} what_is_not_there_is_not_found
  unsupported {P} everything_else_works_from_the_spool_too
prepare
  {SUCCESS} {R} a_recall_is_asked_for_once_and_its_end_is_told
  {AGAIN} {R} a_recall_is_asked_for_once_and_its_end_is_told
  not_found {R} recalls_that_cannot_be_are_refused_and_cost_nothing
  over_budget {R} recalls_that_cannot_be_are_refused_and_cost_nothing
  unsupported {R} recalls_that_cannot_be_are_refused_and_cost_nothing
  busy {N} a_recall_that_the_store_puts_off_is_not_lost
ticket
  {SUCCESS} {R} a_ticket_survives_a_restart
  {AGAIN} {R} a_ticket_survives_a_restart
  not_found {R} recalls_that_cannot_be_are_refused_and_cost_nothing
copy
  {SUCCESS} {S} an_image_is_copied_behind_and_its_end_is_told
  {AGAIN} {S} an_image_is_copied_behind_and_its_end_is_told
  not_found {S} copies_that_cannot_be_are_refused_at_once
  same {S} copies_that_cannot_be_are_refused_at_once
  exists {S} copies_that_cannot_be_are_refused_at_once
  archived {R} a_full_verification_and_a_copy_of_an_archived_image_say_archived
  in_use {N} more_copies_than_may_wait_are_refused
  unsupported {N} a_copy_of_what_is_in_the_spool_is_refused
operation
  {SUCCESS} {S} an_image_is_copied_behind_and_its_end_is_told
  {AGAIN} {S} an_image_is_copied_behind_and_its_end_is_told
  not_found {S} copies_that_cannot_be_are_refused_at_once
map
  {SUCCESS} {I} a_map_covers_the_image
  {AGAIN} {N} calls_that_only_look_can_be_repeated
  not_found {N} what_is_not_there_is_not_found
  unsupported {P} everything_else_works_from_the_spool_too
events
  {SUCCESS} {S} events_come_in_order_and_a_cursor_goes_on
  {AGAIN} {S} events_survive_restarts_and_are_repeated_rather_than_lost
  cursor_expired {S} a_cursor_behind_what_is_kept_has_expired
verify
  {SUCCESS} {I} verify_finds_a_good_image_good
  {AGAIN} {N} calls_that_only_look_can_be_repeated
  not_found {N} what_is_not_there_is_not_found
  archived {R} a_full_verification_and_a_copy_of_an_archived_image_say_archived
  in_use {N} a_verification_of_what_is_being_written_anew_is_refused
  busy {N} a_verification_needs_a_place_too
  unsupported {I} a_full_verification_finds_a_changed_byte
"""


def table() -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Operation, then what, then the tests: (file, name)."""
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    operation = ""
    for line in TABLE.strip().splitlines():
        words = line.split()
        if len(words) == 1:
            operation = words[0]
            found[operation] = {}
        else:
            what, file, name = words
            found[operation].setdefault(what, []).append((f"test_{file}.py", f"test_{name}"))
    return found


def page() -> dict[str, set[str]]:
    """Operation, and the codes that docs/protocols.md says it fails with."""
    text = (ROOT / "docs" / "protocols.md").read_text()
    found = {}
    for name, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", text, re.M | re.S):
        fails = re.search(r"^- Fails: (.*)$", body, re.M)
        assert fails, name
        told = re.sub(r"\([^)]*\)", "", fails.group(1))
        found[name] = set(re.findall(r"`(\w+)`", told))
    return found


def defined(file: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("operation", [*CALLS, "write"])
def test_each_operation_has_tests_of_success_of_repetition_and_of_each_failure(
    operation: str,
) -> None:
    row = table()[operation]
    wanted = {SUCCESS, AGAIN, *(page().get(operation, set()) - EVERYWHERE)}
    assert not wanted - row.keys(), f"{operation}: no test is named for these"
    for what, tests in row.items():
        for file, name in tests:
            assert name in defined(file), f"{operation} {what}: {file} has no {name}"


def test_the_page_and_the_table_know_the_same_operations() -> None:
    assert set(CALLS) - page().keys() == set()
    assert table().keys() == {*CALLS, "write"}


# --- what had no test of its own ----------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    with world.running(world.pool(), world.pool("other")) as service:
        yield service


@pytest.fixture
def caller(service: Service) -> Caller:
    caller = Caller(service)
    caller.put("a", DATA)
    return caller


def test_calls_that_only_look_can_be_repeated(caller: Caller) -> None:
    here: dict[str, Any] = {"pool": "main", "image": Name("a")}
    looks: list[Call] = [
        messages.Claim(name="main"),
        messages.ListPools(),
        messages.GetProps(**here),
        messages.ListImages(pool="main"),
        messages.Map(**here),
        messages.Verify(**here, depth="full"),
    ]
    for call in looks:
        assert caller(call) == caller(call)
    moving = {"age_s": 0.0}
    props = [dataclasses.replace(caller.pool_props(), **moving) for _ in range(2)]
    assert props[0] == props[1]
    states = [caller(messages.GetServerProps()).state for _ in range(2)]
    assert states == ["up", "up"]
    assert caller.get("a") == DATA


def test_an_aborted_image_takes_no_more_bytes(caller: Caller) -> None:
    handle = caller.create("b", OTHER)
    writer = caller.session.writing(handle)
    caller.write(handle, DATA)
    caller(messages.Abort(handle=handle))
    with pytest.raises(NoHandle):
        caller.session.writing(handle)
    with pytest.raises(PoolError):
        writer.begin(len(DATA), 10)


def test_a_flush_can_be_repeated(caller: Caller) -> None:
    handle = caller.create("b", OTHER)
    caller.write(handle, DATA)
    for checkpoint in (False, True):
        flush = messages.Flush(handle=handle, checkpoint=checkpoint)
        assert caller(flush) == caller(flush)


def test_an_image_that_the_store_changed_on_its_way_is_not_acknowledged(
    world: World, caller: Caller
) -> None:
    handle = caller.create("b", OTHER)
    world.store("main").failing["complete_upload"] = CorruptObject("another checksum")
    with contextlib.suppress(CorruptObject):  # noticed by a write, or at the latest by close
        caller.write(handle, DATA)
    for _ in range(2):
        with pytest.raises(CorruptObject) as refused:
            caller.close(handle)
        assert failure_of(refused.value).code == "damaged"
        world.store("main").failing.clear()
    assert caller.list() == ["a"]


def test_a_resume_can_be_repeated(caller: Caller) -> None:
    handle = caller.create("b", OTHER)
    caller.write(handle, DATA[:500])
    caller.close(handle, complete=False)
    going = caller.resume("b", OTHER)
    assert caller.resume("b", OTHER) == going
    assert going.offset == 500


def test_a_resume_of_what_is_being_read_is_refused(service: Service, caller: Caller) -> None:
    handle = caller.create("b", OTHER)
    caller.close(handle, complete=False)
    use = service.unit("main").in_use.read("b", 1)
    with pytest.raises(PoolError) as refused:
        caller.resume("b", OTHER)
    assert refused.value.code in ("in_use", "busy")
    service.unit("main").in_use.let_go(use)
    assert caller.resume("b", OTHER).offset == 0


def test_an_erased_image_is_told_as_such(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    coding = Coding(client_key=ClientKey(id="2026", key=bytes(32)), frame_size=16)
    with world.running(world.pool(coding=coding)) as service:
        caller, pool = Caller(service), service.unit("main").pool()
        caller.put("a", DATA)
        assert caller.get("a") == DATA
        erase_image(pool, pool.stat("a"), reason="asked for", actor="test")
        with pytest.raises(PoolError) as refused:
            caller.get("a")
        assert failure_of(refused.value).code == "erased"


def test_an_image_within_tape_files_is_told_as_such(service: Service, caller: Caller) -> None:
    service.unit("main").pool().place_image(
        "inner",
        1,
        within=[Within(image="a", copy=1, fragment_number=1, size=None)],
        origin=NOTHING,
        retention=FOREVER,
        on_commit=service.unit("main").on_commit,
    )
    with pytest.raises(Unsupported):
        caller.open("inner")
    assert not service.unit("main").in_use.is_open("inner", 1)


def test_a_read_that_the_store_refuses_says_so_and_can_be_repeated(
    world: World, caller: Caller
) -> None:
    handle = caller.open("a").handle
    world.store("main").failing["read_into"] = StoreError("refused (HTTP 400, request id X9)")
    with pytest.raises(StoreError) as refused:
        caller.read(handle, 0, 10)
    failure = failure_of(refused.value)
    assert (failure.code, failure.request_id) == ("io", "X9")
    world.store("main").failing.clear()
    assert caller.read(handle, 0, None) == DATA


def test_a_change_of_how_an_image_is_kept_can_be_repeated(world: World, caller: Caller) -> None:
    until = world.clock() + 10**15
    for call in (
        messages.SetRetention(pool="main", image=Name("a"), until=until, reason="audit"),
        messages.SetHold(pool="main", image=Name("a"), on=True, reason="case"),
    ):
        assert caller(call) == caller(call)


def test_a_retention_beyond_a_hundred_years_is_refused(world: World, caller: Caller) -> None:
    until = world.clock() + 200 * 365 * 86_400 * 10**9
    with pytest.raises(Unsupported):
        caller(messages.SetRetention(pool="main", image=Name("a"), until=until, reason="x"))


def test_what_is_not_there_is_not_found(caller: Caller) -> None:
    nowhere: dict[str, Any] = {"pool": "main", "image": Name("nowhere")}
    calls: list[Call] = [
        messages.GetProps(**nowhere),
        messages.SetRetention(**nowhere, infinite=True, reason="x"),
        messages.SetHold(**nowhere, on=True, reason="x"),
        messages.Map(**nowhere),
        messages.Verify(**nowhere),
    ]
    for call in calls:
        with pytest.raises(ImageNotFound):
            caller(call)


def test_a_recall_that_the_store_puts_off_is_not_lost(world: World) -> None:
    with world.running(world.pool(policy=ClassPolicy(fixed=StorageClass.GLACIER))) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        store = world.store("main")
        store.failing["recall"] = TransientStoreError("SlowDown")
        call = messages.Prepare(pool="main", images=(Wanted(image=Name("a"), ranges=()),))
        with pytest.raises(PoolError) as put_off:
            caller(call)
        assert failure_of(put_off.value).retryable
        store.failing.clear()
        eventually(lambda: service.unit("main").up)
        assert caller(call).asked


def test_more_copies_than_may_wait_are_refused(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "WAITING", 0)
    with pytest.raises(ImageBusy):
        caller(messages.CopyImage(pool="main", image=Name("a"), to_pool="other", token=TOKEN))


def test_a_copy_of_what_is_in_the_spool_is_refused(world: World) -> None:
    world.store("main").away = True
    service = world.service(world.spooled(), world.pool("other"))
    service.start(wait_s=0.1)
    caller = Caller(service)
    caller.put("a", DATA)
    with pytest.raises(Unsupported):
        caller(messages.CopyImage(pool="main", image=Name("a"), to_pool="other", token=TOKEN))
    service.close()


def test_a_verification_of_what_is_being_written_anew_is_refused(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations_images, "BRIEF_S", 0.05)
    with service.unit("main").in_use.alone("a", 1), pytest.raises(ImageBusy):
        caller(messages.Verify(pool="main", image=Name("a")))


def test_a_verification_needs_a_place_too(world: World) -> None:
    with world.running(world.pool(sizes={"images_open": 1})) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        handle = caller.open("a").handle
        with pytest.raises(PoolError) as refused:
            caller(messages.Verify(pool="main", image=Name("a")))
        assert failure_of(refused.value).code == "busy"
        caller.close(handle)
        assert caller(messages.Verify(pool="main", image=Name("a"))).ok


# --- codes that mean the same everywhere --------------------------------------------------------


def calls(pool: str, image: str) -> dict[str, Call]:
    """One call of each operation that names a pool."""
    here: dict[str, Any] = {"pool": pool, "image": Name(image)}
    made: list[Call] = [
        messages.GetPoolProps(pool=pool),
        messages.Create(**here, token=TOKEN, copy=7),
        messages.Settle(**here, token=TOKEN),
        messages.Resume(**here, token=TOKEN),
        messages.Discard(**here),
        messages.Open(**here),
        messages.GetProps(**here),
        messages.ListImages(pool=pool),
        messages.Delete(**here, reason="x"),
        messages.SetRetention(**here, infinite=True, reason="x"),
        messages.SetHold(**here, on=True, reason="x"),
        messages.Prepare(pool=pool, images=(Wanted(image=Name(image)),)),
        messages.GetTicket(pool=pool, ticket="none"),
        messages.CopyImage(**here, to_pool="other", token=TOKEN),
        messages.Map(**here),
        messages.Verify(**here),
    ]
    return {call.op: call for call in made}


def fails(code: str) -> list[str]:
    return sorted(operation for operation, codes in page().items() if code in codes)


@pytest.mark.parametrize("operation", fails("no_pool"))
def test_a_pool_that_is_not_served_is_no_pool(caller: Caller, operation: str) -> None:
    with pytest.raises(PoolError) as refused:
        caller(calls("nowhere", "a")[operation])
    assert failure_of(refused.value).code == "no_pool"


@pytest.mark.parametrize("operation", fails("name_invalid"))
@pytest.mark.parametrize("image", ["", "n" * 1024, "\udcff" * 500])
def test_a_name_that_cannot_be_is_name_invalid(caller: Caller, operation: str, image: str) -> None:
    with pytest.raises(PoolError) as refused:
        caller(calls("main", image)[operation])
    assert failure_of(refused.value).code == "name_invalid"
    assert caller.list("any") == ["a"]


STILL = {"settle", "resume"}
"""They need the store only for an image that was begun, see ``test_service_away``."""


@pytest.mark.parametrize(
    "operation", [name for name in fails("down") if name in calls("", "") and name not in STILL]
)
def test_a_pool_whose_store_is_away_is_down(
    world: World, service: Service, caller: Caller, operation: str
) -> None:
    world.store("main").away = True
    eventually(lambda: not service.unit("main").up)
    with pytest.raises(PoolError) as refused:
        caller(calls("main", "a")[operation])
    failure = failure_of(refused.value)
    assert (failure.code, failure.retryable) == ("down", True)
    assert failure.retry_after_s > 0


@pytest.mark.parametrize("operation", ["flush", "close", "abort"])
def test_a_handle_that_is_none_is_refused(caller: Caller, operation: str) -> None:
    made = {
        "flush": messages.Flush(handle=99),
        "close": messages.Close(handle=99),
        "abort": messages.Abort(handle=99),
    }
    with pytest.raises(NoHandle):
        caller(made[operation])
