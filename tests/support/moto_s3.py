"""Moto's S3, with the places mended where it is laxer than S3 and a test would prove nothing.

Seen with moto 5.2.5; each mended place is one function or branch below:

- A body whose Content-MD5 or x-amz-checksum-crc64nvme is wrong is stored: here 400 BadDigest.
- A checksum that was sent is neither repeated in the answer nor kept: here it is.
- Lifecycle rules lose what moto does not know of them, the sizes of a filter for one: here they
  come back as they were sent, with the setting of the smallest object that is moved.
- Parts and Complete of an upload that is gone, and a legal hold on an object that is gone, end in
  a crash: here 404 NoSuchUpload and NoSuchKey.

A bucket whose name begins with ``old-`` plays a compatible store of yesterday (RADOS Gateway 16):
CRC64NVME is unknown and ignored, and so is a condition on Complete.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from awscrt import checksums
from werkzeug.serving import WSGIRequestHandler, make_server

OLD = "old-"

_CRC = "HTTP_X_AMZ_CHECKSUM_CRC64NVME"
_MD5 = "HTTP_CONTENT_MD5"
_SMALLEST = "HTTP_X_AMZ_TRANSITION_DEFAULT_MINIMUM_OBJECT_SIZE"
_IGNORED_BY_OLD = (_CRC, "HTTP_X_AMZ_CHECKSUM_ALGORITHM", "HTTP_X_AMZ_CHECKSUM_TYPE")

App = Callable[..., Iterable[bytes]]


class MendedMoto:
    """WSGI middleware around moto's application."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._rules: dict[str, tuple[bytes, str]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(f"/{OLD}"):
            self._make_old(environ)
        if environ["QUERY_STRING"].startswith("lifecycle"):
            return self._lifecycle(environ, start_response)
        crc = environ.get(_CRC) if environ["REQUEST_METHOD"] == "PUT" else None
        if (crc or environ.get(_MD5)) and self._spoilt(environ, crc):
            return _refuse(start_response, "400 Bad Request", "BadDigest")
        if crc:
            environ["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = "CRC64NVME"
        answer = _Answer(crc)
        try:
            body = self._app(environ, answer.start)
        except (KeyError, AttributeError):  # moto looked up what is not there
            missing = "NoSuchUpload" if "uploadId=" in environ["QUERY_STRING"] else "NoSuchKey"
            return _refuse(start_response, "404 Not Found", missing)
        start_response(answer.status, answer.headers)
        return body

    def _lifecycle(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Moto judges the rules; what is read is what was written."""
        bucket, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        sent = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(sent)
        answer = _Answer(None)
        body = self._app(environ, answer.start)
        smallest = environ.get(_SMALLEST, "all_storage_classes_128K")
        if method == "PUT" and answer.status.startswith("200"):
            self._rules[bucket] = (sent, smallest)
        elif method == "DELETE":
            self._rules.pop(bucket, None)
        elif method == "GET" and bucket in self._rules and answer.status.startswith("200"):
            kept, smallest = self._rules[bucket]
            body, answer.headers = (
                [kept],
                [
                    ("Content-Type", "application/xml"),
                    ("Content-Length", str(len(kept))),
                    ("x-amz-transition-default-minimum-object-size", smallest),
                ],
            )
        start_response(answer.status, answer.headers)
        return body

    @staticmethod
    def _make_old(environ: dict[str, Any]) -> None:
        for name in _IGNORED_BY_OLD:
            environ.pop(name, None)
        if environ["REQUEST_METHOD"] == "POST":
            environ.pop("HTTP_IF_NONE_MATCH", None)

    @staticmethod
    def _spoilt(environ: dict[str, Any], crc: str | None) -> bool:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if crc:
            found = int(checksums.crc64nvme(body)).to_bytes(8, "big")
            return base64.b64encode(found).decode() != crc
        found = hashlib.md5(body, usedforsecurity=False).digest()
        return base64.b64encode(found).decode() != environ[_MD5]


class _Answer:
    """Holds status and headers back until they are known to be right."""

    def __init__(self, crc: str | None) -> None:
        self._crc = crc
        self.status = ""
        self.headers: list[tuple[str, str]] = []

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.status = status
        told = {name.lower() for name, _ in headers}
        self.headers = list(headers)
        if self._crc and status.startswith("200") and "x-amz-checksum-crc64nvme" not in told:
            self.headers.append(("x-amz-checksum-crc64nvme", self._crc))
        return lambda _: None


def _refuse(start_response: Any, status: str, code: str) -> Iterable[bytes]:
    body = f"<Error><Code>{code}</Code><RequestId>mended</RequestId></Error>".encode()
    start_response(
        status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    )
    return [body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as with S3

    def log(self, *_: Any, **__: Any) -> None:
        """Tests say what is wrong; the server need not."""


@contextmanager
def moto_server() -> Iterator[str]:
    """S3 on a free loopback port, in threads of this process; gives its URL."""
    from moto.server import DomainDispatcherApplication, create_backend_app

    app = MendedMoto(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, name="moto", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
