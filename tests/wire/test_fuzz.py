"""Every parser takes any bytes and answers or raises its own error: for as long as one likes.

TAPELIFT_FUZZ_SECONDS says how long (60 unless set). What is watched: another error than the
parser's own, an input that takes too long, and memory that grows.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from connector.wire import codec
from connector.wire.errors import LocalProtocolError, RemoteProtocolError
from connector.wire.frames import HEADER, Header, Kind, pack_header, parse_header
from connector.wire.incoming import Incoming
from connector.wire.messages import Call, Failure, Name, Open, Reading, ReadRange
from connector.wire.session import ServerSession, message
from tests.wire.mutation import SECONDS, mutants, resident
from tests.wire.support import (
    ANSWER_KINDS,
    ANSWER_MESSAGES,
    CALL_MESSAGES,
    feed,
)
from tests.wire.test_codec import HOSTILE
from tests.wire.test_session import Pair

SLOW_S = 1.0
"""No input of at most 64 KiB may take longer, in processor seconds."""
WARM = 0.1
"""The part of the time after which memory counts."""
GROWTH = 32 << 20
"""How much the process may grow after that, in bytes: what the interpreter holds in reserve."""

pytestmark = [pytest.mark.deep, pytest.mark.timeout(SECONDS + 120)]


def samples() -> tuple[list[bytes], list[bytes]]:
    """Legal calls and answers of every kind."""
    calls: list[bytes] = []
    answers: list[bytes] = [codec.encode_failure(Failure(code="io", message="m", hint="h"))]
    quiet = settings(
        max_examples=300,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @quiet
    @given(CALL_MESSAGES)
    def gather_calls(call: Call) -> None:
        calls.append(codec.encode_call(call))

    @quiet
    @given(ANSWER_MESSAGES)
    def gather_answers(answer: object) -> None:
        answers.append(codec.encode_answer(answer))  # type: ignore[arg-type]

    gather_calls()
    gather_answers()
    return calls, answers


def soak(corpus: list[bytes], parse: Callable[[bytes], None]) -> None:
    """Give mutants to a parser, and watch."""
    begin, base, count = time.monotonic(), 0, 0
    for data in mutants(corpus):
        started = time.process_time()
        try:
            parse(data)
        except (RemoteProtocolError, LocalProtocolError):
            pass
        except BaseException as exc:
            raise AssertionError(f"{type(exc).__name__}: {exc} on {data.hex()}") from exc
        assert time.process_time() - started < SLOW_S, f"slow on {data.hex()}"
        count += 1
        if count % 2_000 == 0:
            gc.collect()
            if not base and time.monotonic() - begin > SECONDS * WARM:
                base = resident()
            assert not base or resident() - base < GROWTH, f"grown after {count} inputs"
    print(f"{count} inputs")


def test_no_message_harms_a_decoder() -> None:
    calls, answers = samples()

    def parse(data: bytes) -> None:
        for decode in (
            codec.decode_call,
            codec.decode_failure,
            codec.decode_notice,
            *(lambda raw, kind=kind: codec.decode_answer(raw, kind) for kind in ANSWER_KINDS),
        ):
            try:
                read = decode(data)
            except RemoteProtocolError as exc:
                assert not exc.fatal  # noqa: PT017
                exc.message.encode()
            else:
                if isinstance(read, Call):
                    assert codec.decode_call(codec.encode_call(read)) == read

    small = [data for data in HOSTILE.values() if len(data) < 5000]
    soak(calls + answers + small, parse)


def test_no_stream_harms_the_daemons_side() -> None:
    calls, _ = samples()
    framed = [message(Kind.CALL, number + 1, data) for number, data in enumerate(calls)]
    framed += [pack_header(Header(Kind.WRITE, 5, 3, handle, 9, 1)) + b"bytes" for handle in (1, 7)]
    pair = Pair()

    def parse(data: bytes) -> None:
        server = ServerSession() if len(data) % 5 == 0 else pair.server
        for frame in feed(Incoming(from_client=True), data, len(data) % 97 + 1):
            server.check(frame.header)
            if frame.header.kind is Kind.WRITE:
                server.write(frame.header)
            else:
                server.call(frame.payload, descriptors=len(data) % 2)

    pair.writing()
    soak(framed, parse)


def test_no_stream_harms_the_clients_side() -> None:
    _, answers = samples()
    framed = [message(Kind.ANSWER, 2 + n % 3, data) for n, data in enumerate(answers)]
    framed += [message(Kind.FAILURE, n % 4, answers[0]) for n in range(4)]
    framed += [message(Kind.NOTICE, 3, b'{"busy_s":1}')]
    framed += [pack_header(Header(Kind.DATA, 4, 3, 9, 0)) + b"data"]

    def parse(data: bytes) -> None:
        pair = Pair()
        pair.greeted()
        reading = Reading(handle=9, image=Name("a"), copy=1, size=9, sha256=None, state="complete")
        pair.ask(Open(pool="p", image=Name("a")), reading)
        pair.client.call(ReadRange(handle=9, offset=0, length=100))
        for frame in feed(Incoming(from_client=False), data, len(data) % 97 + 1):
            pair.client.receive(frame)

    soak(framed, parse)


def test_no_header_harms_the_parser() -> None:
    kinds = [pack_header(Header(kind, 5, 1)) for kind in Kind]

    def parse(data: bytes) -> None:
        head = data[: HEADER.size].ljust(HEADER.size, b"\0")
        for from_client in (True, False):
            try:
                header = parse_header(head, from_client=from_client)
            except RemoteProtocolError as exc:
                assert exc.code == "frame"  # noqa: PT017
            else:
                assert pack_header(header) == head

    soak(kinds, parse)
