"""An image that a client reads: at any offset, into the caller's memory, or into a descriptor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from types import TracebackType

from catalog.errors import ImageDamaged, PoolError
from connector.client_channel import BUFFER, Channel
from connector.wire.messages import Close, Closed, Read, Reading, ReadRange, ReadTo

RANGE = 32 << 20
"""How many bytes an iteration asks for at a time. They arrive in frames and are never all held."""


class Reader:
    """An image open for reading. Not for several threads at once.

    Who reads all of it from 0 on, in order, has it compared with the SHA-256 of the image; the
    daemon verifies every part in any case. As a context manager it lets the handle go.
    """

    def __init__(self, channel: Channel, opened: Reading, *, verify: bool = True) -> None:
        self.image = opened.image
        self.copy = opened.copy
        self.size = opened.size
        self.sha256 = opened.sha256
        self.state = opened.state
        self._channel = channel
        self._handle = opened.handle
        self._position = 0
        self._digest = hashlib.sha256() if verify and opened.sha256 else None
        self._hashed = 0
        self._closed = False

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except PoolError:
            if exc is None:  # else what went wrong first is what counts
                raise

    def tell(self) -> int:
        """Where the next byte is read, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, as a file's ``seek`` does; past the end nothing is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"offset {base + offset} lies before the image")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read size bytes from here, fewer only at the end; without size all that is left.

        Raises:
            ImageDamaged: the last byte was read and the whole has another SHA-256.
            PoolError: what the daemon said; never a short read instead.
        """
        left = max(0, self.size - self._position)
        data = bytearray(left if size < 0 else min(size, left))
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from here, without any other memory; gives how many bytes came.

        Raises:
            ImageDamaged, PoolError: as ``read``.
        """
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self.size - self._position))]
        if not view:
            return 0
        call = ReadRange(handle=self._handle, offset=self._position, length=len(view))
        came = self._channel.read(call, view)
        if came != len(view):
            raise ImageDamaged(f"the daemon gave {came} bytes of {len(view)} and no reason")
        self._took(view)
        return came

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the rest of the image in pieces; a piece is valid until the next is asked for.

        Raises:
            ImageDamaged, PoolError: as ``read``.
        """
        return self.pieces()

    def pieces(self, length: int | None = None) -> Iterator[memoryview]:
        """Like an iteration, but of length bytes; of fewer only at the end of the image."""
        end = self.size if length is None else min(self.size, self._position + length)
        buffer = memoryview(bytearray(min(BUFFER, max(1, end - self._position))))
        while (left := end - self._position) > 0:
            begin = self._position
            asked = min(left, RANGE)
            call = ReadRange(handle=self._handle, offset=begin, length=asked)
            for view in self._channel.stream(call, buffer):
                self._took(view)
                yield view
            if self._position - begin != asked:
                raise ImageDamaged(
                    f"the daemon gave {self._position - begin} bytes of {asked} and no reason"
                )

    def read_to(self, descriptor: int, length: int | None = None) -> Read:
        """Let the daemon write from here into a pipe or a file itself, to the end or length bytes.

        Raises:
            ImageDamaged: the daemon sent all of it with another SHA-256 than the image's.
            Unsupported: over TCP.
            PoolError: what the daemon said.
        """
        begin = self._position
        call = ReadTo(handle=self._handle, offset=begin, length=length)
        read = self._channel.call(call, Read, descriptor=descriptor)
        self._position += read.size
        whole = begin == 0 and read.size == self.size
        if whole and None not in (read.sha256, self.sha256) and read.sha256 != self.sha256:
            raise self._damaged(str(read.sha256))
        return read

    def close(self) -> None:
        """Let the handle go; can be repeated."""
        if not self._closed:
            self._closed = True
            if self._channel.broken is None:
                self._channel.call(Close(handle=self._handle), Closed)

    def _took(self, view: memoryview) -> None:
        """Note bytes that were read here; compare the digest when they were the last."""
        if self._digest is not None and self._position == self._hashed:
            self._digest.update(view)
            self._hashed += len(view)
            if self._hashed == self.size and self._digest.hexdigest() != self.sha256:
                raise self._damaged(self._digest.hexdigest())
        self._position += len(view)

    def _damaged(self, found: str) -> PoolError:
        return ImageDamaged(
            f"what was read has SHA-256 {found}, and the image {self.sha256}",
            hint="verify the image; if it holds, the damage happened on the way",
        )
