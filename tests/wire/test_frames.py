"""Headers, and frames put together from pieces of any size."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.wire.errors import LocalProtocolError, RemoteProtocolError
from connector.wire.frames import (
    FROM_CLIENT,
    HEADER,
    MAX_CONTROL,
    MAX_DATA,
    QUIET,
    RAW,
    Header,
    Kind,
    pack_header,
    parse_header,
)
from connector.wire.incoming import Incoming
from tests.wire.support import feed


@st.composite
def headers(draw: st.DrawFn) -> Header:
    kind = draw(st.sampled_from(Kind))
    raw = kind in RAW
    return Header(
        kind,
        draw(st.integers(0, MAX_DATA if raw else MAX_CONTROL)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**32 - 1)) if raw else 0,
        draw(st.integers(0, 2**64 - 1)) if raw else 0,
        draw(st.sampled_from([0, QUIET])) if kind is Kind.WRITE else 0,
    )


@given(headers())
def test_a_header_that_is_written_reads_back_the_same(header: Header) -> None:
    data = pack_header(header)
    assert parse_header(data, from_client=header.kind in FROM_CLIENT) == header
    with pytest.raises(RemoteProtocolError):
        parse_header(data, from_client=header.kind not in FROM_CLIENT)


@given(st.binary(min_size=24, max_size=24), st.booleans())
def test_any_24_bytes_are_a_header_or_refused(data: bytes, from_client: bool) -> None:
    for raw in (data, b"TL" + data[2:]):
        try:
            header = parse_header(raw, from_client=from_client)
        except RemoteProtocolError as exc:
            assert (exc.code, exc.fatal) == ("frame", True)  # noqa: PT017
        else:
            assert header.length <= MAX_DATA
            assert pack_header(header) == raw


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((b"XX", 1, 0, 1, 0, 0, 0), "not the tapelift protocol"),
        ((b"TL", 0, 0, 1, 0, 0, 0), "no frame kind 0"),
        ((b"TL", 7, 0, 1, 0, 0, 0), "no frame kind 7"),
        ((b"TL", 2, 0, 1, 0, 0, 0), "ANSWER frame from this side"),
        ((b"TL", 1, 1, 1, 0, 0, 0), "unknown flags 0x01 in a CALL"),
        ((b"TL", 4, 2, 1, 0, 0, 0), "unknown flags 0x02 in a WRITE"),
        ((b"TL", 1, 0, 1, 0, MAX_CONTROL + 1, 0), "too long"),
        ((b"TL", 4, 0, 1, 0, MAX_DATA + 1, 0), "too long"),
        ((b"TL", 4, 0, 1, 0, 2**32 - 1, 0), "too long"),
        ((b"TL", 1, 0, 1, 1, 0, 0), "has no handle and no offset"),
        ((b"TL", 1, 0, 1, 0, 0, 1), "has no handle and no offset"),
    ],
)
def test_an_illegal_header_is_refused_before_memory_is_taken(
    fields: tuple[object, ...], said: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        parse_header(HEADER.pack(*fields), from_client=True)


@pytest.mark.parametrize(
    "header",
    [
        Header(Kind.CALL, MAX_CONTROL + 1),
        Header(Kind.WRITE, MAX_DATA + 1),
        Header(Kind.WRITE, 1, request=2**32),
        Header(Kind.WRITE, 1, offset=-1),
    ],
)
def test_a_header_out_of_bounds_is_our_own_bug(header: Header) -> None:
    with pytest.raises(LocalProtocolError):
        pack_header(header)


def test_the_header_lies_where_the_page_says() -> None:
    data = pack_header(Header(Kind.WRITE, 5, 2, 3, 4, QUIET))
    assert data == b"TL\x04\x01" + struct.pack(">IIIQ", 2, 3, 5, 4)


@given(
    st.lists(st.tuples(st.sampled_from([Kind.CALL, Kind.WRITE]), st.binary(max_size=50))),
    st.integers(1, 100),
)
def test_frames_come_out_as_they_went_in_whatever_the_pieces(
    frames: list[tuple[Kind, bytes]], piece: int
) -> None:
    data = b"".join(pack_header(Header(kind, len(body))) + body for kind, body in frames)
    incoming = Incoming(from_client=True)
    got = [(f.header.kind, bytes(f.payload)) for f in feed(incoming, data, piece)]
    assert got == frames
    assert incoming.between
    if data:
        incoming.room()[:1] = b"T"
        assert incoming.advance(1) is None
        assert not incoming.between


def test_a_payload_is_received_where_the_caller_wants_it() -> None:
    memory = bytearray(10)
    incoming = Incoming(from_client=True, place=lambda header: memoryview(memory)[2:])
    data = pack_header(Header(Kind.WRITE, 3)) + b"abc"
    (frame,) = feed(incoming, data, 2)
    assert memory == b"\0\0abc\0\0\0\0\0"
    assert frame.payload == b"abc"


def test_a_frame_may_be_refused_before_its_payload_is_received() -> None:
    def refuse(header: Header) -> memoryview:
        raise RemoteProtocolError("sequence", "not now")

    incoming = Incoming(from_client=True, place=refuse)
    with pytest.raises(RemoteProtocolError, match="not now"):
        list(feed(incoming, pack_header(Header(Kind.WRITE, MAX_DATA)), 5))
