"""Waiting for work that takes long, with a client at the other end that must be told so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from typing import TypeVar

from catalog.errors import PoolError
from connector.serve.interface import Notify

T = TypeVar("T")

NOTICE_S = 5.0
"""How often a client that waits is told that its call is still running, in seconds."""
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """One call's way to wait. gone: whether its client has left."""

    notify: Notify
    gone: Callable[[], bool]
    workers: Executor

    def until_done(self, what: str, fn: Callable[[], T]) -> T:
        """Run fn in a worker, telling the client what is going on; raises what fn raises.

        fn is waited for also when the client leaves: it holds what the session owns. Everything
        that it does has a deadline of its own.
        """
        future = self.workers.submit(fn)
        while not wait([future], timeout=NOTICE_S).done:
            if not self.gone():
                self.notify({"waiting": what})
        return future.result()

    def unless_gone(self, what: str, fn: Callable[[], T]) -> T:
        """Like ``until_done``, but left alone when the client leaves; fn must own all it uses."""
        future = self.workers.submit(fn)
        waited = 0.0
        while not wait([future], timeout=LOOK_S).done:
            waited += LOOK_S
            if self.gone():
                future.cancel()
                raise PoolError(f"the client has left while {what}")
            if waited >= NOTICE_S:
                waited = 0.0
                self.notify({"waiting": what})
        return future.result()
