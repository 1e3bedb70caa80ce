"""Trying again: who may, how often, how long.

Only TransientStoreError is tried again. Waits grow exponentially with full jitter, so that many
writers that were throttled together do not come back together, and one deadline covers all
attempts and all waits of a call. Whoever talks to the network asks ``time_left`` how long it may
still wait.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from catalog.errors import TransientStoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_time_left: ContextVar[Callable[[], float] | None] = ContextVar("time_left", default=None)


def time_left() -> float | None:
    """Seconds until the deadline of the call that this thread is in; None outside of any.

    May be zero or negative: the deadline is over.
    """
    ask = _time_left.get()
    return None if ask is None else ask()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """How to repeat a call. Times are seconds; clock must be monotonic.

    The n-th wait (n from 0) is drawn evenly from 0 to ``min(longest_wait_s, first_wait_s * 2**n)``
    and leaves at least half of the time that is left to the attempt after it.
    """

    deadline_s: float = 600.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 20.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    def call(self, what: str, fn: Callable[[], T]) -> T:
        """Run fn until it answers, fails for good, or the deadline leaves no room for a wait.

        Raises what fn raises; a TransientStoreError at the end says how often and how long it was
        tried. Within another call, the earlier of the two deadlines holds.
        """
        started = self.clock()
        outer = time_left()
        allowed = self.deadline_s if outer is None else min(self.deadline_s, outer)
        token = _time_left.set(lambda: started + allowed - self.clock())
        try:
            return self._repeat(what, fn, started, allowed)
        finally:
            _time_left.reset(token)

    def _repeat(self, what: str, fn: Callable[[], T], started: float, allowed: float) -> T:
        attempt = 0
        while True:
            try:
                return fn()
            except TransientStoreError as exc:
                spent = self.clock() - started
                if allowed - spent < self.first_wait_s:
                    raise _given_up(what, exc, attempt + 1, spent) from exc
                ceiling = min(self.longest_wait_s, self.first_wait_s * 2 ** min(attempt, 30))
                wait = min(self.draw() * ceiling, (allowed - spent) / 2)
                attempt += 1
                logger.warning("attempt %d failed, again in %.2f s: %s", attempt, wait, exc.message)
            self.sleep(wait)


def _given_up(
    what: str, last: TransientStoreError, attempts: int, spent_s: float
) -> TransientStoreError:
    tried = f"{attempts} attempts in {spent_s:.1f} s" if attempts > 1 else f"{spent_s:.1f} s"
    return TransientStoreError(
        f"{what}: given up after {tried}; last: {last.message}",
        hint="see whether the store is reachable and healthy, then try again",
    )


def retry(what: str, fn: Callable[[], T], *, deadline_s: float = 600.0) -> T:
    """Run fn as ``Retrying`` does by default, within deadline_s seconds."""
    return Retrying(deadline_s=deadline_s).call(what, fn)
