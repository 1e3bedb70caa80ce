"""Tapelift's side of the comparison: the pool's public interface between a pipe and a bucket.

usage: ours.py put URL BYTES        standard input becomes an image under a new name
       ours.py prepare URL BYTES    the same, as the image that "get" reads
       ours.py get URL BYTES        that image goes to standard output; each part is verified
       ours.py hash URL BYTES       the same, and the SHA-256 of the whole is compared too

Every run opens the pool as a command does, with the defaults: it probes the endpoint, keeps a
journal on the disk, writes manifest and ledger. Fails unless exactly BYTES bytes went through.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from installed import AsInstalled

from catalog.ledger import Ledger
from catalog.s3 import S3Location
from connector.pool import Origin, Pool, Retention
from connector.pool.digest import Sha256
from connector.pool.journal import Journal
from connector.store.s3 import S3Store

COPY = 1
PIPE_SIZE = 1 << 20
"""Bytes that may wait in the pipe: what any user may ask of the kernel (proc(5), pipe-max-size)."""


@contextmanager
def open_pool(url: str) -> Iterator[Pool]:
    """Open the benchmark's pool with a journal of its own."""
    location = S3Location("bench", "pool", url)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Journal(Path(folder) / "journal")) as journal,
        closing(S3Store(location)) as store,
    ):
        ledger = Ledger.open(f"{location.uri}/ledger", endpoint_url=url)
        with Pool(store, journal, ledger) as pool:
            yield pool
            pool.flush()


def put(url: str, size: int, name: str) -> None:
    """Store standard input as an image."""
    fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    with open_pool(url) as pool, open(0, "rb", buffering=0, closefd=False) as source:
        writer = pool.write_image(name, COPY)
        while True:
            with writer.buffer() as room:
                received = source.readinto(room)
            if not received:
                break
            writer.advance(received)
        manifest = writer.close(origin=Origin(), retention=Retention())
        if manifest.size != size:
            sys.exit(f"{manifest.size} bytes arrived instead of {size}")


def get(url: str, size: int, name: str, *, hashing: bool) -> None:
    """Write an image to standard output."""
    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    with open_pool(url) as pool:
        manifest, digest, written = pool.stat(name), Sha256(), 0
        for piece in pool.open_image(manifest).stream():
            if hashing:
                digest.update(piece)
            at = 0
            while at < piece.nbytes:
                at += os.write(1, piece[at:])
            written += at
        if written != size:
            sys.exit(f"{written} bytes were read instead of {size}")
        if hashing and digest.hexdigest() != manifest.sha256:
            sys.exit(f"read bytes with SHA-256 {digest.hexdigest()}, stored {manifest.sha256}")


def main(arguments: list[str]) -> None:
    sys.meta_path.insert(0, AsInstalled())
    match arguments:
        case ["put", url, size]:
            put(url, int(size), f"image-{secrets.token_hex(8)}")
        case ["prepare", url, size]:
            put(url, int(size), f"prepared-{size}")
        case ["get", url, size]:
            get(url, int(size), f"prepared-{size}", hashing=False)
        case ["hash", url, size]:
            get(url, int(size), f"prepared-{size}", hashing=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
