"""From a client's descriptor into an image, and from an image into one: the daemon's own pump.

Nothing is copied on the way: bytes are read straight into the part that is hashed and sent, and
written straight from the part that was verified.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

from catalog.errors import DescriptorError
from connector.serve.descriptors import End
from connector.serve.interface import WriteHandle
from connector.serve.line import TICK_S, PeerGone

STEP = 4 << 20
"""Most bytes that are moved before the client's leaving is looked for."""

Gone = Callable[[], bool]
Progress = Callable[[int], None]
"""Called about once a second, whether bytes move or not, with how many have."""


class DescriptorIdle(DescriptorError):
    """Nothing moved through a descriptor for too long."""

    code = "timeout"
    retryable = True


def fill(
    end: End,
    handle: WriteHandle,
    length: int | None,
    gone: Gone,
    idle_s: float,
    progress: Progress,
) -> bool:
    """Read until the end of what was passed, or length bytes. True: it has ended.

    Raises:
        PeerGone: the client has left; noticed within about a second.
        DescriptorError: it cannot be read, or no byte came for idle_s (then ``timeout``).
        PoolError: the handle's.
    """
    pace = _Pace(end, select.POLLIN, gone, idle_s, progress)
    left = length
    while left is None or left:
        room = handle.room()
        try:
            with room[: STEP if left is None else min(STEP, left)] as piece:
                count, state = _read(end, piece)
        finally:
            room.release()
        if count:
            handle.advance(count)
            left = left if left is None else left - count
        if state == _ENDED:
            return True
        pace.moved(count)
        if state == _EMPTY and left != 0:
            pace.wait()
    return False


_FULL, _EMPTY, _ENDED = "full", "empty", "ended"


def _read(end: End, piece: memoryview) -> tuple[int, str]:
    """Read until piece is full, or nothing is there, or the end."""
    filled = 0
    while filled < len(piece):
        try:
            with piece[filled:] as rest:
                count = end.read(rest)
        except OSError as exc:
            raise DescriptorError(
                f"the descriptor cannot be read: {exc.strerror}",
                hint="the image goes on at the offset given here",
            ) from exc
        if count is None:
            return filled, _EMPTY
        if count == 0:
            return filled, _ENDED
        filled += count
    return filled, _FULL


def drain(
    end: End, pieces: Iterator[memoryview], gone: Gone, idle_s: float, progress: Progress
) -> int:
    """Write all pieces, and say how many bytes they were; otherwise like ``fill``.

    Raises:
        DescriptorError: its reader has closed it, or its disk is full.
    """
    pace = _Pace(end, select.POLLOUT, gone, idle_s, progress)
    total = 0
    for piece in pieces:
        rest = piece
        while rest:
            count = _write(end, rest)
            pace.moved(count or 0)
            if count is None:
                pace.wait()
            else:
                rest = rest[count:]
                total += count
    return total


def _write(end: End, rest: memoryview) -> int | None:
    try:
        return end.write(rest)
    except (BrokenPipeError, ConnectionResetError) as exc:
        raise DescriptorError("whoever read the descriptor has closed it") from exc
    except OSError as exc:
        raise DescriptorError(
            f"the descriptor cannot be written: {exc.strerror}",
            hint="see to the space where the client writes, and read again",
        ) from exc


class _Pace:
    """Looks up once a second, and waits where nothing can be moved."""

    def __init__(
        self, end: End, events: int, gone: Gone, idle_s: float, progress: Progress
    ) -> None:
        self._poll = select.poll()
        self._poll.register(end.fileno(), events)
        self._gone = gone
        self._idle_s = idle_s
        self._progress = progress
        self._looked = self._last = time.monotonic()
        self._count = 0

    def moved(self, count: int) -> None:
        """Note that count bytes were moved."""
        now = time.monotonic()
        if count:
            self._last = now
            self._count += count
        if now - self._looked >= TICK_S:
            self._look(now)

    def wait(self) -> None:
        """Wait until bytes can be moved again."""
        while not self._poll.poll(TICK_S * 1000):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        self._looked = now
        if self._gone():
            raise PeerGone("the client has left")
        if now - self._last > self._idle_s:
            raise DescriptorIdle(
                f"no byte of the descriptor could be moved for {self._idle_s:g} s",
                hint="see what the process at its other end is waiting for",
            )
        self._progress(self._count)
