"""Bytes per second: who may send or receive how much, and when.

A ``Meter`` lets bytes pass at a rate that may change at any time; ``body.py`` asks the pace that
its thread is under (``current``) at each step on the socket, so that a large body flows evenly
instead of in one burst followed by silence. Nobody here waits longer than LOOK_S without
looking at the rate and at the deadline of the call again, and nobody waits without sleeping.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from catalog.retry import time_left

LOOK_S = 1.0
"""Longest sleep, in seconds: so soon is a change of the rate noticed."""
SLICES_PER_S = 16
"""A slice is this part of what a second may carry: many bodies share a second evenly, and none is
silent for so long that the store gives its connection up (S3 waits about 20 s)."""
SMALLEST_SLICE = 16 * 1024
LARGEST_SLICE = 1024 * 1024


class Meter:
    """Lets bytes pass at rate() bytes per second, None: as they come. For any number of threads.

    Bytes pass in the order in which they were asked for. What was not used is not saved up: after
    a silence there is no burst. clock gives seconds and never goes back; sleep takes seconds.
    """

    def __init__(
        self,
        rate: Callable[[], float | None],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._mutex = threading.Lock()
        self._asked = 0  # bytes, since the beginning
        self._passed = 0.0  # bytes that the time until _at has carried
        self._at = clock()

    def slice(self) -> int:
        """Most bytes of one step at the rate of this moment."""
        rate = self._rate()
        if rate is None:
            return LARGEST_SLICE
        return int(min(LARGEST_SLICE, max(SMALLEST_SLICE, rate / SLICES_PER_S)))

    def take(self, size: int) -> None:
        """Wait until what was asked for before has passed; then size bytes may go.

        Ends early when the deadline of the call is over: who waits for it looks there.
        """
        with self._mutex:
            self._advance()
            before = self._asked
            self._asked += size
        while True:
            with self._mutex:
                rate = self._advance()
                missing = before - self._passed
            if rate is None or missing < 1:
                return
            left = time_left()
            if left is not None and left <= 0:
                return
            self._sleep(min(LOOK_S, missing / rate, LOOK_S if left is None else left))

    def _advance(self) -> float | None:
        """Let the time since the last look carry its bytes; gives the rate."""
        now, rate = self._clock(), self._rate()
        if rate is None:
            self._passed = self._asked
        else:
            carried = max(0.0, now - self._at) * rate
            self._passed = min(self._asked, self._passed + carried)
        self._at = now
        return rate


@dataclass(slots=True)
class Pace:
    """The pace of one call's body. paid counts the bytes that were metered on the socket."""

    meter: Meter
    paid: int = 0

    def step(self, most: int) -> int:
        """How many bytes to send or receive next, at most."""
        return min(most, self.meter.slice())

    def take(self, size: int) -> None:
        """Wait for size bytes; see ``Meter.take``."""
        self.meter.take(size)
        self.paid += size

    def settle(self, size: int) -> None:
        """Pay what a store moved without asking: all of it, for a store without a socket."""
        while self.paid < size:
            self.take(min(self.step(size), size - self.paid))


_pace: ContextVar[Pace | None] = ContextVar("pace", default=None)


def current() -> Pace | None:
    """The pace that this thread's call is under; None: as fast as it goes."""
    return _pace.get()


@contextmanager
def under(pace: Pace) -> Iterator[None]:
    """Put the calls of this thread under a pace."""
    token = _pace.set(pace)
    try:
        yield
    finally:
        _pace.reset(token)
