"""Writing coded images: in the part threads plain bytes become frames, and frames parts, in order.

The caller's thread does what it always does: it receives, and digests the plain bytes. It hands a
*unit*, as many whole chunks as a part has room for, to a thread, which codes them and then waits
for its turn to append them to the fragment's stored stream. Whoever makes a part full sends it.

Parts are cut at the ends of frames, so a resume goes on behind a part with whole chunks.
Memory is ``(parts_in_flight + 1) * part_size`` plain, as ever, and ``parts_in_flight + 2`` coded
buffers of about the same size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from mmap import mmap
from typing import Any

from catalog.errors import PoolError
from connector.pool.attempts import ObjectState, PartRow
from connector.pool.config import MAX_PARTS
from connector.pool.context import Arena
from connector.pool.digest import Sha256, crc64, crc64_join
from connector.pool.frames import FrameCoder, layout
from connector.pool.keys import KeyOf
from connector.pool.manifest import CodedAs, FragmentObject
from connector.pool.writer import (
    ImageWriter,
    OpenObject,
    confirmed,
    join_crcs,
    start_upload,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A chunk's end in the image: the digest's state there, and what its nonce is made from."""

    state: bytes | None
    witness: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Plain bytes on their way to a thread. number counts the fragment's units from 0."""

    number: int
    buffer: mmap
    size: int
    first_frame: int
    last: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A coded chunk. end: where it ends in its unit's buffer; plain: bytes of the chunk."""

    end: int
    plain: int
    crc64nvme: int
    image_state: bytes | None
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part as it is stored. The row lacks what only sending it tells."""

    buffer: mmap
    row: PartRow


class StoredStream:
    """The stored bytes of one fragment: frames in their order, cut into parts.

    least: how many bytes make a part full; the frame that reaches it ends the part. A fragment's
    last frame never does: what holds it is sent when the fragment ends. parts: how many are safe
    from before a crash; sha256: of their bytes.
    """

    def __init__(
        self, arena: Arena, *, least: int, capacity: int, sha256: Sha256, parts: int = 0
    ) -> None:
        self.sha256 = sha256
        self._arena = arena
        self._least = least
        self._capacity = capacity
        self._parts = parts
        self._order = threading.Condition()
        self._next = 0
        self._failed = False
        self._held: mmap | None = None  # the part that is being filled
        self._fill = self._plain = self._plain_crc = 0
        self._state: bytes | None = None
        self._last = False

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Wait for the units before this one; they are in threads already, so this ends."""
        with self._order:
            self._order.wait_for(lambda: self._failed or self._next == number)
            if self._failed:
                raise PoolError("a part before this one failed")
        yield
        with self._order:
            self._next += 1
            self._order.notify_all()

    def fail(self) -> None:
        """Let nobody wait for a turn that does not come."""
        with self._order:
            self._failed = True
            self._order.notify_all()

    def append(self, unit: mmap, frames: Sequence[Frame]) -> StoredPart | None:
        """Add a unit's frames, in turn; takes the buffer over. Gives the part that became full.

        A unit never codes to more than ``least``, so it fills one part at most. Where no part is
        begun, the unit's buffer becomes it, and nothing is copied.
        """
        full: StoredPart | None = None
        adopted, start = False, 0
        for frame in frames:
            if self._held is None:
                adopted = start == 0
                self._held = unit if adopted else self._arena.take(self._capacity)
            with memoryview(unit)[start : frame.end] as piece:
                if self._held is not unit:
                    with memoryview(self._held) as room:
                        room[self._fill : self._fill + piece.nbytes] = piece
                self._add(frame, piece)
            start = frame.end
            if self._fill >= self._least and not frame.last:
                full = self._end_part()
        if not adopted and (full is None or full.buffer is not unit):
            self._arena.give_back(unit)
        return full

    def rest(self) -> StoredPart | None:
        """What is left when the fragment ends."""
        return self._end_part() if self._held is not None else None

    def release(self) -> None:
        """Give the buffer back; nothing more is appended."""
        if self._held is not None:
            self._arena.give_back(self._held)
            self._held = None

    def _add(self, frame: Frame, piece: memoryview) -> None:
        self.sha256.update(piece)
        self._fill += piece.nbytes
        self._plain += frame.plain
        self._plain_crc = crc64_join(self._plain_crc, frame.crc64nvme, frame.plain)
        self._state, self._last = frame.image_state, frame.last

    def _end_part(self) -> StoredPart:
        assert self._held is not None
        self._parts += 1
        row = PartRow(
            number=self._parts,
            size=self._fill,
            etag="",
            crc64nvme=0,
            image_state=self._state,
            object_state=self.sha256.export(),
            plain=self._plain,
            plain_crc64nvme=self._plain_crc,
            last=self._last,
        )
        part = StoredPart(buffer=self._held, row=row)
        self._held = None
        self._fill = self._plain = self._plain_crc = 0
        return part


@dataclass(kw_only=True)
class CodedObject(OpenObject):
    """A coded fragment that is being written. size is plain bytes; rows are of its safe parts.

    ended: its last frame was sent before a crash; nothing may follow.
    """

    stream: StoredStream
    rows: dict[int, PartRow] = field(default_factory=dict)
    coding: list[Future[None]] = field(default_factory=list)
    begun: bool = False
    ended: bool = False

    def safe(self) -> list[tuple[int, int]]:
        """See ``OpenObject.safe``."""
        rows = [self.rows[number] for number in sorted(self.rows)]
        return [(row.plain or 0, row.plain_crc64nvme) for row in rows]


class CodedWriter(ImageWriter):
    """An ``ImageWriter`` whose fragments hold frames."""

    def __init__(self, *args: Any, coder: FrameCoder, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._coder = coder
        self._layout = layout(coder.code, self._request.part_size)

    def durable(self) -> int:
        """See ``ImageWriter.durable``; what was coded but fills no part is not counted."""
        self._check()
        current = self._coded() if self._current else None
        if current is not None:
            self._wait(current)
        if self._sha256.export() is None:
            return 0
        if current is None or not current.rows:
            return sum(part.size for part in self._done)
        last = current.rows[len(current.rows)]
        self._context.attempts.part_confirmed(self.token, current.number, last, durable=True)
        return current.offset + sum(row.plain or 0 for row in current.rows.values())

    def release(self) -> None:
        """See ``ImageWriter.release``."""
        super().release()
        if self._current:
            self._coded().stream.release()

    def _on_their_way(self) -> Sequence[Future[Any]]:
        return self._coded().coding if self._current else ()

    def _coded_as(self) -> CodedAs:
        code = self._coder.code
        whose = KeyOf(name=self.name, copy=self.copy, token=self.token)
        return CodedAs(
            compression=code.compression,
            frame_size=code.frame_size,
            key=whose.object if code.encrypted else None,
        )

    def _part_limit(self) -> int:
        return min(self._layout.unit, self._request.fragment_size - self._object().size)

    def _coded(self) -> CodedObject:
        current = self._object()
        assert isinstance(current, CodedObject)
        return current

    def _done_parts(self, fragment: FragmentObject) -> Iterator[tuple[int, int]]:
        yield from self._context.attempts.coded_parts(self.token, fragment.number - 1)

    def _new_object(self, number: int, offset: int) -> CodedObject:
        stream = new_stream(self._context.coded_arena, self._coder, self._request.part_size)
        return CodedObject(number=number, offset=offset, sha256=stream.sha256, stream=stream)

    # --- units ---------------------------------------------------------------------------

    def _send_part(self) -> None:
        self._send_unit(last=False)

    def _send_unit(self, *, last: bool) -> None:
        """Seal the buffer as a unit of the current object and hand it to a thread."""
        current = self._coded()
        if not current.begun:
            self._journal_start(current)
            current.begun = True
        unit = self._seal_unit(current, last=last)
        self._room.acquire()  # ends: each unit on its way has the store's deadline
        try:
            self._check()
        except PoolError:
            self._room.release()
            self._context.arena.give_back(unit.buffer)
            raise
        current.coding.append(self._context.threads.submit(self._code_unit, current, unit))

    def _seal_unit(self, current: CodedObject, *, last: bool) -> Unit:
        """Take the buffer away and feed the image's digest, chunk by chunk."""
        if self._buffer is None:
            self._buffer = self._context.arena.take(self._request.part_size)
        buffer, size, step = self._buffer, self._fill, self._coder.code.frame_size
        marks: list[Mark] = []
        with memoryview(buffer) as whole:
            for at in range(0, max(size, 1), step):
                self._sha256.update(whole[at : min(at + step, size)])
                witness = self._sha256.hexdigest() if self._coder.wants_witness else ""
                marks.append(Mark(self._sha256.export(), bytes.fromhex(witness)))
        first = current.size // step
        current.size += size
        self._buffer, self._fill = None, 0
        return Unit(
            number=len(current.coding),
            buffer=buffer,
            size=size,
            first_frame=first,
            last=last,
            marks=tuple(marks),
        )

    def _code_unit(self, current: CodedObject, unit: Unit) -> None:
        """In a thread: code, append in turn, send the part that became full."""
        coded: mmap | None = None
        try:
            try:
                self._check()
                coded = self._context.coded_arena.take(self._layout.capacity)
                frames = self._frames(current, unit, coded)
            finally:
                self._context.arena.give_back(unit.buffer)
            with current.stream.turn(unit.number):
                taken, coded = coded, None
                part = current.stream.append(taken, frames)
                if part is not None:
                    coded = part.buffer
                    self._ensure_upload(current)
            if part is not None:
                self._send_stored(current, part)
        except BaseException as exc:  # whatever it is, nobody may wait for this unit's turn
            failure = exc if isinstance(exc, PoolError) else PoolError(f"coding failed: {exc!r}")
            self._fail(failure)
            current.stream.fail()
            raise
        finally:
            if coded is not None:
                self._context.coded_arena.give_back(coded)
            self._room.release()

    def _frames(self, current: CodedObject, unit: Unit, out: mmap) -> list[Frame]:
        step, end, frames = self._coder.code.frame_size, 0, list[Frame]()
        with memoryview(unit.buffer) as plain, memoryview(out) as room:
            for index, mark in enumerate(unit.marks):
                last = unit.last and index == len(unit.marks) - 1
                with plain[index * step : min((index + 1) * step, unit.size)] as chunk:
                    end += self._coder.seal_into(
                        chunk,
                        room[end:],
                        fragment=current.number + 1,
                        frame=unit.first_frame + index,
                        last=last,
                        witness=mark.witness,
                    )
                    crc, size = crc64(chunk), chunk.nbytes
                frames.append(
                    Frame(end=end, plain=size, crc64nvme=crc, image_state=mark.state, last=last)
                )
        return frames

    # --- parts and objects ---------------------------------------------------------------

    def _ensure_upload(self, current: CodedObject) -> None:
        """In turn: the first part that is full starts the upload, whose intent is journaled."""
        if current.upload is None:
            key, store = self._key(current), self._context.store
            upload = start_upload(store, key, self._options())
            self._context.attempts.upload_started(self.token, current.number, upload.upload_id)
            current.upload = upload

    def _send_stored(self, current: CodedObject, part: StoredPart) -> None:
        if part.row.number > MAX_PARTS:
            raise PoolError(f"fragment {current.number + 1} has too many parts")
        with memoryview(part.buffer) as whole:
            row = self._confirm_part(current, whole[: part.row.size], part.row)
        current.rows[row.number] = row

    def _wait(self, current: CodedObject) -> None:
        self._guard(lambda: [unit.result() for unit in current.coding])

    def _end_object(self) -> None:
        current = self._coded()
        if not current.ended and (self._fill or self._coder.code.encrypted or not current.size):
            self._send_unit(last=True)
        self._wait(current)
        part = current.stream.rest()
        try:
            if current.upload is None:
                assert part is not None
                record = self._put_stored(current, part)
            else:
                if part is not None:
                    self._guard(lambda: self._send_stored(current, part))
                record = self._complete_stored(current)
        finally:
            if part is not None:
                self._context.coded_arena.give_back(part.buffer)
        self._context.attempts.object_done(self.token, record)
        self._done.append(record)
        self._current = None

    def _put_stored(self, current: CodedObject, part: StoredPart) -> FragmentObject:
        """An object of at most one part goes in one request."""
        with memoryview(part.buffer) as whole, whole[: part.row.size] as view:
            row = replace(part.row, crc64nvme=crc64(view))
            record = self._stored_record(current, [row])
            self._context.attempts.object_ending(
                self.token, record, ObjectState.PUTTING, self._sha256.export(), coded=row
            )
            stored = self._guard(lambda: self._context.store.put(record.key, view, self._options()))
        return confirmed(record, stored)

    def _complete_stored(self, current: CodedObject) -> FragmentObject:
        rows = [current.rows[number] for number in sorted(current.rows)]
        record = self._stored_record(current, rows)
        return self._complete(current, record, rows)

    def _stored_record(self, current: CodedObject, rows: Sequence[PartRow]) -> FragmentObject:
        record = self._record(current, join_crcs(rows), tuple(row.crc64nvme for row in rows))
        return replace(
            record,
            part_plain=tuple(row.plain or 0 for row in rows),
            part_stored=tuple(row.size for row in rows),
        )


def new_stream(
    arena: Arena, coder: FrameCoder, part_size: int, *, sha256: Sha256 | None = None, parts: int = 0
) -> StoredStream:
    """The stored stream of a fragment; with sha256 and parts, of one that was begun before."""
    made = layout(coder.code, part_size)
    return StoredStream(
        arena, least=made.least, capacity=made.capacity, sha256=sha256 or Sha256(), parts=parts
    )
