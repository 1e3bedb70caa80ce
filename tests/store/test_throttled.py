"""The limit is kept evenly, in both ways, by all threads, at every time of the day."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from catalog.errors import ConfigError, CorruptObject, ObjectExists, TransientStoreError
from catalog.retry import Retrying
from catalog.s3 import S3Limits, S3Location
from connector.store.body import Body, crc64nvme
from connector.store.interface import ObjectStore, Part, Upload
from connector.store.memory import MemoryStore
from connector.store.pace import Meter, Pace, under
from connector.store.s3 import S3Store
from connector.store.throttled import SMALL, BandwidthWindow, ThrottledStore, limit_at
from tests.conformance.store import PassTime, StoreConformance, bytes_at
from tests.store.test_memory import Clock

MIB = 1024 * 1024
MONDAY = dt.datetime(2026, 11, 23)
ALWAYS = (BandwidthWindow(bytes_per_second=MIB),)


class Hours:
    """A clock, a local time and a sleep that go together. Sleeping is how time passes."""

    def __init__(self, start: dt.datetime = MONDAY) -> None:
        self.start = start
        self.seconds = 0.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.seconds

    def local_time(self) -> dt.datetime:
        return self.start + dt.timedelta(seconds=self.seconds)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a wait that does not wait"
        self.sleeps.append(seconds)
        self.seconds += seconds

    def meter(self, rate: Callable[[], float | None]) -> Meter:
        return Meter(rate, clock=self.clock, sleep=self.sleep)

    def store(self, below: ObjectStore, *windows: BandwidthWindow) -> ThrottledStore:
        return ThrottledStore(
            below, windows, clock=self.clock, local_time=self.local_time, sleep=self.sleep
        )


class TestThrottledMemoryStore(StoreConformance):
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def store(self, clock: Clock) -> ObjectStore:
        fast = BandwidthWindow(bytes_per_second=1024 * MIB)
        return ThrottledStore(
            MemoryStore(versioning=False, object_lock=False, clock=clock), (fast,)
        )

    @pytest.fixture
    def locking_store(self, clock: Clock) -> ObjectStore:
        return ThrottledStore(MemoryStore(clock=clock), ())

    @pytest.fixture
    def fresh_store(self, locking_store: ObjectStore) -> ObjectStore:
        return locking_store

    @pytest.fixture
    def pass_time(self, clock: Clock) -> PassTime:
        return clock.advance


# --- windows ------------------------------------------------------------------------------------

NIGHT = BandwidthWindow(bytes_per_second=9, from_minute=22 * 60, to_minute=6 * 60, days=(4,))
OFFICE = BandwidthWindow(bytes_per_second=5, from_minute=8 * 60, to_minute=18 * 60)
LUNCH = BandwidthWindow(bytes_per_second=7, from_minute=12 * 60, to_minute=13 * 60)


@pytest.mark.parametrize(
    ("day", "hour", "minute", "limit"),
    [
        (0, 7, 59, None),
        (0, 8, 0, 5),
        (0, 17, 59, 5),
        (0, 18, 0, None),
        (0, 12, 30, 5),
        (4, 21, 59, None),
        (4, 22, 0, 9),
        (5, 5, 59, 9),
        (5, 6, 0, None),
        (4, 5, 0, None),
        (5, 23, 0, None),
    ],
)
def test_the_lowest_limit_of_all_windows_of_a_moment_holds(
    day: int, hour: int, minute: int, limit: int | None
) -> None:
    moment = MONDAY + dt.timedelta(days=day, hours=hour, minutes=minute)
    assert limit_at((NIGHT, OFFICE, LUNCH), moment) == limit


def test_the_whole_day_is_a_window() -> None:
    assert limit_at(ALWAYS, MONDAY) == limit_at(ALWAYS, MONDAY.replace(hour=23, minute=59)) == MIB


def test_a_limit_that_no_part_gets_through_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least"):
        ThrottledStore(MemoryStore(), (BandwidthWindow(bytes_per_second=1000),))


# --- the rate -----------------------------------------------------------------------------------


def test_a_large_body_leaves_in_slices_at_an_even_rate() -> None:
    hours, rate = Hours(), 8 * MIB
    sent: list[tuple[float, int]] = []
    with under(Pace(hours.meter(lambda: rate))):
        for view in Body(memoryview(bytes(64 * MIB))).views():
            sent.append((hours.seconds, view.nbytes))
    assert sum(size for _, size in sent) == 64 * MIB
    assert max(size for _, size in sent) <= rate / 16
    assert hours.seconds == pytest.approx(8, rel=0.02)
    for start in range(8):
        second = sum(size for at, size in sent if start <= at < start + 1)
        assert second == pytest.approx(rate, rel=0.1)


def test_without_a_limit_bodies_leave_in_the_usual_steps_and_nobody_sleeps() -> None:
    hours = Hours()
    with under(Pace(hours.meter(lambda: None))):
        sizes = [view.nbytes for view in Body(memoryview(bytes(5 * MIB))).views()]
    assert (sizes, hours.sleeps) == ([MIB] * 5, [])


def test_a_silence_is_not_saved_up_for_a_burst() -> None:
    hours = Hours()
    meter = hours.meter(lambda: 1000.0)
    meter.take(1000)
    hours.seconds += 3600
    meter.take(1000)
    meter.take(1000)
    meter.take(1000)
    assert hours.seconds == pytest.approx(3602, abs=0.01)


def test_the_end_of_a_window_is_noticed_within_seconds() -> None:
    hours = Hours()
    window = BandwidthWindow(bytes_per_second=65536, from_minute=0, to_minute=1)
    store = hours.store(MemoryStore(), window)
    store.put("a", bytes(16 * MIB))  # 256 s, if nothing changed
    assert 60 <= hours.seconds < 63


def test_the_begin_of_a_window_slows_down_what_is_on_its_way() -> None:
    hours = Hours()
    slow = BandwidthWindow(bytes_per_second=65536, from_minute=1, to_minute=2)
    rates = hours.store(MemoryStore(), slow, BandwidthWindow(bytes_per_second=MIB))
    rates.put("a", bytes(62 * MIB))
    assert hours.seconds > 60 + 16


def test_waiting_never_sleeps_longer_than_a_second_nor_busily() -> None:
    hours = Hours()
    hours.store(MemoryStore(), BandwidthWindow(bytes_per_second=65536)).put("a", bytes(2 * MIB))
    assert max(hours.sleeps) <= 1
    assert len(hours.sleeps) <= 2 * MIB / 16384 + 2


def test_each_way_has_the_limit_for_itself() -> None:
    hours = Hours()
    store = hours.store(MemoryStore(), *ALWAYS)
    store.put("a", bytes(4 * MIB))
    up = hours.seconds
    assert up == pytest.approx(4, abs=0.1)
    assert bytes_at(store, "a", 0, 4 * MIB) == bytes(4 * MIB)
    assert hours.seconds - up == pytest.approx(4, abs=0.1)
    assert store.read("a", ceiling=4 * MIB) == bytes(4 * MIB)
    assert hours.seconds - up == pytest.approx(8, abs=0.1)


def test_what_was_refused_is_not_paid_for() -> None:
    hours = Hours()
    store = hours.store(MemoryStore(), *ALWAYS)
    store.put("a", b"x")
    with pytest.raises(ObjectExists):
        store.put("a", bytes(50 * MIB), only_if_absent=True)
    with pytest.raises(CorruptObject):
        bytes_at(store, "a", 0, 50 * MIB)
    assert hours.seconds < 1


# --- several threads ----------------------------------------------------------------------------


class Slow(MemoryStore):
    """Counts the parts that are in it at once, and holds them until told."""

    def __init__(self) -> None:
        super().__init__(smallest_part=1)
        self.gate = threading.Event()
        self.inside = 0
        self.most = 0
        self.mutex = threading.Lock()

    def put_part(self, upload: Upload, number: int, body: memoryview, *, crc64nvme: int) -> Part:
        with self.mutex:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.gate.wait(20)
        with self.mutex:
            self.inside -= 1
        return super().put_part(upload, number, body, crc64nvme=crc64nvme)


DATA = memoryview(bytes(SMALL + 1))
CRC = crc64nvme(DATA)


def parts_at_once(
    store: ThrottledStore, below: Slow, count: int, then: Callable[[], None]
) -> list[TransientStoreError]:
    """Send parts from as many threads; when all that may be inside are, do something."""
    upload = store.start_upload("a")
    errors: list[TransientStoreError] = []

    def send(number: int) -> None:
        try:
            store.put_part(upload, number, DATA, crc64nvme=CRC)
        except TransientStoreError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=send, args=(n + 1,)) for n in range(count)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while below.inside < FIT and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)  # for one too many, if there is one
    then()
    below.gate.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return errors


FIT = 5
FIVE = BandwidthWindow(bytes_per_second=(FIT * (SMALL + 1)) // 10 + 1)
"""Carries the bytes of five bodies in the ten seconds that may be on their way."""


def test_no_more_is_on_its_way_than_gets_through_in_time_and_all_get_their_turn() -> None:
    below = Slow()
    store = Hours().store(below, FIVE)
    assert parts_at_once(store, below, 12, lambda: None) == []
    assert below.most == FIT
    assert len(list(below.parts(next(below.uploads("a"))))) == 12


def test_closing_lets_go_of_those_who_wait_for_their_turn() -> None:
    below = Slow()
    store = Hours().store(below, FIVE)
    errors = parts_at_once(store, below, 12, store.close)
    assert len(errors) == 12 - FIT
    assert all("being closed" in error.message for error in errors)


def test_the_deadline_of_the_call_ends_the_wait_for_a_turn() -> None:
    below = Slow()
    store = Hours().store(below, BandwidthWindow(bytes_per_second=65536))
    upload = store.start_upload("a")
    first = threading.Thread(target=lambda: store.put_part(upload, 1, DATA, crc64nvme=CRC))
    first.start()
    while not below.inside:
        time.sleep(0.01)
    started = time.monotonic()
    with pytest.raises(TransientStoreError, match="bandwidth limit"):
        Retrying(deadline_s=0.3).call(
            "sending", lambda: store.put_part(upload, 2, DATA, crc64nvme=CRC)
        )
    assert time.monotonic() - started < 3
    below.gate.set()
    first.join(20)


def test_a_small_body_does_not_queue_behind_large_ones() -> None:
    below = Slow()
    store = Hours().store(below, BandwidthWindow(bytes_per_second=65536))
    upload = store.start_upload("a")
    threads = [
        threading.Thread(target=lambda n=n: store.put_part(upload, n, DATA, crc64nvme=CRC))  # type: ignore[misc]
        for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    store.put("manifest", b"small")
    assert below.stat("manifest").size == 5
    below.gate.set()
    for thread in threads:
        thread.join(20)


# --- on the wire --------------------------------------------------------------------------------


@pytest.fixture
def s3(moto_bucket: Callable[..., S3Location]) -> Iterator[S3Store]:
    store = S3Store(moto_bucket(), limits=S3Limits(deadline_s=20))
    store.probe()
    yield store
    store.close()


def test_bodies_to_and_from_s3_are_metered_on_the_socket(s3: S3Store) -> None:
    rate, data = 2 * MIB, bytes(range(256)) * (3 * MIB // 512)
    store = ThrottledStore(s3, (BandwidthWindow(bytes_per_second=rate),))
    for action in (
        lambda: store.put("a", data),
        lambda: bytes_at(store, "a", 0, len(data)) == data,
    ):
        started = time.monotonic()
        assert action()
        assert time.monotonic() - started >= len(data) / rate * 0.8


def test_a_body_that_the_limit_does_not_let_through_in_time_ends_with_the_deadline(
    moto_bucket: Callable[..., S3Location],
) -> None:
    s3 = S3Store(moto_bucket(), limits=S3Limits(deadline_s=20))
    s3.probe()
    store = ThrottledStore(s3, (BandwidthWindow(bytes_per_second=65536),))
    started = time.monotonic()
    with pytest.raises(TransientStoreError):
        Retrying(deadline_s=1.0).call("putting", lambda: store.put("a", bytes(900 * 1024)))
    assert time.monotonic() - started < 5
    s3.close()
