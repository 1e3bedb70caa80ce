"""The two ends of a benchmark's pipe, and the bare loopback it is compared with.

usage: feed.py source BYTES          write the pattern's first BYTES to standard output
       feed.py sink                  read standard input to its end, then print the number of bytes
       feed.py check BYTES           the same, and fail unless it is the pattern's first BYTES
       feed.py send URL BYTES        one PUT to the endpoint: what it can take
       feed.py fetch URL BYTES       one GET from it, thrown away: what it can give

source and sink move pages without copying them, so that they leave the processor to the program
between them; neither is counted in its figures.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from urllib.parse import urlsplit

import pattern

STEP = 1 << 20


def source(size: int) -> None:
    fd, done = pattern.block_file(), 0
    while done < size:
        offset = done % pattern.BLOCK
        done += os.splice(fd, sys.stdout.fileno(), min(STEP, size - done), offset_src=offset)


def sink() -> int:
    total = 0
    null = os.open(os.devnull, os.O_WRONLY)
    while moved := os.splice(sys.stdin.fileno(), null, STEP):
        total += moved
    return total


def check(size: int) -> int:
    data, done = memoryview(pattern.block()), 0
    while piece := os.read(sys.stdin.fileno(), STEP):
        view = memoryview(piece)
        while view:
            offset = done % pattern.BLOCK
            step = min(len(view), pattern.BLOCK - offset)
            if view[:step] != data[offset : offset + step]:
                sys.exit(f"wrong bytes after {done}")
            view, done = view[step:], done + step
    if done != size:
        sys.exit(f"{done} bytes instead of {size}")
    return done


def connect(url: str) -> socket.socket:
    """Connect to the endpoint; under TLS without looking at its certificate."""
    place = urlsplit(url)
    sock = socket.create_connection((place.hostname or "", place.port or 0), timeout=60)
    if place.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    return sock


def send(url: str, size: int) -> None:
    with connect(url) as sock:
        sock.sendall(f"PUT /bench/bare HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
        data, done = memoryview(pattern.block()), 0
        while done < size:
            at = done % pattern.BLOCK
            step = min(STEP, size - done)
            sock.sendall(data[at : at + step])
            done += step
        if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
            sys.exit("the endpoint refused")


def fetch(url: str, size: int) -> None:
    scratch = bytearray(STEP)
    with connect(url) as sock:
        sock.sendall(f"GET /bench/generated/{size} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        total = 0
        while got := sock.recv_into(scratch):
            total += got
    if total < size:
        sys.exit(f"{total} bytes instead of {size}")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["source", size]:
            source(int(size))
        case ["sink"]:
            print(sink())
        case ["check", size]:
            print(check(int(size)))
        case ["send", url, size]:
            send(url, int(size))
        case ["fetch", url, size]:
            fetch(url, int(size))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
