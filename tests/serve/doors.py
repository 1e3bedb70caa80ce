"""A small service behind a real door, and a client that knows frames and nothing else."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.errors import ImageNotFound, NoHandle, OffsetMismatch, PoolError, TooBusy
from connector.serve.interface import Notify, Peer
from connector.serve.listener import Door
from connector.settings import ClientLimits, Settings, SocketSettings, TcpSettings
from connector.wire import codec, messages
from connector.wire.frames import HEADER, QUIET, Header, Kind, pack_header, parse_header
from connector.wire.messages import Answer, Call, Failure, Name

PART = 256 << 10
LONG_S = 20.0
"""No step of a test takes longer."""


# --- a service whose pool is a dict -----------------------------------------------------------


class MemoryWriter:
    """Takes an image in parts; the last write may be repeated."""

    def __init__(self, service: MemoryService, name: str) -> None:
        self._service = service
        self.name = name
        self.data = bytearray()
        self.low_space = False
        self.failure: PoolError | None = None
        self._part = bytearray(service.part)
        self._last: tuple[int, int] | None = None

    @property
    def offset(self) -> int:
        return len(self.data)

    def begin(self, offset: int, length: int) -> bool:
        if self.failure is not None:
            raise self.failure
        if self._last is not None and (offset, length) == self._last and length:
            return False
        if offset != self.offset:
            raise OffsetMismatch("not the next byte", offset=self.offset, hint="go on there")
        self._last = offset, length
        return True

    def room(self) -> memoryview:
        if self.failure is not None:
            raise self.failure
        return memoryview(self._part)[: self._service.part - self.offset % self._service.part]

    def advance(self, size: int) -> None:
        self._service.accepting(self)
        self.data += memoryview(self._part)[:size]

    def repeated(self, data: memoryview) -> None:
        assert self._last is not None
        start, length = self._last
        if self.data[start : start + length] != data:
            raise OffsetMismatch("other bytes than before", offset=self.offset)


@dataclass
class MemoryReader:
    """Gives an image in views of a part."""

    data: bytes
    part: int
    closed: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def stream(self, offset: int, length: int | None) -> Iterator[memoryview]:
        end = self.size if length is None else min(self.size, offset + length)
        try:
            with memoryview(self.data) as whole:
                for start in range(offset, end, self.part):
                    yield whole[start : min(end, start + self.part)]
        finally:
            self.closed += 1


class MemorySession:
    """One client's handles."""

    def __init__(self, service: MemoryService, peer: Peer) -> None:
        self.service = service
        self.peer = peer
        self.handles: dict[int, MemoryWriter | MemoryReader] = {}
        self.ended = 0

    def perform(self, call: Call, notify: Notify, gone: Callable[[], bool]) -> Answer:
        handle = len(self.handles) + 1
        if isinstance(call, messages.Create):
            self.handles[handle] = MemoryWriter(self.service, call.image)
            return messages.Writing(handle=handle, offset=0)
        if isinstance(call, messages.Open):
            if call.image not in self.service.images:
                raise ImageNotFound(f"no image {call.image!r}", hint="list them")
            data = self.service.images[call.image]
            self.handles[handle] = MemoryReader(data, self.service.part)
            return messages.Reading(
                handle=handle, image=call.image, copy=1, size=len(data), sha256=None, state="x"
            )
        if isinstance(call, messages.Close):
            return self._close(call)
        if isinstance(call, messages.Claim):
            return messages.Claimed(mine=self.service.claim(call.name, notify, gone))
        raise AssertionError(f"{call} is not for this service")

    def _close(self, call: messages.Close) -> Answer:
        found = self.handles[call.handle]
        name, offset = "", 0
        if isinstance(found, MemoryWriter):
            name, offset = found.name, found.offset
            self.service.images[name] = bytes(found.data)
        return messages.Closed(
            pool="p", image=Name(name), copy=1, state="complete", offset=offset, sha256=None, id="i"
        )

    def writing(self, handle: int) -> MemoryWriter:
        found = self.handles.get(handle)
        if not isinstance(found, MemoryWriter):
            raise NoHandle(f"handle {handle} does not write")
        return found

    def reading(self, handle: int) -> MemoryReader:
        found = self.handles.get(handle)
        if not isinstance(found, MemoryReader):
            raise NoHandle(f"handle {handle} does not read")
        return found

    def end(self) -> None:
        self.ended += 1
        with self.service.changed:
            self.service.changed.notify_all()


@dataclass
class MemoryService:
    """What a door opens onto in these tests. claim and accepting may be replaced by a test."""

    part: int = PART
    images: dict[str, bytes] = field(default_factory=dict)
    sessions: list[MemorySession] = field(default_factory=list)
    most_sessions: int = 100_000
    claim: Callable[[str, Notify, Callable[[], bool]], bool] = lambda name, notify, gone: True
    accepting: Callable[[MemoryWriter], None] = lambda writer: None
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def capabilities(self) -> tuple[str, ...]:
        return ("RANGED_READ", "DESCRIPTORS")

    def session(self, peer: Peer) -> MemorySession:
        if sum(not session.ended for session in self.sessions) >= self.most_sessions:
            raise TooBusy("too many sessions", hint="try again later")
        session = MemorySession(self, peer)
        self.sessions.append(session)
        return session

    def all_ended(self) -> bool:
        """Wait until every session has been ended, each exactly once."""
        with self.changed:
            return self.changed.wait_for(
                lambda: all(session.ended == 1 for session in self.sessions), LONG_S
            )


# --- a door -----------------------------------------------------------------------------------


def settings_for(path: Path | None, *, tcp: TcpSettings | None = None, **limits: Any) -> Settings:
    """Settings of a door with short patience."""
    known: dict[str, Any] = {"half_open_s": 5.0, "idle_s": 30.0}
    return Settings(
        state=Path("/nonexistent"),
        socket=SocketSettings(path=path) if path else None,
        pools=(),
        tcp=tcp,
        limits=ClientLimits(**{**known, **limits}),
    )


@contextlib.contextmanager
def open_door(
    settings: Settings, service: MemoryService | None = None, **options: Any
) -> Iterator[Door]:
    """A door that listens, and is closed with nothing left behind."""
    door = Door(settings, service or MemoryService(), **options)
    door.start()
    try:
        yield door
    finally:
        door.close()
        assert door.connections == 0


def eventually(condition: Callable[[], bool], within_s: float = LONG_S) -> bool:
    """Whether a condition becomes true in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# --- a client ---------------------------------------------------------------------------------


class Ended(Exception):
    """The daemon has closed the connection."""


@dataclass
class Reply:
    """A frame of the daemon."""

    header: Header
    payload: bytes

    @property
    def failure(self) -> Failure:
        assert self.header.kind is Kind.FAILURE, self
        return codec.decode_failure(self.payload)

    @property
    def notice(self) -> dict[str, object]:
        assert self.header.kind is Kind.NOTICE, self
        return codec.decode_notice(self.payload)


class RawClient:
    """Sends frames, right and wrong ones, and shows what comes back."""

    def __init__(self, sock: socket.socket, *, hello: bool = True) -> None:
        self.sock = sock
        self.sock.settimeout(LONG_S)
        self.notices: list[dict[str, object]] = []
        self._request = 0
        if hello:
            self.welcome = self.ask(messages.Hello(versions=(1,)))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def next(self) -> int:
        self._request += 1
        return self._request

    def send_call(self, call: Call, fds: Sequence[int] = ()) -> int:
        """Send a call, with descriptors."""
        request = self.next()
        payload = codec.encode_call(call)
        frame = pack_header(Header(Kind.CALL, len(payload), request)) + payload
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            sent = self.sock.sendmsg([frame], rights)
            frame = frame[sent:]
        self.sock.sendall(frame)
        return request

    def send_write(self, handle: int, offset: int, data: bytes, *, quiet: bool = False) -> int:
        """Send a WRITE."""
        request = self.next()
        flags = QUIET if quiet else 0
        self.sock.sendall(
            pack_header(Header(Kind.WRITE, len(data), request, handle, offset, flags)) + data
        )
        return request

    def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                more = self.sock.recv(size - len(data))
            except (ConnectionResetError, ssl.SSLError) as exc:
                raise Ended from exc
            if not more:
                raise Ended
            data += more
        return bytes(data)

    def frame(self) -> Reply:
        """The next frame, whatever it is."""
        header = parse_header(self.exactly(HEADER.size), from_client=False)
        return Reply(header, self.exactly(header.length))

    def reply(self) -> Reply:
        """The next frame that is not a notice."""
        while True:
            frame = self.frame()
            if frame.header.kind is not Kind.NOTICE:
                return frame
            self.notices.append(frame.notice)

    def ask(self, call: Call, fds: Sequence[int] = ()) -> Any:
        """Call, and give the answer; AssertionError where it is a failure."""
        request = self.send_call(call, fds)
        reply = self.reply()
        assert reply.header.request == request
        assert reply.header.kind is Kind.ANSWER, reply.failure
        return codec.decode_answer(reply.payload, type(call).answer)

    def refused(self, call: Call, fds: Sequence[int] = ()) -> Failure:
        """Call, and give the failure."""
        request = self.send_call(call, fds)
        reply = self.reply()
        assert reply.header.request == request
        return reply.failure

    def create(self, name: str = "image") -> int:
        """A handle that writes."""
        call = messages.Create(pool="p", image=Name(name), token="12345678")
        handle: int = self.ask(call).handle
        return handle

    def open(self, name: str) -> int:
        """A handle that reads."""
        handle: int = self.ask(messages.Open(pool="p", image=Name(name))).handle
        return handle

    def alive(self) -> bool:
        """Whether the session goes on."""
        mine: bool = self.ask(messages.Claim(name="p")).mine
        return mine

    def ended(self) -> bool:
        """Whether the daemon closes the connection, having said no more."""
        try:
            left = self.sock.recv(1)
        except (ConnectionResetError, ssl.SSLError):
            return True
        return left == b""


def connect(path: Path) -> socket.socket:
    """A connection to a UNIX socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(LONG_S)
    try:
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    return sock


def client(path: Path, *, hello: bool = True) -> RawClient:
    """A client of a UNIX socket."""
    return RawClient(connect(path), hello=hello)
