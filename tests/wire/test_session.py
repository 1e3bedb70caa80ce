"""Whole dialogues without a socket: two ends wired to each other, also one byte at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.wire import codec
from connector.wire.errors import LocalProtocolError, RemoteProtocolError
from connector.wire.frames import QUIET, Header, Kind, pack_header
from connector.wire.incoming import Frame, Incoming
from connector.wire.messages import (
    CALLS,
    Abort,
    Accepted,
    Answer,
    Call,
    Claim,
    Claimed,
    Close,
    Closed,
    Create,
    Done,
    Failure,
    Flush,
    GetServerProps,
    Hello,
    Name,
    Open,
    Read,
    Reading,
    ReadRange,
    ReadTo,
    Welcome,
    WriteFrom,
    Writing,
)
from connector.wire.session import (
    DESCRIPTORS,
    HANDLES,
    MAX_HELLO,
    NEXT,
    Answered,
    ClientSession,
    Data,
    Event,
    Failed,
    Mode,
    Noticed,
    Phase,
    ServerSession,
    message,
)
from tests.wire.support import CALL_MESSAGES, WELCOME, feed

HELLO = Hello(versions=(1,))
CREATE = Create(pool="main", image=Name("a"), token="12345678")
CLOSED = Closed(
    pool="main", image=Name("a"), copy=1, state="complete", offset=6, sha256=None, id="1"
)


class Pair:
    """A client and a daemon, wired so that bytes pass in pieces of any size."""

    def __init__(self, piece: int = 1 << 20) -> None:
        self.client = ClientSession()
        self.server = ServerSession()
        self.piece = piece
        self._to_server = Incoming(from_client=True)
        self._to_client = Incoming(from_client=False)

    def arrive(self, data: bytes) -> list[Frame]:
        """Frames at the daemon."""
        frames = list(feed(self._to_server, data, self.piece))
        for frame in frames:
            self.server.check(frame.header)
        return frames

    def take(self, data: bytes) -> list[Event]:
        """Events at the client."""
        return [self.client.receive(frame) for frame in feed(self._to_client, data, self.piece)]

    def ask(self, call: Call, answer: Answer, *, descriptors: int = 0) -> Answer:
        """Carry a call there and its answer back."""
        request, data = self.client.call(call, descriptors=descriptors)
        (frame,) = self.arrive(data)
        got = self.server.call(frame.payload, descriptors=descriptors)
        assert got == call
        (event,) = self.take(self.server.answer(frame.header.request, got, answer))
        assert isinstance(event, Answered)
        assert (event.request, event.call) == (request, call)
        return event.answer

    def greeted(self) -> Pair:
        assert self.ask(HELLO, WELCOME) == WELCOME
        return self

    def writing(self) -> Pair:
        self.greeted().ask(CREATE, Writing(handle=7, offset=0))
        return self

    def reading(self) -> Pair:
        opened = Reading(handle=9, image=Name("a"), copy=1, size=6, sha256=None, state="complete")
        self.greeted().ask(Open(pool="main", image=Name("a")), opened)
        return self


@pytest.fixture(params=[1 << 20, 1, 7], ids=["whole", "one byte", "seven bytes"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


# --- dialogues ----------------------------------------------------------------------------------


def test_an_image_is_written(pair: Pair) -> None:
    pair.writing()
    for offset, quiet in ((0, True), (3, False)):
        request, header = pair.client.write(7, offset, 3, quiet=quiet)
        (frame,) = pair.arrive(header + b"abc")
        pair.server.write(frame.header)
        assert (frame.header.offset, bytes(frame.payload)) == (offset, b"abc")
        answer = Accepted(offset=offset + 3)
        events = pair.take(pair.server.accepted(frame.header, answer))
        assert events == ([] if quiet else [Answered(request, None, answer, 7)])
    assert not pair.client.waiting
    for _ in range(2):
        assert pair.ask(Close(handle=7), CLOSED) == CLOSED
    assert pair.server.handles == {}
    with pytest.raises(LocalProtocolError):
        pair.client.write(7, 6, 1, quiet=True)


def test_an_image_is_read_in_frames_with_a_notice_in_between(pair: Pair) -> None:
    pair.reading()
    call = ReadRange(handle=9, offset=10, length=6)
    request, data = pair.client.call(call)
    assert pair.client.waiting
    (frame,) = pair.arrive(data)
    assert pair.server.call(frame.payload, descriptors=0) == call
    out = pair.server.data(request, 9, 10, 4) + b"abcd"
    out += pair.server.notice(request, {"seconds": 10})
    out += pair.server.data(request, 9, 14, 1) + b"e"
    out += pair.server.answer(request, call, Read(size=5))
    assert pair.take(out) == [
        Data(request, 10, memoryview(b"abcd")),
        Noticed(request, {"seconds": 10}),
        Data(request, 14, memoryview(b"e")),
        Answered(request, call, Read(size=5)),
    ]


def test_a_quiet_write_that_failed_is_told_with_its_handle(pair: Pair) -> None:
    pair.writing()
    first, header = pair.client.write(7, 0, 1, quiet=True)
    second, more = pair.client.write(7, 1, 1, quiet=True)
    frames = pair.arrive(header + b"a" + more + b"b")
    failure = Failure(code="io", message="m")
    out = b"".join(pair.server.failure(frame.header.request, failure) for frame in frames)
    assert pair.take(out) == [Failed(first, failure, 7), Failed(second, failure, 7)]


def test_an_answer_says_that_the_quiet_writes_before_it_are_handled(pair: Pair) -> None:
    pair.writing()
    quiet, header = pair.client.write(7, 0, 1, quiet=True)
    pair.arrive(header + b"a")
    pair.ask(Claim(name="x"), Claimed(mine=True))
    with pytest.raises(RemoteProtocolError, match=f"request {quiet}, which is not open"):
        pair.take(pair.server.failure(quiet, Failure(code="io", message="too late")))


def test_a_failure_of_request_0_concerns_the_connection(pair: Pair) -> None:
    pair.greeted()
    failure = Failure(code="busy", message="stopping")
    assert pair.take(pair.server.failure(0, failure)) == [Failed(0, failure)]


def test_a_call_that_failed_opens_and_ends_nothing(pair: Pair) -> None:
    pair.writing()
    request, data = pair.client.call(Close(handle=7))
    (frame,) = pair.arrive(data)
    pair.server.call(frame.payload, descriptors=0)
    pair.take(pair.server.failure(request, Failure(code="digest", message="m")))
    assert pair.server.handles == {7: Mode.WRITE}
    pair.ask(Abort(handle=7), Done())
    assert pair.server.handles == {}


# --- what the daemon refuses --------------------------------------------------------------------


def refused(act: Callable[[], object]) -> tuple[str, bool]:
    with pytest.raises(RemoteProtocolError) as caught:
        act()
    return caught.value.code, caught.value.fatal


@pytest.mark.parametrize("op", sorted(set(CALLS) - {"hello"}))
def test_nothing_is_said_before_hello(op: str) -> None:
    assert (Phase.NEW, op) not in NEXT
    assert NEXT[Phase.OPEN, op] is Phase.OPEN


def test_a_call_before_hello_ends_the_connection() -> None:
    server = ServerSession()
    data = codec.encode_call(GetServerProps())
    assert refused(lambda: server.call(data)) == ("sequence", True)
    assert refused(lambda: server.call(b"junk")) == ("message", True)
    write = pack_header(Header(Kind.WRITE, 1, 1, 7))
    assert refused(lambda: server.header(write)) == ("sequence", True)
    long = pack_header(Header(Kind.CALL, MAX_HELLO + 1, 1))
    assert refused(lambda: server.header(long)) == ("frame", True)


def test_hello_is_said_once() -> None:
    server = Pair().greeted().server
    assert refused(lambda: server.call(codec.encode_call(HELLO))) == ("sequence", False)


def test_a_hello_that_was_refused_may_not_be_followed_by_calls() -> None:
    server = ServerSession()
    server.call(codec.encode_call(HELLO))
    server.failure(1, Failure(code="auth", message="m"))
    assert not server.greeted
    assert refused(lambda: server.call(codec.encode_call(GetServerProps()))) == ("sequence", True)


def test_the_highest_common_version_is_chosen() -> None:
    server = ServerSession()
    assert server.version(Hello(versions=(9, 1, 3))) == 1
    assert refused(lambda: server.version(Hello(versions=(2, 3)))) == ("version", True)
    assert refused(lambda: server.version(Hello(versions=()))) == ("version", True)


@pytest.mark.parametrize("call", [WriteFrom(handle=7, offset=0), Claim(name="x")])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_descriptors_come_with_the_calls_that_want_one(call: Call, count: int) -> None:
    server = Pair().writing().server
    data = codec.encode_call(call)
    if count == DESCRIPTORS.get(call.op, 0):
        assert server.call(data, descriptors=count) == call
    else:
        assert refused(lambda: server.call(data, descriptors=count)) == ("descriptor", False)
    assert server.call(data) == call


def test_a_handle_must_be_open_and_of_the_right_kind() -> None:
    server = Pair().reading().server
    for op, modes in HANDLES.items():
        if op == "WRITE":
            continue
        call = CALLS[op](handle=9, **({"offset": 0, "length": 1} if op == "read" else {})
                         | ({"offset": 0} if op == "write_from" else {}))  # fmt: skip
        data = codec.encode_call(call)
        if Mode.READ in modes:
            assert server.call(data) == call
        else:
            assert refused(lambda raw=data: server.call(raw)) == ("handle", False)
    assert refused(lambda: server.call(codec.encode_call(Flush(handle=8)))) == ("handle", False)
    for handle in (8, 9):
        header = Header(Kind.WRITE, 1, 1, handle)
        assert refused(lambda head=header: server.write(head)) == ("handle", False)


# --- what the client refuses --------------------------------------------------------------------


def test_a_client_does_not_send_what_is_illegal() -> None:
    client = ClientSession()
    for call in (Claim(name="x"), CREATE):
        with pytest.raises(LocalProtocolError, match="hello comes first"):
            client.call(call)
    with pytest.raises(LocalProtocolError):
        client.write(7, 0, 1, quiet=True)
    client = Pair().writing().client
    with pytest.raises(LocalProtocolError, match="comes with 1 descriptors, not 0"):
        client.call(WriteFrom(handle=7, offset=0))
    with pytest.raises(LocalProtocolError, match="handle 7 is open for writing"):
        client.call(ReadTo(handle=7), descriptors=1)
    with pytest.raises(LocalProtocolError, match="no handle 8"):
        client.write(8, 0, 1, quiet=True)
    with pytest.raises(LocalProtocolError, match="too long"):
        client.write(7, 0, (4 << 20) + 1, quiet=True)


def wrong_frames(request: int) -> dict[str, bytes]:
    answer = codec.encode_answer(Read(size=3))
    return {
        "of no request": message(Kind.ANSWER, request + 1, answer),
        "of another handle": pack_header(Header(Kind.DATA, 1, request, 8, 10)) + b"x",
        "of another place": pack_header(Header(Kind.DATA, 1, request, 9, 11)) + b"x",
        "too much": pack_header(Header(Kind.DATA, 7, request, 9, 10)) + b"1234567",
        "of another kind": message(Kind.ANSWER, request, b'{"mine":true}'),
        "not what came": message(Kind.ANSWER, request, answer),
        "junk": message(Kind.FAILURE, request, b"junk"),
        "a call": message(Kind.CALL, request, answer),
        "not ours": b"HTTP/1.1 400 Bad Request\r\n",
    }


@pytest.mark.parametrize("case", sorted(wrong_frames(1)))
def test_a_client_does_not_believe_a_frame_that_answers_nothing(case: str) -> None:
    pair = Pair().reading()
    request, _ = pair.client.call(ReadRange(handle=9, offset=10, length=6))
    with pytest.raises(RemoteProtocolError):
        pair.take(wrong_frames(request)[case])


def test_answers_come_in_the_order_of_the_calls() -> None:
    pair = Pair().writing()
    pair.client.write(7, 0, 1, quiet=False)
    request, _ = pair.client.call(Claim(name="x"))
    with pytest.raises(RemoteProtocolError, match="was answered before"):
        pair.take(message(Kind.ANSWER, request, b'{"mine":true}'))


def test_a_quiet_write_is_not_answered() -> None:
    pair = Pair().writing()
    request, _ = pair.client.write(7, 0, 1, quiet=True)
    with pytest.raises(RemoteProtocolError, match="quiet"):
        pair.take(message(Kind.ANSWER, request, b'{"offset":1}'))


def test_a_daemon_that_chooses_a_version_that_was_not_offered_is_left() -> None:
    pair = Pair()
    request, _ = pair.client.call(HELLO)
    wrong = cast(Welcome, codec.decode_answer(
        codec.encode_answer(WELCOME).replace(b'"version":1', b'"version":2'), Welcome
    ))  # fmt: skip
    with pytest.raises(RemoteProtocolError, match="version 2"):
        pair.take(message(Kind.ANSWER, request, codec.encode_answer(wrong)))


def test_request_numbers_begin_again_at_1_and_never_at_0() -> None:
    client = Pair().greeted().client
    client._last = 2**32 - 2
    assert [client.call(Claim(name="x"))[0] for _ in range(3)] == [2**32 - 1, 1, 2]


# --- anything -----------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 40))
@settings(max_examples=200)
def test_any_bytes_from_a_client_are_legal_or_refused(
    data: bytes, greeted: bool, piece: int
) -> None:
    pair = Pair(piece).writing() if greeted else Pair(piece)
    call = message(Kind.CALL, 1, data)
    write = pack_header(Header(Kind.WRITE, len(data), 1, data[0] if data else 0, 0, QUIET)) + data
    for stream in (data, b"TL" + data, call, write):
        try:
            for frame in pair.arrive(stream):
                if frame.header.kind is Kind.WRITE:
                    pair.server.write(frame.header)
                else:
                    pair.server.call(frame.payload)
        except RemoteProtocolError:
            pair._to_server = Incoming(from_client=True)


@given(st.binary(max_size=300), st.sampled_from(Kind), st.integers(0, 4), st.integers(1, 40))
@settings(max_examples=200)
def test_any_bytes_from_a_daemon_are_an_event_or_refused(
    data: bytes, kind: Kind, request: int, piece: int
) -> None:
    pair = Pair(piece).reading()
    pair.client.call(ReadRange(handle=9, offset=0, length=100))
    framed = pack_header(Header(kind, len(data), request, 9 if kind is Kind.DATA else 0)) + data
    for stream in (framed, data):
        try:
            pair.take(stream)
        except (RemoteProtocolError, LocalProtocolError):
            pair._to_client = Incoming(from_client=False)


@given(st.lists(CALL_MESSAGES, max_size=5), st.integers(1, 50))
@settings(max_examples=50)
def test_calls_arrive_as_they_were_sent_whatever_the_pieces(calls: list[Call], piece: int) -> None:
    data = b"".join(message(Kind.CALL, n, codec.encode_call(c)) for n, c in enumerate(calls))
    frames = feed(Incoming(from_client=True), data, piece)
    assert [codec.decode_call(frame.payload) for frame in frames] == calls
