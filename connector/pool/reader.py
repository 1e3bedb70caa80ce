"""The read path: ordered parallel ranged GETs with a bounded window, each part verified.

A read may begin at any offset. It fetches whole parts, because a part is what a checksum covers,
and keeps the last one, so that short reads that follow one another cost one GET.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from mmap import mmap

from catalog.errors import (
    CorruptObject,
    ImageArchived,
    ImageDamaged,
    ObjectArchived,
    ObjectNotFound,
)
from connector.pool.buffers import part_buffer
from connector.pool.context import PoolContext
from connector.pool.digest import crc64
from connector.pool.manifest import FragmentObject, Manifest


@dataclass(frozen=True, slots=True)
class PartSpan:
    """A run of an image that one checksum covers. start is bytes within the image."""

    fragment: FragmentObject
    index: int
    start: int
    size: int


class ImageReader:
    """Reads a committed image; made by ``Pool.open_image``. Not for several threads at once."""

    def __init__(self, context: PoolContext, manifest: Manifest) -> None:
        self.manifest = manifest
        self._context = context
        self._spare: list[mmap] = []
        self._last: tuple[PartSpan, mmap] | None = None

    def stream(self, offset: int = 0, size: int | None = None) -> Iterator[memoryview]:
        """Yield the image's bytes from offset on, in order, verified.

        size None reads to the end. A view is valid until the next one is asked for. Memory is
        ``(parts_in_flight + 1) * part size``.

        Raises:
            ImageArchived: a fragment must be recalled first; nothing was asked for.
            ImageDamaged: bytes do not match their checksum, or an object is not there.
        """
        end = self._size() if size is None else min(offset + size, self._size())
        window: deque[tuple[PartSpan, mmap, Future[None]]] = deque()
        spans = self._spans(offset, end)
        try:
            while True:
                while len(window) < self._context.config.parts_in_flight + 1:
                    span = next(spans, None)
                    if span is None:
                        break
                    buffer = self._take(span.size)
                    future = self._context.threads.submit(self._fetch, span, buffer)
                    window.append((span, buffer, future))
                if not window:
                    return
                span, buffer, future = window.popleft()
                try:
                    future.result()
                    low, high = max(offset, span.start), min(end, span.start + span.size)
                    with memoryview(buffer) as whole:
                        yield whole[low - span.start : high - span.start]
                finally:
                    self._spare.append(buffer)
        finally:
            for _, _, future in window:
                future.cancel()
            for _, _, future in window:
                if not future.cancelled():
                    future.exception()

    def read(self, offset: int, size: int) -> bytes:
        """Up to size bytes from offset; fewer only at the image's end."""
        end = min(offset + size, self._size())
        out = bytearray()
        for span in self._spans(offset, end):
            buffer = self._part(span)
            low, high = max(offset, span.start), min(end, span.start + span.size)
            out += memoryview(buffer)[low - span.start : high - span.start]
        return bytes(out)

    def _size(self) -> int:
        return self.manifest.size or 0

    def _spans(self, offset: int, end: int) -> Iterator[PartSpan]:
        for fragment in self.manifest.fragments:
            if fragment.offset + fragment.size <= offset or fragment.offset >= end:
                continue
            first = max(0, offset - fragment.offset) // fragment.part_size
            for index in range(first, len(fragment.part_crc64nvme)):
                at = index * fragment.part_size
                if fragment.offset + at >= end:
                    break
                size = min(fragment.part_size, fragment.size - at)
                yield PartSpan(fragment, index, fragment.offset + at, size)

    def _part(self, span: PartSpan) -> mmap:
        if self._last is None or self._last[0] != span:
            buffer = self._take(span.size)
            self._fetch(span, buffer)
            self._last = (span, buffer)
        return self._last[1]

    def _take(self, size: int) -> mmap:
        while self._spare:
            buffer = self._spare.pop()
            if len(buffer) >= size:
                return buffer
        return part_buffer(size)

    def _fetch(self, span: PartSpan, buffer: mmap) -> None:
        fragment = span.fragment
        view = memoryview(buffer)[: span.size]
        at = span.index * fragment.part_size
        try:
            self._context.store.read_into(
                fragment.key, view, offset=at, version_id=fragment.version_id
            )
        except ObjectArchived as exc:
            raise ImageArchived(
                f"image {self.manifest.name!r} lies in {fragment.storage_class}",
                hint="recall it first; prepare shows price and time",
            ) from exc
        except (ObjectNotFound, CorruptObject) as exc:
            raise ImageDamaged(
                f"image {self.manifest.name!r}: {fragment.key}: {exc.message}",
                hint="restore the object's version, or use another copy",
            ) from exc
        if crc64(view) != fragment.part_crc64nvme[span.index]:
            raise ImageDamaged(
                f"image {self.manifest.name!r}: {fragment.key} bytes {at} to {at + span.size - 1}"
                " do not match their checksum",
                hint="use another copy of this image; the manifest and the ledger keep its digest",
            )
