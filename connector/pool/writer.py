"""The write path: a stream becomes fragments in the store, then a manifest.

The caller's thread fills a part buffer and feeds the digests in order; a few threads compute each
part's CRC and send it. A part goes to the store from the buffer it was received into. The caller
waits when ``parts_in_flight`` parts are on their way: that is all the backpressure there is.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from mmap import mmap
from typing import Any, TypeVar

from catalog.errors import ImageDamaged, PoolError, TransientStoreError
from connector.pool import names
from connector.pool.attempts import ObjectState, PartRow, WriteRequest
from connector.pool.coding import CIPHER, Compression
from connector.pool.config import MAX_PARTS
from connector.pool.context import WRITER, PoolContext
from connector.pool.digest import Buffer, Sha256, crc64, crc64_join
from connector.pool.manifest import CodedAs, FragmentObject, Manifest, Origin, Retention
from connector.pool.skip import SafePart, Skipper
from connector.store.interface import ObjectStore, Part, PutOptions, StoredObject, Upload

Commit = Callable[[Manifest], Manifest]
T = TypeVar("T")

START_ATTEMPTS = 3


@dataclass(kw_only=True)
class OpenObject:
    """The fragment that is being written. offset is where in the image it begins, in bytes."""

    number: int
    offset: int
    sha256: Sha256 | None  # None: the first fragment's digest is the image's
    upload: Upload | None = None
    size: int = 0
    sent: list[Future[PartRow]] = field(default_factory=list)
    held: dict[int, Part] = field(default_factory=dict)  # parts S3 has from before a crash

    def safe(self) -> list[tuple[int, int]]:
        """Sizes and checksums of the image's bytes in each part that is safe."""
        rows = [part.result() for part in self.sent]
        return [(row.size, row.crc64nvme) for row in rows]


class ImageWriter:
    """Writes one copy of an image; made by ``Pool.create`` or ``Pool.resume``.

    Not for several threads at once. After an error every further call but ``abort`` raises it
    again; the attempt stays in the journal and can be resumed.
    """

    def __init__(
        self,
        context: PoolContext,
        request: WriteRequest,
        commit: Commit,
        *,
        name: str,
        copy: int,
        token: str,
        done: Sequence[FragmentObject] = (),
        image_sha256: Sha256 | None = None,
        current: OpenObject | None = None,
    ) -> None:
        self.name = name
        self.copy = copy
        self.token = token
        self._context = context
        self._request = request
        self._commit = commit
        self._done = list(done)
        self._sha256 = image_sha256 or Sha256()
        self._current = current
        self._buffer: mmap | None = None
        self._fill = 0
        self._room = threading.Semaphore(context.config.parts_in_flight)
        self._failure: PoolError | None = None

    @property
    def offset(self) -> int:
        """Bytes of the image that were accepted so far: where the next byte belongs."""
        end = sum(part.size for part in self._done)
        return end + (self._current.size if self._current else 0) + self._fill

    def buffer(self) -> memoryview:
        """Free room of the part being filled, to be received into; then ``advance``."""
        self._check()
        if self._buffer is None:
            self._buffer = self._context.arena.take(self._request.part_size)
        return memoryview(self._buffer)[self._fill : self._part_limit()]

    def advance(self, size: int) -> None:
        """Accept size bytes that the caller has put at the start of ``buffer()``."""
        self._fill += size
        if self._fill == self._part_limit():
            current = self._object()
            if current.size + self._fill == self._request.fragment_size:
                self._end_object()
            else:
                self._send_part()

    def write(self, data: Buffer) -> None:
        """Accept bytes. Accepted is not yet durable; see ``cut`` and ``close``."""
        rest = memoryview(data)
        while rest.nbytes:
            room = self.buffer()
            size = min(rest.nbytes, room.nbytes)
            room[:size] = rest[:size]
            room.release()
            self.advance(size)
            rest = rest[size:]

    def cut(self) -> None:
        """End the current fragment here: everything accepted so far survives a crash."""
        self._check()
        if self._fill or (self._current and self._current.size):
            self._end_object()

    def durable(self) -> int:
        """Wait for the parts on their way; the offset below which a crash loses nothing, in bytes.

        What was accepted but does not fill a part yet is not counted; ``cut`` makes it safe. The
        receipts are forced to disk. 0 where this machine cannot take up a digest: there a crash
        begins the image anew. Ends within the store's deadline for each part on its way.
        """
        self._check()
        current = self._current
        rows = self._guard(lambda: [part.result() for part in current.sent]) if current else []
        if self._sha256.export() is None:
            return 0
        if current is None or not rows:
            return sum(part.size for part in self._done)
        self._context.attempts.part_confirmed(self.token, current.number, rows[-1], durable=True)
        return current.offset + sum(row.size for row in rows)

    def skipper(self, start: int) -> Skipper:
        """For a source that begins again at start: passes over what is safe, and compares it.

        It ends where this writer stands when it is asked for; ask before anything is written.
        """
        end = self.offset
        parts = self._safe_parts() if start < end else []
        return Skipper(self.name, parts, start=start, end=end)

    def _safe_parts(self) -> list[SafePart]:
        """What is safe from before, in order, with the checksums that the journal has of it."""
        found: list[SafePart] = []
        for fragment in self._done:
            at = fragment.offset
            for size, crc in self._done_parts(fragment):
                found.append(SafePart(at, size, crc))
                at += size
        if self._current is not None:
            at = self._current.offset
            for size, crc in self._current.safe():
                found.append(SafePart(at, size, crc))
                at += size
        return found

    def _done_parts(self, fragment: FragmentObject) -> Iterator[tuple[int, int]]:
        left = fragment.size
        for crc in fragment.part_crc64nvme:
            size = min(left, fragment.part_size)
            left -= size
            yield size, crc

    def suspend(self) -> None:
        """``cut`` and let go; ``Pool.resume`` goes on, in this process or a later one."""
        self.cut()
        self._drop_buffer()
        self._failure = PoolError(f"image {self.name!r} was suspended", hint="resume it")

    def close(
        self,
        *,
        origin: Origin,
        retention: Retention,
        size: int | None = None,
        sha256: str | None = None,
        blocks: tuple[tuple[int, int], ...] = (),
        gaps: tuple[tuple[int, int], ...] = (),
    ) -> Manifest:
        """Commit the image: when this returns it is complete, readable and journaled as such.

        size and sha256, when given, are the sender's: ImageDamaged when ours disagree.

        Raises:
            ImageExists: another writer committed this image and copy; ours was cleaned away.
        """
        self._check()
        if self._fill or (self._current and self._current.size) or not self._done:
            self._end_object()
        self._drop_buffer()
        digest = self._sha256.hexdigest()
        if (size is not None and size != self.offset) or sha256 not in (None, digest):
            raise self._fail(
                ImageDamaged(
                    f"image {self.name!r}: received {self.offset} bytes with SHA-256 {digest},"
                    f" the sender says {size} bytes and {sha256}",
                    hint="abort it and send it again",
                )
            )
        coding = self._coded_as()
        manifest = Manifest(
            name=self.name,
            copy=self.copy,
            token=self.token,
            created_at=self._context.clock(),
            writer=WRITER,
            size=self.offset,
            sha256=digest,
            fragments=tuple(self._done),
            origin=origin,
            retention=retention,
            blocks=blocks,
            gaps=gaps,
            encryption=encryption_text(self._context.encryption, coding),
            compression=coding.compression if coding else Compression.NONE,
            coding=coding,
        )
        committed = self._commit(manifest)
        self._failure = PoolError(f"image {self.name!r} is closed")
        return committed

    def release(self) -> None:
        """Let go of memory and threads after an error, leaving the attempt to be resumed.

        What is on its way ends first; what waits for a thread is not sent any more.
        """
        self._failure = self._failure or PoolError(f"image {self.name!r} was released")
        for future in self._on_their_way():
            with suppress(CancelledError):  # the pool was closed
                future.exception()
        self._drop_buffer()

    def _on_their_way(self) -> Sequence[Future[Any]]:
        return self._current.sent if self._current else ()

    def _coded_as(self) -> CodedAs | None:
        return None

    # --- one part ------------------------------------------------------------------------

    def _part_limit(self) -> int:
        current = self._object()
        return min(self._request.part_size, self._request.fragment_size - current.size)

    def _send_part(self) -> None:
        """Seal the full buffer as a part of the current object and hand it to a thread."""
        current = self._object()
        if current.upload is None:
            current.upload = self._start_upload(current)
        buffer, size = self._seal()
        number = len(current.sent) + 1
        if number > MAX_PARTS:
            raise self._fail(PoolError(f"fragment {current.number + 1} has too many parts"))
        row = PartRow(
            number=number,
            size=size,
            etag="",
            crc64nvme=0,
            image_state=self._sha256.export(),
            object_state=current.sha256.export() if current.sha256 else None,
        )
        self._room.acquire()  # ends: each part on its way has the store's deadline
        try:
            self._check()
        except PoolError:
            self._room.release()
            self._context.arena.give_back(buffer)
            raise
        current.sent.append(self._context.threads.submit(self._upload_part, current, buffer, row))

    def _upload_part(self, current: OpenObject, buffer: mmap, row: PartRow) -> PartRow:
        """In a thread: CRC, send, receipt."""
        try:
            self._check()
            return self._confirm_part(current, memoryview(buffer)[: row.size], row)
        except PoolError as exc:
            self._failure = self._failure or exc
            raise
        finally:
            self._context.arena.give_back(buffer)
            self._room.release()

    def _confirm_part(self, current: OpenObject, view: memoryview, row: PartRow) -> PartRow:
        """Send a part, unless the store has it from before, and journal its receipt."""
        assert current.upload is not None
        row = replace(row, crc64nvme=crc64(view))
        part = current.held.get(row.number)
        if part is None or not _same_part(part, row, view):
            part = self._context.store.put_part(
                current.upload, row.number, view, crc64nvme=row.crc64nvme
            )
        row = replace(row, etag=part.etag)
        self._context.attempts.part_confirmed(self.token, current.number, row)
        return row

    def _seal(self) -> tuple[mmap, int]:
        """Take the filled buffer away and feed the digests."""
        assert self._buffer is not None
        buffer, size = self._buffer, self._fill
        view = memoryview(buffer)[:size]
        current = self._object()
        self._sha256.update(view)
        if current.sha256 is not None:
            current.sha256.update(view)
        current.size += size
        self._buffer, self._fill = None, 0
        return buffer, size

    # --- one object ----------------------------------------------------------------------

    def _object(self) -> OpenObject:
        if self._current is None:
            self._current = self._new_object(len(self._done), sum(part.size for part in self._done))
        return self._current

    def _new_object(self, number: int, offset: int) -> OpenObject:
        return OpenObject(number=number, offset=offset, sha256=Sha256() if number else None)

    def _start_upload(self, current: OpenObject) -> Upload:
        """Journal the intent, start, journal the receipt."""
        self._journal_start(current)
        upload = self._guard(
            lambda: start_upload(self._context.store, self._key(current), self._options())
        )
        self._context.attempts.upload_started(self.token, current.number, upload.upload_id)
        return upload

    def _journal_start(self, current: OpenObject) -> None:
        # the digest's state at the object's start: nothing of it was sealed yet
        state = self._sha256.export()
        self._context.attempts.object_starting(
            self.token, current.number, offset=current.offset, start_state=state
        )

    def _end_object(self) -> None:
        """Make the current object visible and journal it as done."""
        current = self._object()
        if current.upload is None:
            record = self._put_object(current)
        else:
            record = self._complete_object(current)
        self._context.attempts.object_done(self.token, record)
        self._done.append(record)
        self._current = None

    def _put_object(self, current: OpenObject) -> FragmentObject:
        """An object of at most one part goes in one request."""
        if self._buffer is None:
            self._buffer = self._context.arena.take(self._request.part_size)
        self._journal_start(current)
        buffer, size = self._seal()
        view = memoryview(buffer)[:size]
        try:
            crc = crc64(view)
            record = self._record(current, crc, (crc,) if size else ())
            self._context.attempts.object_ending(
                self.token, record, ObjectState.PUTTING, self._sha256.export()
            )
            stored = self._guard(lambda: self._context.store.put(record.key, view, self._options()))
        finally:
            view.release()
            self._context.arena.give_back(buffer)
        return confirmed(record, stored)

    def _complete_object(self, current: OpenObject) -> FragmentObject:
        if self._fill:
            self._send_part()
        rows = self._guard(lambda: [sent.result() for sent in current.sent])
        record = self._record(current, join_crcs(rows), tuple(row.crc64nvme for row in rows))
        return self._complete(current, record, rows)

    def _complete(
        self, current: OpenObject, record: FragmentObject, rows: Sequence[PartRow]
    ) -> FragmentObject:
        upload = current.upload
        assert upload is not None
        self._context.attempts.object_ending(
            self.token, record, ObjectState.COMPLETING, self._sha256.export()
        )
        stored = self._guard(
            lambda: self._context.store.complete_upload(
                upload, as_parts(rows), crc64nvme=record.crc64nvme
            )
        )
        return confirmed(record, stored)

    def _record(self, current: OpenObject, crc: int, parts: tuple[int, ...]) -> FragmentObject:
        digest = current.sha256 or self._sha256
        return FragmentObject(
            number=current.number + 1,
            key=self._key(current),
            version_id=None,
            offset=current.offset,
            size=current.size,
            sha256=digest.hexdigest(),
            crc64nvme=crc,
            store_checksum=self._context.capabilities.part_checksum,
            etag="",
            storage_class=self._request.storage_class,
            part_size=self._request.part_size,
            part_crc64nvme=parts,
        )

    def _key(self, current: OpenObject) -> str:
        return names.fragment_key(self.name, self.copy, self.token, current.number)

    def _options(self) -> PutOptions:
        return PutOptions(storage_class=self._request.storage_class, tags=self._request.tags)

    # --- failure -------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _guard(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except PoolError as exc:
            raise self._fail(exc) from exc.__cause__

    def _fail(self, error: PoolError) -> PoolError:
        self._failure = self._failure or error
        return self._failure

    def _drop_buffer(self) -> None:
        if self._buffer is not None:
            self._context.arena.give_back(self._buffer)
            self._buffer, self._fill = None, 0


def start_upload(store: ObjectStore, key: str, options: PutOptions) -> Upload:
    """Start an upload under a key that no other writer uses.

    Where the answer was lost an upload may be there all the same; it is removed before another
    is started.
    """
    for _ in range(START_ATTEMPTS - 1):
        try:
            return store.start_upload(key, options)
        except TransientStoreError:
            for unknown in list(store.uploads(key)):
                store.abort_upload(unknown)
    return store.start_upload(key, options)


def join_crcs(rows: Sequence[PartRow]) -> int:
    """The CRC64NVME of an object from those of its parts."""
    if not rows:
        return crc64(b"")
    pairs = ((row.crc64nvme, row.size) for row in rows)
    return reduce(lambda a, b: (crc64_join(a[0], b[0], b[1]), 0), pairs)[0]


def as_parts(rows: Sequence[PartRow]) -> list[Part]:
    """Receipts as the store wants them at completion."""
    return [
        Part(number=row.number, size=row.size, etag=row.etag, crc64nvme=row.crc64nvme)
        for row in rows
    ]


def confirmed(record: FragmentObject, stored: StoredObject) -> FragmentObject:
    """The record with what the store says of the object that is there now."""
    return replace(record, version_id=stored.version_id, etag=stored.etag)


def encryption_text(by_store: str, coding: CodedAs | None) -> str:
    """What a manifest calls an image's encryption: ours, and what the store does besides."""
    if coding is None or not coding.encrypted:
        return by_store
    return CIPHER if by_store == "none" else f"{CIPHER}, {by_store}"


def _same_part(held: Part, row: PartRow, view: memoryview) -> bool:
    """Whether a part that S3 has from before is this one; where no CRC is listed, by its MD5."""
    if held.size != row.size:
        return False
    if held.crc64nvme is not None:
        return held.crc64nvme == row.crc64nvme
    return held.etag == hashlib.md5(view, usedforsecurity=False).hexdigest()
