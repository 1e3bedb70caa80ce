"""Bodies on their way to and from the socket, without a copy in between.

Sending: botocore wants a file, urllib3 would read that file in 16 KiB copies. A ``Body`` looks
like a file until the request is signed, and is then replaced, in the ``before-send`` event, by
views of the caller's own memory (``send_views``), which urllib3 hands to the socket one by one.

Receiving: the response's readinto of urllib3 copies; the one of ``http.client`` below it does
not, and is used where it can be had.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from awscrt import checksums
from botocore.response import StreamingBody

from catalog.errors import CorruptObject, TransientStoreError
from catalog.retry import time_left
from connector.store import pace

SEND_STEP = 1024 * 1024
"""Bytes given to the socket at once. Each step has the connect timeout to get out (urllib3 sets
the read timeout only for the answer): 10 s mean at least 105 KB/s on each connection, where one
whole part would need 1.7 MB/s. Steps of 256 KiB cost a third more processor time."""

RECEIVE_STEP = 1024 * 1024
"""Most bytes taken from the socket between two looks at the deadline."""


def crc64nvme(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """CRC-64/NVME of data, going on from the checksum of what came before it."""
    return int(checksums.crc64nvme(data, before))


def crc_to_text(crc: int) -> str:
    """As S3 writes it in headers: base64 of 8 bytes, big end first."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode("ascii")


def crc_from_text(text: str | None) -> int | None:
    """What S3 wrote; None when there is none, or when it is not a full object's checksum."""
    if not text:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return int.from_bytes(raw, "big") if len(raw) == 8 else None


def md5_of(data: memoryview) -> bytes:
    """MD5, for stores that confirm nothing better."""
    return hashlib.md5(data, usedforsecurity=False).digest()


class Body(io.RawIOBase):
    """A view of memory that botocore takes for a file. It is read only where bodies are signed."""

    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self.view = view
        self._at = 0

    def __len__(self) -> int:
        return self.view.nbytes

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Copy the next bytes out; 0 at the end."""
        count = min(len(buffer), len(self) - self._at)
        buffer[:count] = self.view[self._at : self._at + count]
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; needed to measure and to send again."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def views(self) -> Iterator[memoryview]:
        """The memory itself, in steps. Raises TimeoutError when the call's deadline is over."""
        under, start = pace.current(), 0
        while start < len(self):
            step = SEND_STEP if under is None else under.step(SEND_STEP)
            piece = self.view[start : start + step]
            if under is not None:
                under.take(piece.nbytes)
            left = time_left()
            if left is not None and left <= 0:
                raise TimeoutError(f"deadline over after {start} of {len(self)} bytes were sent")
            yield piece
            start += piece.nbytes


def send_views(request: Any, **_: object) -> None:
    """Handler of ``before-send``: put the caller's memory in the place of the file.

    The length is fixed by the Content-Length header, which botocore has set and signed by now.
    """
    if isinstance(request.body, Body):
        request.body = request.body.views()


def as_body(view: memoryview) -> Body | bytes:
    """What to give botocore as ``Body``; an empty one needs no file."""
    return Body(view) if view.nbytes else b""


def bytes_view(data: bytes | bytearray | memoryview) -> memoryview:
    """Flat bytes over any buffer. Raises TypeError for memory with gaps."""
    return memoryview(data).cast("B")


def fill(body: StreamingBody, buffer: memoryview, what: str, *, read_timeout_s: float) -> None:
    """Read exactly the buffer's length; the body must end with it.

    Raises TransientStoreError when the connection ends early or the deadline is over, and
    CorruptObject when more bytes follow. The connection goes back to its pool only when the body
    was read to its end.
    """
    take, under = _taker(body), pace.current()
    filled = 0
    try:
        while filled < buffer.nbytes:
            _mind_deadline(body, what, filled, read_timeout_s)
            step = RECEIVE_STEP if under is None else under.step(RECEIVE_STEP)
            count = take(buffer[filled : filled + step])
            if not count:
                raise TransientStoreError(
                    f"{what}: the answer ended after {filled} of {buffer.nbytes} bytes"
                )
            filled += count
            if under is not None:
                under.take(count)
        if take(memoryview(bytearray(1))):
            raise CorruptObject(f"{what}: the answer is longer than {buffer.nbytes} bytes")
    except BaseException:
        body.close()
        raise
    release = getattr(getattr(body, "_raw_stream", None), "release_conn", body.close)
    release()


def _taker(body: StreamingBody) -> Callable[[memoryview], int]:
    """How to read into memory: without a copy where the layers are the ones we know.

    readinto1 asks the socket once and comes back with what there is, so that a server that sends
    a byte now and then cannot hold us beyond the deadline. The last byte is left to http.client,
    which then knows that the answer has ended.
    """
    raw: Any = getattr(body, "_raw_stream", None)
    below: Any = getattr(raw, "_fp", None)
    buffered: Any = getattr(below, "fp", None)
    known = isinstance(raw, urllib3.HTTPResponse) and isinstance(below, http.client.HTTPResponse)
    if not known or not isinstance(buffered, io.BufferedReader):
        through_all_layers: Callable[[Any], int] = body.readinto
        return through_all_layers

    def take(view: memoryview) -> int:
        if below.length is None or below.length <= 1:  # of unknown length, or at its end
            return int(below.readinto(view))
        count = buffered.readinto1(view[: below.length - 1])
        below.length -= count
        return count

    return take


def _mind_deadline(body: StreamingBody, what: str, done: int, read_timeout_s: float) -> None:
    left = time_left()
    if left is None or left > read_timeout_s:
        return
    if left <= 0:
        raise TransientStoreError(f"{what}: deadline over after {done} bytes")
    try:
        body.set_socket_timeout(left)
    except AttributeError:  # already read to its end, the socket is gone
        return
