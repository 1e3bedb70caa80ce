"""What clients say, rightly and wrongly, through a real socket, and how each is answered."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.errors import NoSpace, PoolError
from connector.serve import connection, line, outgoing
from connector.serve.interface import Notify
from connector.wire import codec, messages
from connector.wire.frames import HEADER, MAX_CONTROL, MAX_DATA, QUIET, Header, Kind, pack_header
from connector.wire.messages import Name
from tests.serve.doors import (
    PART,
    Ended,
    MemoryService,
    MemoryWriter,
    RawClient,
    client,
    connect,
    eventually,
    open_door,
    open_files,
    settings_for,
)

CLAIM = messages.Claim(name="p")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits look up ten times a second, so that a test of a deadline is short."""
    monkeypatch.setattr(line, "TICK_S", 0.1)


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
def path(tmp_path: Path, service: MemoryService) -> Iterator[Path]:
    with open_door(settings_for(tmp_path / "s"), service):
        yield tmp_path / "s"
    assert service.all_ended()


# --- hello ------------------------------------------------------------------------------------


def test_hello_says_limits_and_capabilities(path: Path) -> None:
    with client(path) as peer:
        welcome = peer.welcome
        assert (welcome.version, welcome.limits.data) == (1, MAX_DATA)
        assert (welcome.limits.control, welcome.limits.handles) == (MAX_CONTROL, 64)
        assert welcome.capabilities == ("RANGED_READ", "DESCRIPTORS")


@pytest.mark.parametrize("early", [CLAIM, messages.Close(handle=1)])
def test_nothing_is_done_before_hello(
    path: Path, service: MemoryService, early: messages.Call
) -> None:
    with client(path, hello=False) as peer:
        assert peer.refused(early).code == "sequence"
        assert peer.ended()
    assert service.sessions == []


def test_a_write_before_hello_ends_the_connection(path: Path) -> None:
    with client(path, hello=False) as peer:
        peer.send_write(1, 0, b"x")
        assert peer.reply().failure.code == "sequence"
        assert peer.ended()


def test_hello_is_said_once(path: Path) -> None:
    with client(path) as peer:
        assert peer.refused(messages.Hello(versions=(1,))).code == "sequence"
        assert peer.alive()


def test_a_version_that_nobody_speaks_is_refused(path: Path) -> None:
    with client(path, hello=False) as peer:
        assert peer.refused(messages.Hello(versions=(7, 8))).code == "version"
        assert peer.ended()


def test_a_service_that_is_full_says_busy(path: Path, service: MemoryService) -> None:
    service.most_sessions = 1
    with client(path), client(path, hello=False) as second:
        failure = second.refused(messages.Hello(versions=(1,)))
        assert (failure.code, failure.retryable) == ("busy", True)
        assert second.ended()


# --- frames that are wrong --------------------------------------------------------------------


WRONG = {
    "not ours": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown kind": HEADER.pack(b"TL", 9, 0, 1, 0, 0, 0),
    "from the other side": HEADER.pack(b"TL", Kind.ANSWER, 0, 1, 0, 0, 0),
    "unknown flags": HEADER.pack(b"TL", Kind.WRITE, 6, 1, 1, 0, 0),
    "a call too long": HEADER.pack(b"TL", Kind.CALL, 0, 1, 0, MAX_CONTROL + 1, 0),
    "a write too long": HEADER.pack(b"TL", Kind.WRITE, 0, 1, 1, MAX_DATA + 1, 0),
    "the longest length": HEADER.pack(b"TL", Kind.WRITE, QUIET, 1, 1, 2**32 - 1, 0),
    "a call with a handle": HEADER.pack(b"TL", Kind.CALL, 0, 1, 1, 2, 0) + b"{}",
}


@pytest.mark.parametrize("hello", [False, True])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_frame_that_cannot_be_followed_is_refused_and_ends_the_connection(
    path: Path, service: MemoryService, wrong: bytes, hello: bool
) -> None:
    with client(path, hello=hello) as peer:
        peer.sock.sendall(wrong)
        reply = peer.reply()
        assert reply.failure.code in ("frame", "sequence")
        assert reply.header.request == 0
        assert peer.ended()
    with client(path) as other:
        assert other.alive()
    assert service.images == {}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "message"),
        (b"{", "message"),
        (b"[]", "message"),
        (b"\xff\xfe", "message"),
        (b'{"op":"fly"}', "unknown_op"),
        (b'{"op":"claim"}', "message"),
        (b'{"op":"claim","name":7}', "message"),
        (b"[" * 100_000, "message"),
    ],
)
def test_a_message_that_is_wrong_is_refused_and_the_session_goes_on(
    path: Path, payload: bytes, code: str
) -> None:
    with client(path) as peer:
        peer.sock.sendall(pack_header(Header(Kind.CALL, len(payload), 77)) + payload)
        reply = peer.reply()
        assert (reply.header.request, reply.failure.code) == (77, code)
        assert peer.alive()


def test_the_longest_call_is_taken(path: Path) -> None:
    with client(path) as peer:
        payload = codec.encode_call(CLAIM)
        payload += b" " * (MAX_CONTROL - len(payload))
        peer.sock.sendall(pack_header(Header(Kind.CALL, len(payload), 5)) + payload)
        assert peer.reply().header.kind is Kind.ANSWER


def test_bytes_that_come_one_by_one_are_put_together(path: Path, service: MemoryService) -> None:
    with client(path) as peer:
        handle = peer.create()
        payload = codec.encode_call(CLAIM)
        frames = (
            pack_header(Header(Kind.WRITE, 5, 9, handle, 0, QUIET))
            + b"bytes"
            + pack_header(Header(Kind.CALL, len(payload), 10))
            + payload
        )
        for byte in frames:
            peer.sock.sendall(bytes([byte]))
        assert peer.reply().header.request == 10
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == b"bytes"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_do_harm(path: Path, data: bytes, hello: bool) -> None:
    with client(path, hello=hello) as peer:
        with contextlib.suppress(BrokenPipeError):
            peer.sock.sendall(data)
            peer.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(Ended):
            while True:
                peer.frame()
    with client(path) as other:
        assert other.alive()


# --- writing ----------------------------------------------------------------------------------


def test_writes_of_all_sizes_arrive_whole_and_in_order(path: Path, service: MemoryService) -> None:
    sizes = [1, 0, PART - 1, 1, PART, PART + 1, 3, MAX_DATA]
    data = os.urandom(sum(sizes))
    with client(path) as peer:
        handle, at = peer.create(), 0
        for number, size in enumerate(sizes):
            quiet = number % 2 == 0
            peer.send_write(handle, at, data[at : at + size], quiet=quiet)
            at += size
            if not quiet:
                accepted = codec.decode_answer(peer.reply().payload, messages.Accepted)
                assert accepted == messages.Accepted(offset=at)
        closed = peer.ask(messages.Close(handle=handle))
        assert closed.offset == len(data)
    assert service.images["image"] == data


def test_a_quiet_write_is_not_answered(path: Path) -> None:
    with client(path) as peer:
        handle = peer.create()
        for number in range(50):
            peer.send_write(handle, number, b"x", quiet=True)
        assert peer.alive()  # the next frame that came was the answer to this


def test_a_write_to_the_wrong_place_says_where_to_go_on(path: Path, service: MemoryService) -> None:
    with client(path) as peer:
        handle = peer.create()
        peer.send_write(handle, 0, b"abc")
        peer.reply()
        peer.send_write(handle, 7, b"x" * 100_000)
        failure = peer.reply().failure
        assert (failure.code, failure.offset) == ("offset", 3)
        peer.send_write(handle, 3, b"def")
        peer.reply()
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == b"abcdef"


def test_the_last_write_may_be_repeated_with_the_same_bytes_only(
    path: Path, service: MemoryService
) -> None:
    with client(path) as peer:
        handle = peer.create()
        for data in (b"abc", b"abc"):
            peer.send_write(handle, 0, data)
            assert codec.decode_answer(peer.reply().payload, messages.Accepted).offset == 3
        peer.send_write(handle, 0, b"abd")
        assert peer.reply().failure.code == "offset"
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == b"abc"


@pytest.mark.parametrize("size", [0, 1, 1_000_000, MAX_DATA])
def test_the_payload_of_a_refused_write_is_thrown_away_and_the_stream_stays_in_step(
    path: Path, size: int
) -> None:
    # a payload that looks like a frame must not be taken for one
    bait = pack_header(Header(Kind.CALL, 2, 999)) + b"{}"
    data = (bait * (size // len(bait) + 1))[:size]
    with client(path) as peer:
        peer.send_write(12, 0, data)
        assert peer.reply().failure.code == "handle"
        assert peer.alive()


def test_a_read_handle_cannot_be_written_nor_a_write_handle_read(
    path: Path, service: MemoryService
) -> None:
    service.images["old"] = b"old"
    with client(path) as peer:
        reading, writing = peer.open("old"), peer.create()
        peer.send_write(reading, 0, b"new")
        assert peer.reply().failure.code == "handle"
        assert peer.refused(messages.ReadRange(handle=writing, offset=0, length=1)).code == "handle"
        assert peer.alive()
    assert service.images["old"] == b"old"


def test_an_image_that_failed_says_so_once_for_a_run_of_quiet_writes(
    path: Path, service: MemoryService
) -> None:
    def full(writer: MemoryWriter) -> None:
        if writer.offset >= PART:
            writer.failure = NoSpace("no room", offset=PART, hint="go on elsewhere")
            raise writer.failure

    service.accepting = full
    with client(path) as peer:
        handle = peer.create()
        data = bytes(PART)
        for number in range(8):
            peer.send_write(handle, number * PART, data, quiet=True)
        failure = peer.reply().failure
        assert (failure.code, failure.offset) == ("no_space", PART)
        assert peer.alive()  # nothing else had been said
        peer.send_write(handle, PART, data, quiet=True)
        assert peer.reply().failure.code == "no_space"
        for _ in range(2):
            peer.send_write(handle, PART, data)
            assert peer.reply().failure.code == "no_space"


def test_a_client_that_never_reads_while_it_writes_in_vain_is_not_stuck(path: Path) -> None:
    with client(path) as peer:
        for number in range(20_000):
            peer.send_write(number % 7 + 1, 5, b"x", quiet=True)
        assert peer.frame().failure.code == "handle"


def test_failures_of_endless_handles_take_no_endless_memory(path: Path) -> None:
    with client(path) as peer:
        for number in range(300):
            peer.send_write(number, 0, b"x", quiet=True)
        for _ in range(300):
            assert peer.reply().failure.code == "handle"
        assert peer.alive()


def test_a_quiet_writer_is_warned_once_that_space_runs_out(
    path: Path, service: MemoryService
) -> None:
    def low(writer: MemoryWriter) -> None:
        writer.low_space = True

    service.accepting = low
    with client(path) as peer:
        handle = peer.create()
        for number in range(3):
            peer.send_write(handle, number, b"x", quiet=True)
        peer.send_write(handle, 3, b"x")
        reply = peer.reply()
        assert codec.decode_answer(reply.payload, messages.Accepted).low_space
        assert peer.notices == [{"handle": handle, "low_space": True, "offset": 1}]


# --- reading ----------------------------------------------------------------------------------


def read_all(peer: RawClient, call: messages.ReadRange) -> bytes:
    request = peer.send_call(call)
    data = bytearray()
    while True:
        frame = peer.frame()
        assert frame.header.request == request
        if frame.header.kind is Kind.ANSWER:
            said = codec.decode_answer(frame.payload, messages.Read)
            assert said.size == len(data)
            return bytes(data)
        assert frame.header.kind is Kind.DATA, frame.failure
        assert frame.header.handle == call.handle
        assert frame.header.offset == call.offset + len(data)
        assert 0 < frame.header.length <= MAX_DATA
        data += frame.payload


@pytest.mark.parametrize("part", [1000, PART, 5 * MAX_DATA])
def test_ranges_come_back_exactly(tmp_path: Path, part: int) -> None:
    data = os.urandom(2 * MAX_DATA + 12_345)
    service = MemoryService(part=part, images={"i": data})
    with open_door(settings_for(tmp_path / "s"), service), client(tmp_path / "s") as peer:
        handle = peer.open("i")
        if part > 1000:
            everything = messages.ReadRange(handle=handle, offset=0, length=len(data) + 5)
            assert read_all(peer, everything) == data
        for offset, length in ((0, 0), (0, 1), (999, 2), (len(data) - 1, 9), (len(data), 1)):
            call = messages.ReadRange(handle=handle, offset=offset, length=length)
            assert read_all(peer, call) == data[offset : offset + length]


def test_a_stream_that_breaks_is_a_failure_after_the_data_and_not_a_short_read(
    path: Path, service: MemoryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.images["i"] = bytes(100)
    with client(path) as peer:
        handle = peer.open("i")
        reader = service.sessions[0].reading(handle)

        def stream(offset: int, length: int | None) -> Iterator[memoryview]:
            yield memoryview(b"good")
            raise PoolError("a part is damaged", hint="read another copy")

        monkeypatch.setattr(reader, "stream", stream)
        peer.send_call(messages.ReadRange(handle=handle, offset=0, length=100))
        assert peer.frame().payload == b"good"
        assert peer.frame().failure.hint == "read another copy"
        assert peer.alive()


def test_a_reader_that_leaves_in_the_middle_closes_the_stream(tmp_path: Path) -> None:
    service = MemoryService(images={"i": bytes(64 << 20)})
    with open_door(settings_for(tmp_path / "s"), service):
        with client(tmp_path / "s") as peer:
            handle = peer.open("i")
            peer.send_call(messages.ReadRange(handle=handle, offset=0, length=64 << 20))
            peer.frame()
            reader = service.sessions[0].reading(handle)
        assert eventually(lambda: reader.closed == 1)
        assert service.all_ended()


# --- leaving ----------------------------------------------------------------------------------


def test_leaving_at_any_byte_ends_the_session_once_and_leaks_nothing(
    path: Path, service: MemoryService
) -> None:
    payload = codec.encode_call(messages.Hello(versions=(1,)))
    call = codec.encode_call(messages.Create(pool="p", image=Name("i"), token="12345678"))
    said = (
        pack_header(Header(Kind.CALL, len(payload), 1))
        + payload
        + pack_header(Header(Kind.CALL, len(call), 2))
        + call
        + pack_header(Header(Kind.WRITE, 40, 3, 1, 0))
        + bytes(40)
    )
    with client(path):
        pass
    assert service.all_ended()
    before = open_files()
    for stop in range(len(said)):
        sock = connect(path)
        sock.sendall(said[:stop])
        sock.close()
    assert service.all_ended()
    assert eventually(lambda: open_files() <= before)
    assert service.images == {}


def test_a_call_that_waits_learns_that_its_client_has_left(
    path: Path, service: MemoryService
) -> None:
    learned = threading.Event()

    def wait(name: str, notify: Notify, gone: Callable[[], bool]) -> bool:
        if eventually(gone):
            learned.set()
        return True

    service.claim = wait
    with client(path) as peer:
        peer.send_call(CLAIM)
        time.sleep(0.05)
        assert not learned.is_set()
    assert learned.wait(5)


def test_looking_for_a_hang_up_takes_no_byte(path: Path, service: MemoryService) -> None:
    def look(name: str, notify: Notify, gone: Callable[[], bool]) -> bool:
        return not any(gone() for _ in range(1000))

    service.claim = look
    with client(path) as peer:
        requests = [peer.send_call(CLAIM) for _ in range(3)]
        for request in requests:
            reply = peer.reply()
            assert reply.header.request == request
            assert codec.decode_answer(reply.payload, messages.Claimed).mine


# --- bugs -------------------------------------------------------------------------------------


def test_a_bug_ends_one_session_with_a_traceback_and_no_other(
    path: Path, service: MemoryService, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(name: str, notify: Notify, gone: Callable[[], bool]) -> bool:
        if name == "bug":
            raise ZeroDivisionError("secret detail")
        return True

    service.claim = bug
    with client(path) as other, client(path) as peer:
        peer.send_call(messages.Claim(name="bug"))
        reply = peer.reply()
        assert (reply.header.request, reply.failure.code) == (0, "internal")
        assert "secret" not in reply.failure.message
        assert peer.ended()
        assert other.alive()
    assert any(record.exc_info for record in caplog.records)


def test_a_bug_in_ending_a_session_does_not_keep_the_connection(
    path: Path, service: MemoryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(path):
        (session,) = service.sessions

        def bug() -> None:
            session.ended = 1
            raise ZeroDivisionError

        monkeypatch.setattr(session, "end", bug)
    with client(path) as other:
        assert other.alive()


# --- notices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("often", [0.005, 10.0])
def test_a_long_call_sends_notices_not_too_often_and_also_by_itself(
    path: Path, service: MemoryService, monkeypatch: pytest.MonkeyPatch, often: float
) -> None:
    monkeypatch.setattr(outgoing, "PULSE_S", 0.5)

    def long(name: str, notify: Notify, gone: Callable[[], bool]) -> bool:
        end = time.monotonic() + 1.7
        while time.monotonic() < end:
            notify({"done": 7})
            time.sleep(min(often, max(0.0, end - time.monotonic())))
        return True

    service.claim = long
    with client(path) as peer:
        assert peer.alive()
        assert 1 <= len(peer.notices) <= 2
        for notice in peer.notices:
            assert notice["done"] == 7
            assert isinstance(notice["busy_s"], float)


def test_a_call_that_is_stuck_is_given_up_and_its_client_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service, free = MemoryService(), threading.Event()
    service.claim = lambda name, notify, gone: free.wait(20)
    with open_door(settings_for(tmp_path / "s", call_s=0.5), service) as door:
        with client(tmp_path / "s") as peer:
            peer.send_call(CLAIM)
            reply = peer.reply()
            assert (reply.header.request, reply.failure.code) == (0, "timeout")
            assert peer.ended()
        free.set()
        assert eventually(lambda: door.connections == 0)
    assert service.all_ended()
    assert "did not move" in caplog.text


def test_a_client_that_reads_slowly_is_not_taken_for_a_stuck_call(tmp_path: Path) -> None:
    service = MemoryService(images={"i": bytes(8 << 20)})
    with (
        open_door(settings_for(tmp_path / "s", call_s=0.6), service),
        client(tmp_path / "s") as peer,
    ):
        handle = peer.open("i")
        peer.send_call(messages.ReadRange(handle=handle, offset=0, length=8 << 20))
        time.sleep(2.2)
        left = 8 << 20
        while left:
            frame = peer.frame()
            assert frame.header.kind is Kind.DATA, frame.failure
            left -= frame.header.length
        assert peer.reply().header.kind is Kind.ANSWER


def test_a_connection_that_was_silent_is_served_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.01)
    with client(path) as peer:
        handle = peer.create()
        for number in range(2):
            assert eventually(lambda: not _working(), 5), threading.enumerate()
            peer.send_write(handle, number, b"x")
            assert codec.decode_answer(peer.reply().payload, messages.Accepted).offset == number + 1


def _working() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("client-")]


def test_nothing_secret_and_no_payload_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with client(path) as peer:
        peer.refused(messages.Hello(versions=(1,), token="very-secret-token"))
        peer.send_write(9, 0, b"very-secret-bytes")
        peer.reply()
    assert "very-secret" not in caplog.text
