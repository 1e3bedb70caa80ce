"""What a connection says: frames one after another, and notices between them.

The connection's own thread sends answers and data. While it works on a call, the lobby's thread may
put in a notice, so that a client can tell a slow daemon from a dead one even where the work itself
has nothing to tell. One lock keeps their frames whole.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from catalog.errors import PoolError
from connector.serve.line import Buffer, Line
from connector.settings import ClientLimits
from connector.wire.messages import Failure
from connector.wire.session import NOBODY, ServerSession

NOTICE_S = 1.0
"""Least time between two notices that the work asks for, in seconds."""
PULSE_S = 5.0
"""Longest time without a notice."""
PULSE_STALL_S = 1.0


@dataclass(slots=True)
class _Work:
    """A call or a WRITE that is being worked on. All times are of the monotonic clock, in seconds.

    moved: when it last showed that it is not stuck. told: when its client last heard of it.
    """

    request: int
    since: float
    moved: float
    told: float
    facts: dict[str, object] = field(default_factory=dict)


class Outgoing:
    """The sending side of a connection."""

    def __init__(self, line: Line, rules: ServerSession, limits: ClientLimits) -> None:
        self._line = line
        self._rules = rules
        self._limits = limits
        self._lock = threading.Lock()
        self._work: _Work | None = None
        self._torn = False  # a frame was not sent whole: nothing can follow it

    # --- by the connection's thread ------------------------------------------------------

    def frame(self, data: bytes) -> None:
        """Send a frame of JSON; PeerGone, PeerSlow."""
        self._send((data,), self._limits.half_open_s)

    def data(self, header: bytes, piece: memoryview) -> None:
        """Send a DATA frame, without a copy of its payload; PeerGone, PeerSlow.

        A client may be as long about taking what it asked for as it may say nothing.
        """
        self._send((header, piece), self._limits.idle_s)

    def failure(self, request: int, failure: Failure) -> None:
        """Send a FAILURE; PeerGone, PeerSlow."""
        self.frame(self._rules.failure(request, failure))

    def notice(self, request: int, facts: Mapping[str, object]) -> None:
        """Send a NOTICE, whenever the last was; PeerGone, PeerSlow."""
        self.frame(self._rules.notice(request, facts))

    def farewell(self, failure: Failure) -> None:
        """Say why the connection ends, if that can still be said."""
        if not self._torn:
            with contextlib.suppress(PoolError):
                self.failure(NOBODY, failure)

    @contextlib.contextmanager
    def working(self, request: int) -> Iterator[None]:
        """While this lasts, the client is told that work goes on. Nothing is received meanwhile."""
        now = time.monotonic()
        self._work = _Work(request, now, now, now)
        try:
            yield
        finally:
            with self._lock:
                self._work = None

    def notify(self, facts: Mapping[str, object]) -> None:
        """Note that the work moves, and tell the client at most once a second; never waits."""
        work, now = self._work, time.monotonic()
        if work is None:
            return
        work.moved = now
        work.facts.update(facts)
        if now - work.told >= NOTICE_S:
            self._tell(work, now)

    # --- by the lobby's thread -----------------------------------------------------------

    def pulse(self, now: float) -> bool:
        """Tell the client that work goes on, if it has not heard so for a while.

        False: the work has not moved for ``call_s``, and the connection should be cut.
        """
        work = self._work
        if work is None:
            return True
        if now - work.moved > self._limits.call_s:
            self._tell_stuck(work)
            return False
        if now - work.told >= PULSE_S:
            self._tell(work, now)
        return True

    # --- both ----------------------------------------------------------------------------

    def _tell(self, work: _Work, now: float) -> None:
        """A notice, unless its frame would have to wait."""
        facts = {"busy_s": round(now - work.since, 1), **work.facts}
        self._put_in(work, self._rules.notice(work.request, facts))

    def _tell_stuck(self, work: _Work) -> None:
        said = f"the call did not move for {self._limits.call_s:g} s and was given up"
        failure = Failure(
            code="timeout",
            message=said,
            hint="look into the daemon's log, then try again",
            retryable=True,
        )
        self._put_in(work, self._rules.failure(NOBODY, failure))

    def _put_in(self, work: _Work, frame: bytes) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._work is work and not self._torn and self._line.writable():
                work.told = time.monotonic()
                self._whole((frame,), PULSE_STALL_S)
        except PoolError:
            self._line.cut()
        finally:
            self._lock.release()

    def _send(self, pieces: tuple[Buffer, ...], stall_s: float) -> None:
        with self._lock:
            self._whole(pieces, stall_s)
            if self._work is not None:
                self._work.moved = self._work.told = time.monotonic()

    def _whole(self, pieces: tuple[Buffer, ...], stall_s: float) -> None:
        self._torn = True
        self._line.send(pieces, stall_s, self._waits_for_client)
        self._torn = False

    def _waits_for_client(self) -> None:
        if self._work is not None:
            self._work.moved = time.monotonic()
