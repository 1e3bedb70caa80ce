"""Any bytes on a live socket: the daemon goes on, lets go of everything, and does not grow."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from connector.client import Client
from connector.wire import codec
from connector.wire.frames import Header, Kind, pack_header
from connector.wire.messages import Close, Create, Flush, GetServerProps, Hello, ListImages, Name
from connector.wire.session import message
from tests.serve.daemons import daemon
from tests.wire.mutation import SECONDS, mutants, resident

GROWTH = 64 << 20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def dialogue(number: int) -> bytes:
    """What a well-behaved client sends, without waiting for answers."""
    calls = [
        Hello(versions=(1,)),
        Create(pool="main", image=Name(f"fuzz-{number}"), token="token-of-mine"),
    ]
    data = b"".join(message(Kind.CALL, n + 1, codec.encode_call(c)) for n, c in enumerate(calls))
    data += pack_header(Header(Kind.WRITE, 5, 3, 1, 0)) + b"bytes"
    after = [GetServerProps(), ListImages(pool="main"), Flush(handle=1), Close(handle=1)]
    return data + b"".join(
        message(Kind.CALL, n + 4, codec.encode_call(c)) for n, c in enumerate(after)
    )


@pytest.mark.deep
@pytest.mark.timeout(SECONDS + 120)
def test_no_bytes_on_its_socket_harm_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as found:
        assert found.door is not None
        files = open_files()
        base, count, begin = 0, 0, time.monotonic()
        for data in mutants([dialogue(number) for number in range(20)]):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(str(found.path))
                with contextlib.suppress(ConnectionError):
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(1 << 16):
                        pass
            count += 1
            if count % 500 == 0:
                with Client(found.path, timeout_s=20.0) as client:
                    assert client.claim("main"), data.hex()
                if not base and time.monotonic() - begin > SECONDS / 5:
                    base = resident()
                assert not base or resident() - base < GROWTH, f"grown after {count} dialogues"
        print(f"{count} dialogues")
        ends = time.monotonic() + 20
        while found.door.connections and time.monotonic() < ends:
            time.sleep(0.05)
        assert found.door.connections == 0
        assert open_files() <= files + 2
        with Client(found.path, timeout_s=20.0) as client:
            with client.create("main", "after all that") as writer:
                writer.write(b"still here")
            with client.open("main", "after all that") as reader:
                assert reader.read() == b"still here"
