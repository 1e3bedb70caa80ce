"""The read path: ordered parallel ranged GETs with a bounded window, each part verified.

A read may begin at any offset. It fetches whole parts, because a part is what a checksum covers,
and keeps the last one, so that short reads that follow one another cost one GET. Of a coded part
only the frames that hold wanted bytes are decoded, in threads too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from mmap import mmap

from catalog.errors import (
    CorruptObject,
    ImageArchived,
    ImageDamaged,
    ObjectArchived,
    ObjectNotFound,
)
from connector.pool import keys
from connector.pool.buffers import part_buffer
from connector.pool.context import PoolContext
from connector.pool.digest import crc64
from connector.pool.frames import FrameCode, FrameCoder
from connector.pool.keys import KeyOf
from connector.pool.manifest import FragmentObject, Manifest

Tap = Callable[[FragmentObject, memoryview], None]


@dataclass(frozen=True, slots=True)
class PartSpan:
    """A run of an image that one checksum covers. start and size are bytes of the image.

    at and stored are bytes of the object, which are others where it is coded.
    """

    fragment: FragmentObject
    index: int
    start: int
    size: int
    at: int
    stored: int


@dataclass(slots=True)
class HeldPart:
    """The part that was read last. frames: where they lie in a coded one; decoded: the last one."""

    span: PartSpan
    buffer: mmap
    frames: list[tuple[int, int]]
    decoded: tuple[int, bytes] = (-1, b"")


class ImageReader:
    """Reads a committed image; made by ``Pool.open_image``. Not for several threads at once."""

    def __init__(self, context: PoolContext, manifest: Manifest) -> None:
        """Raises what ``keys.load`` raises, where the image is encrypted."""
        self.manifest = manifest
        self._context = context
        self._coder = open_coder(context, manifest)
        self._spare: list[mmap] = []
        self._last: HeldPart | None = None

    def stream(
        self, offset: int = 0, size: int | None = None, *, tap: Tap | None = None
    ) -> Generator[memoryview, None, None]:
        """Yield the image's bytes from offset on, in order, verified.

        size None reads to the end. A view is valid until the next one is asked for. Memory is
        ``(parts_in_flight + 1) * part size``; for a coded image as many frames more. tap is given
        every part of the image as it is stored, before its bytes are yielded.

        Raises:
            ImageArchived: a fragment must be recalled first; nothing was asked for.
            ImageDamaged: bytes do not match their checksum, or an object is not there.
        """
        self._spare_last()
        end = self._size() if size is None else min(offset + size, self._size())
        window: deque[tuple[PartSpan, mmap, Future[None]]] = deque()
        spans = self._spans(offset, end) if tap is None else self._all_spans()
        try:
            while True:
                while len(window) < self._context.config.parts_in_flight + 1:
                    span = next(spans, None)
                    if span is None:
                        break
                    buffer = self._take(span.stored)
                    future = self._context.threads.submit(self._fetch, span, buffer)
                    window.append((span, buffer, future))
                if not window:
                    return
                span, buffer, future = window.popleft()
                try:
                    future.result()
                    low, high = max(offset, span.start), min(end, span.start + span.size)
                    with memoryview(buffer) as whole:
                        if tap is not None:
                            tap(span.fragment, whole[: span.stored])
                        if self._coder is None:
                            yield whole[low - span.start : high - span.start]
                        else:
                            with closing(self._decoded(self._coder, span, whole, low, high)) as out:
                                yield from out
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
            held = self._part(span)
            low, high = max(offset, span.start), min(end, span.start + span.size)
            if self._coder is None:
                out += memoryview(held.buffer)[low - span.start : high - span.start]
            else:
                self._read_frames(self._coder, held, low, high, out)
        return bytes(out)

    def _size(self) -> int:
        return self.manifest.size or 0

    def _spans(self, offset: int, end: int) -> Iterator[PartSpan]:
        for fragment in self.manifest.fragments:
            if fragment.offset + fragment.size <= offset or fragment.offset >= end:
                continue
            if fragment.coded:
                for span in _coded_spans(fragment):
                    if span.start >= end:
                        break
                    if span.start + span.size > offset:
                        yield span
                continue
            first = max(0, offset - fragment.offset) // fragment.part_size
            for index in range(first, len(fragment.part_crc64nvme)):
                at = index * fragment.part_size
                if fragment.offset + at >= end:
                    break
                size = min(fragment.part_size, fragment.size - at)
                yield PartSpan(fragment, index, fragment.offset + at, size, at, size)

    def _all_spans(self) -> Iterator[PartSpan]:
        """Every part, those too that hold no byte of the image."""
        for fragment in self.manifest.fragments:
            if fragment.coded:
                yield from _coded_spans(fragment)
            else:
                yield from self._spans(fragment.offset, fragment.offset + fragment.size)

    def _part(self, span: PartSpan) -> HeldPart:
        if self._last is None or self._last.span != span:
            self._spare_last()
            buffer = self._take(span.stored)
            self._fetch(span, buffer)
            frames: list[tuple[int, int]] = []
            if self._coder is not None:
                with memoryview(buffer) as whole:
                    frames = self._split(self._coder, span, whole)
            self._last = HeldPart(span, buffer, frames)
        return self._last

    def _spare_last(self) -> None:
        """Let the part that ``read`` kept be used again."""
        if self._last is not None:
            self._spare.append(self._last.buffer)
            self._last = None

    def _take(self, size: int) -> mmap:
        while self._spare:
            buffer = self._spare.pop()
            if len(buffer) >= size:
                return buffer
        return part_buffer(size)

    # --- frames --------------------------------------------------------------------------

    def _split(self, coder: FrameCoder, span: PartSpan, whole: memoryview) -> list[tuple[int, int]]:
        """Where the part's frames lie in it; as many as its plain bytes need."""
        with self._damage_at(span, span.start), whole[: span.stored] as stored:
            frames = coder.split(stored)
            full, rest = divmod(span.size, coder.code.frame_size)
            allowed = {full + 1} if rest or not span.size else {full}
            if _ends_fragment(span) and coder.code.encrypted:
                allowed.add(full + 1)  # the last frame may be there for its mark alone
            if len(frames) not in allowed:
                raise CorruptObject(f"{len(frames)} frames for {span.size} bytes")
            return frames

    def _open_frame(
        self,
        coder: FrameCoder,
        span: PartSpan,
        whole: memoryview,
        frames: Sequence[tuple[int, int]],
        index: int,
    ) -> bytes:
        """Decode one frame of a part; may run in any thread."""
        step = coder.code.frame_size
        first = (span.start - span.fragment.offset) // step
        low, high = frames[index]
        with self._damage_at(span, span.start + index * step), whole[low:high] as stored:
            return coder.open(
                stored,
                fragment=span.fragment.number,
                frame=first + index,
                last=_ends_fragment(span) and index == len(frames) - 1,
                size=min(step, span.size - index * step),
            )

    def _decoded(
        self, coder: FrameCoder, span: PartSpan, whole: memoryview, low: int, high: int
    ) -> Generator[memoryview, None, None]:
        """The image's bytes from low to high, which lie in this part; a few frames ahead."""
        step = coder.code.frame_size
        frames = self._split(coder, span, whole)
        if (len(frames) - 1) * step == span.size:  # the last one holds nothing but its mark
            self._open_frame(coder, span, whole, frames, len(frames) - 1)
        wanted = iter(range((low - span.start) // step, -(-(high - span.start) // step)))
        window: deque[tuple[int, Future[bytes]]] = deque()
        try:
            while True:
                while len(window) < self._context.config.parts_in_flight + 1:
                    index = next(wanted, None)
                    if index is None:
                        break
                    future = self._context.threads.submit(
                        self._open_frame, coder, span, whole, frames, index
                    )
                    window.append((index, future))
                if not window:
                    return
                index, future = window.popleft()
                start = span.start + index * step
                plain = memoryview(future.result())
                yield plain[max(low - start, 0) : high - start]
        finally:
            for _, future in window:  # they read a buffer that is used again
                if not future.cancel():
                    future.exception()

    def _read_frames(
        self, coder: FrameCoder, held: HeldPart, low: int, high: int, out: bytearray
    ) -> None:
        step = coder.code.frame_size
        span = held.span
        with memoryview(held.buffer) as whole:
            for index in range((low - span.start) // step, -(-(high - span.start) // step)):
                if held.decoded[0] != index:
                    plain = self._open_frame(coder, span, whole, held.frames, index)
                    held.decoded = (index, plain)
                start = span.start + index * step
                out += memoryview(held.decoded[1])[max(low - start, 0) : high - start]

    @contextmanager
    def _damage_at(self, span: PartSpan, offset: int) -> Iterator[None]:
        try:
            yield
        except CorruptObject as exc:
            raise ImageDamaged(
                f"image {self.manifest.name!r} from byte {offset}: {span.fragment.key}, part"
                f" {span.index + 1}: {exc.message}",
                hint="use another copy of this image; the manifest and the ledger keep its digest",
            ) from exc

    # --- parts ---------------------------------------------------------------------------

    def _fetch(self, span: PartSpan, buffer: mmap) -> None:
        fragment = span.fragment
        view = memoryview(buffer)[: span.stored]
        at = span.at
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
                f"image {self.manifest.name!r}: {fragment.key} bytes {at} to {at + span.stored - 1}"
                " do not match their checksum",
                hint="use another copy of this image; the manifest and the ledger keep its digest",
            )


def open_coder(context: PoolContext, manifest: Manifest) -> FrameCoder | None:
    """What decodes an image's frames; None when its bytes are stored as they are.

    Raises what ``keys.load`` raises.
    """
    coding = manifest.coding
    if coding is None:
        return None
    key: bytes | None = None
    if coding.encrypted:
        whose = KeyOf(name=manifest.name, copy=manifest.copy, token=manifest.token)
        key = keys.load(context.store, context.coding, whose)
    code = FrameCode(
        compression=coding.compression, encrypted=coding.encrypted, frame_size=coding.frame_size
    )
    return FrameCoder(code, token=manifest.token, key=key)


def _coded_spans(fragment: FragmentObject) -> Iterator[PartSpan]:
    start, at = fragment.offset, 0
    sizes = zip(fragment.part_plain, fragment.part_stored, strict=True)
    for index, (size, stored) in enumerate(sizes):
        yield PartSpan(fragment, index, start, size, at, stored)
        start += size
        at += stored


def _ends_fragment(span: PartSpan) -> bool:
    return span.index == len(span.fragment.part_stored) - 1
