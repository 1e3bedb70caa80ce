"""A line to an S3 server that loses what the test tells it to lose."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 45\r\n"
    b"Connection: close\r\n\r\n<Error><Code>SlowDown</Code></Error>\n\n\n\n\n\n\n\n\n\n"
)


class Lossy:
    """A TCP proxy on loopback; each connection plays one step of the script, one request each.

    Steps: ``pass``, ``drop request`` (the server never sees it), ``drop answer`` (the server acts,
    the client hears nothing), ``cut answer`` (half of it comes), ``answer 503``. Behind the script
    comes ``forever``.
    """

    def __init__(self, upstream: str, *script: str, forever: str = "pass") -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._script = list(script)
        self._forever = forever
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def played(self) -> bool:
        """Whether every step of the script was reached."""
        return not self._script

    def __enter__(self) -> Lossy:
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._acceptor, *self._threads]:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                step = self._script.pop(0) if self._script else self._forever
            thread = threading.Thread(target=self._serve, args=(client, step))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, step: str) -> None:
        with client:
            client.settimeout(10)
            try:
                request = _read_message(client)
                if step == "drop request":
                    return
                if step == "answer 503":
                    client.sendall(BUSY)
                    return
                answer = self._forward(request)
                if step == "cut answer":
                    client.sendall(answer[: len(answer) // 2])
                elif step == "pass":
                    client.sendall(answer)
            except OSError:
                return

    def _forward(self, request: bytes) -> bytes:
        """Pass one request on; the answer closes its connection, so the next step comes next."""
        head, _, body = request.partition(b"\r\n\r\n")
        with socket.create_connection(self._upstream, timeout=10) as server:
            server.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            answer = b""
            while chunk := server.recv(65_536):
                answer += chunk
        return answer


def _read_message(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(65_536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    length = int(fields.get(b"content-length", b"0"))
    if fields.get(b"expect", b"").strip() == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = b"\r\n".join(
            line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:")
        )
    while len(body) < length:
        chunk = client.recv(65_536)
        if not chunk:
            break
        body += chunk
    return head + b"\r\n\r\n" + body
