"""The TCP door's protection: TLS from the first byte, then proof that the client knows the token.

Loopback only. Other users of this host can connect to it, and so may anybody whom a tunnel lets
in, which is why neither TLS nor the token can be left out. The dialogue of the token is
``connector/wire/challenge.py``.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl

from catalog.errors import ConfigError
from connector.settings import TcpSettings

MIN_TOKEN = 16
"""Shortest token that is accepted, in characters."""


def server_context(settings: TcpSettings) -> ssl.SSLContext:
    """A context of TLS 1.2 or later with the daemon's certificate.

    Raises:
        ConfigError: the certificate or its key cannot be used, or the token is too short.
    """
    if len(settings.token) < MIN_TOKEN:
        raise ConfigError(
            f"[tcp] token_file: the token has fewer than {MIN_TOKEN} characters",
            hint="write a random one, for example of: openssl rand -hex 32",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"[tcp] certificate {settings.certificate} with key {settings.key}: {exc}",
            hint="both must be PEM files that this user can read, the key without a password",
        ) from exc
    return context


def loopback_address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Where to bind.

    Raises:
        ConfigError: the host is not this host's loopback.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise ConfigError(f"[tcp] host {host!r}: {exc}", hint="use 127.0.0.1 or ::1") from exc
    for _, _, _, _, address in found:
        check_loopback(str(address[0]), "[tcp] host")
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def check_loopback(address: str, where: str) -> None:
    """ConfigError, unless the address is one of loopback."""
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise ConfigError(
            f"{where}: {address} is not a loopback address",
            hint="use 127.0.0.1 or ::1, and a tunnel where clients are on other hosts",
        )
