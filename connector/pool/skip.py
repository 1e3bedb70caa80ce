"""Passing over bytes that are safe already, when a source begins again before a resumed image does.

A tape is read from its beginning, or from a fragment's. What is passed over is compared with the
journal's receipts, so that another tape, or one that reads differently today, is never joined to
what was stored from it yesterday.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from catalog.errors import ImageDamaged
from connector.pool.digest import Buffer, crc64, crc64_join


@dataclass(frozen=True, slots=True)
class SafePart:
    """A run of an image that is safe, and its CRC64NVME. offset and size are the image's bytes."""

    offset: int
    size: int
    crc64nvme: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.size


class Skipper:
    """Takes a source's bytes from start on and gives back those from end on.

    A part that begins before start cannot be compared; the next one can.
    """

    def __init__(self, name: str, parts: Iterable[SafePart], *, start: int, end: int) -> None:
        """name is the image's, for the error. parts in order; start and end in its bytes."""
        self._name = name
        self._at = start
        self._end = end
        self._parts: Iterator[SafePart] = iter(
            [part for part in parts if part.size and start <= part.offset and part.end <= end]
        )
        self._part = next(self._parts, None)
        self._crc = 0

    @property
    def left(self) -> int:
        """Bytes that are still to be passed over."""
        return max(0, self._end - self._at)

    def feed(self, data: Buffer) -> memoryview:
        """Pass over what is safe; gives the rest, usually nothing.

        Raises:
            ImageDamaged: these are not the bytes that are safe; names the part that differs.
        """
        view = memoryview(data)
        while view.nbytes and self.left:
            size = self._step(view[: self.left])
            view = view[size:]
        return view

    def _step(self, view: memoryview) -> int:
        """Up to the next beginning or end of a part."""
        part = self._part
        if part is None:
            self._at += view.nbytes
            return view.nbytes
        border = part.offset if self._at < part.offset else part.end
        piece = view[: border - self._at]
        if self._at >= part.offset:
            self._crc = crc64_join(self._crc, crc64(piece), piece.nbytes)
        self._at += piece.nbytes
        if self._at == part.end:
            self._compare(part)
        return piece.nbytes

    def _compare(self, part: SafePart) -> None:
        if self._crc != part.crc64nvme:
            raise ImageDamaged(
                f"image {self._name!r}: bytes {part.offset} to {part.end - 1} of the source are not"
                " those that were stored from it before",
                hint="check that this is the same tape; if it is, give the image up and read it"
                " anew, or use another copy",
            )
        self._part = next(self._parts, None)
        self._crc = 0
