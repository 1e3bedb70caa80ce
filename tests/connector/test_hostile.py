"""Strangers, forgeries and hostile names against a whole daemon, in a process of its own, on S3.

What is refused is refused clearly and leaves no trace: not in the bucket, not in any listing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import AuthFailed, NameInvalid, PoolError
from catalog.s3 import S3Location, make_client
from connector.client import Client
from connector.pool import names
from connector.wire import challenge, messages
from connector.wire.frames import HEADER, MAGIC, MAX_CONTROL, MAX_DATA, Kind
from tests.connector.support import Running, call, config_of, serving
from tests.serve.doors import RawClient, connect
from tests.serve.test_peers import NOBODY
from tests.serve.test_peers import PROGRAM as STRANGER
from tests.serve.test_tcp import challenged, hello, make_certificate
from tests.support.servers import new_bucket

SECRET = "a-word-that-only-its-owner-knows"
DATA = b"what was there before"


@dataclasses.dataclass(frozen=True)
class Site:
    """A daemon, and what it must not be made to change."""

    daemon: Running
    where: S3Location
    certificate: Path
    port: int

    def trace(self) -> dict[str, Any]:
        """All that a visitor could leave behind."""
        s3 = make_client(self.where)
        listed = s3.list_objects_v2(Bucket=self.where.bucket).get("Contents", [])
        uploads = s3.list_multipart_uploads(Bucket=self.where.bucket).get("Uploads", [])
        with self.daemon.client() as client:
            images = [facts.image for facts in client.images("main", state="any")]
            handles = len(client.server_props().handles)
        return {
            "objects": sorted(
                (one["Key"], one["ETag"]) for one in listed if not one["Key"].startswith("ledger/")
            ),
            "uploads": len(uploads),
            "images": images,
            "handles": handles,
        }

    def tls(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.certificate)
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        return context.wrap_socket(plain, server_hostname="localhost")


@pytest.fixture(scope="module")
def site(moto_endpoint: str) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="tl", dir="/tmp") as name:
        folder, where = Path(name), new_bucket(moto_endpoint)
        folder.chmod(0o711)
        certificate, key = make_certificate(folder)
        key.chmod(0o600)
        secret = folder / "token"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        more = (
            f'[tcp]\nport = {port}\ncertificate = "{certificate}"\nkey = "{key}"\n'
            f'token_file = "{secret}"\n'
        )
        text = config_of(folder, {"main": where}, more=more)
        text = text.replace("path =", 'mode = "0666"\npath =', 1)
        with serving(folder, text) as daemon:
            site = Site(daemon, where, certificate, port)
            with daemon.client() as client, client.create("main", "before") as writer:
                writer.write(DATA)
            yield site
            with daemon.client() as client, client.open("main", "before") as reader:
                assert b"".join(reader) == DATA
            assert SECRET not in daemon.log


@pytest.fixture
def untouched(site: Site) -> Iterator[Site]:
    """The site, which a test leaves exactly as it was."""
    before = site.trace()
    yield site
    assert site.trace() == before


# --- strangers --------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
def test_another_user_is_refused(untouched: Site) -> None:
    root = Path(__file__).parents[2]
    # -I keeps the current folder out; the program's packages come by their own path
    program = f"import sys; sys.path.insert(0, {str(root)!r})\n{STRANGER}"
    done = subprocess.run(
        [
            *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
            *(sys.executable, "-c", program, str(untouched.daemon.socket)),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
        check=False,
    )
    if "Permission denied" in done.stderr or "ModuleNotFound" in done.stderr:
        pytest.skip("another user cannot read this checkout")
    kind, _, body = done.stdout.partition(" ")
    failure = json.loads(body)
    assert (kind, failure["code"]) == ("FAILURE", "auth")
    assert failure["hint"]


def test_a_wrong_token_is_refused(untouched: Site) -> None:
    with (
        pytest.raises(AuthFailed) as refused,
        Client(
            host="localhost", port=untouched.port, cafile=untouched.certificate, token="a guess"
        ) as client,
    ):
        client.create("main", "stolen")
    assert refused.value.hint


def test_a_replayed_token_is_refused(untouched: Site) -> None:
    peer, nonce = challenged(untouched.tls())
    recorded = hello(challenge.response(SECRET, nonce))
    with peer:
        peer.ask(recorded)
    thief, _ = challenged(untouched.tls())
    with thief:
        assert thief.refused(recorded).code == "auth"
        assert thief.ended()


@pytest.mark.parametrize(
    ("kind", "length"),
    [(Kind.CALL, MAX_CONTROL + 1), (Kind.WRITE, MAX_DATA + 1), (Kind.WRITE, 2**32 - 1)],
)
def test_an_oversized_frame_is_refused(untouched: Site, kind: Kind, length: int) -> None:
    with RawClient(connect(untouched.daemon.socket)) as peer:
        peer.sock.sendall(HEADER.pack(MAGIC, kind, 0, 9, 0, length, 0))
        assert peer.reply().failure.code == "frame"
        assert peer.ended()


def test_an_oversized_frame_in_the_middle_of_an_image_leaves_it_resumable(site: Site) -> None:
    with site.daemon.client() as client:
        with RawClient(connect(site.daemon.socket)) as peer:
            begun = messages.Create(
                pool="main", image=messages.Name("cut"), token="token-of-this-test"
            )
            handle = peer.ask(begun).handle
            peer.send_write(handle, 0, b"some")
            peer.reply()
            peer.sock.sendall(HEADER.pack(MAGIC, Kind.WRITE, 0, 77, handle, 2**31, 4))
            assert peer.reply().failure.code == "frame"
            assert peer.ended()
        assert "cut" not in [facts.image for facts in client.images("main")]
        with client.resume("main", "cut", token="token-of-this-test") as writer:
            assert writer.offset == 4
            writer.write(b" more")
        with client.open("main", "cut") as reader:
            assert b"".join(reader) == b"some more"
        client.delete("main", "cut", reason="test")


# --- names ------------------------------------------------------------------------------------

HOSTILE: list[bytes] = [
    b"..",
    b".",
    b"/",
    b"../../before",
    b"/etc/passwd",
    b"images/before/1/manifest.json",
    b"a/b",
    b"a%2Fb",
    b"a%252Fb",
    b"a%2fb",
    b"nul\x00nul",
    b"nul",
    b"\xff\xfe not utf-8",
    b"%FF%FE not utf-8",
    "\N{LATIN SMALL LETTER E WITH ACUTE}".encode(),
    "e\N{COMBINING ACUTE ACCENT}".encode(),
    b"Before",
    b"before ",
    b" before",
    b"before\n",
    b"before\nPOOL main\x1b[2J\r",
    b"manifest.json",
    b"n" * 255,
    b"~root",
    b"a?versionId=null#x&y=z",
    b"x" * 1024,
    b"y" * 1025,
    b"\xc3\x28" * 512,
    b"",
]


def test_hostile_names_are_one_image_each_and_back_or_refused(site: Site) -> None:
    before = site.trace()
    kept: dict[bytes, bytes] = {}
    refused: dict[bytes, str] = {}
    with site.daemon.client() as client:
        for number, name in enumerate(HOSTILE):
            data = b"image %d" % number
            try:
                with client.create("main", name) as writer:
                    writer.write(data)
            except PoolError as exc:
                refused[name] = exc.code
            else:
                kept[name] = data
        assert set(refused.values()) <= {"name_invalid", "message"}
        assert all(len(name) >= 1024 or not name for name in refused), refused
        listed = {_raw(facts.image) for facts in client.images("main", state="any")}
        assert listed == {*kept, b"before"}
        for name, data in kept.items():
            with client.open("main", name) as reader:
                assert b"".join(reader) == data
            assert _raw(client.props("main", name).facts.image) == name
        with client.open("main", "before") as reader:
            assert b"".join(reader) == DATA
        keys = [key for key, _ in site.trace()["objects"]]
        folders = {key.split("/")[1] for key in keys if key.startswith("images/")}
        assert folders == {names.encode(name.decode("utf-8", "surrogateescape"))
                           for name in (*kept, b"before")}  # fmt: skip
        assert not [key for key in keys if ".." in key.split("/") or "." in key.split("/")]
        shown = call("ls", "main", "--socket", str(site.daemon.socket))
        rows = [row for row in shown.stdout.split(b"\n") if row]
        assert len(rows) == 1 + len(kept) + 1  # a head, and one line for each image
        assert all(byte >= 0x20 for row in rows for byte in row)
        assert "\x1b" not in site.daemon.log
        assert not [line for line in site.daemon.log.splitlines() if line.startswith("POOL main")]
        for name in kept:
            assert client.delete("main", name, reason="test") == "deleted"
        with client.open("main", "before") as reader:
            assert b"".join(reader) == DATA
    assert site.trace() == before


@pytest.mark.parametrize("name", [b"n" * 1025, b"", b"\xff" * 1024])
def test_a_name_that_cannot_be_a_key_is_refused_and_leaves_no_trace(
    untouched: Site, name: bytes
) -> None:
    with untouched.daemon.client() as client, pytest.raises((NameInvalid, PoolError)) as refused:
        client.create("main", name)
    assert refused.value.code in ("name_invalid", "message")


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
