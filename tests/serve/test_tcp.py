"""The TCP door: TLS or nothing, and a token that is proved and never said."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import ipaddress
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from catalog.errors import AuthFailed, ConfigError
from connector.client import Client
from connector.serve.listener import Door
from connector.serve.tls import server_context
from connector.settings import TcpSettings
from connector.wire import challenge, codec, messages
from connector.wire.frames import Header, Kind, pack_header
from tests.serve.doors import (
    LONG_S,
    PART,
    Ended,
    MemoryService,
    RawClient,
    client,
    eventually,
    open_door,
    open_files,
    settings_for,
)

TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def tcp_settings(pair: tuple[Path, Path], /, **changed: object) -> TcpSettings:
    said: dict[str, object] = {"host": "127.0.0.1", "port": 0, "token": TOKEN}
    cert, key = pair
    return TcpSettings(**{"certificate": cert, "key": key, **said, **changed})  # type: ignore[arg-type]


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
def door(certificate: tuple[Path, Path], service: MemoryService) -> Iterator[Door]:
    settings = settings_for(None, tcp=tcp_settings(certificate), half_open_s=3.0)
    with open_door(settings, service) as door:
        yield door
    assert service.all_ended()


def port_of(door: Door) -> int:
    return next(int(str(address[1])) for address in door.addresses if isinstance(address, tuple))


def tls_to(door: Door, certificate: tuple[Path, Path]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=certificate[0])
    plain = socket.create_connection(("127.0.0.1", port_of(door)), LONG_S)
    return context.wrap_socket(plain, server_hostname="localhost")


def challenged(sock: ssl.SSLSocket) -> tuple[RawClient, str]:
    peer = RawClient(sock, hello=False)
    first = peer.frame()
    assert first.header.request == 0
    assert list(first.notice) == ["challenge"]
    return peer, str(first.notice["challenge"])


def hello(token: str | None) -> messages.Hello:
    return messages.Hello(versions=(1,), token=token)


def test_who_knows_the_token_is_let_in_and_can_write_and_read(
    door: Door, certificate: tuple[Path, Path], service: MemoryService
) -> None:
    data = os.urandom(3 * PART + 5)
    peer, nonce = challenged(tls_to(door, certificate))
    with peer:
        # as the page of the protocol says it, without our own code
        token = hmac.new(TOKEN.encode(), nonce.encode(), hashlib.sha256).hexdigest()
        welcome = peer.ask(hello(token))
        assert welcome.capabilities == ("RANGED_READ",)  # no descriptors come this way
        handle = peer.create()
        peer.send_write(handle, 0, data)
        assert codec.decode_answer(peer.reply().payload, messages.Accepted).offset == len(data)
        peer.ask(messages.Close(handle=handle))
        reading = peer.open("image")
        peer.send_call(messages.ReadRange(handle=reading, offset=1, length=len(data)))
        got = bytearray()
        while (frame := peer.frame()).header.kind is Kind.DATA:
            got += frame.payload
        assert got == data[1:]
    assert service.sessions[0].peer.name.startswith("127.0.0.1:")
    assert service.sessions[0].peer.uid is None


@pytest.mark.parametrize("wrong", [None, "", TOKEN, "0" * 64, "é\udcff", "wrong token"])
def test_a_wrong_token_is_refused_and_leaves_no_trace(
    door: Door,
    certificate: tuple[Path, Path],
    service: MemoryService,
    wrong: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    if wrong is not None and not wrong.isascii():
        wrong = wrong.encode("utf-8", "replace").decode()
    peer, _ = challenged(tls_to(door, certificate))
    with peer:
        failure = peer.refused(hello(wrong))
        assert (failure.code, failure.retryable) == ("auth", False)
        assert "token_file" in failure.hint
        assert peer.ended()
    assert service.sessions == []
    assert TOKEN not in caplog.text
    assert sum(record.message.startswith("refused") for record in caplog.records) == 1


def test_a_hello_that_was_recorded_opens_nothing(
    door: Door, certificate: tuple[Path, Path], service: MemoryService
) -> None:
    peer, nonce = challenged(tls_to(door, certificate))
    with peer:
        recorded = hello(challenge.response(TOKEN, nonce))
        peer.ask(recorded)
    assert len(service.sessions) == 1
    for _ in range(3):
        thief, other = challenged(tls_to(door, certificate))
        with thief:
            assert other != nonce
            assert thief.refused(recorded).code == "auth"
            assert thief.ended()
    assert len(service.sessions) == 1


def test_a_connection_has_one_try(door: Door, certificate: tuple[Path, Path]) -> None:
    peer, nonce = challenged(tls_to(door, certificate))
    with peer:
        assert peer.refused(hello("guess")).code == "auth"
        with pytest.raises((AssertionError, Ended, OSError)):
            peer.ask(hello(challenge.response(TOKEN, nonce)))


def test_without_tls_nothing_is_said(door: Door, service: MemoryService) -> None:
    payload = codec.encode_call(hello(TOKEN))
    with socket.create_connection(("127.0.0.1", port_of(door)), LONG_S) as sock:
        sock.sendall(pack_header(Header(Kind.CALL, len(payload), 1)) + payload)
        said = bytearray()
        try:
            while more := sock.recv(100):
                said += more
        except ConnectionResetError:
            pass
        assert b"TL" not in said
        assert b"challenge" not in said
    assert eventually(lambda: door.connections == 0)
    assert service.sessions == []


def test_a_peer_that_never_finishes_the_handshake_is_cut(
    certificate: tuple[Path, Path],
) -> None:
    settings = settings_for(None, tcp=tcp_settings(certificate), half_open_s=0.5)
    with (
        open_door(settings) as door,
        socket.create_connection(("127.0.0.1", port_of(door)), LONG_S) as sock,
    ):
        sock.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        assert sock.recv(100) == b""
        assert time.monotonic() - began < 5


def test_a_client_that_leaves_in_the_middle_of_tls_ends_its_session(
    door: Door, certificate: tuple[Path, Path], service: MemoryService
) -> None:
    before = open_files()
    for _ in range(3):
        peer, nonce = challenged(tls_to(door, certificate))
        peer.ask(hello(challenge.response(TOKEN, nonce)))
        handle = peer.create()
        peer.sock.sendall(pack_header(Header(Kind.WRITE, 100_000, 9, handle, 0)) + bytes(70_000))
        peer.sock.close()
    assert service.all_ended()
    assert eventually(lambda: door.connections == 0)
    assert eventually(lambda: open_files() <= before)
    assert service.images == {}


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_later_are_spoken(
    door: Door, certificate: tuple[Path, Path], highest: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    context.maximum_version = highest
    plain = socket.create_connection(("127.0.0.1", port_of(door)), LONG_S)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        challenged(sock)


def test_older_tls_is_not_configured(certificate: tuple[Path, Path]) -> None:
    context = server_context(tcp_settings(certificate))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"token": "short"}, "fewer than 16 characters"),
        ({"certificate": Path("/nonexistent")}, "PEM files that this user can read"),
        ({"certificate": Path(__file__)}, "PEM files"),
    ],
)
def test_settings_that_cannot_work_are_named(
    certificate: tuple[Path, Path], changed: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        server_context(tcp_settings(certificate, **changed))


def test_the_token_is_in_no_repr(certificate: tuple[Path, Path]) -> None:
    assert TOKEN not in repr(tcp_settings(certificate))


def test_both_doors_can_be_open(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    settings = settings_for(tmp_path / "s", tcp=tcp_settings(certificate))
    with open_door(settings) as door, client(tmp_path / "s") as local:
        peer, nonce = challenged(tls_to(door, certificate))
        with peer:
            peer.ask(hello(challenge.response(TOKEN, nonce)))
            assert peer.alive()
        assert local.alive()
        assert door.connections >= 1


def test_a_port_that_was_handed_over_is_served(certificate: tuple[Path, Path]) -> None:
    handed = socket.create_server(("127.0.0.1", 0))
    port = handed.getsockname()[1]
    settings = settings_for(None, tcp=tcp_settings(certificate, port=1))
    with open_door(settings, sockets=[handed]) as door:
        assert port_of(door) == port
        peer, _ = challenged(tls_to(door, certificate))
        peer.sock.close()


def test_the_python_client_answers_the_challenge(
    door: Door, certificate: tuple[Path, Path], service: MemoryService
) -> None:
    with Client(
        host="localhost", port=port_of(door), cafile=certificate[0], token=TOKEN, timeout_s=LONG_S
    ) as known:
        assert known.claim("p")
    for wrong in ("wrong", None):
        stranger = Client(
            host="localhost",
            port=port_of(door),
            cafile=certificate[0],
            token=wrong,
            timeout_s=LONG_S,
        )
        with pytest.raises(AuthFailed, match="token"):
            stranger.hello()
    assert len(service.sessions) == 1
