"""HTTP/1.1 as the benchmark endpoint needs it: heads are read, bodies are thrown away.

A body's bytes are dropped inside the kernel (MSG_TRUNC; not under TLS), so that the endpoint takes
as little of the machine as it can; only its last bytes are read, because that is where a trailing
checksum stands. Nothing here knows S3's operations.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

HEAD_LIMIT = 64 << 10
KEEP_LIMIT = 1 << 20
TAIL = 1 << 10
IDLE_SECONDS = 300
_DISCARD = memoryview(bytearray(4 << 20))  # all connections write here; nobody reads it
_TRAILER = re.compile(rb"(x-amz-checksum-[a-z0-9]+) *: *([A-Za-z0-9+/=]+)", re.IGNORECASE)


class Disconnected(Exception):
    """The peer closed the connection, between requests or in the middle of one."""


class BadRequest(Exception):
    """What arrived is not HTTP as this module understands it."""


@dataclass
class Request:
    """The head of one request; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, _ = lines[0].split(" ")
            headers = {
                name.strip().lower(): value.strip()
                for name, value in (line.split(":", 1) for line in lines[1:])
            }
        except ValueError as error:
            raise BadRequest(f"not a request head: {lines[0]!r}") from error
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return cls(method, unquote(url.path), query, headers)


@dataclass
class Body:
    """What is left of a body: its size without any framing, its trailing checksums, and its
    bytes where it was small enough to keep."""

    size: int = 0
    kept: bytes | None = None
    trailers: dict[str, str] = field(default_factory=dict)


class Connection:
    """One accepted connection, read head by head and body by body."""

    def __init__(self, sock: socket.socket) -> None:
        # Deadlines of the kernel's, not of Python's: those would poll before every call.
        deadline = struct.pack("ll", IDLE_SECONDS, 0)
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, deadline)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, deadline)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._ahead = b""

    def read_head(self) -> Request:
        while b"\r\n\r\n" not in self._ahead:
            if len(self._ahead) > HEAD_LIMIT:
                raise BadRequest("the request head does not end")
            self._ahead += self._receive(16 << 10)
        head, self._ahead = self._ahead.split(b"\r\n\r\n", 1)
        return Request.parse(head)

    def read_body(self, headers: dict[str, str]) -> Body:
        """Take the body off the connection; keep it if it has at most KEEP_LIMIT bytes."""
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            size, raw, tail = self._take_chunks()
        else:
            size = int(headers.get("content-length", "0"))
            raw, tail = self._take(size)
        if "x-amz-decoded-content-length" not in headers:
            return Body(size, raw)
        trailers = {name.decode().lower(): value.decode() for name, value in _TRAILER.findall(tail)}
        decoded = int(headers["x-amz-decoded-content-length"])
        return Body(decoded, None if raw is None else _aws_chunks(raw), trailers)

    def respond(self, status: str, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a whole response, or a head alone where the headers already tell a length."""
        headers.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.sock.sendall(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body)

    def _take(self, size: int) -> tuple[bytes | None, bytes]:
        """Take size bytes: all of them where they are few, else only the last ones."""
        if size <= KEEP_LIMIT:
            raw = self._exactly(size)
            return raw, raw[-TAIL:]
        self._discard(size - TAIL)
        return None, self._exactly(TAIL)

    def _take_chunks(self) -> tuple[int, bytes | None, bytes]:
        total, tail = 0, b""
        kept: bytes | None = b""
        while size := int(self._line().split(b";")[0], 16):
            total += size
            raw, end = self._take(size)
            tail = (tail + end)[-TAIL:]
            fits = kept is not None and raw is not None and total <= KEEP_LIMIT
            kept = kept + raw if fits and kept is not None and raw is not None else None
            self._line()
        while self._line():
            pass
        return total, kept, tail

    def _line(self) -> bytes:
        while b"\r\n" not in self._ahead:
            if len(self._ahead) > HEAD_LIMIT:
                raise BadRequest("a line does not end")
            self._ahead += self._receive(16 << 10)
        line, self._ahead = self._ahead.split(b"\r\n", 1)
        return line

    def _discard(self, size: int) -> None:
        here = min(size, len(self._ahead))
        self._ahead = self._ahead[here:]
        size -= here
        while size:
            step = min(size, len(_DISCARD))
            if isinstance(self.sock, ssl.SSLSocket):
                gone = self.sock.recv_into(_DISCARD, step)
            else:
                gone = self.sock.recv_into(_DISCARD, step, socket.MSG_TRUNC | socket.MSG_WAITALL)
            if not gone:
                raise Disconnected
            size -= gone

    def _exactly(self, size: int) -> bytes:
        parts = [self._ahead[:size]]
        self._ahead = self._ahead[size:]
        missing = size - len(parts[0])
        while missing:
            parts.append(self._receive(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _receive(self, size: int) -> bytes:
        data = self.sock.recv(size)
        if not data:
            raise Disconnected
        return data


def _aws_chunks(raw: bytes) -> bytes:
    """Strip S3's own chunk framing ("aws-chunked") from a small body."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
