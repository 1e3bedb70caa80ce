"""Who may try again, how often and how long: with a clock of our own."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ObjectExists, StoreUnusable, TransientStoreError
from catalog.retry import Retrying, retry, time_left


class World:
    """A clock that sleeping moves, and a function that fails a number of times."""

    def __init__(self, failures: int = 0, each_takes_s: float = 0.0) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.calls = 0
        self.failures = failures
        self.each_takes_s = each_takes_s

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def work(self) -> str:
        self.calls += 1
        self.now += self.each_takes_s
        if self.calls <= self.failures:
            raise TransientStoreError(f"failure {self.calls}")
        return "done"

    def retrying(self, deadline_s: float = 60.0, draw: float = 1.0) -> Retrying:
        return Retrying(
            deadline_s=deadline_s, clock=self.clock, sleep=self.sleep, draw=lambda: draw
        )


def test_what_works_is_called_once() -> None:
    world = World()
    assert world.retrying().call("x", world.work) == "done"
    assert (world.calls, world.waits) == (1, [])


def test_waits_double_up_to_a_longest_one() -> None:
    world = World(failures=9)
    assert world.retrying(deadline_s=1000).call("x", world.work) == "done"
    assert world.waits == [0.25, 0.5, 1, 2, 4, 8, 16, 20, 20]


def test_waits_are_drawn_from_nothing_to_their_ceiling() -> None:
    world = World(failures=3)
    world.retrying(draw=0.5).call("x", world.work)
    assert world.waits == [0.125, 0.25, 0.5]


@pytest.mark.parametrize("error", [ObjectExists("x"), StoreUnusable("x"), KeyError("x")])
def test_only_transient_errors_are_tried_again(error: Exception) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retry("x", work)
    assert len(calls) == 1


@given(deadline_s=st.floats(0, 60), draw=st.floats(0.2, 1), each_takes_s=st.floats(0.1, 10))
def test_the_deadline_holds_for_all_waits_together(
    deadline_s: float, draw: float, each_takes_s: float
) -> None:
    world = World(failures=10**9, each_takes_s=each_takes_s)
    with pytest.raises(TransientStoreError, match="given up"):
        world.retrying(deadline_s, draw).call("x", world.work)
    assert world.now - 1000 <= deadline_s + world.each_takes_s + 1e-6


def test_the_last_error_is_told_with_what_was_tried() -> None:
    world = World(failures=10**9, each_takes_s=1)
    with pytest.raises(TransientStoreError) as caught:
        world.retrying(deadline_s=10).call("sending a part", world.work)
    assert "sending a part: given up after" in caught.value.message
    assert f"failure {world.calls}" in caught.value.message
    assert f"{world.calls} attempts" in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, TransientStoreError)


def test_each_retry_is_one_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    world = World(failures=2)
    world.retrying().call("x", world.work)
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(told) == 2
    assert "failure 1" in told[0]
    assert "failure 2" in told[1]


def test_a_call_within_a_call_ends_with_the_earlier_deadline() -> None:
    world = World(failures=10**9, each_takes_s=1)
    inner = world.retrying(deadline_s=1000)
    with pytest.raises(TransientStoreError):
        world.retrying(deadline_s=20).call("outer", lambda: inner.call("inner", world.work))
    assert world.now - 1000 <= 22


def test_time_left_is_known_within_a_call_only() -> None:
    world = World()
    seen: list[float | None] = []

    def work() -> None:
        world.now += 3
        seen.append(time_left())

    world.retrying(deadline_s=10).call("x", work)
    assert seen == [7]
    assert time_left() is None
