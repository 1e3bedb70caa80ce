"""The frame: 24 bytes of header, then the payload. All numbers are big-endian.

====== ==== ======= ==========================================================
offset size field   meaning
====== ==== ======= ==========================================================
0      2    magic   ``TL``
2      1    kind    1 CALL, 2 ANSWER, 3 FAILURE, 4 WRITE, 5 DATA, 6 NOTICE
3      1    flags   WRITE: 1 = answer only a failure; every other bit is 0
4      4    request the client's number; everything about a call carries it
8      4    handle  WRITE and DATA; else 0
12     4    length  bytes of payload
16     8    offset  WRITE and DATA: where in the image; else 0
====== ==== ======= ==========================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from connector.wire.errors import LocalProtocolError, RemoteProtocolError

MAGIC = b"TL"
HEADER = struct.Struct(">2sBBIIIQ")
MAX_CONTROL = 1 << 20
"""Longest payload of a JSON frame, in bytes."""
MAX_DATA = 4 << 20
"""Longest payload of a WRITE or DATA frame, in bytes."""
QUIET = 1
"""Flag of a WRITE that is answered only when it fails."""


class Kind(IntEnum):
    """What a frame is."""

    CALL = 1
    ANSWER = 2
    FAILURE = 3
    WRITE = 4
    DATA = 5
    NOTICE = 6


RAW = (Kind.WRITE, Kind.DATA)
FROM_CLIENT = (Kind.CALL, Kind.WRITE)


@dataclass(frozen=True, slots=True)
class Header:
    """A frame's header. length and offset are bytes."""

    kind: Kind
    length: int
    request: int = 0
    handle: int = 0
    offset: int = 0
    flags: int = 0


def parse_header(data: bytes | bytearray | memoryview, *, from_client: bool) -> Header:
    """Read the 24 bytes of a header; every bound is checked before anybody takes memory.

    Raises:
        RemoteProtocolError: this is not a frame that this side may send.
    """
    magic, kind, flags, request, handle, length, offset = HEADER.unpack(data)
    if magic != MAGIC:
        raise RemoteProtocolError("frame", "this is not the tapelift protocol")
    try:
        known = Kind(kind)
    except ValueError:
        raise RemoteProtocolError("frame", f"there is no frame kind {kind}") from None
    if (known in FROM_CLIENT) is not from_client:
        raise RemoteProtocolError("frame", f"a {known.name} frame from this side")
    if flags & ~(QUIET if known is Kind.WRITE else 0):
        raise RemoteProtocolError("frame", f"unknown flags {flags:#04x} in a {known.name} frame")
    if length > (MAX_DATA if known in RAW else MAX_CONTROL):
        raise RemoteProtocolError("frame", f"a {known.name} frame of {length} bytes is too long")
    if known not in RAW and (handle or offset):
        raise RemoteProtocolError("frame", f"a {known.name} frame has no handle and no offset")
    return Header(known, length, request, handle, offset, flags)


def pack_header(header: Header) -> bytes:
    """Write a header.

    Raises:
        LocalProtocolError: a field is out of its bounds.
    """
    if header.length > (MAX_DATA if header.kind in RAW else MAX_CONTROL):
        raise LocalProtocolError(f"a {header.kind.name} frame of {header.length} bytes is too long")
    try:
        return HEADER.pack(
            MAGIC,
            header.kind,
            header.flags,
            header.request,
            header.handle,
            header.length,
            header.offset,
        )
    except struct.error as exc:
        raise LocalProtocolError(f"{header}: {exc}") from exc
