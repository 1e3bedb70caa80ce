"""An S3 that has a bad day: it throttles, resets, stalls, answers late or wrongly, or is away."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.faults.test_kill import CountingProxy
from tests.support.faults import (
    Cut,
    FaultProxy,
    Request,
    error_in_200,
    refuse,
    relay,
    reset,
    stall,
    stall_in_body,
)

Misdeed = Callable[["RoughS3", Request], None]


class RoughS3(CountingProxy):
    """A proxy that misbehaves by chance, and can be sent away.

    share: of how many requests something becomes, 0 to 1. misdeeds: the names of MISDEEDS.
    """

    def __init__(
        self, upstream: str, *, share: float = 0.0, misdeeds: tuple[str, ...] = (), seed: object = 0
    ) -> None:
        super().__init__(upstream)
        self.share = share
        self.done: Counter[str] = Counter()
        self._misdeeds = misdeeds or tuple(MISDEEDS)
        self._chance = random.Random(f"rough {seed}")
        self._drawing = threading.Lock()
        self._away_until = 0.0
        self._away: Misdeed = _hang_up

    def go_away(self, seconds: float, *, silent: bool = False) -> None:
        """Answer nothing for a time: hang up, or when silent take everything and say nothing."""
        self._away = _say_nothing if silent else _hang_up
        self._away_until = time.monotonic() + seconds

    @property
    def away(self) -> bool:
        return time.monotonic() < self._away_until

    def _handle(self, request: Request) -> None:
        if self.away:
            self.done["away"] += 1
            self._away(self, request)
            return
        with self._drawing:
            self.seen.append(request.operation)
            bad = self._chance.random() < self.share
            name = self._chance.choice(self._misdeeds)
        if not bad:
            relay(self, request)
            return
        self.done[name] += 1
        MISDEEDS[name](self, request)


def _hang_up(proxy: FaultProxy, request: Request) -> None:
    raise Cut


def _say_nothing(proxy: RoughS3, request: Request) -> None:
    request.body()
    proxy.closing.wait(120)
    raise Cut


def _answer_late(proxy: FaultProxy, request: Request) -> None:
    answer_after = 1.5
    request.body()
    proxy.closing.wait(answer_after)
    relay(proxy, request)


def _lose_the_answer(proxy: FaultProxy, request: Request) -> None:
    proxy.forward(request)
    reset(request.operation).act(proxy, request)


def _error_in_200(proxy: FaultProxy, request: Request) -> None:
    """Only where S3 answers before it knows how it ends; elsewhere it is a plain error."""
    if request.operation == "CompleteMultipartUpload":
        error_in_200(request.operation).act(proxy, request)
    else:
        refuse(request.operation, 500, "InternalError").act(proxy, request)


MISDEEDS: dict[str, Misdeed] = {
    "throttles": lambda proxy, one: refuse(one.operation, 503, "SlowDown").act(proxy, one),
    "resets": lambda proxy, one: reset(one.operation).act(proxy, one),
    "stalls": lambda proxy, one: stall(one.operation).act(proxy, one),
    "stalls in the answer": lambda proxy, one: stall_in_body(one.operation, 7).act(proxy, one),
    "answers late": _answer_late,
    "loses the answer": _lose_the_answer,
    "errs within a 200": _error_in_200,
}
