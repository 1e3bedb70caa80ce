"""From a descriptor into the daemon's socket, in few and large frames.

For what does not pass by descriptor: over TCP, from a terminal or a device, or when told so. A
frame is read, hashed and sent while it lies in the processor's cache.

Over a UNIX socket the bytes are hashed only when asked for (``--digest``): it costs half a
processor second per GiB, more than all the copies. What is given up is that a fault of one of the
two programs between pipe and part buffer would be found at once: then, as with a descriptor, the
image is what the daemon received, of the size that was sent, each frame at its offset.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Callable

from connector.client import Writer
from connector.commands.streams import enlarge

FRAME = 1 << 20
"""Bytes of a frame: what a pipe holds. Larger ones cost as much, and leave the cache."""
PAUSE_S = 1.0
"""How long a frame that has begun waits for more, so that a slow stream is not held back here."""


def pump(descriptor: int, writer: Writer, progress: Callable[[int], None]) -> int:
    """Send all that is left to read, and say how long the image is then.

    Raises:
        OSError: it cannot be read.
        PoolError: what ``Writer.write`` raises.
    """
    enlarge(descriptor)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    at, buffer = writer.offset, memoryview(mmap.mmap(-1, FRAME))
    while size := _fill(descriptor, buffer, poll):
        at += writer.write(buffer[:size])  # which may gather what is small
        progress(at)
    return at


def _fill(descriptor: int, buffer: memoryview, poll: select.poll) -> int:
    """Read until buffer is full, until the end, or until nothing came for a while."""
    filled = 0
    while filled < len(buffer):
        if filled and not poll.poll(PAUSE_S * 1000):
            break
        with buffer[filled:] as rest:
            count = os.readv(descriptor, [rest])
        if not count:
            break
        filled += count
    return filled
