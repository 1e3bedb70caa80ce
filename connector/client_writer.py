"""An image that a client writes: bytes or a descriptor in, one answer at the end.

WRITE frames are sent one after the other without waiting; a failure that the daemon tells of in
between is raised by the next call here, whichever it is, and by every one after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeVar

from catalog.errors import ImageDamaged, PoolError
from connector.client_channel import Channel
from connector.client_errors import ConnectionLost, failure_in
from connector.wire.frames import MAX_DATA
from connector.wire.messages import (
    Abort,
    Close,
    Closed,
    Done,
    Durable,
    Flush,
    Name,
    Received,
    Settle,
    WriteFrom,
)

SMALL = 256 << 10
"""Writes below this many bytes are gathered; larger ones are sent from where they lie."""
ASK_EVERY = 64 << 20
"""How many bytes are sent between two WRITEs that the daemon answers (``low_space``)."""

Bytes = bytes | bytearray | memoryview
T = TypeVar("T")


class Digest(Protocol):
    """What hashlib gives: the SHA-256 of the bytes so far."""

    def update(self, data: memoryview, /) -> None:
        """Go on with more bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest so far, in hex."""
        ...


class Writer:
    """An image open for writing. Not for several threads at once.

    As a context manager: leaving it normally closes the image complete, unless it was closed;
    leaving it with an exception aborts it, so that nothing of it stays. When the connection was
    lost there is nothing to abort through: the image is then incomplete, and can be resumed.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        pool: str,
        image: Name,
        copy: int,
        token: str,
        handle: int,
        offset: int,
        digest: Digest | None,
        settle: Callable[[Settle], Closed],
        longest: int = MAX_DATA,
    ) -> None:
        self.pool = pool
        self.image = image
        self.copy = copy
        self.token = token
        self.offset = offset
        """Where the next byte belongs: all before it were given to this writer, or were there."""
        self.durable = offset
        """Every byte below this is known to survive a crash of the daemon."""
        self.closed: Closed | None = None
        """How the image was closed; None while it is open."""
        self._channel = channel
        self._handle = handle
        self._digest = digest
        self._settle = settle
        self._longest = min(longest, MAX_DATA)
        self._held = bytearray()
        self._quiet_bytes = 0
        self._over: PoolError | None = None
        channel.trouble.pop(handle, None)
        channel.low_space.discard(handle)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.closed is not None or self._over is not None:
            return
        if exc is None:
            self.close()
        elif self._channel.broken is None:
            try:
                self.abort()
            except PoolError as failed:
                exc.add_note(f"the image could not be aborted: {failed}")

    @property
    def low_space(self) -> bool:
        """Whether the daemon warned that space runs out."""
        return self._handle in self._channel.low_space

    def write(self, data: Bytes) -> int:
        """Send bytes; gives how many, always all. They are not durable before ``flush`` or close.

        Raises:
            ConnectionLost: ``resume`` with this ``token`` says where to go on.
            PoolError: what an earlier write failed with.
        """
        view = memoryview(data).cast("B")
        self._usable()
        if len(view) < SMALL:
            self._held += view
            if len(self._held) >= SMALL:
                self._push()
            return len(view)
        self._push()
        for start in range(0, len(view), self._longest):
            self._send(view[start : start + self._longest])
        return len(view)

    def write_from(self, descriptor: int, length: int | None = None) -> Received:
        """Let the daemon read a pipe or a file itself, to its end or length bytes.

        The bytes do not pass through this process, so it sends no digest of them at close.

        Raises:
            Unsupported: over TCP.
            PoolError: as ``write``; ``offset`` is then how far it came, and another descriptor or
                ``write`` may go on there, unless the image itself has failed.
        """
        self._usable()
        self._push()
        begin = self.offset
        call = WriteFrom(handle=self._handle, offset=self.offset, length=length)
        try:
            received = self._ask(lambda: self._channel.call(call, Received, descriptor=descriptor))
        except PoolError as exc:
            failure = failure_in(exc)
            if failure is not None and failure.offset is not None:
                self.offset = failure.offset
            raise
        else:
            self.offset = received.offset
            return received
        finally:
            if self.offset != begin:
                self._digest = None

    def flush(self, *, checkpoint: bool = False) -> Durable:
        """Wait for what is on its way. With checkpoint everything written becomes durable."""
        self._usable()
        self._push()
        call = Flush(handle=self._handle, checkpoint=checkpoint)
        durable = self._ask(lambda: self._channel.call(call, Durable))
        self.durable = durable.durable
        return durable

    def close(self) -> Closed:
        """Close the image complete: the answer says that all of it is safe. Can be repeated.

        When the answer is lost, another connection asks for it, a bounded number of times.

        Raises:
            ConnectionLost: whether it is complete is not known, or it is incomplete and can be
                resumed at ``offset``; the message says which.
            PoolError: why it is not complete.
        """
        if self.closed is not None:
            return self.closed
        self._usable()
        self._push()
        sha256 = None if self._digest is None else self._digest.hexdigest()
        call = Close(handle=self._handle, size=self.offset, sha256=sha256)
        try:
            closed = self._ask(lambda: self._channel.call(call, Closed))
        except PoolError:
            if self._channel.broken is None:
                raise
            closed = self._lost_answer(sha256)
        if closed.sha256 is not None and sha256 not in (None, closed.sha256):
            raise ImageDamaged(
                f"the daemon stored SHA-256 {closed.sha256} where {sha256} was sent",
                hint="keep the original, and verify the image",
            )
        self.closed = closed
        return closed

    def checkpoint(self) -> Closed:
        """Close the image incomplete: ``resume`` with the same token goes on at its ``offset``.

        Allowed after a failed write too, for instance when the pool has no space left.
        """
        if self._over is None and self._channel.trouble.get(self._handle) is None:
            self._push()
        call = Close(handle=self._handle, complete=False)
        self.closed = self._channel.call(call, Closed)
        return self.closed

    def abort(self) -> None:
        """Give the image up: nothing of it stays."""
        self._held.clear()
        self._channel.call(Abort(handle=self._handle), Done)
        self._over = PoolError("the image was aborted by this client")

    def _lost_answer(self, sha256: str | None) -> Closed:
        closed = self._settle(
            Settle(
                pool=self.pool,
                image=self.image,
                token=self.token,
                copy=self.copy,
                size=self.offset,
                sha256=sha256,
            )
        )
        if closed.state == "incomplete":
            raise ConnectionLost(
                f"the connection was lost before the image was closed; {closed.offset} bytes of it"
                " are durable",
                offset=closed.offset,
                hint="resume it with the same token, and send the rest",
            )
        return closed

    def _usable(self) -> None:
        """Raise what went wrong before, or what makes another call senseless."""
        failed = self._over or self._channel.trouble.get(self._handle)
        if failed is not None:
            raise failed
        if self.closed is not None:
            raise PoolError(f"the image was closed {self.closed.state}", hint="resume or create it")
        if self._channel.broken is not None:
            raise self._lost(self._channel.broken)

    def _push(self) -> None:
        """Send what was gathered."""
        if self._held:
            held, self._held = self._held, bytearray()
            self._send(memoryview(held))

    def _send(self, view: memoryview) -> None:
        quiet = self._quiet_bytes < ASK_EVERY
        self._quiet_bytes = self._quiet_bytes + len(view) if quiet else 0
        if self._digest is not None:
            self._digest.update(view)
        self._ask(lambda: self._channel.write(self._handle, self.offset, view, quiet=quiet))
        self.offset += len(view)
        self._usable()

    def _ask(self, call: Callable[[], T]) -> T:
        """Make a call of this image; a lost connection is told with what is known to be durable."""
        try:
            return call()
        except ConnectionLost as exc:
            raise self._lost(exc) from exc

    def _lost(self, exc: PoolError) -> PoolError:
        if not isinstance(exc, ConnectionLost):
            return exc
        return ConnectionLost(
            exc.message,
            offset=self.durable,
            hint=f"resume the image with the same token: at least {self.durable} bytes are durable",
        )


def new_digest(*, wanted: bool, offset: int = 0) -> Digest | None:
    """A digest for a new writer; None when it is not wanted, or when bytes before offset are
    not known."""
    return hashlib.sha256() if wanted and offset == 0 else None
