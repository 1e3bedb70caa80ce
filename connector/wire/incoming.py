"""Puts frames together from whatever pieces arrive, straight into the memory they belong in.

The shell asks for ``room()``, receives into it and says with ``advance`` how much came. No more
than one frame is ever held, and no memory is taken before its header was found legal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from connector.wire.frames import HEADER, Header, parse_header


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame. The payload of a raw frame lies where ``place`` said."""

    header: Header
    payload: memoryview


def take_memory(header: Header) -> memoryview:
    """Room of its own for a payload; at most MAX_DATA bytes, since the header was checked."""
    return memoryview(bytearray(header.length))


class Incoming:
    """One direction of a connection.

    place says where a payload goes, and may refuse the frame by raising; it is asked once for each
    frame that has a payload, as soon as the header is there.
    """

    def __init__(
        self, *, from_client: bool, place: Callable[[Header], memoryview] = take_memory
    ) -> None:
        self._from_client = from_client
        self._place = place
        self._head = memoryview(bytearray(HEADER.size))
        self._header: Header | None = None
        self._target = self._head
        self._filled = 0

    @property
    def between(self) -> bool:
        """Whether nothing of a frame has arrived yet: the only place where a stream may end."""
        return self._header is None and self._filled == 0

    def room(self) -> memoryview:
        """Where the next bytes belong; at least one byte, and never past the end of the frame."""
        return self._target[self._filled :]

    def advance(self, size: int) -> Frame | None:
        """Take size bytes that were received into ``room()``; a frame when it is whole.

        Raises:
            RemoteProtocolError: the header is not one that the other side may send.
        """
        self._filled += size
        if self._filled < len(self._target):
            return None
        if self._header is None:
            header = parse_header(self._head, from_client=self._from_client)
            if header.length:
                self._target = self._place(header)[: header.length]
                self._header = header
                self._filled = 0
                return None
            self._filled = 0
            return Frame(header, memoryview(b""))
        frame = Frame(self._header, self._target)
        self._header, self._target, self._filled = None, self._head, 0
        return frame
