"""Faults on purpose, by a script. A fault that is never reached fails the test.

``FaultyStore`` stands around any store and raises. ``FaultProxy`` stands in front of a real S3
endpoint and does on the wire what networks and servers do.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from catalog.errors import StoreError
from connector.store.interface import ObjectStore

# --- around a store -------------------------------------------------------------------------


@dataclass(slots=True)
class StoreFault:
    """The next call of a method, on a key that contains ``key``, raises error.

    after: the call is made first, so that it happened and its answer is lost.
    """

    method: str
    error: StoreError
    key: str = ""
    after: bool = False


class FaultyStore:
    """An ``ObjectStore`` that plays a script of faults; each is played once, in order.

    Use it as a context manager: leaving it checks that every fault was reached.
    """

    def __init__(self, store: ObjectStore, script: list[StoreFault]) -> None:
        self._store = store
        self._script = list(script)
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str]] = []

    def __enter__(self) -> FaultyStore:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.check_all_played()

    def check_all_played(self) -> None:
        assert not self._script, f"never reached: {self._script}"

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._store, method)
        if not callable(real):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            key = _key_of(args)
            fault = self._take(method, key)
            if fault and not fault.after:
                raise fault.error
            answer = real(*args, **kwargs)
            if fault:
                raise fault.error
            return answer

        return call

    def _take(self, method: str, key: str) -> StoreFault | None:
        with self._lock:
            self.calls.append((method, key))
            for fault in self._script:
                if fault.method == method and fault.key in key:
                    self._script.remove(fault)
                    return fault
        return None


def _key_of(args: tuple[Any, ...]) -> str:
    first = args[0] if args else ""
    return first if isinstance(first, str) else str(getattr(first, "key", ""))


# --- on the wire ----------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """One HTTP request as it came in, its body still on the wire until ``body`` is called."""

    method: str
    target: str
    headers: dict[str, str]
    connection: socket.socket
    stream: Any
    _body: bytes | None = None

    @property
    def operation(self) -> str:
        """The S3 API's name of what is asked."""
        parts = urlsplit(self.target)
        query = parse_qs(parts.query, keep_blank_values=True)
        on_bucket = parts.path.strip("/").count("/") == 0
        return _operation(self.method, query, on_bucket)

    def body(self) -> bytes:
        """Take the body in, after the 100 Continue that the client may wait for."""
        if self._body is None:
            if self.headers.get("expect", "").lower() == "100-continue":
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._body = self.stream.read(int(self.headers.get("content-length", 0)))
        return self._body


def _operation(method: str, query: dict[str, list[str]], on_bucket: bool) -> str:
    if "uploadId" in query:
        of_upload = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}
        return {**of_upload, "DELETE": "AbortMultipartUpload", "GET": "ListParts"}[method]
    if "uploads" in query:
        return {"POST": "CreateMultipartUpload", "GET": "ListMultipartUploads"}[method]
    if "restore" in query:
        return "RestoreObject"
    for lock, operation in {"retention": "Retention", "legal-hold": "LegalHold"}.items():
        if lock in query:
            return f"{method.title()}Object{operation}"
    if on_bucket and "lifecycle" in query:
        return f"{method.title()}BucketLifecycleConfiguration"
    if on_bucket:
        return "ListObjectsV2" if "list-type" in query else f"Bucket{method.title()}"
    plain = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject"}
    return {**plain, "DELETE": "DeleteObject"}.get(method, method)


class Cut(Exception):
    """The connection is to be closed, without further words."""


Act = Callable[["FaultProxy", Request], None]


@dataclass(slots=True)
class Fault:
    """The next request of an S3 operation meets this. name is for the message."""

    operation: str
    act: Act = field(repr=False)
    name: str = ""


def refuse(operation: str, status: int, code: str) -> Fault:
    """Answered with an S3 error, not forwarded; the body is not even taken in."""

    def act(_: FaultProxy, request: Request) -> None:
        body = _error(code) if request.method != "HEAD" else b""
        _answer(request, status, {"Connection": "close"}, body)
        raise Cut

    return Fault(operation, act, f"{status} {code}")


def reset(operation: str) -> Fault:
    """The connection is reset when the request has come in; it is not forwarded."""

    def act(_: FaultProxy, request: Request) -> None:
        request.body()
        _reset(request.connection)

    return Fault(operation, act, "reset")


def stall(operation: str) -> Fault:
    """The request comes in and nothing is ever said."""

    def act(proxy: FaultProxy, request: Request) -> None:
        request.body()
        proxy.closing.wait(60)
        raise Cut

    return Fault(operation, act, "stall")


def stall_in_body(operation: str, after: int) -> Fault:
    """The answer stops after some bytes of its body, and the connection stays open."""

    def act(proxy: FaultProxy, request: Request) -> None:
        status, headers, body = proxy.forward(request)
        _answer(request, status, headers, body, only=after)
        proxy.closing.wait(60)
        raise Cut

    return Fault(operation, act, f"stall after {after} bytes")


def drip(operation: str, after: int) -> Fault:
    """After some bytes the answer's body goes on a byte at a time, 20 in a second."""

    def act(proxy: FaultProxy, request: Request) -> None:
        status, headers, body = proxy.forward(request)
        _answer(request, status, headers, body, only=after)
        for at in range(after, len(body)):
            if proxy.closing.wait(0.05):
                raise Cut
            request.connection.sendall(body[at : at + 1])

    return Fault(operation, act, f"drips after {after} bytes")


def cut_body(operation: str, after: int) -> Fault:
    """The connection ends after some bytes of the answer's body."""

    def act(proxy: FaultProxy, request: Request) -> None:
        status, headers, body = proxy.forward(request)
        _answer(request, status, headers, body, only=after)
        raise Cut

    return Fault(operation, act, f"cut after {after} bytes")


def lose_answer(operation: str) -> Fault:
    """The request is carried out, and the connection reset before a word of the answer."""

    def act(proxy: FaultProxy, request: Request) -> None:
        status, _, _ = proxy.forward(request)
        assert status < 300, f"{operation} was to succeed and lose its answer: {status}"
        _reset(request.connection)

    return Fault(operation, act, "answer lost")


def error_in_200(operation: str, code: str = "InternalError") -> Fault:
    """Answered 200 with an error in the body, as S3 does when it has begun too early."""

    def act(_: FaultProxy, request: Request) -> None:
        request.body()
        _answer(request, 200, {}, _error(code))

    return Fault(operation, act, f"200 with {code}")


def altered(operation: str, change: Callable[[int, dict[str, str], bytes], Any]) -> Fault:
    """Carried out, and the answer changed: change gives status, headers and body back."""

    def act(proxy: FaultProxy, request: Request) -> None:
        status, headers, body = change(*proxy.forward(request))
        _answer(request, status, headers, body)

    return Fault(operation, act, "altered")


def without_header(operation: str, name: str) -> Fault:
    """Forwarded without one of its headers, as by a store that ignores it."""

    def act(proxy: FaultProxy, request: Request) -> None:
        request.headers.pop(name.lower(), None)
        relay(proxy, request)

    return Fault(operation, act, f"without {name}")


class FaultProxy:
    """A loopback HTTP proxy before one endpoint. Each fault of its script is played once.

    Use it as a context manager: leaving it checks that every fault was reached.
    """

    def __init__(self, upstream: str, script: list[Fault] | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._script = list(script or [])
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._connections: set[socket.socket] = set()
        self.closing = threading.Event()
        self.seen: list[str] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> FaultProxy:
        self._spawn(self._accept)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=10)
        if kind is None:
            self.check_all_played()

    def play(self, *faults: Fault) -> None:
        """Add to the script."""
        with self._lock:
            self._script += faults

    def forget(self) -> None:
        """Drop what is left of the script."""
        with self._lock:
            self._script.clear()

    def check_all_played(self) -> None:
        assert not self._script, f"never reached: {self._script}"

    def forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Carry a request out; status, headers and body of the answer."""
        body = request.body()
        headers = {name: value for name, value in request.headers.items() if name != "expect"}
        upstream = http.client.HTTPConnection(*self._upstream, timeout=30)
        try:
            upstream.request(request.method, request.target, body=body, headers=headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _spawn(self, run: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, name="fault-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            with contextlib.suppress(Cut, OSError):
                for request in _requests(connection, stream):
                    self._handle(request)
            with self._lock:
                self._connections.discard(connection)

    def _handle(self, request: Request) -> None:
        fault = self._take(request.operation)
        if fault is not None:
            fault.act(self, request)
        else:
            relay(self, request)

    def _take(self, operation: str) -> Fault | None:
        with self._lock:
            self.seen.append(operation)
            for fault in self._script:
                if fault.operation == operation:
                    self._script.remove(fault)
                    return fault
        return None


def relay(proxy: FaultProxy, request: Request) -> None:
    """Do what a proxy without faults does."""
    _answer(request, *proxy.forward(request))


def _requests(connection: socket.socket, stream: Any) -> Iterator[Request]:
    while line := stream.readline(65536):
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while (line := stream.readline(65536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        yield Request(method, target, headers, connection, stream)


def _answer(
    request: Request, status: int, headers: dict[str, str], body: bytes, only: int | None = None
) -> None:
    kept = {
        name: value
        for name, value in headers.items()
        if name.lower() not in ("transfer-encoding", "content-length")
    }
    length = dict((name.lower(), value) for name, value in headers.items()).get("content-length")
    is_head = request.method == "HEAD"
    kept["Content-Length"] = length if is_head and length else str(len(body))
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in kept.items())]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    request.connection.sendall(head + (b"" if is_head else body[:only]))


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()


def _reset(connection: socket.socket) -> None:
    """Close with RST: linger on, for no time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Cut
