"""A ticket is asked for once, survives its process, tells how far it is, and what it costs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    ImageArchived,
    ImageNotFound,
    OverBudget,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.ledger import Ledger
from catalog.model import Kind, StorageClass
from catalog.s3 import S3Limits, S3Location
from connector.pool import Origin, Pool, PoolConfig, Retention, recalling
from connector.pool.manifest import FragmentObject, Manifest, Within
from connector.pool.prices import Prices
from connector.pool.recall import AHEAD, WIDTH, RecallPolicy, Wanted
from connector.pool.tickets import Ticket, TicketState
from connector.store.interface import PutOptions, RecallState, RecallTier, StoredObject
from connector.store.memory import MemoryStore
from connector.store.s3 import S3Store
from tests.pool.support import (
    FOREVER,
    NOTHING,
    open_pool,
    read_image,
    some_bytes,
    store_image,
    tiny_config,
)
from tests.pool.test_recall import COLD, HOUR, Clock, whole
from tests.support.faults import FaultProxy, altered
from tests.support.servers import new_bucket

PRICES = Prices.load()
DAY = 24 * HOUR
STANDARD, BULK, EXPEDITED = RecallTier.STANDARD, RecallTier.BULK, RecallTier.EXPEDITED
FIVE_CENTS = PRICES.reading(COLD, size=600, objects=3, tier=STANDARD, days=7)


class Killed(BaseException):
    """What a process feels of kill -9: nothing below can handle it."""


class Counted(MemoryStore):
    """Counts what it is asked, and does something at the n-th recall."""

    def __init__(self, clock: Clock, **settings: Any) -> None:
        super().__init__(
            smallest_part=1, versioning=False, object_lock=False, clock=clock, **settings
        )
        self.calls: Counter[str] = Counter()
        self.recalled: Counter[str] = Counter()
        self.at_recall: Callable[[int], None] = lambda _: None
        self.mutex = threading.Lock()

    def stat(self, key: str, *, version_id: str | None = None) -> StoredObject:
        with self.mutex:
            self.calls["stat"] += 1
        return super().stat(key, version_id=version_id)

    def recall(
        self, key: str, *, days: int, tier: RecallTier, version_id: str | None = None
    ) -> None:
        with self.mutex:
            self.calls["recall"] += 1
            number = self.calls["recall"]
        self.at_recall(number)
        super().recall(key, days=days, tier=tier, version_id=version_id)
        with self.mutex:
            self.recalled[key] += 1


class Place:
    """A store with a clock, and pools on it that come and go with the same journal."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Counted(self.clock)
        self.folder = folder
        self.ledger = Ledger.open(str(folder / "ledger"))

    @contextmanager
    def pool(self, **policy: Any) -> Iterator[Pool]:
        with open_pool(
            self.store,
            self.folder,
            clock=self.clock,
            ledger=self.ledger,
            recall=RecallPolicy(**policy),
        ) as pool:
            yield pool

    def image(
        self, pool: Pool, name: str = "a", stored_in: StorageClass = COLD, size: int = 600
    ) -> Manifest:
        return store_image(pool, name, some_bytes(size), storage_class=stored_in)

    def kinds(self, pool: Pool) -> list[Kind]:
        pool.flush()
        return [fact.kind for fact in self.ledger.facts()]

    def spent(self, pool: Pool) -> float:
        with pool.journal.transaction() as db:
            return float(db.execute("SELECT total(cost) FROM recall_costs").fetchone()[0])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- from asking to expiry ------------------------------------------------------------------------


def test_a_ticket_waits_is_ready_and_expires(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        ticket = pool.prepare(whole(manifest), days=2)
        assert (ticket.state, ticket.asked, ticket.tier) == (TicketState.WAITING, True, STANDARD)
        assert (ticket.objects, ticket.size, ticket.done, ticket.total) == (3, 600, 0, 3)
        assert (ticket.recalling, ticket.expires_at, ticket.ready) == (3, None, ())
        with pytest.raises(ImageArchived):
            read_image(pool, "a")
        place.clock.now += 5 * HOUR
        ready = pool.ticket(ticket.ticket)
        assert (ready.state, ready.done, ready.ready) == (TicketState.READY, 3, ((0, 600),))
        assert ready.expires_at == place.clock.now + 2 * DAY
        assert read_image(pool, "a") == some_bytes(600)
        place.clock.now += 2 * DAY
        assert pool.ticket(ticket.ticket).state is TicketState.EXPIRED


def test_all_objects_of_all_images_are_asked_for_in_one_batch(place: Place) -> None:
    with place.pool() as pool:
        images = [place.image(pool, name) for name in "abc"]
        ticket = pool.prepare(whole(*images))
        assert (ticket.objects, ticket.total, place.store.calls["recall"]) == (9, 9, 9)


def test_ready_ranges_are_those_of_the_first_image(place: Place) -> None:
    with place.pool() as pool:
        first, second = place.image(pool, "a"), place.image(pool, "b")
        middle = [Wanted(manifest=first, ranges=((256, 1),))]
        soon = pool.prepare(middle, tier=EXPEDITED)
        both = pool.prepare(whole(first, second), tier=BULK)
        place.clock.now += HOUR
        assert pool.ticket(soon.ticket).ready == ((256, 256),)
        found = pool.ticket(both.ticket)
        assert (found.ready, found.done, found.state) == (((256, 256),), 1, TicketState.WAITING)


def test_what_is_readable_already_is_told_and_costs_nothing(place: Place) -> None:
    with place.pool(monthly_budget=0) as pool:
        manifest = place.image(pool, stored_in=StorageClass.GLACIER_IR)
        ticket = pool.prepare(whole(manifest))
        assert (ticket.state, ticket.done, ticket.cost) == (TicketState.READY, 3, 0)
        assert place.store.calls["recall"] == 0
        assert pool.ticket(ticket.ticket).state is TicketState.READY
        assert place.kinds(pool) == [Kind.STORED], "nothing was recalled"


def test_there_is_no_ticket_that_nobody_asked_for(place: Place) -> None:
    with place.pool() as pool:
        offer = pool.prepare(whole(place.image(pool)), dry_run=True)
        for call in (pool.ticket, pool.cancel_ticket):
            with pytest.raises(ImageNotFound):
                call(offer.ticket)


def test_an_image_within_tape_files_is_recalled_with_them(place: Place) -> None:
    with place.pool() as pool:
        place.image(pool, "TAPE-file-00001")
        within = Within(image="TAPE-file-00001", copy=1, fragment_number=1, size=10)
        inner = pool.place_image("a", 1, within=[within], origin=NOTHING, retention=FOREVER)
        ticket = pool.prepare([Wanted(manifest=inner, ranges=((0, 1),))])
        assert ticket.objects == 3
        place.clock.now += 5 * HOUR
        ready = pool.ticket(ticket.ticket)
        assert (ready.state, ready.ready) == (TicketState.READY, ())


# --- the same set ---------------------------------------------------------------------------------


def test_the_same_set_in_the_same_tier_is_the_same_ticket_and_asked_for_once(
    place: Place,
) -> None:
    with place.pool() as pool:
        one, two = place.image(pool, "a"), place.image(pool, "b")
        first = pool.prepare(whole(one, two), tier=BULK)
        again = pool.prepare(whole(two, one), tier=BULK, max_cost=0)
        assert again.ticket == first.ticket
    with place.pool() as pool:
        assert pool.prepare(whole(one, two), tier=BULK).ticket == first.ticket
        assert pool.prepare(whole(one, two)).ticket == first.ticket, "the pool's own choice"
        assert place.store.calls["recall"] == 6
        assert place.spent(pool) == pytest.approx(first.cost)


def test_another_set_is_another_ticket_and_what_is_on_its_way_is_not_asked_for_again(
    place: Place,
) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        part = pool.prepare([Wanted(manifest=manifest, ranges=((0, 1),))])
        rest = pool.prepare(whole(manifest))
        assert rest.ticket != part.ticket
        assert (rest.objects, rest.total, rest.recalling) == (2, 3, 3)
        assert set(place.store.recalled.values()) == {1}


def test_a_slower_tier_of_what_is_on_its_way_asks_for_nothing(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        fast = pool.prepare(whole(manifest), tier=STANDARD)
        slow = pool.prepare(whole(manifest), tier=BULK)
        assert (slow.objects, slow.cost, slow.state) == (0, 0, TicketState.WAITING)
        assert slow.hours == fast.hours == 5
        assert place.store.calls["recall"] == 3


def test_what_somebody_else_asked_for_is_waited_for_and_not_paid(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        for part in manifest.fragments:
            place.store.recall(part.key, days=1, tier=BULK)
        ticket = pool.prepare(whole(manifest), tier=STANDARD)
        assert (ticket.objects, ticket.cost, ticket.recalling) == (0, 0, 3)
        assert place.store.calls["recall"] == 3, "only those of the other"
        place.clock.now += 12 * HOUR
        assert pool.ticket(ticket.ticket).state is TicketState.READY


def test_an_expired_ticket_is_asked_for_anew_and_paid_anew(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        first = pool.prepare(whole(manifest))
        place.clock.now += 5 * HOUR + 8 * DAY
        again = pool.prepare(whole(manifest))
        assert (again.ticket, again.state) == (first.ticket, TicketState.WAITING)
        assert place.spent(pool) == pytest.approx(2 * first.cost)


# --- faster, longer -------------------------------------------------------------------------------


def test_a_faster_tier_speeds_a_waiting_ticket_up_at_the_price_that_was_offered(
    place: Place,
) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        slow = pool.prepare(whole(manifest), tier=BULK, days=3)
        place.clock.now += HOUR
        offers = {one.tier: one for one in pool.prepare(whole(manifest), dry_run=True).offers}
        assert set(offers) == {EXPEDITED, STANDARD}
        price = PRICES.upgrading(COLD, size=600, objects=3, tier=EXPEDITED)
        assert offers[EXPEDITED].cost == pytest.approx(price)
        fast = pool.prepare(whole(manifest), tier=EXPEDITED)
        assert fast.cost == pytest.approx(price)
        assert (fast.objects, fast.hours) == (3, 0.1)
        assert place.spent(pool) == pytest.approx(slow.cost + price)
        place.clock.now += HOUR // 2
        for ticket in (slow, fast):
            found = pool.ticket(ticket.ticket)
            assert found.state is TicketState.READY
            assert found.expires_at is not None
            assert found.expires_at < place.clock.now + 3 * DAY, "the days did not change"
        assert place.store.calls["recall"] == 6


def test_a_speed_up_is_refused_above_its_price(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        pool.prepare(whole(manifest), tier=BULK)
        with pytest.raises(OverBudget):
            pool.prepare(whole(manifest), tier=EXPEDITED, max_cost=0.01)
        assert place.store.calls["recall"] == 3


def test_more_days_keep_the_copies_that_are_there_longer(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        first = pool.prepare(whole(manifest), days=2)
        place.clock.now += 5 * HOUR + DAY
        longer = pool.prepare(whole(manifest), days=10)
        assert (longer.ticket, longer.days, longer.state) == (first.ticket, 10, TicketState.READY)
        extra = PRICES.extending(COLD, size=600, objects=3, days=10)[1]
        assert longer.cost == pytest.approx(first.cost + extra)
        assert place.spent(pool) == pytest.approx(longer.cost)
        asked = place.store.calls["recall"]
        for days in (0, 5, 10):
            pool.prepare(whole(manifest), days=days)
        assert place.store.calls["recall"] == asked == 6
        found = pool.ticket(first.ticket)
        assert found.expires_at == place.clock.now + 10 * DAY
        assert place.kinds(pool).count(Kind.RECALLED) == 2


def test_more_days_for_what_is_on_its_way_are_asked_for_when_it_is_there(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        first = pool.prepare(whole(manifest), days=1)
        longer = pool.prepare(whole(manifest), days=9)
        assert (place.store.calls["recall"], longer.state) == (3, TicketState.WAITING)
        place.clock.now += 5 * HOUR
        pool.ticket(first.ticket)
        found = pool.ticket(first.ticket)
        assert place.store.calls["recall"] == 6
        assert (found.state, found.expires_at) == (TicketState.READY, place.clock.now + 9 * DAY)
        assert place.spent(pool) == pytest.approx(found.cost)


@pytest.mark.parametrize("days", [-1, 36_501, 2**63 - 1])
def test_days_have_bounds(place: Place, days: int) -> None:
    with place.pool() as pool, pytest.raises(Unsupported, match="days"):
        pool.prepare(whole(place.image(pool)), days=days)


def test_the_pools_own_choice_never_speeds_up_what_is_on_its_way(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        pool.prepare([Wanted(manifest=manifest, ranges=((0, 1),))], tier=BULK)
        rest = pool.prepare(whole(manifest))
        assert (rest.tier, rest.objects, rest.hours) == (STANDARD, 2, 12)
        assert set(place.store.recalled.values()) == {1}


def test_longer_is_refused_above_its_price(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        ticket = pool.prepare(whole(manifest), days=1)
        with pytest.raises(OverBudget, match="fewer days"):
            pool.prepare(whole(manifest), days=900, max_cost=0)
        assert pool.ticket(ticket.ticket).days == 1


# --- money ----------------------------------------------------------------------------------------


def test_a_month_has_a_budget_that_is_summed_over_tickets_and_restarts(place: Place) -> None:
    budget = 2 * FIVE_CENTS + 1e-6
    with place.pool(monthly_budget=budget) as pool:
        images = [place.image(pool, name) for name in "abc"]
        pool.prepare(whole(images[0]))
    with place.pool(monthly_budget=budget) as pool:
        pool.prepare(whole(images[1]))
        asked = place.store.calls["recall"]
        with pytest.raises(OverBudget, match="monthly_budget"):
            pool.prepare(whole(images[2]))
        assert place.store.calls["recall"] == asked
        with pytest.raises(OverBudget):
            pool.prepare(whole(images[0]), days=36_500)
        place.clock.now += 31 * DAY
        assert pool.prepare(whole(images[2])).state is TicketState.WAITING


def test_what_was_cancelled_unsent_is_given_back_to_the_month(place: Place) -> None:
    def fail(number: int) -> None:
        raise StoreUnusable("AccessDenied")

    with place.pool(monthly_budget=1.5 * FIVE_CENTS) as pool:
        manifest = place.image(pool)
        place.store.at_recall = fail
        with pytest.raises(StoreUnusable):
            pool.prepare(whole(manifest))
        assert place.spent(pool) == pytest.approx(0)
        place.store.at_recall = lambda _: None
        assert pool.prepare(whole(manifest)).state is TicketState.WAITING


# --- interruptions --------------------------------------------------------------------------------


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "GROUP", 4)


def kill_at(number: int) -> Callable[[int], None]:
    def at(now: int) -> None:
        if now == number:
            raise Killed

    return at


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("moment", [1, 2, 5, 8, 9, 16])
@pytest.mark.parametrize("how", ["the same call", "a look", "at start"])
def test_a_process_that_dies_while_it_asks_is_gone_on_with(
    place: Place, moment: int, how: str
) -> None:
    with place.pool() as pool:
        manifest = place.image(pool, size=16 * 256)
        place.store.at_recall = kill_at(moment)
        with pytest.raises(Killed):
            pool.prepare(whole(manifest))
    place.store.at_recall = lambda _: None
    name = ""
    with place.pool() as pool:
        with pool.journal.transaction() as db:
            (name,) = db.execute("SELECT ticket FROM recalls").fetchone()
        if how == "the same call":
            found = pool.prepare(whole(manifest))
        elif how == "a look":
            found = pool.ticket(name)
        else:
            assert pool.continue_recalls() == 1
            found = pool.ticket(name)
        assert (found.ticket, found.state) == (name, TicketState.WAITING)
        assert (found.objects, found.unsent) == (16, 0)
        assert set(place.store.recalled) == {part.key for part in manifest.fragments}
        assert sum(place.store.recalled.values()) <= 16 + 4, "at most one group is asked twice"
        assert place.kinds(pool) == [Kind.STORED, Kind.RECALLED], "told once"
        assert place.spent(pool) == pytest.approx(found.cost)
        place.clock.now += 5 * HOUR
        assert pool.ticket(name).state is TicketState.READY


@pytest.mark.usefixtures("small_groups")
def test_a_store_that_goes_away_leaves_the_rest_for_later(place: Place) -> None:
    def away(number: int) -> None:
        if number >= 6:
            raise TransientStoreError("SlowDown")

    with place.pool() as pool:
        manifest = place.image(pool, size=16 * 256)
        place.store.at_recall = away
        with pytest.raises(TransientStoreError):
            pool.prepare(whole(manifest))
        assert place.store.calls["recall"] < 6 + WIDTH, "no use in asking for all the others"
        place.store.at_recall = lambda _: None
        found = pool.prepare(whole(manifest))
        assert (found.unsent, found.state) == (0, TicketState.WAITING)
        assert set(place.store.recalled.values()) == {1}, "receipts were kept"


def test_a_store_without_recall_ends_the_ticket(place: Place) -> None:
    def refuse(number: int) -> None:
        raise Unsupported("no recall here")

    with place.pool() as pool:
        manifest = place.image(pool)
        offer = pool.prepare(whole(manifest), dry_run=True)
        place.store.at_recall = refuse
        with pytest.raises(Unsupported):
            pool.prepare(whole(manifest))
        found = pool.ticket(offer.ticket)
        assert (found.state, found.objects, found.cost) == (TicketState.CANCELLED, 0, 0)
        assert place.kinds(pool) == [Kind.STORED]


def test_two_threads_that_want_the_same_ask_for_it_once(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool, size=16 * 256)
        found: list[Ticket] = []
        threads = [
            threading.Thread(target=lambda: found.append(pool.prepare(whole(manifest))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len({one.ticket for one in found}) == 1
        assert set(place.store.recalled.values()) == {1}
        assert place.spent(pool) == pytest.approx(found[0].cost)


# --- cancel ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_groups")
def test_cancelling_stops_what_is_unsent_and_tells_what_is_billed(place: Place) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        if number == 6:
            reached.set()
            assert go_on.wait(20)

    with place.pool() as pool:
        manifest = place.image(pool, size=16 * 256)
        name = pool.prepare(whole(manifest), dry_run=True).ticket
        place.store.at_recall = wait
        results: list[Ticket] = []
        asking = threading.Thread(target=lambda: results.append(pool.prepare(whole(manifest))))
        asking.start()
        assert reached.wait(20)
        stopping = threading.Thread(target=lambda: results.append(pool.cancel_ticket(name)))
        stopping.start()
        while not _cancelled(pool, name):
            time.sleep(0.01)
        go_on.set()
        asking.join(20)
        stopping.join(20)
        found = pool.ticket(name)
        assert found.state is TicketState.CANCELLED
        assert found.objects == place.store.calls["recall"] == 8
        assert (
            found.cost
            == pytest.approx(place.spent(pool))
            == pytest.approx(PRICES.reading(COLD, size=8 * 256, objects=8, tier=STANDARD, days=7))
        )
        assert pool.cancel_ticket(name) == found
        assert place.kinds(pool) == [Kind.STORED, Kind.RECALLED]
        place.clock.now += 5 * HOUR
        assert pool.ticket(name).done == 8, "what was billed can be read"


def _cancelled(pool: Pool, name: str) -> bool:
    with pool.journal.transaction() as db:
        row = db.execute("SELECT cancelled FROM recalls WHERE ticket = ?", (name,)).fetchone()
    return bool(row[0])


def test_a_cancelled_ticket_can_be_asked_for_again(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        first = pool.prepare(whole(manifest))
        assert pool.cancel_ticket(first.ticket).state is TicketState.CANCELLED
        again = pool.prepare(whole(manifest))
        assert (again.ticket, again.state) == (first.ticket, TicketState.WAITING)
        assert (again.objects, again.recalling) == (0, 3), "what is on its way is not paid twice"


def test_a_cancel_that_a_crash_interrupted_is_finished(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        place.store.at_recall = kill_at(1)
        with pytest.raises(Killed):
            pool.prepare(whole(manifest))
        with pool.journal.transaction(durable=True) as db:
            db.execute("UPDATE recalls SET cancelled = 1")
            (name,) = db.execute("SELECT ticket FROM recalls").fetchone()
    with place.pool() as pool:
        pool.continue_recalls()
        assert pool.continue_recalls() == 0
        assert pool.ticket(name).state is TicketState.CANCELLED
        assert place.spent(pool) == pytest.approx(0)


# --- looking --------------------------------------------------------------------------------------


def test_a_look_at_a_large_recall_costs_few_requests_until_there_is_news(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    config = tiny_config(fragment_size=64)
    count = 6 * AHEAD
    with open_pool(place.store, tmp_path, clock=place.clock, config=config) as pool:
        manifest = place.image(pool, size=64 * count)
        ticket = pool.prepare(whole(manifest), tier=STANDARD).ticket

        def looks() -> int:
            before = place.store.calls["stat"]
            pool.ticket(ticket)
            return place.store.calls["stat"] - before

        assert looks() == AHEAD
        assert looks() == AHEAD
        place.clock.now += 5 * HOUR
        assert looks() == count
        assert pool.ticket(ticket).state is TicketState.READY
        assert looks() == 0, "what is known to be there is not asked about"
    with open_pool(place.store, tmp_path, clock=place.clock, config=config) as pool:
        assert looks() == 0, "nor after a restart"
        place.clock.now += 6 * DAY
        assert looks() == 0
        place.clock.now += DAY
        assert looks() == count
        assert pool.ticket(ticket).state is TicketState.EXPIRED


def test_an_object_that_is_gone_does_not_hold_the_others_back(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        ticket = pool.prepare(whole(manifest))
        place.store.delete(manifest.fragments[1].key)
        place.clock.now += 5 * HOUR
        found = pool.ticket(ticket.ticket)
        assert (found.state, found.done, found.total) == (TicketState.READY, 2, 2)
        assert found.ready == ((0, 256), (512, 88))


def test_an_object_that_became_instant_meanwhile_is_not_paid(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)

        def thaw(number: int) -> None:
            if number == 1:
                for versions in place.store._versions.values():
                    versions[-1].options = PutOptions()

        place.store.at_recall = thaw
        ticket = pool.prepare(whole(manifest))
        assert (ticket.state, ticket.done) == (TicketState.READY, 3)
        assert place.spent(pool) == pytest.approx(0)


def test_old_tickets_are_forgotten_and_what_they_cost_is_not(place: Place) -> None:
    with place.pool() as pool:
        first, second = place.image(pool, "a"), place.image(pool, "b")
        old = pool.prepare(whole(first))
        place.clock.now += 120 * DAY
        pool.prepare(whole(second))
        with pytest.raises(ImageNotFound):
            pool.ticket(old.ticket)
        assert place.spent(pool) == pytest.approx(2 * old.cost)


def test_the_ledger_says_what_was_asked_for_at_what_price(place: Place) -> None:
    with place.pool() as pool:
        manifest = place.image(pool)
        ticket = pool.prepare(whole(manifest), tier=BULK, days=3)
        assert place.kinds(pool) == [Kind.STORED, Kind.RECALLED]
        detail = [fact.detail for fact in place.ledger.facts()][-1] or ""
        assert f'"ticket": "{ticket.ticket}"' in detail
        assert '"tier": "Bulk", "days": 3' in detail


@pytest.mark.deep
def test_a_hundred_thousand_objects_are_one_ticket(tmp_path: Path) -> None:
    place = Place(tmp_path)
    count = 100_000
    parts = []
    for number in range(count):
        key = f"images/big/1/0123456789abcdef-{number:05d}"
        place.store.put(key, b"x", PutOptions(storage_class=COLD))
        parts.append(
            FragmentObject(
                number=number + 1, key=key, version_id=None, offset=number, size=1, sha256="",
                crc64nvme=0, store_checksum="CRC64NVME", etag="", storage_class=COLD, part_size=1,
                part_crc64nvme=(0,),
            )
        )  # fmt: skip
    manifest = Manifest(
        name="big", copy=1, token="0123456789abcdef", created_at=0, writer="", size=count,
        sha256=None, fragments=tuple(parts), origin=Origin(), retention=Retention(),
    )  # fmt: skip
    with place.pool() as pool:
        place.store.at_recall = kill_at(count // 2)
        with pytest.raises(Killed):
            pool.prepare(whole(manifest), tier=BULK)
    place.store.at_recall = lambda _: None
    with place.pool() as pool:
        ticket = pool.prepare(whole(manifest), tier=BULK)
        assert (ticket.objects, ticket.unsent) == (count, 0)
        assert sum(place.store.recalled.values()) <= count + recalling.GROUP
        place.clock.now += 12 * HOUR
        for _ in range(count // recalling.LOOKS + 1):
            ticket = pool.ticket(ticket.ticket)
        assert (ticket.state, ticket.ready) == (TicketState.READY, ((0, count),))


# --- real servers ---------------------------------------------------------------------------------


@contextmanager
def s3_pool(endpoint: str, location: S3Location, folder: Path) -> Iterator[Pool]:
    store = S3Store(
        S3Location(location.bucket, location.prefix, endpoint), limits=S3Limits(deadline_s=20)
    )
    with open_pool(store, folder, config=PoolConfig()) as pool:
        yield pool
    store.close()


def test_on_s3_a_ticket_waits_until_the_store_says_that_the_copy_is_there(
    moto_endpoint: str, tmp_path: Path
) -> None:
    def on_its_way(status: int, headers: dict[str, str], body: bytes) -> Any:
        kept = {name: text for name, text in headers.items() if name.lower() != "x-amz-restore"}
        return status, {**kept, "x-amz-restore": 'ongoing-request="true"'}, body

    location = new_bucket(moto_endpoint, prefix="pool")
    with s3_pool(moto_endpoint, location, tmp_path) as pool:
        data = some_bytes(1000)
        manifest = store_image(pool, "a", data, storage_class=StorageClass.DEEP_ARCHIVE)
    with FaultProxy(moto_endpoint) as proxy, s3_pool(proxy.url, location, tmp_path) as pool:
        ticket = pool.prepare(whole(manifest), tier=BULK, days=2)
        assert (ticket.state, ticket.hours) == (TicketState.WAITING, 48)
        proxy.play(altered("HeadObject", on_its_way))
        assert pool.ticket(ticket.ticket).state is TicketState.WAITING
        ready = pool.ticket(ticket.ticket)
        assert (ready.state, ready.ready) == (TicketState.READY, ((0, 1000),))
        assert ready.expires_at is not None
        assert read_image(pool, "a") == data
        longer = pool.prepare(whole(manifest), tier=BULK, days=9)
        assert longer.ticket == ticket.ticket
        extended = pool.ticket(ticket.ticket).expires_at
        assert extended is not None
        assert extended > ready.expires_at


@pytest.mark.rgw
def test_on_a_store_where_cold_is_a_name_a_ticket_is_ready_at_once(
    rgw_endpoint: str, tmp_path: Path
) -> None:
    location = new_bucket(rgw_endpoint, prefix="pool")
    with s3_pool(rgw_endpoint, location, tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(100), storage_class=COLD)
        ticket = pool.prepare(whole(manifest), tier=BULK)
        assert (ticket.state, ticket.objects) == (TicketState.READY, 0)
        assert pool.context.store.stat(manifest.fragments[0].key).recall is RecallState.ARCHIVED
