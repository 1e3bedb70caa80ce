"""Messages of every kind for hypothesis, frames fed in pieces, and a daemon with a script."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import socket
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from connector.wire import codec
from connector.wire.frames import HEADER, Header, Kind
from connector.wire.incoming import Frame, Incoming
from connector.wire.messages import (
    CALLS,
    MAX_INT,
    Accepted,
    Answer,
    Call,
    Failure,
    Hello,
    Limits,
    Name,
    Welcome,
)
from connector.wire.session import ServerSession, message

WAIT_S = 10.0
"""No wait of a test is longer, in seconds."""

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=8, max_size=40
)
NAMES = st.one_of(st.binary(min_size=1, max_size=60), st.text(min_size=1, max_size=20)).map(
    lambda raw: Name(
        raw.decode("utf-8", "surrogateescape")
        if isinstance(raw, bytes)
        else raw.encode("utf-8", "replace").decode()
    )
)
WELCOME = Welcome(
    version=1,
    server="scripted",
    limits=Limits(control=1 << 20, data=4 << 20, handles=64, idle_s=60),
    capabilities=("DESCRIPTORS",),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type that stands in a message, all of them legal."""
    if get_origin(hint) in (Union, types.UnionType):
        (only,) = (part for part in get_args(hint) if part is not types.NoneType)
        return st.none() | values(only)
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=4).map(tuple)
    if dataclasses.is_dataclass(hint):
        return messages(hint)  # type: ignore[arg-type]
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(1, MAX_INT),
        float: st.floats(0, allow_nan=False, allow_infinity=False),
        str: TEXT,
        Name: NAMES,
    }
    return simple[hint]


def messages(kind: type) -> st.SearchStrategy[Any]:
    """Messages of one kind."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})


CALL_MESSAGES = st.one_of([messages(kind) for kind in CALLS.values()])
ANSWER_KINDS = sorted(
    {kind.answer for kind in CALLS.values()} | {Accepted}, key=lambda k: k.__name__
)
ANSWER_MESSAGES = st.one_of([messages(kind) for kind in ANSWER_KINDS])


def feed(incoming: Incoming, data: bytes, piece: int = 1 << 20) -> Iterator[Frame]:
    """Give bytes to one direction of a connection, at most piece of them at a time."""
    rest = memoryview(data)
    while rest:
        room = incoming.room()
        size = min(len(room), len(rest), piece)
        room[:size] = rest[:size]
        rest = rest[size:]
        frame = incoming.advance(size)
        if frame is not None:
            yield frame


class Line:
    """The daemon's end of a connection, as a script uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.session = ServerSession()
        self.descriptors: list[int] = []
        sock.settimeout(WAIT_S)

    def bytes(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            space = socket.CMSG_SPACE(array.array("i").itemsize)
            more, passed, _, _ = self.socket.recvmsg(size - len(data), space)
            for _, _, raw in passed:
                self.descriptors += array.array("i", raw)
            if not more:
                raise EOFError
            data += more
        return data

    def frame(self) -> tuple[Header, bytes]:
        header = self.session.header(self.bytes(HEADER.size))
        return header, self.bytes(header.length)

    def call(self, kind: type[Call]) -> tuple[int, Any]:
        """The next frame, which must be a call of this kind: its request number and itself."""
        header, payload = self.frame()
        assert header.kind is Kind.CALL, header
        call = codec.decode_call(payload)
        assert type(call) is kind, call
        return header.request, call

    def write(self) -> tuple[Header, bytes]:
        header, payload = self.frame()
        assert header.kind is Kind.WRITE, header
        return header, payload

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, request: int, answer: Answer) -> None:
        self.send(message(Kind.ANSWER, request, codec.encode_answer(answer)))

    def fail(self, request: int, code: str, **more: Any) -> None:
        failure = Failure(code=code, message=more.pop("message", code), **more)
        self.send(self.session.failure(request, failure))

    def data(self, request: int, handle: int, offset: int, data: bytes) -> None:
        self.send(self.session.data(request, handle, offset, len(data)) + data)

    def hello(self) -> None:
        request, hello = self.call(Hello)
        self.send(self.session.answer(request, hello, WELCOME))

    def serve(self, kind: type[Call], answer: Answer) -> Any:
        """Take a call of this kind and answer it; gives the call."""
        request, call = self.call(kind)
        self.answer(request, answer)
        return call


Script = Callable[[Line], object]


@contextlib.contextmanager
def scripted(path: Path, *scripts: Script) -> Iterator[Path]:
    """A daemon that plays one script for each connection, in order; what fails in one is raised.

    A connection ends where its script ends.
    """
    failed: list[BaseException] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(WAIT_S)

        def run() -> None:
            try:
                for script in scripts:
                    accepted, _ = listener.accept()
                    with accepted:
                        script(Line(accepted))
            except BaseException as exc:
                failed.append(exc)

        thread = threading.Thread(target=run, name="scripted daemon")
        thread.start()
        try:
            yield path
        finally:
            thread.join(WAIT_S)
    assert not thread.is_alive(), "the script was not played to its end"
    if failed:
        raise failed[0]
