"""Does what docs/protocols.md says, with nothing of ours but the daemon.

``PageClient`` is written from the page alone: struct, socket, json and what the operating system
gives. If it must be changed, the page must be changed.
"""

from __future__ import annotations

import array
import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.daemons import TOKEN, Daemon, daemon

HEADER = struct.Struct(">2sBBIIIQ")
CALL, ANSWER, FAILURE, WRITE, DATA, NOTICE = range(1, 7)
QUIET = 1
WAIT_S = 20.0


class Failed(Exception):
    """A FAILURE."""

    def __init__(self, request: int, failure: dict[str, Any]) -> None:
        super().__init__(failure["code"], failure["message"])
        self.request = request
        self.code = failure["code"]
        self.failure = failure


class PageClient:
    """A client as the page describes it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(WAIT_S)
        self.last = 0
        self.notices: list[dict[str, Any]] = []

    def close(self) -> None:
        self.sock.close()

    def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def send(
        self, kind: int, payload: bytes, *, flags: int = 0, handle: int = 0, offset: int = 0,
        descriptor: int | None = None,
    ) -> int:  # fmt: skip
        self.last += 1
        header = HEADER.pack(b"TL", kind, flags, self.last, handle, len(payload), offset)
        if descriptor is None:
            self.sock.sendall(header + payload)
            return self.last
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        sent = self.sock.sendmsg([header + payload], [rights])
        self.sock.sendall((header + payload)[sent:])
        return self.last

    def frame(self) -> tuple[int, int, int, bytes]:
        """Kind, request, offset and payload of the next frame."""
        magic, kind, _, request, _, length, offset = HEADER.unpack(self.exactly(24))
        assert magic == b"TL"
        return kind, request, offset, self.exactly(length)

    def answer(self, request: int, begin: int = 0) -> tuple[dict[str, Any], bytes]:
        """The ANSWER to a request, and the DATA before it, which begins at an offset."""
        data = b""
        while True:
            kind, of, offset, payload = self.frame()
            if kind == NOTICE:
                self.notices.append(json.loads(payload))
            elif kind == FAILURE:
                raise Failed(of, json.loads(payload))
            elif kind == DATA:
                assert (of, offset) == (request, begin + len(data))
                data += payload
            else:
                assert (kind, of) == (ANSWER, request)
                return json.loads(payload), data

    def ask(self, op: str, *, descriptor: int | None = None, **fields: Any) -> dict[str, Any]:
        payload = json.dumps({"op": op, **fields}).encode()
        return self.answer(self.send(CALL, payload, descriptor=descriptor))[0]

    def write(self, handle: int, offset: int, data: bytes, *, quiet: bool = False) -> int:
        flags = QUIET if quiet else 0
        return self.send(WRITE, data, flags=flags, handle=handle, offset=offset)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        payload = json.dumps({"op": "read", "handle": handle, "offset": offset, "length": length})
        answer, data = self.answer(self.send(CALL, payload.encode()), offset)
        assert answer["size"] == len(data)
        return data

    def put(self, image: str, data: bytes, *, frame: int = 100_000) -> dict[str, Any]:
        """hello was said; write an image in frames that are not waited for."""
        opened = self.ask("create", pool="main", image=image, token=os.urandom(16).hex())
        for offset in range(0, len(data), frame):
            self.write(opened["handle"], offset, data[offset : offset + frame], quiet=True)
        digest = hashlib.sha256(data).hexdigest()
        return self.ask("close", handle=opened["handle"], size=len(data), sha256=digest)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("page")) as found:
        yield found


def connect(path: Path, *, hello: bool = True) -> PageClient:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(WAIT_S)
    sock.connect(str(path))
    client = PageClient(sock)
    if hello:
        assert client.ask("hello", versions=[1])["version"] == 1
    return client


def failure_of(client: PageClient, op: str, **fields: Any) -> dict[str, Any]:
    with pytest.raises(Failed) as caught:
        client.ask(op, **fields)
    return caught.value.failure


def test_twelve_bytes_become_an_image_and_are_read_back(here: Daemon) -> None:
    client = connect(here.path, hello=False)
    welcome = client.ask("hello", versions=[7, 1], client="a plug-in")
    assert welcome["version"] == 1
    assert welcome["limits"]["data"] == 4 << 20
    assert "RANGED_READ" in welcome["capabilities"]
    assert client.ask("claim", name="main") == {"mine": True}
    opened = client.ask("create", pool="main", image="db_1", token="0123456789abcdef")
    accepted, _ = client.answer(client.write(opened["handle"], 0, b"hello, tape\n"))
    assert accepted["offset"] == 12
    digest = hashlib.sha256(b"hello, tape\n").hexdigest()
    closed = client.ask("close", handle=opened["handle"], size=12, sha256=digest)
    assert (closed["state"], closed["offset"], closed["sha256"]) == ("complete", 12, digest)
    assert client.ask("close", handle=opened["handle"], size=12, sha256=digest) == closed
    listed = client.ask("list", pool="main", prefix="db_")["images"]
    assert [image["image"] for image in listed] == ["db_1"]
    reading = client.ask("open", pool="main", image="db_1")
    assert (reading["size"], reading["sha256"]) == (12, digest)
    assert client.read(reading["handle"], 0, 100) == b"hello, tape\n"
    assert client.read(reading["handle"], 7, 4) == b"tape"
    client.ask("close", handle=reading["handle"])
    client.close()


def test_frames_are_sent_without_waiting_and_read_back_in_data_frames(here: Daemon) -> None:
    client = connect(here.path)
    data = os.urandom(3_000_001)
    closed = client.put("big", data)
    assert closed["sha256"] == hashlib.sha256(data).hexdigest()
    handle = client.ask("open", pool="main", image="big")["handle"]
    assert client.read(handle, 0, len(data)) == data
    assert client.read(handle, 1_234_567, 1_000_000) == data[1_234_567:2_234_567]
    client.close()


def test_a_pipe_is_read_and_a_file_is_written_by_the_daemon(here: Daemon, tmp_path: Path) -> None:
    client = connect(here.path)
    data = os.urandom(700_000)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    handle = client.ask("create", pool="main", image="fd", token="0123456789abcdef")["handle"]
    with source.open("rb") as file:
        received = client.ask("write_from", descriptor=file.fileno(), handle=handle, offset=0)
    assert (received["offset"], received["eof"]) == (len(data), True)
    ours, theirs = os.pipe()
    os.write(theirs, b"and a pipe")
    os.close(theirs)
    client.ask("write_from", descriptor=ours, handle=handle, offset=len(data))
    os.close(ours)
    data += b"and a pipe"
    client.ask("close", handle=handle, sha256=hashlib.sha256(data).hexdigest())
    handle = client.ask("open", pool="main", image="fd")["handle"]
    with target.open("wb") as out:
        assert client.ask("read_to", descriptor=out.fileno(), handle=handle)["size"] == len(data)
    assert target.read_bytes() == data
    failure = failure_of(client, "read_to", handle=handle)
    assert failure["code"] == "descriptor"
    client.close()


def settled(client: PageClient, who: dict[str, Any], size: int, digest: str) -> dict[str, Any]:
    """What the page says of a lost answer to close: settle; resume what did not arrive."""
    while True:
        try:
            closed = client.ask("settle", **who, size=size, sha256=digest)
            if closed["state"] != "incomplete":
                return closed
            handle = client.ask("resume", **who)["handle"]
            return client.ask("close", handle=handle, size=size, sha256=digest)
        except Failed as failed:
            if failed.code not in ("busy", "complete"):
                raise


def test_after_a_lost_connection_the_image_is_resumed_and_after_a_lost_answer_settled(
    here: Daemon,
) -> None:
    data = os.urandom(900_000)
    digest = hashlib.sha256(data).hexdigest()
    who = {"pool": "main", "image": "lost", "token": "0123456789abcdef"}
    client = connect(here.path)
    handle = client.ask("create", **who)["handle"]
    client.answer(client.write(handle, 0, data[:600_000]))
    client.close()
    client = connect(here.path)
    opened = client.ask("resume", **who)
    assert opened["offset"] <= 600_000
    client.answer(client.write(opened["handle"], opened["offset"], data[opened["offset"] :]))
    payload = {"op": "close", "handle": opened["handle"], "size": len(data), "sha256": digest}
    client.send(CALL, json.dumps(payload).encode())
    client.close()
    client = connect(here.path)
    closed = settled(client, who, len(data), digest)
    assert (closed["state"], closed["sha256"]) == ("complete", digest)
    again = connect(here.path)
    assert again.ask("settle", **who, size=len(data), sha256=digest) == closed
    assert failure_of(again, "settle", **who, size=1, sha256=digest)["code"] == "exists"
    client.close()
    again.close()


def test_quiet_writes_that_fail_are_told_once(here: Daemon) -> None:
    client = connect(here.path)
    handle = client.ask("create", pool="main", image="q", token="0123456789abcdef")["handle"]
    client.write(handle, 0, b"abc", quiet=True)
    first = client.write(handle, 99, b"wrong place", quiet=True)
    client.write(handle, 110, b"also wrong", quiet=True)
    with pytest.raises(Failed) as caught:
        client.ask("flush", handle=handle)
    assert (caught.value.code, caught.value.request) == ("offset", first)
    assert caught.value.failure["offset"] == 3
    assert client.answer(client.last)[0]["offset"] == 3
    client.ask("abort", handle=handle)
    assert client.ask("list", pool="main", prefix="q", state="any")["images"] == []
    client.close()


def test_a_name_of_any_bytes_goes_as_base64_and_comes_back_so(here: Daemon) -> None:
    client = connect(here.path)
    raw = base64.b64encode(b"\xff/../\0%2E").decode()
    token = "0123456789abcdef"
    handle = client.ask("create", pool="main", image_b64=raw, token=token)["handle"]
    assert client.ask("close", handle=handle)["image_b64"] == raw
    (listed,) = client.ask("list", pool="main", prefix_b64="/w==")["images"]
    assert listed["image_b64"] == raw
    assert failure_of(client, "open", pool="main", image="")["code"] == "name_invalid"
    client.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (HEADER.pack(b"GE", 1, 0, 1, 0, 0, 0), "frame"),
        (HEADER.pack(b"TL", 1, 0, 1, 0, 1 << 30, 0), "frame"),
        (HEADER.pack(b"TL", 4, 0, 1, 1, 0, 0), "sequence"),
        (HEADER.pack(b"TL", 1, 0, 1, 0, 16, 0) + b'{"op":"events"} ', "sequence"),
        (HEADER.pack(b"TL", 1, 0, 1, 0, 30, 0) + b'{"op":"hello","versions":[99]}', "version"),
    ],
    ids=["another protocol", "a gigabyte", "a WRITE", "another call", "another version"],
)
def test_what_cannot_begin_a_session_is_told_why_and_ends_it(
    here: Daemon, sent: bytes, code: str
) -> None:
    client = connect(here.path, hello=False)
    client.sock.sendall(sent)
    with pytest.raises(Failed) as caught:
        client.answer(1)
    assert caught.value.code == code
    with pytest.raises((EOFError, ConnectionResetError)):
        client.exactly(1)
    client.close()


def test_a_message_that_is_wrong_is_answered_and_the_session_goes_on(here: Daemon) -> None:
    client = connect(here.path)
    assert "create.colour" in failure_of(
        client, "create", pool="main", image="a", token="12345678", colour="red"
    )["message"].replace("create has no field 'colour'", "create.colour")
    assert failure_of(client, "levitate")["code"] == "unknown_op"
    assert failure_of(client, "pool_props", pool="of tomorrow")["code"] == "no_pool"
    assert failure_of(client, "flush", handle=7)["code"] == "handle"
    assert client.ask("claim", name="of tomorrow") == {"mine": False}
    client.close()


def test_over_tcp_the_token_is_proved_and_never_said(tmp_path: Path) -> None:
    def knock(found: Daemon) -> tuple[PageClient, bytes]:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        plain = socket.create_connection(("127.0.0.1", found.port), WAIT_S)
        client = PageClient(context.wrap_socket(plain, server_hostname="127.0.0.1"))
        kind, request, _, payload = client.frame()
        assert (kind, request) == (NOTICE, 0)
        return client, json.loads(payload)["challenge"].encode("ascii")

    with daemon(tmp_path, tcp=True) as found:
        client, nonce = knock(found)
        proof = hmac.new(TOKEN.encode(), nonce, "sha256").hexdigest()
        welcome = client.ask("hello", versions=[1], token=proof)
        assert "DESCRIPTORS" not in welcome["capabilities"]
        data = os.urandom(500_000)
        client.put("over tcp", data)
        handle = client.ask("open", pool="main", image="over tcp")["handle"]
        assert client.read(handle, 0, len(data)) == data
        client.close()
        for wrong in (proof, TOKEN, None):  # replayed, said aloud, missing
            client, _ = knock(found)
            token = {} if wrong is None else {"token": wrong}
            assert failure_of(client, "hello", versions=[1], **token)["code"] == "auth"
            client.close()
