"""The client against a daemon that follows a script: what real ones do only on a bad day."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from catalog import errors
from connector import client as module
from connector.client import Client, ConnectionLost, Refused, Writer, failure_in
from connector.client_errors import KINDS, error_of
from connector.client_writer import ASK_EVERY
from connector.wire.frames import MAX_DATA, QUIET
from connector.wire.messages import (
    Abort,
    Accepted,
    Claim,
    Claimed,
    Close,
    Closed,
    Create,
    Done,
    Durable,
    Failure,
    Flush,
    Name,
    Open,
    Read,
    Reading,
    ReadRange,
    ReadTo,
    Received,
    Resume,
    Settle,
    Ticket,
    WriteFrom,
    Writing,
)
from tests.wire.support import WAIT_S, Line, scripted

IMAGE = Name("db_1_C1_F1")


def closed(size: int, *, state: str = "complete", sha256: str | None = None) -> Closed:
    return Closed(
        pool="main", image=IMAGE, copy=1, state=state, offset=size, sha256=sha256, id="a1"
    )


def reading(data: bytes, *, sha256: str | None = None) -> Reading:
    digest = sha256 or hashlib.sha256(data).hexdigest()
    return Reading(handle=3, image=IMAGE, copy=1, size=len(data), sha256=digest, state="complete")


def opened(line: Line, offset: int = 0) -> Create:
    line.hello()
    call = line.serve(Create, Writing(handle=7, offset=offset))
    assert isinstance(call, Create)
    return call


def fill(image: Writer, count: int = 100) -> None:
    """Write much more than the buffers of two sockets hold."""
    for _ in range(count):
        image.write(bytes(MAX_DATA))
    image.flush()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.sock"


# --- writing ------------------------------------------------------------------------------------


def test_what_is_written_arrives_in_order_and_is_closed_with_size_and_digest(path: Path) -> None:
    pieces = [os.urandom(10), os.urandom(MAX_DATA + 5), b"", os.urandom(300_000), b"end"]
    whole = b"".join(pieces)

    def daemon(line: Line) -> None:
        call = opened(line)
        assert (call.pool, call.image, len(call.token)) == ("main", IMAGE, 32)
        got = b""
        while len(got) < len(whole):
            header, payload = line.write()
            assert (header.offset, header.handle, header.flags) == (len(got), 7, QUIET)
            got += payload
        assert got == whole
        close = line.serve(Close, closed(len(got), sha256=hashlib.sha256(got).hexdigest()))
        assert (close.complete, close.size) == (True, len(whole))
        assert close.sha256 == hashlib.sha256(whole).hexdigest()

    with scripted(path, daemon), Client(path) as client, client.create("main", IMAGE) as image:
        for piece in pieces:
            assert image.write(piece) == len(piece)
    assert image.closed is not None
    assert image.close() is image.closed


def test_leaving_a_writer_with_an_exception_aborts_the_image(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        line.serve(Abort, Done())

    def write(client: Client) -> None:
        with client.create("main", IMAGE) as image:
            image.write(b"never seen")
            raise KeyError

    with scripted(path, daemon), Client(path) as client, pytest.raises(KeyError):
        write(client)


def test_the_failure_of_a_quiet_write_is_raised_by_whatever_comes_next(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        header, _ = line.write()
        line.fail(header.request, "no_space", offset=0, hint="grow the pool")
        header, _ = line.write()
        line.fail(header.request, "no_space", message="the second says nothing new")
        line.serve(Close, closed(0, state="incomplete"))

    with scripted(path, daemon), Client(path, timeout_s=WAIT_S) as client:
        image = client.create("main", IMAGE)
        image.write(bytes(MAX_DATA))
        with pytest.raises(errors.NoSpace, match="no_space; grow the pool") as caught:
            fill(image, 1)
        assert caught.value.offset == 0
        for again in (image.flush, image.close):
            with pytest.raises(errors.NoSpace, match="grow the pool"):
                again()
        assert image.checkpoint().state == "incomplete"


def test_a_daemon_that_must_tell_failures_before_it_reads_on_does_not_hang(path: Path) -> None:
    """Both socket buffers are full: the client must take failures while it is sending."""
    count = 3000

    def daemon(line: Line) -> None:
        opened(line)
        told = 0
        for _ in range(count):
            header, _ = line.write()
            line.fail(header.request, "io", message="x" * 4000)  # blocks when nobody reads
            told += 1
        line.serve(Abort, Done())
        assert told == count

    with scripted(path, daemon), Client(path, timeout_s=WAIT_S) as client:
        image = client.create("main", IMAGE)
        for number in range(count):
            image._channel.write(7, number, memoryview(bytes(2000)), quiet=True)
        with pytest.raises(errors.StoreError):
            image.write(b"x" * MAX_DATA)
        image.abort()


def test_now_and_then_a_write_is_answered_so_that_low_space_is_seen(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        loud = []
        for number in range(ASK_EVERY // MAX_DATA + 2):
            header, payload = line.write()
            if not header.flags & QUIET:
                loud.append(number)
                accepted = Accepted(offset=header.offset + len(payload), low_space=True)
                line.answer(header.request, accepted)
        assert loud == [ASK_EVERY // MAX_DATA]
        line.serve(Flush, Durable(durable=5, offset=9))
        line.serve(Close, closed(9))

    piece = bytes(MAX_DATA)
    with (
        scripted(path, daemon),
        Client(path) as client,
        client.create("main", IMAGE, digest=False) as image,
    ):
        for _ in range(ASK_EVERY // MAX_DATA + 2):
            image.write(piece)
        image.flush()
        assert image.low_space
        assert image.durable == 5


def test_a_connection_lost_in_the_middle_says_from_where_to_resume(path: Path) -> None:
    def first(line: Line) -> None:
        opened(line)
        line.write()
        line.serve(Flush, Durable(durable=2, offset=4))

    def second(line: Line) -> None:
        line.hello()
        call = line.serve(Resume, Writing(handle=1, offset=3))
        assert call.token == "token-of-mine"
        header, payload = line.write()
        assert (header.offset, payload) == (3, b"d")
        close = line.serve(Close, closed(4))
        assert close.sha256 == hashlib.sha256(b"abcd").hexdigest()

    with scripted(path, first, second), Client(path, timeout_s=WAIT_S) as client:
        image = client.create("main", IMAGE, token="token-of-mine")
        image.write(b"abcd")
        image.flush()
        with pytest.raises(ConnectionLost, match="at least 2 bytes are durable") as caught:
            fill(image)
        assert caught.value.offset == 2
        assert caught.value.retryable
        known = {3: hashlib.sha256(b"abc")}
        resumed = client.resume("main", IMAGE, "token-of-mine", digest_to=known.get)
        assert resumed.offset == 3
        resumed.write(b"d")
        resumed.close()


def test_an_abort_that_fails_does_not_hide_why_it_was_wanted(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        request, _ = line.call(Abort)
        line.fail(request, "io")

    def write(client: Client) -> None:
        with client.create("main", IMAGE):
            raise KeyError

    with (
        scripted(path, daemon),
        Client(path) as client,
        pytest.raises(KeyError) as caught,
    ):
        write(client)
    assert caught.value.__notes__ == ["the image could not be aborted: io"]


def test_a_writer_whose_connection_is_lost_is_not_aborted_so_that_it_can_be_resumed(
    path: Path,
) -> None:
    def write(client: Client) -> None:
        with client.create("main", IMAGE) as image:
            fill(image)

    with scripted(path, opened), Client(path) as client, pytest.raises(ConnectionLost):
        write(client)


# --- close and its lost answer ------------------------------------------------------------------


def test_a_lost_answer_to_close_is_asked_for_on_another_connection(path: Path) -> None:
    sha256 = hashlib.sha256(b"abc").hexdigest()

    def first(line: Line) -> None:
        opened(line)
        line.write()
        line.call(Close)  # and never answers

    def busy(line: Line) -> None:
        line.hello()
        request, _ = line.call(Settle)
        line.fail(request, "in_use", retryable=True)

    def third(line: Line) -> None:
        line.hello()
        settle = line.serve(Settle, closed(3, sha256=sha256))
        assert (settle.token, settle.size, settle.sha256) == ("token-of-mine", 3, sha256)

    with scripted(path, first, busy, third), Client(path) as client:
        image = client.create("main", IMAGE, token="token-of-mine")
        image.write(b"abc")
        assert image.close().state == "complete"


def test_a_close_that_never_arrived_is_told_as_incomplete_and_where_to_go_on(path: Path) -> None:
    def settle(line: Line) -> None:
        line.hello()
        line.serve(Settle, closed(2, state="incomplete"))

    with scripted(path, opened, settle), Client(path) as client:
        image = client.create("main", IMAGE)
        with pytest.raises(ConnectionLost, match="resume it with the same token") as caught:
            image.close()
        assert caught.value.offset == 2
        assert image.closed is None


def test_a_close_that_was_refused_is_not_asked_for_again(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        request, _ = line.call(Close)
        line.fail(request, "exists")

    with scripted(path, daemon), Client(path) as client:
        image = client.create("main", IMAGE)
        with pytest.raises(errors.ImageExists):
            image.close()


def test_settling_ends_after_a_bounded_number_of_attempts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE_FIRST_S", 0.001)
    monkeypatch.setattr(module, "SETTLE_LONGEST_S", 0.002)

    def gone(line: Line) -> None:
        opened(line)
        line.call(Close)
        path.unlink()

    with scripted(path, gone), Client(path) as client:
        image = client.create("main", IMAGE, token="token-of-mine")
        with pytest.raises(ConnectionLost, match="with token token-of-mine and size 0"):
            image.close()


def test_a_daemon_that_stored_something_else_is_found_out(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        line.serve(Close, closed(0, sha256="0" * 64))

    with scripted(path, daemon), Client(path) as client:
        image = client.create("main", IMAGE)
        with pytest.raises(errors.ImageDamaged, match="stored SHA-256 0000"):
            image.close()


# --- descriptors --------------------------------------------------------------------------------


def test_a_descriptor_goes_with_the_call_and_the_daemon_reads_it(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        request, call = line.call(WriteFrom)
        assert (call.offset, call.length) == (0, None)
        (descriptor,) = line.descriptors
        with os.fdopen(descriptor, "rb") as pipe:
            assert pipe.read() == b"through the pipe"
        line.answer(request, Received(offset=16, eof=True))
        assert line.serve(Close, closed(16)).sha256 is None

    here, there = os.pipe()
    with (
        scripted(path, daemon),
        Client(path) as client,
        os.fdopen(here, "rb"),
        client.create("main", IMAGE) as image,
    ):
        os.write(there, b"through the pipe")
        os.close(there)
        assert image.write_from(here).eof
        assert image.offset == 16


def test_read_to_compares_the_digest_of_a_whole_image(path: Path) -> None:
    def daemon(line: Line) -> None:
        line.hello()
        line.serve(Open, reading(b"abc"))
        request, call = line.call(ReadTo)
        assert call.offset == 0
        (descriptor,) = line.descriptors
        os.write(descriptor, b"abd")
        os.close(descriptor)
        line.answer(request, Read(size=3, sha256=hashlib.sha256(b"abd").hexdigest()))
        line.serve(Close, closed(0))

    here, there = os.pipe()
    with (
        scripted(path, daemon),
        Client(path) as client,
        client.open("main", IMAGE) as image,
        pytest.raises(errors.ImageDamaged),
    ):
        image.read_to(there)
    os.close(there)
    assert os.read(here, 10) == b"abd"
    os.close(here)


# --- reading ------------------------------------------------------------------------------------


def give(line: Line, data: bytes, piece: int) -> None:
    """Answer one read from data, in frames of piece bytes."""
    request, call = line.call(ReadRange)
    end = call.offset + call.length
    for offset in range(call.offset, end, piece):
        line.data(request, 3, offset, data[offset : min(end, offset + piece)])
    line.answer(request, Read(size=len(data[call.offset : end])))


def test_an_image_is_read_by_iteration_by_ranges_and_into_memory(path: Path) -> None:
    data = os.urandom(40 << 20)

    def daemon(line: Line) -> None:
        line.hello()
        line.serve(Open, reading(data))
        for _ in range(5):
            give(line, data, 3 << 20)
        line.serve(Close, closed(0))

    with scripted(path, daemon), Client(path) as client, client.open("main", IMAGE) as image:
        got = bytearray()
        for piece in image:
            got += piece
        assert got == data
        assert image.tell() == len(data)
        assert image.read(5) == b""
        image.seek(-10, os.SEEK_END)
        assert image.read(100) == data[-10:]
        image.seek(7)
        assert image.read(9) == data[7:16]
        buffer = bytearray(12)
        assert image.readinto(buffer) == 12
        assert buffer == data[16:28]


def test_an_image_with_another_digest_is_damaged_at_its_last_byte(path: Path) -> None:
    def daemon(line: Line) -> None:
        line.hello()
        line.serve(Open, reading(b"abc", sha256="0" * 64))
        give(line, b"abc", 2)
        line.serve(Close, closed(0))

    with (
        scripted(path, daemon),
        Client(path) as client,
        client.open("main", IMAGE) as image,
        pytest.raises(errors.ImageDamaged, match="what was read has SHA-256"),
    ):
        image.read()


def test_a_failure_after_some_bytes_is_raised_and_never_a_short_read(path: Path) -> None:
    def daemon(line: Line) -> None:
        line.hello()
        line.serve(Open, reading(b"abcdef"))
        request, _ = line.call(ReadRange)
        line.data(request, 3, 0, b"abc")
        line.fail(request, "damaged")
        request, _ = line.call(ReadRange)
        line.data(request, 3, 0, b"abc")
        line.answer(request, Read(size=3))
        line.serve(Close, closed(0))

    with scripted(path, daemon), Client(path) as client, client.open("main", IMAGE) as image:
        for said in ("damaged", "gave 3 bytes of 6"):
            with pytest.raises(errors.ImageDamaged, match=said):
                image.read()


def test_who_stops_reading_early_can_go_on_with_the_same_client(path: Path) -> None:
    data = bytes(100)

    def daemon(line: Line) -> None:
        line.hello()
        line.serve(Open, reading(data))
        give(line, data, 10)
        line.serve(Claim, Claimed(mine=True))
        line.serve(Close, closed(0))

    with scripted(path, daemon), Client(path) as client, client.open("main", IMAGE) as image:
        for piece in image:
            assert len(piece) == 10
            with pytest.raises(errors.ProtocolError, match="still under way"):
                client.claim("main")
            break
        assert client.claim("main")


@pytest.mark.parametrize(
    ("offset", "data"), [(1, b"abc"), (0, b"abcdefg")], ids=["elsewhere", "too much"]
)
def test_data_that_was_not_asked_for_ends_the_connection(
    path: Path, offset: int, data: bytes
) -> None:
    def daemon(line: Line) -> None:
        line.hello()
        line.serve(Open, reading(b"abcdef"))
        request, _ = line.call(ReadRange)
        line.data(request, 3, offset, data)

    with (
        scripted(path, daemon),
        Client(path) as client,
        client.open("main", IMAGE) as image,
        pytest.raises(errors.ProtocolError, match="broke the protocol"),
    ):
        image.read()


# --- time, notices, bad days --------------------------------------------------------------------


def test_a_daemon_that_never_answers_is_left_at_the_deadline(path: Path) -> None:
    def daemon(line: Line) -> None:
        line.hello()
        line.call(Claim)
        time.sleep(0.5)

    begin = time.monotonic()
    with scripted(path, daemon), Client(path, timeout_s=0.2) as client:
        with pytest.raises(ConnectionLost, match=r"nothing for 0\.2 s"):
            client.claim("main")
        assert time.monotonic() - begin < 0.45


def test_a_daemon_that_takes_no_more_bytes_is_left_at_the_deadline(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        time.sleep(0.5)

    with scripted(path, daemon), Client(path, timeout_s=0.2) as client:
        image = client.create("main", IMAGE)
        begin = time.monotonic()
        with pytest.raises(ConnectionLost, match="at least 0 bytes are durable"):
            image.write(bytes(32 << 20))
        assert time.monotonic() - begin < 0.45


def test_notices_keep_a_long_call_alive(path: Path) -> None:
    def daemon(line: Line) -> None:
        line.hello()
        request, _ = line.call(Claim)
        for second in range(6):
            time.sleep(0.1)
            line.send(line.session.notice(request, {"seconds": second}))
        line.answer(request, Claimed(mine=True))

    notices: list[Any] = []
    with scripted(path, daemon), Client(path, timeout_s=0.3, on_notice=notices.append) as client:
        assert client.claim("main")
    assert notices == [{"seconds": second} for second in range(6)]


def test_the_last_words_of_a_daemon_are_heard_even_while_sending(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        line.fail(0, "busy", message="this daemon is stopping", retryable=True)

    with scripted(path, daemon), Client(path, timeout_s=WAIT_S) as client:
        image = client.create("main", IMAGE)
        with pytest.raises(ConnectionLost, match="ended the session: this daemon is stopping"):
            fill(image)


def test_a_client_connects_anew_after_its_connection_was_lost(path: Path) -> None:
    def first(line: Line) -> None:
        line.hello()
        line.call(Claim)

    def again(line: Line) -> None:
        line.hello()
        line.serve(Claim, Claimed(mine=False))

    with scripted(path, first, again), Client(path, timeout_s=WAIT_S) as client:
        with pytest.raises(ConnectionLost):
            client.claim("main")
        assert not client.claim("main")


def test_a_session_that_ended_while_nothing_was_asked_costs_no_call(path: Path) -> None:
    left = threading.Event()

    def idle(line: Line) -> None:
        line.hello()
        line.fail(0, "timeout", message="nothing was said for 1 s")
        left.set()

    def again(line: Line) -> None:
        line.hello()
        line.serve(Claim, Claimed(mine=True))

    with scripted(path, idle, again), Client(path, timeout_s=WAIT_S) as client:
        assert left.wait(WAIT_S)
        assert client.claim("main")


def test_low_space_may_be_told_in_a_notice_to_a_writer_who_asks_nothing(path: Path) -> None:
    def daemon(line: Line) -> None:
        opened(line)
        header, _ = line.write()
        line.send(line.session.notice(header.request, {"handle": 7, "low_space": True}))
        line.serve(Close, closed(MAX_DATA))

    with scripted(path, daemon), Client(path) as client:
        image = client.create("main", IMAGE, digest=False)
        assert not image.low_space
        image.write(bytes(MAX_DATA))
        image.close()
        assert image.low_space


def test_a_refused_hello_says_why_and_leaves_no_socket_open(path: Path) -> None:
    def daemon(line: Line) -> None:
        header, _ = line.frame()
        line.fail(header.request, "auth", hint="ask for membership")

    with scripted(path, daemon), pytest.raises(errors.AuthFailed, match="ask for membership"):
        Client(path).__enter__()


def test_where_no_daemon_is_the_path_and_the_remedy_are_named(path: Path) -> None:
    with pytest.raises(ConnectionLost, match=r"pool\.sock.*tapeconnector serve"):
        Client(path).hello()


def test_a_client_is_told_at_once_when_it_is_not_told_where_to_connect() -> None:
    for wrong in ({}, {"socket": "a", "host": "b", "port": 1}, {"host": "b"}):
        with pytest.raises(errors.ConfigError):
            Client(**wrong)  # type: ignore[arg-type]


def test_the_token_is_in_no_repr() -> None:
    assert "secret" not in repr(Client(host="localhost", port=1, token="secret"))


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_code_of_the_table_becomes_its_error(code: str) -> None:
    exc = error_of(Failure(code=code, message="m", hint="h", retryable=True, retry_after_s=2.0))
    assert type(exc) is KINDS[code]
    assert (exc.code, exc.hint, exc.retryable, str(exc)) == (code, "h", True, "m; h")
    assert vars(exc)["retry_after_s"] == 2.0


def test_a_code_of_a_later_daemon_is_refused_with_its_code() -> None:
    exc = error_of(Failure(code="of_tomorrow", message="m"))
    assert isinstance(exc, Refused)
    assert exc.code == "of_tomorrow"


def test_an_archived_image_carries_its_offer(path: Path) -> None:
    offer = Ticket(
        ticket="t", state="offered", asked=False, tier="Bulk", days=1, objects=1, size=1, cost=0.1,
        currency="USD", price_date="2026-01-01", hours=5.0, done=0, total=1, expires_at=None,
        ready=(), offers=(),
    )  # fmt: skip

    def daemon(line: Line) -> None:
        line.hello()
        request, _ = line.call(Open)
        line.fail(request, "archived", offer=offer)

    with (
        scripted(path, daemon),
        Client(path) as client,
        pytest.raises(errors.ImageArchived) as caught,
    ):
        client.open("main", IMAGE)
    failure = failure_in(caught.value)
    assert failure is not None
    assert dataclasses.asdict(failure)["offer"]["cost"] == 0.1
    assert vars(caught.value)["offer"] == offer
