"""What is legal when: the rules of a session as tables, and the two sides that walk them.

Neither side touches a socket, a clock or a file. A shell gives them headers and payloads and sends
the bytes they make. The daemon handles the frames of one connection in order and one at a time, so
an answer to one of them says that all before it have been handled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import cast

from connector.wire import codec
from connector.wire.errors import LocalProtocolError, RemoteProtocolError
from connector.wire.frames import QUIET, Header, Kind, pack_header, parse_header
from connector.wire.incoming import Frame
from connector.wire.messages import (
    CALLS,
    VERSION,
    Accepted,
    Answer,
    Call,
    Failure,
    Hello,
    Read,
    Reading,
    ReadRange,
    Welcome,
    Writing,
)

VERSIONS = (VERSION,)
"""The versions that this code speaks."""
MAX_HELLO = 64 << 10
"""Longest first frame, in bytes of payload: nobody is known before hello."""
MAX_REQUEST = 2**32 - 1
NOBODY = 0
"""The request number of what concerns the connection: a failure, with which it ends, or a notice
(on TCP the first frame is one, see ``challenge.py``)."""


class Phase(Enum):
    """Where a session is."""

    NEW = "before hello"
    OPEN = "after hello"


class Mode(Enum):
    """What a handle is for."""

    WRITE = "writing"
    READ = "reading"


WRITE = "WRITE"
"""The WRITE frame, where it stands among operations."""

NEXT: Mapping[tuple[Phase, str], Phase] = {
    (Phase.NEW, Hello.op): Phase.OPEN,
    (Phase.OPEN, WRITE): Phase.OPEN,
    **{(Phase.OPEN, op): Phase.OPEN for op in CALLS if op != Hello.op},
}
"""What may be said in which phase, and the phase after it was answered (not: after it failed)."""

DESCRIPTORS: Mapping[str, int] = {"write_from": 1, "read_to": 1}
"""How many descriptors come with a call; none with any other."""

HANDLES: Mapping[str, tuple[Mode, ...]] = {
    WRITE: (Mode.WRITE,),
    "write_from": (Mode.WRITE,),
    "flush": (Mode.WRITE,),
    "abort": (Mode.WRITE,),
    "read": (Mode.READ,),
    "read_to": (Mode.READ,),
    "close": (Mode.WRITE, Mode.READ),
}
"""Which kind of handle an operation works on."""

OPENS: Mapping[type[Answer], Mode] = {Writing: Mode.WRITE, Reading: Mode.READ}
ENDS = frozenset({"close", "abort"})
"""What ends a handle; it may be repeated on one that has ended, and says the same again."""
REMEMBERED = 1000
"""How many ended handles a session remembers."""


class _Rules:
    """The phase and the handles of one session, as both sides must see them."""

    def __init__(self) -> None:
        self.phase = Phase.NEW
        self.handles: dict[int, Mode] = {}
        self._ended: dict[int, None] = {}

    def why_not(self, op: str) -> str | None:
        """What forbids this operation now, if anything does."""
        if (self.phase, op) in NEXT:
            return None
        return f"{op} {self.phase.value}" + (
            ": hello comes first" if self.phase is Phase.NEW else ": it is said once"
        )

    def why_no_handle(self, op: str, handle: int) -> str | None:
        """What is wrong with the handle of an operation, if anything is."""
        modes = HANDLES[op]
        mode = self.handles.get(handle)
        if op in ENDS and handle in self._ended:
            return None
        if mode is None:
            return f"{op}: there is no handle {handle} in this session"
        if mode not in modes:
            return f"{op}: handle {handle} is open for {mode.value}"
        return None

    def answered(self, call: Call, answer: Answer) -> None:
        self.phase = NEXT[self.phase, type(call).op]
        mode = OPENS.get(type(answer))
        if mode is not None:
            self.handles[cast(Writing | Reading, answer).handle] = mode
        if type(call).op in ENDS:
            self._end(call.handle)  # type: ignore[attr-defined]

    def _end(self, handle: int) -> None:
        self.handles.pop(handle, None)
        self._ended[handle] = None
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]


# --- the daemon's side ------------------------------------------------------------------------


class ServerSession:
    """The daemon's side of one connection."""

    def __init__(self) -> None:
        self._rules = _Rules()

    @property
    def greeted(self) -> bool:
        """Whether the client has been welcomed."""
        return self._rules.phase is Phase.OPEN

    @property
    def handles(self) -> dict[int, Mode]:
        """The handles that are open, as this session saw them opened."""
        return dict(self._rules.handles)

    def header(self, data: bytes | bytearray | memoryview) -> Header:
        """Read a header, before any memory is taken for its payload.

        Raises:
            RemoteProtocolError: fatal; not our protocol, or not before hello.
        """
        header = parse_header(data, from_client=True)
        self.check(header)
        return header

    def check(self, header: Header) -> None:
        """Refuse what a client may not send now, judged by the header alone.

        Raises:
            RemoteProtocolError: fatal; ``sequence``, or ``frame`` for a first frame too long.
        """
        if header.kind is Kind.WRITE and (why := self._rules.why_not(WRITE)):
            raise RemoteProtocolError("sequence", why)
        if not self.greeted and header.length > MAX_HELLO:
            raise RemoteProtocolError("frame", f"a hello of {header.length} bytes is too long")

    def call(
        self, payload: bytes | bytearray | memoryview, *, descriptors: int | None = None
    ) -> Call:
        """Read a call, and say whether it is legal now.

        descriptors is how many came with the frame; None leaves that to the caller.

        Raises:
            RemoteProtocolError: ``message``, ``unknown_op``, ``name_invalid``, ``sequence``,
                ``descriptor`` or ``handle``; before hello every one of them is fatal.
        """
        try:
            call = codec.decode_call(payload)
            self._legal(call, descriptors)
        except RemoteProtocolError as exc:
            exc.fatal = exc.fatal or not self.greeted
            raise
        return call

    def _legal(self, call: Call, descriptors: int | None) -> None:
        op = type(call).op
        if why := self._rules.why_not(op):
            raise RemoteProtocolError("sequence", why, fatal=False)
        wanted = DESCRIPTORS.get(op, 0)
        if descriptors is not None and descriptors != wanted:
            said = f"{op} comes with {wanted} descriptors, not {descriptors}"
            raise RemoteProtocolError("descriptor", said, fatal=False)
        if op in HANDLES and (why := self._rules.why_no_handle(op, call.handle)):  # type: ignore[attr-defined]
            raise RemoteProtocolError("handle", why, fatal=False)

    def write(self, header: Header) -> None:
        """Say whether a WRITE frame is legal now; its payload must be read in any case.

        Raises:
            RemoteProtocolError: not fatal; ``handle``.
        """
        if why := self._rules.why_no_handle(WRITE, header.handle):
            raise RemoteProtocolError("handle", why, fatal=False)

    def version(self, hello: Hello) -> int:
        """The highest version that both sides speak.

        Raises:
            RemoteProtocolError: fatal; there is none.
        """
        common = set(hello.versions) & set(VERSIONS)
        if not common:
            ours = ", ".join(str(version) for version in VERSIONS)
            said = f"this daemon speaks version {ours} of the protocol, and not what was offered"
            raise RemoteProtocolError("version", said)
        return max(common)

    def answer(self, request: int, call: Call, answer: Answer) -> bytes:
        """The frame that answers a call, which was done."""
        frame = message(Kind.ANSWER, request, codec.encode_answer(answer))
        self._rules.answered(call, answer)
        return frame

    def accepted(self, header: Header, answer: Accepted) -> bytes:
        """The frame that answers a WRITE; nothing when the client asked for quiet."""
        if header.flags & QUIET:
            return b""
        return message(Kind.ANSWER, header.request, codec.encode_answer(answer))

    def failure(self, request: int, failure: Failure) -> bytes:
        """The frame that refuses a call or a WRITE."""
        return message(Kind.FAILURE, request, codec.encode_failure(failure))

    def notice(self, request: int, notice: Mapping[str, object]) -> bytes:
        """The frame that says that a call is still running."""
        return message(Kind.NOTICE, request, codec.encode_notice(notice))

    def data(self, request: int, handle: int, offset: int, length: int) -> bytes:
        """The header of a DATA frame; the shell sends the payload after it."""
        return pack_header(Header(Kind.DATA, length, request, handle, offset))


def message(kind: Kind, request: int, payload: bytes) -> bytes:
    """A frame of JSON, header and payload."""
    return pack_header(Header(kind, len(payload), request)) + payload


# --- the client's side ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A call or a WRITE was done. call is None for a WRITE."""

    request: int
    call: Call | None
    answer: Answer
    handle: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A call or a WRITE was refused; handle is that of a WRITE. request 0: the whole session."""

    request: int
    failure: Failure
    handle: int | None = None


@dataclass(frozen=True, slots=True)
class Noticed:
    """A call is still running. request 0: something about the whole session."""

    request: int
    notice: dict[str, object]


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the read that is under way."""

    request: int
    offset: int
    payload: memoryview


Event = Answered | Failed | Noticed | Data


@dataclass(slots=True)
class _Asked:
    """A frame that may still be answered."""

    call: Call | None = None
    handle: int | None = None
    quiet: bool = False
    came: int = 0


class ClientSession:
    """The client's side of one connection."""

    def __init__(self) -> None:
        self._rules = _Rules()
        self._asked: dict[int, _Asked] = {}  # in the order in which they were sent
        self._last = 0

    @property
    def greeted(self) -> bool:
        """Whether the daemon has welcomed this client."""
        return self._rules.phase is Phase.OPEN

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come (quiet WRITEs have none)."""
        return any(not asked.quiet for asked in self._asked.values())

    def call(self, call: Call, *, descriptors: int = 0) -> tuple[int, bytes]:
        """The request number and the frame of a call.

        Raises:
            LocalProtocolError: it is not legal now.
        """
        op = type(call).op
        wanted = DESCRIPTORS.get(op, 0)
        why = self._rules.why_not(op)
        if why is None and descriptors != wanted:
            why = f"{op} comes with {wanted} descriptors, not {descriptors}"
        if why is None and op in HANDLES:
            why = self._rules.why_no_handle(op, call.handle)  # type: ignore[attr-defined]
        if why is not None:
            raise LocalProtocolError(why)
        payload = codec.encode_call(call)
        request = self._ask(_Asked(call=call))
        return request, message(Kind.CALL, request, payload)

    def write(self, handle: int, offset: int, length: int, *, quiet: bool) -> tuple[int, bytes]:
        """The request number and the header of a WRITE; the shell sends length bytes after it.

        Raises:
            LocalProtocolError: it is not legal now, or too long.
        """
        why = self._rules.why_not(WRITE) or self._rules.why_no_handle(WRITE, handle)
        if why is not None:
            raise LocalProtocolError(why)
        flags = QUIET if quiet else 0
        header = Header(Kind.WRITE, length, self._next(), handle, offset, flags)
        data = pack_header(header)
        return self._ask(_Asked(handle=handle, quiet=quiet)), data

    def check(self, header: Header) -> None:
        """Judge a frame of the daemon by its header, before its payload is received.

        Raises:
            RemoteProtocolError: it belongs to nothing that was asked.
        """
        if header.kind is Kind.NOTICE or (header.kind, header.request) == (Kind.FAILURE, NOBODY):
            return
        asked = self._asked.get(header.request)
        if asked is None:
            said = f"a {header.kind.name} frame for request {header.request}, which is not open"
            raise RemoteProtocolError("sequence", said)
        if header.kind is Kind.ANSWER and asked.quiet:
            raise RemoteProtocolError("sequence", "an ANSWER to a quiet WRITE")
        if header.kind is Kind.DATA:
            self._check_data(header, asked)
        elif header.kind in (Kind.ANSWER, Kind.FAILURE):
            for request, other in self._asked.items():
                if request == header.request:
                    break
                if not other.quiet:
                    said = f"request {header.request} was answered before request {request}"
                    raise RemoteProtocolError("sequence", said)

    def _check_data(self, header: Header, asked: _Asked) -> None:
        read = asked.call
        if not isinstance(read, ReadRange) or read.handle != header.handle:
            raise RemoteProtocolError("sequence", "a DATA frame that answers no read")
        if header.offset != read.offset + asked.came:
            said = f"DATA for offset {header.offset} instead of {read.offset + asked.came}"
            raise RemoteProtocolError("sequence", said)
        if asked.came + header.length > read.length:
            raise RemoteProtocolError("sequence", "more DATA than was asked for")

    def receive(self, frame: Frame) -> Event:
        """Take a frame of the daemon and say what it means.

        Raises:
            RemoteProtocolError: it is not legal now, or not what answers this call.
        """
        header = frame.header
        self.check(header)
        if header.kind is Kind.FAILURE and header.request == NOBODY:
            return Failed(NOBODY, codec.decode_failure(frame.payload))
        if header.kind is Kind.NOTICE:
            return Noticed(header.request, codec.decode_notice(frame.payload))
        asked = self._asked[header.request]
        if header.kind is Kind.DATA:
            asked.came += header.length
            return Data(header.request, header.offset, frame.payload)
        self._settle(header.request)
        if header.kind is Kind.FAILURE:
            failure = codec.decode_failure(frame.payload)
            return Failed(header.request, failure, asked.handle)
        return self._answered(header.request, asked, frame.payload)

    def _answered(self, request: int, asked: _Asked, payload: memoryview) -> Answered:
        if asked.call is None:
            accepted = codec.decode_answer(payload, Accepted)
            return Answered(request, None, accepted, asked.handle)
        answer = codec.decode_answer(payload, type(asked.call).answer)
        if isinstance(answer, Welcome) and answer.version not in VERSIONS:
            raise RemoteProtocolError("version", f"the daemon chose version {answer.version}")
        if isinstance(asked.call, ReadRange):
            said = cast(Read, answer).size
            if said != asked.came:
                text = f"the daemon sent {asked.came} bytes and says {said}"
                raise RemoteProtocolError("sequence", text)
        self._rules.answered(asked.call, answer)
        return Answered(request, asked.call, answer)

    def _settle(self, request: int) -> None:
        """Forget a request, and the quiet ones before it: the daemon works in order."""
        for number in list(self._asked):
            del self._asked[number]
            if number == request:
                return

    def _ask(self, asked: _Asked) -> int:
        self._last = self._next()
        self._asked[self._last] = asked
        return self._last

    def _next(self) -> int:
        return self._last % MAX_REQUEST + 1
