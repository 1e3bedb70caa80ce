"""What a client says and how it is answered, frame by frame.

A client's mistakes are answered and the dialogue goes on, as long as the stream can be followed:
the payload of a refused WRITE is read and thrown away. No byte of an image is copied here: it is
received where it is hashed and sent from, and sent from where it was verified.

What this door adds to docs/protocols.md, "Frames" and "Notices":

- FAILURE of request 0 concerns the connection, which ends with it: ``frame``, ``sequence``,
  ``auth``, ``busy``, ``timeout``, ``draining``, ``internal``.
- NOTICE of request 0 concerns the connection. On TCP the first frame is one, with the challenge
  (``connector/wire/challenge.py``). What a client does not know of a NOTICE it leaves alone.
- While a call or a WRITE is worked on, there is a NOTICE at least every 5 seconds and at most every
  second, unless the client does not read. Its keys: ``busy_s`` (always), ``offset`` (``write_from``
  and ``read_to``: how far), and whatever the service tells.
- ``low_space`` is told to a writer whose WRITEs are all quiet by a NOTICE
  ``{"handle", "low_space": true, "offset"}``, once for each handle.
- When quiet WRITEs fail one after another, only the first is answered, until the client says
  something that is not a quiet WRITE: a client that does not read while it writes is not drowned.
- A descriptor comes with the first byte of its CALL frame.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from typing import Protocol

from catalog.errors import AuthFailed, OffsetMismatch, PoolError, TooBusy
from connector.logs import Short
from connector.serve import streaming
from connector.serve.descriptors import Address, Passed, take_end
from connector.serve.entrances import Proof
from connector.serve.failures import failure_of
from connector.serve.interface import Behind, Peer, Session, WriteHandle
from connector.serve.line import Line, PeerGone, PeerSlow
from connector.serve.outgoing import Outgoing
from connector.settings import ClientLimits
from connector.wire.errors import RemoteProtocolError
from connector.wire.frames import HEADER, MAX_CONTROL, MAX_DATA, QUIET, Header, Kind
from connector.wire.messages import (
    Accepted,
    Answer,
    Call,
    Failure,
    Hello,
    Limits,
    Read,
    ReadRange,
    ReadTo,
    Received,
    Welcome,
    WriteFrom,
)
from connector.wire.session import ServerSession

log = logging.getLogger(__name__)

SERVER = f"tapeconnector {version('tapelift')}"
WASTE = 256 << 10
"""Size of the pieces in which a refused payload is thrown away, in bytes."""


class Host(Protocol):
    """What a dialogue knows of the door it came through."""

    limits: ClientLimits
    behind: Behind
    own: frozenset[Address]


class Leave(Exception):
    """The connection ends; failure is what the client is still to be told."""

    def __init__(self, failure: Failure | None = None) -> None:
        super().__init__()
        self.failure = failure


class _Stopped(PoolError):
    """A ``write_from`` that ended early; offset is how far it came."""

    def __init__(self, cause: PoolError, offset: int) -> None:
        super().__init__(cause.message, hint=cause.hint)
        self.failure = replace(failure_of(cause), offset=offset)


class Dialogue:
    """The exchange with one client that has come in."""

    def __init__(self, line: Line, peer: Peer, proof: Proof | None, host: Host) -> None:
        self.line = line
        self.peer = peer
        self.rules = ServerSession()
        self.out = Outgoing(line, self.rules, host.limits)
        self.head = memoryview(bytearray(HEADER.size))
        self._proof = proof
        self._host = host
        self._limits = host.limits
        self._session: Session | None = None
        self._told: set[int] = set()  # handles whose quiet WRITEs fail, and whose client knows
        self._warned: set[int] = set()  # handles whose client knows that space runs out

    @property
    def _open(self) -> Session:
        assert self._session is not None, "the rules let nothing through before hello"
        return self._session

    def gone(self) -> bool:
        """Whether the client has left."""
        return self.line.hung_up()

    def end(self) -> None:
        """Let go of what the session holds."""
        if self._session is not None:
            self._session.end()

    def frame(self, passed: Passed) -> None:
        """Take the frame whose header is in ``head``, to its end.

        Raises:
            Leave: it was answered, and the connection ends.
            RemoteProtocolError: the stream cannot be followed any more.
            PeerGone, PeerSlow: nothing more can be said.
        """
        header = self.rules.header(self.head)
        if header.kind is Kind.CALL:
            self._call(header, passed)
        elif len(passed) or passed.truncated:
            raise RemoteProtocolError("descriptor", "a descriptor with a WRITE frame")
        else:
            self._write(header)

    def _call(self, header: Header, passed: Passed) -> None:
        payload = bytearray(header.length)
        self.line.receive(memoryview(payload), self._limits.half_open_s)
        self._told.clear()
        try:
            if passed.truncated and len(passed) < 2:
                raise TooBusy("no descriptor is free in the daemon", hint="try again later")
            call = self.rules.call(payload, descriptors=len(passed))
            log.debug("%s < %s", self.peer.name, Short(call))
            with self.out.working(header.request):
                answer = self._perform(header.request, call, passed)
        except (PeerGone, PeerSlow):
            raise
        except (PoolError, RemoteProtocolError) as exc:
            self._refuse_call(header.request, exc)
        else:
            log.debug("%s > %s", self.peer.name, Short(answer))
            self.out.frame(self.rules.answer(header.request, call, answer))

    def _refuse_call(self, request: int, exc: PoolError | RemoteProtocolError) -> None:
        failure = as_failure(exc)
        log.debug("%s > %s", self.peer.name, Short(failure))
        self.out.failure(request, failure)
        if isinstance(exc, AuthFailed):
            log.warning("refused: %s: %s", self.peer.name, exc.message)
        if not self.rules.greeted or getattr(exc, "fatal", False):
            raise Leave from exc

    def _perform(self, request: int, call: Call, passed: Passed) -> Answer:
        if isinstance(call, Hello):
            return self._hello(call)
        if isinstance(call, ReadRange):
            return self._read(request, call)
        if isinstance(call, ReadTo):
            return self._read_to(call, passed)
        if isinstance(call, WriteFrom):
            return self._write_from(call, passed)
        return self._open.perform(call, self.out.notify, self.gone)

    def _hello(self, call: Hello) -> Welcome:
        if self._proof is not None:
            self._proof.check(call.token)
        chosen = self.rules.version(call)
        self._session = self._host.behind.session(self.peer)
        capabilities = self._host.behind.capabilities
        if not self.line.passes_descriptors:
            capabilities = tuple(flag for flag in capabilities if flag != "DESCRIPTORS")
        return Welcome(
            version=chosen,
            server=SERVER,
            limits=Limits(
                control=MAX_CONTROL,
                data=MAX_DATA,
                handles=self._limits.handles,
                idle_s=int(self._limits.idle_s),
            ),
            capabilities=capabilities,
        )

    # --- reading -------------------------------------------------------------------------

    def _read(self, request: int, call: ReadRange) -> Read:
        at = call.offset
        pieces = self._open.reading(call.handle).stream(call.offset, call.length)
        with _closed_after(pieces):
            for view in pieces:
                for start in range(0, len(view), MAX_DATA):
                    piece = view[start : start + MAX_DATA]
                    header = self.rules.data(request, call.handle, at, len(piece))
                    self.out.data(header, piece)
                    at += len(piece)
        return Read(size=at - call.offset)

    def _read_to(self, call: ReadTo, passed: Passed) -> Read:
        notify = self.out.notify
        handle = self._open.reading(call.handle)
        with closing(take_end(passed.claim(), writing=True, own=self._host.own)) as end:
            pieces = handle.stream(call.offset, call.length)
            with _closed_after(pieces):
                size = streaming.drain(
                    end,
                    pieces,
                    self.gone,
                    self._limits.idle_s,
                    lambda count: notify({"offset": call.offset + count}),
                )
        return Read(size=size)

    # --- writing -------------------------------------------------------------------------

    def _write_from(self, call: WriteFrom, passed: Passed) -> Received:
        notify = self.out.notify
        handle = self._open.writing(call.handle)
        with closing(take_end(passed.claim(), writing=False, own=self._host.own)) as end:
            if not handle.begin(call.offset, call.length or 0):
                raise OffsetMismatch(
                    "these bytes came already, and a descriptor cannot be compared with them",
                    offset=handle.offset,
                    hint="go on from the offset given here",
                )
            try:
                eof = streaming.fill(
                    end,
                    handle,
                    call.length,
                    self.gone,
                    self._limits.idle_s,
                    lambda count: notify({"offset": call.offset + count}),
                )
            except (PeerGone, PeerSlow):
                raise
            except PoolError as exc:
                raise _Stopped(exc, handle.offset) from exc
        return Received(offset=handle.offset, eof=eof, low_space=handle.low_space)

    def _write(self, header: Header) -> None:
        """Take a WRITE frame; a refused one is read to its end, so that the stream is in step."""
        left = [header.length]
        try:
            self.rules.write(header)
            handle = self._open.writing(header.handle)
            self._take(header, handle, left)
        except (PeerGone, PeerSlow):
            raise
        except (PoolError, RemoteProtocolError) as exc:
            if getattr(exc, "fatal", False):
                raise
            self._throw_away(left[0])
            self._refuse_write(header, exc)
        else:
            self._accept(header, handle)

    def _take(self, header: Header, handle: WriteHandle, left: list[int]) -> None:
        """Receive the payload where it belongs. left[0] is what is still to come of it."""
        with self.out.working(header.request):
            new = handle.begin(header.offset, header.length)
        if not new:
            again = memoryview(bytearray(header.length))
            self.line.receive(again, self._limits.half_open_s)
            left[0] = 0
            handle.repeated(again)
        while left[0]:
            room = handle.room()
            try:
                with room[: left[0]] as piece:
                    size = len(piece)
                    self.line.receive(piece, self._limits.half_open_s)
            finally:
                room.release()
            left[0] -= size
            with self.out.working(header.request):
                handle.advance(size)

    def _throw_away(self, size: int) -> None:
        waste = memoryview(bytearray(min(size, WASTE)))
        while size:
            step = min(size, WASTE)
            self.line.receive(waste[:step], self._limits.half_open_s)
            size -= step

    def _accept(self, header: Header, handle: WriteHandle) -> None:
        if not header.flags & QUIET:
            self._told.clear()
            accepted = Accepted(offset=handle.offset, low_space=handle.low_space)
            self.out.frame(self.rules.accepted(header, accepted))
            return
        self._told.discard(header.handle)
        if handle.low_space and header.handle not in self._warned:
            self._warned = (self._warned & self.rules.handles.keys()) | {header.handle}
            warning = {"handle": header.handle, "low_space": True, "offset": handle.offset}
            self.out.notice(header.request, warning)

    def _refuse_write(self, header: Header, exc: PoolError | RemoteProtocolError) -> None:
        if not header.flags & QUIET:
            self._told.clear()
        elif header.handle in self._told:
            return
        else:
            if len(self._told) >= self._limits.handles:  # handles that do not exist can be many
                self._told.clear()
            self._told.add(header.handle)
        self.out.failure(header.request, as_failure(exc))


def as_failure(exc: PoolError | RemoteProtocolError) -> Failure:
    """The message for a client."""
    if isinstance(exc, RemoteProtocolError):
        return Failure(code=exc.code, message=exc.message)
    return exc.failure if isinstance(exc, _Stopped) else failure_of(exc)


@contextlib.contextmanager
def _closed_after(pieces: Iterator[memoryview]) -> Iterator[None]:
    """Let a generator clean up at once, not when a traceback that names it is forgotten."""
    try:
        yield
    finally:
        close: Callable[[], None] | None = getattr(pieces, "close", None)
        if close is not None:
            close()
