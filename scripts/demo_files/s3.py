"""An S3 for the demo: moto's server in threads of this process, on a free loopback port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as with S3

    def log(self, *_: Any, **__: Any) -> None:
        """The commands say what happens; the server need not."""


@contextmanager
def embedded_s3() -> Iterator[str]:
    """Serve until left; gives the URL."""
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def save(bucket: str, folder: Path) -> None:
    """Write every object of a bucket into a folder, cold ones included."""
    s3 = boto3.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            path = folder / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if item["StorageClass"] in ("GLACIER", "DEEP_ARCHIVE"):
                request = {"Days": 1, "GlacierJobParameters": {"Tier": "Bulk"}}
                s3.restore_object(Bucket=bucket, Key=item["Key"], RestoreRequest=request)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
