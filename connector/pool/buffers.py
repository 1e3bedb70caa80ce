"""Memory that parts are received into, hashed in and sent from."""

from __future__ import annotations

import contextlib
import mmap


def part_buffer(size: int) -> mmap.mmap:
    """A buffer of size bytes (at least one) of its own pages, given back when it is let go.

    Huge pages, where the kernel has them: every byte passes through here several times, and with
    small pages the kernel's copies from and to sockets cost about 0.1 processor seconds per GiB
    more. Not a bytearray: malloc keeps freed blocks of up to 32 MiB for itself (mallopt(3),
    M_MMAP_THRESHOLD), so that memory would not go down again when a window ends.
    """
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that was built without them
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
