"""Files of the spool: written with digests, made safe in steps, read with every piece verified."""

from __future__ import annotations

import contextlib
import errno
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import DigestMismatch, ImageDamaged, NoSpace, PoolError, StoreError
from connector.pool.buffers import part_buffer
from connector.pool.digest import Sha256, crc64, crc64_join
from connector.serve.drafts import Draft
from connector.serve.sinks import Finished

if TYPE_CHECKING:
    from connector.serve.spool import Spool

PIECE = 4 * 1024 * 1024
"""What one checksum of a spooled file covers, and what is received or read at once, in bytes."""
SYNC_EVERY = 256 * 1024 * 1024
"""After so many bytes a file is made safe up to there: what a crash can cost at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolRow:
    """A file as journaled: the first size bytes are safe.

    digest is the state of the SHA-256 there, pieces the CRC64 of each PIECE up to there, the last
    one of what there is of it.
    """

    id: str
    name: str
    copy: int
    path: str
    state: str
    size: int = 0
    sha256: str | None = None
    digest: bytes | None = None
    pieces: bytes = b""


class SpoolSink:
    """Writes one file (``Sink``)."""

    mode = "write"

    def __init__(self, spool: Spool, draft: Draft, row: SpoolRow) -> None:
        """Begin, or go on behind the last byte that is safe."""
        self._spool = spool
        self._draft = draft
        self._row = row
        self._offset = self._safe = row.size
        self._pieces = array("Q")
        self._pieces.frombytes(row.pieces)
        self._broken: PoolError | None = None
        self._fd = _open_to_write(row)
        try:
            if not row.size:
                with _disk(row, 0):
                    _sync_folder(Path(row.path).parent)
            self._sha256 = self._digest_so_far()
            self._buffer = part_buffer(PIECE)
            self._held = spool.reserve(row.id, row.size, durable=row.size) if row.size else 0
        except BaseException:
            self._close()
            raise

    @property
    def id(self) -> str:
        """The file's id."""
        return self._row.id

    @property
    def offset(self) -> int:
        """See Sink."""
        return self._offset

    @property
    def low(self) -> bool:
        """See Sink."""
        return self._spool.low

    def room(self) -> memoryview:
        """See Sink. Reserves before anything is taken; may wait for room."""
        self._check()
        if self._held <= self._offset:
            self._held = self._reserve()
        size = min(PIECE - self._offset % PIECE, self._held - self._offset)
        return memoryview(self._buffer)[:size]

    def _reserve(self) -> int:
        try:
            return self._spool.reserve(self.id, self._offset + 1, durable=self._safe)
        except NoSpace as exc:
            self.checkpoint()  # what was accepted is worth more when it is safe
            raise NoSpace(exc.message, offset=self._safe, hint=exc.hint) from exc

    def advance(self, size: int) -> None:
        """See Sink. Written at once; on the disk for sure with the next checkpoint."""
        self._check()
        with memoryview(self._buffer) as whole, whole[:size] as view:
            self._write(view)
            self._sha256.update(view)
            crc = crc64(view)
        if self._offset % PIECE:
            crc = crc64_join(self._pieces.pop(), crc, size)
        self._pieces.append(crc)
        self._offset += size
        if self._offset - self._safe >= SYNC_EVERY:
            # these bytes are accepted: said to be refused, they would come again and be here twice.
            # What could not be made safe is tried again, and said by the next call
            with contextlib.suppress(NoSpace):
                self.checkpoint()

    def durable(self) -> int:
        """See Sink."""
        return self._safe

    def checkpoint(self) -> None:
        """fsync, then journal."""
        self._check()
        if self._offset == self._safe:
            return
        self._sync()
        row = replace(
            self._row,
            size=self._offset,
            digest=self._sha256.export(),
            pieces=self._pieces.tobytes(),
        )
        self._spool.synced(row)
        self._row, self._safe = row, self._offset

    def finish(self, sha256: str | None) -> Finished:
        """File, folder, journal; then, and only then, it is acknowledged."""
        self._check()
        digest = self._sha256.hexdigest()
        if sha256 not in (None, digest):
            raise DigestMismatch(
                f"image {self._row.name!r}: received {self._offset} bytes with SHA-256 {digest},"
                f" the sender says {sha256}",
                hint="abort it and send it again",
            )
        with _disk(self._row, self._safe):
            os.ftruncate(self._fd, self._offset)  # a write that failed may have left more
        self._sync()
        with _disk(self._row, self._safe):
            _sync_folder(Path(self._row.path).parent)
        row = replace(self._row, size=self._offset, sha256=digest, pieces=self._pieces.tobytes())
        self._spool.ready(row, self._draft)
        self._row, self._safe = row, self._offset
        self._close()
        return Finished(state="spooled", sha256=digest, id=self.id)

    def suspend(self) -> None:
        """See Sink."""
        self.checkpoint()
        self.release()

    def release(self) -> None:
        """See Sink."""
        self._close()
        self._spool.settle_reservation(self.id, self._safe)

    def abort(self) -> None:
        """See Sink."""
        self._close()
        self._spool.dispose(self._row)

    def _write(self, view: memoryview) -> None:
        at, rest = self._offset, view
        with _disk(self._row, self._safe):
            while rest.nbytes:
                written = os.pwrite(self._fd, rest, at)
                at, rest = at + written, rest[written:]

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _sync(self) -> None:
        # an fsync that failed may have dropped what it could not write, and the next one would
        # not say so: then nothing more of this file is acknowledged
        try:
            with _disk(self._row, self._safe):
                os.fsync(self._fd)
        except PoolError as exc:
            self._broken = exc
            raise

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _digest_so_far(self) -> Sha256:
        """The digest's state at the safe offset; read again where it could not be saved."""
        if not self._row.size:
            return Sha256()
        restored = Sha256.restore(self._row.digest)
        if restored is not None:
            return restored
        digest = Sha256()
        source = SpoolSource(self._row)
        with contextlib.closing(source):
            for view in source.stream(0, None):
                digest.update(view)
        return digest


class SpoolSource:
    """Reads one file (``ByteSource``), verified piece by piece."""

    step = PIECE

    def __init__(self, row: SpoolRow) -> None:
        """Open it.

        Raises:
            ImageDamaged: the file is not there.
        """
        self._row = row
        self._pieces = array("Q")
        self._pieces.frombytes(row.pieces)
        try:
            self._fd = os.open(row.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise ImageDamaged(
                f"image {row.name!r}: {row.path}: {exc.strerror}", hint="look at the spool's disk"
            ) from exc
        self._last: tuple[int, memoryview] | None = None

    @property
    def size(self) -> int:
        """See ByteSource."""
        return self._row.size

    def fileno(self) -> int:
        """The open file, for the uploader."""
        return self._fd

    def stream(self, offset: int, size: int | None) -> Iterator[memoryview]:
        """See ByteSource."""
        end = self.size if size is None else min(self.size, offset + size)
        while offset < end:
            number = offset // PIECE
            piece = self._piece(number)
            low = offset - number * PIECE
            high = min(end - number * PIECE, piece.nbytes)
            yield piece[low:high]
            offset += high - low

    def read(self, offset: int, size: int) -> bytes:
        """See ByteSource."""
        return b"".join(bytes(view) for view in self.stream(offset, size))

    def problems(self) -> tuple[str, ...]:
        """Read everything; what is wrong."""
        digest = Sha256()
        try:
            for view in self.stream(0, None):
                digest.update(view)
        except PoolError as exc:
            return (exc.message,)
        if self._row.sha256 is not None and digest.hexdigest() != self._row.sha256:
            return (f"{self._row.path} hashes to {digest.hexdigest()}, not {self._row.sha256}",)
        return ()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _piece(self, number: int) -> memoryview:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        size = min(PIECE, self.size - number * PIECE)
        view = memoryview(part_buffer(size))
        at, rest = number * PIECE, view
        while rest.nbytes:
            got = os.preadv(self._fd, [rest], at)
            if got == 0:
                raise ImageDamaged(
                    f"image {self._row.name!r}: {self._row.path} ends at {at}, it had"
                    f" {self.size} bytes",
                    hint="look at the spool's disk",
                )
            at, rest = at + got, rest[got:]
        if crc64(view) != self._pieces[number]:
            raise ImageDamaged(
                f"image {self._row.name!r}: {self._row.path} from byte {number * PIECE} on does"
                " not match its checksum",
                hint="look at the spool's disk, and back this image up again",
            )
        self._last = (number, view)
        return view


def _open_to_write(row: SpoolRow) -> int:
    """The file, cut behind its last safe byte."""
    with _disk(row, row.size):
        fd = os.open(row.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size < row.size:
                raise ImageDamaged(
                    f"image {row.name!r}: {row.path} has lost bytes that were safe",
                    hint="look at the spool's disk; discard the image and send it again",
                )
            os.ftruncate(fd, row.size)
        except BaseException:
            os.close(fd)
            raise
        return fd


@contextlib.contextmanager
def _disk(row: SpoolRow, durable: int) -> Iterator[None]:
    """Errors of the disk in our words: full is NoSpace, anything else is io."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"image {row.name!r}: the disk under {row.path} is full",
                offset=durable,
                hint="make room on the spool's disk, or lower spool.limit below what it has",
            ) from exc
        raise StoreError(
            f"image {row.name!r}: {row.path}: {exc.strerror}", hint="check the spool's disk"
        ) from exc


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
