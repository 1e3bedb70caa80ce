"""Archived images behind the service: a state with an offer and a ticket, no bill by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import (
    ImageArchived,
    ImageNotFound,
    OverBudget,
    PoolError,
    Unsupported,
)
from catalog.model import StorageClass
from connector.pool.classes import ClassPolicy
from connector.serve.failures import ArchivedOffer, failure_of
from connector.serve.service import Service
from connector.settings import LifecycleStep, RecallPolicy
from connector.store.memory import HOUR
from connector.wire import messages
from connector.wire.messages import Keep, Name, Range, Wanted
from tests.pool.support import some_bytes
from tests.serve.support import OTHER, TOKEN, Caller, World, eventually

DATA = some_bytes(1000)
COLD = ClassPolicy(fixed=StorageClass.GLACIER)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    with world.running(world.pool(policy=COLD), world.pool("second")) as service:
        yield service


@pytest.fixture
def caller(service: Service) -> Caller:
    caller = Caller(service)
    caller.put("a", DATA)
    return caller


def asked(world: World) -> int:
    return world.store("main").calls.count("recall")


def prepare(image: str = "a", **fields: object) -> messages.Prepare:
    wanted = fields.pop("images", (Wanted(image=Name(image)),))
    return messages.Prepare(pool="main", images=wanted, **fields)  # type: ignore[arg-type]


def test_opening_an_archived_image_tells_price_and_time_and_asks_for_nothing(
    world: World, service: Service, caller: Caller
) -> None:
    with pytest.raises(ArchivedOffer) as archived:
        caller.open("a")
    failure = failure_of(archived.value)
    assert (failure.code, failure.retryable) == ("archived", False)
    assert failure.offer is not None
    offer = failure.offer
    assert (offer.state, offer.asked, offer.objects, offer.size) == ("offered", False, 4, 1000)
    assert offer.cost > 0
    assert offer.hours > 0
    assert {one.tier for one in offer.offers} >= {"Standard", "Bulk"}
    assert asked(world) == 0
    assert not service.unit("main").in_use.is_open("a", 1)


def test_a_recall_is_asked_for_once_and_its_end_is_told(world: World, caller: Caller) -> None:
    ticket: messages.Ticket = caller(prepare(days=3))
    assert (ticket.state, ticket.asked, ticket.done, ticket.total) == ("waiting", True, 0, 4)
    assert caller(prepare(days=3)).ticket == ticket.ticket
    assert asked(world) == 4
    with pytest.raises(ArchivedOffer) as still:
        caller.open("a")
    assert still.value.offer.asked
    props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    assert props.recall == "recalling"
    assert props.eta_hours
    world.skew = 6 * HOUR
    look = messages.GetTicket(pool="main", ticket=ticket.ticket)
    eventually(lambda: caller(look).state == "ready")
    assert caller.get("a") == DATA
    eventually(lambda: "recall_ready" in caller.kinds())
    assert caller.kinds().count("recall_asked") == 1


def test_a_ticket_survives_a_restart(world: World) -> None:
    pool = world.pool(policy=COLD)
    with world.running(pool) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        ticket = caller(prepare()).ticket
    world.skew = 6 * HOUR
    with world.running(pool) as service:
        caller = Caller(service)
        look = messages.GetTicket(pool="main", ticket=ticket)
        eventually(lambda: caller(look).state == "ready")
        eventually(lambda: "recall_ready" in caller.kinds())


def test_only_the_fragments_of_a_range_are_recalled(world: World, caller: Caller) -> None:
    wanted = Wanted(image=Name("a"), ranges=(Range(offset=300, length=10),))
    offer: messages.Ticket = caller(prepare(images=(wanted,), dry_run=True))
    assert (offer.objects, offer.asked) == (1, False)
    assert asked(world) == 0


def test_recalls_that_cannot_be_are_refused_and_cost_nothing(world: World, caller: Caller) -> None:
    with pytest.raises(OverBudget):
        caller(prepare(max_cost=0.0))
    with pytest.raises(Unsupported):
        caller(prepare(tier="warp"))
    with pytest.raises(ImageNotFound):
        caller(prepare("b"))
    with pytest.raises(PoolError):
        caller(prepare(images=()))
    with pytest.raises(ImageNotFound):
        caller(messages.GetTicket(pool="main", ticket="none"))
    assert asked(world) == 0


def test_a_pool_that_recalls_by_itself_does_so_within_its_budget_only(world: World) -> None:
    policy = RecallPolicy(automatic=True, max_cost=0.0)
    with world.running(world.pool(policy=COLD, recall=policy)) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        with pytest.raises(ArchivedOffer) as refused:
            caller.open("a")
        assert not refused.value.offer.asked
        assert asked(world) == 0
    policy = RecallPolicy(automatic=True, max_cost=10.0)
    with world.running(world.pool(policy=COLD, recall=policy)) as service:
        caller = Caller(service)
        with pytest.raises(ArchivedOffer) as going:
            caller.open("a")
        assert going.value.offer.asked
        with pytest.raises(ArchivedOffer):
            caller.open("a")
        assert asked(world) == 4


def test_an_image_that_a_step_of_the_pool_made_cold_is_noticed(world: World) -> None:
    steps = (LifecycleStep(days=0, storage_class=StorageClass.GLACIER),)
    with world.running(world.pool(lifecycle=steps)) as service:
        caller = Caller(service)
        caller.put("a", DATA)
        assert caller.get("a") == DATA
        _freeze(world)
        with pytest.raises(ArchivedOffer):
            caller.open("a")


def test_a_read_that_meets_a_cold_object_brings_the_offer_too(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        caller.put("a", DATA)
        handle = caller.open("a").handle
        _freeze(world)
        with pytest.raises(ArchivedOffer):
            caller.read(handle, 0, None)
        caller.close(handle)


def _freeze(world: World) -> None:
    """What a lifecycle rule does behind everybody's back."""
    from dataclasses import replace

    memory = world.store("main")._store
    for key, versions in memory._versions.items():
        if key[-6:-5] == "-":
            for version in versions:
                version.options = replace(version.options, storage_class=StorageClass.GLACIER)


def test_a_full_verification_and_a_copy_of_an_archived_image_say_archived(
    caller: Caller,
) -> None:
    with pytest.raises(ImageArchived):
        caller(messages.Verify(pool="main", image=Name("a"), depth="full"))
    with pytest.raises(ImageArchived):
        caller(messages.CopyImage(pool="main", image=Name("a"), to_pool="second", token=TOKEN))
    assert caller(messages.Verify(pool="main", image=Name("a"), depth="checksum")).ok


def test_deleting_an_archived_image_needs_no_recall(world: World, caller: Caller) -> None:
    caller.put("b", DATA, OTHER, keep=Keep(infinite=True))
    caller(messages.Delete(pool="main", image=Name("a"), reason="test"))
    assert caller.list() == ["b"]
    assert asked(world) == 0
