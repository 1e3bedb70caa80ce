"""The least that a program with our duties could cost: a loop, and nothing around it.

usage: floor.py put URL BYTES    standard input to the endpoint, in parts of 16 MiB
       floor.py get URL BYTES    the same bytes from the endpoint to standard output

One thread, one connection, one buffer in huge pages; SHA-256 and CRC64NVME of every byte. No
signature, journal, retry, deadline, window or manifest: what Tapelift costs above this is what
those cost, and below it no program in this language gets that computes both digests.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import sys

from awscrt.checksums import crc64nvme
from feed import connect

PART = 16 << 20
STEP = 1 << 20
PIPE_SIZE = 1 << 20


class Loop:
    """The connection, the buffer and the digests."""

    def __init__(self, url: str) -> None:
        self._sock = connect(url)
        memory = mmap.mmap(-1, PART, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        self._buffer = memoryview(memory)
        self._sha256 = hashlib.sha256()

    def put(self, size: int) -> None:
        """Send standard input, each part as an object of its own."""
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        for number, part in enumerate(self._parts(size)):
            taken = 0
            while taken < len(part):
                taken += _some(os.readv(0, [part[taken : taken + STEP]]))
            self._digest(part)
            self._ask(f"PUT /bench/floor/{number} HTTP/1.1\r\nContent-Length: {len(part)}")
            for at in range(0, len(part), STEP):
                self._sock.sendall(part[at : at + STEP])
            self._head()

    def get(self, size: int) -> None:
        """Write the pattern to standard output, asked for in ranges."""
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        done = 0
        for part in self._parts(size):
            last = done + len(part) - 1
            self._ask(f"GET /bench/generated/{size} HTTP/1.1\r\nRange: bytes={done}-{last}")
            ahead = self._head()
            taken = len(ahead)
            part[:taken] = ahead
            while taken < len(part):
                taken += _some(self._sock.recv_into(part[taken : taken + STEP]))
            self._digest(part)
            written = 0
            while written < len(part):
                written += os.write(1, part[written:])
            done += len(part)

    def _parts(self, size: int) -> list[memoryview]:
        whole, rest = divmod(size, PART)
        return [self._buffer] * whole + [self._buffer[:rest]] * bool(rest)

    def _digest(self, part: memoryview) -> None:
        self._sha256.update(part)
        crc64nvme(part)

    def _ask(self, head: str) -> None:
        self._sock.sendall(f"{head}\r\n\r\n".encode())

    def _head(self) -> bytes:
        """Take the answer's head; give what came behind it."""
        taken = b""
        while b"\r\n\r\n" not in taken:
            piece = self._sock.recv(STEP)
            _some(len(piece))
            taken += piece
        head, ahead = taken.split(b"\r\n\r\n", 1)
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")):
            sys.exit(f"the endpoint refused: {head[:80]!r}")
        return ahead


def _some(count: int) -> int:
    if not count:
        sys.exit("the other end is gone")
    return count


def main(arguments: list[str]) -> None:
    match arguments:
        case ["put", url, size]:
            Loop(url).put(int(size))
        case ["get", url, size]:
            Loop(url).get(int(size))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
