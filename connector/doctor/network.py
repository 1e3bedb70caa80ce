"""The way to the store: name, port, certificate, one step after the other."""

from __future__ import annotations

import datetime as dt
import queue
import socket
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import botocore.session
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from connector.doctor.findings import Findings

CONNECT_S = 5.0
CERTIFICATE_DAYS = 14
"""A certificate that ends sooner than this is warned of."""

Address = tuple[int, tuple[object, ...]]


def check_network(findings: Findings, endpoint_url: str) -> bool:
    """Whether the endpoint can be talked to; what stands in the way is a finding."""
    parts = urlsplit(endpoint_url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if get_environ_proxies(endpoint_url):
        findings.ok("network", f"{host} is reached through the proxy that the environment names")
        return True
    addresses = _resolve(findings, host, port)
    if not addresses:
        return False
    connected = _connect(findings, host, port, addresses)
    if connected is None:
        return False
    with connected:
        return parts.scheme != "https" or _tls(findings, parts, connected)


def _resolve(findings: Findings, host: str, port: int) -> list[Address]:
    """The addresses, each once. The resolver has no deadline of its own, so it gets ours."""
    answers: queue.Queue[list[Address] | OSError] = queue.Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            answers.put(exc)
        else:
            answers.put(list(dict.fromkeys((int(family), addr) for family, *_, addr in found)))

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=2 * CONNECT_S)
    except queue.Empty:
        answer = TimeoutError(f"no answer within {2 * CONNECT_S:g} s")
    if isinstance(answer, OSError):
        findings.error(
            "dns",
            f"{host} has no address: {answer}",
            "check the endpoint's name and this host's resolver (getent hosts NAME)",
        )
        return []
    findings.ok("dns", f"{host} has {len(answer)} addresses")
    return answer


def _connect(
    findings: Findings, host: str, port: int, addresses: list[Address]
) -> socket.socket | None:
    problem: OSError = OSError("no address")
    for family, address in addresses:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(address)
        except OSError as exc:
            connection.close()
            problem = exc
            continue
        findings.ok("tcp", f"{host} port {port} is open")
        return connection
    findings.error(
        "tcp",
        f"{host} port {port} cannot be reached: {problem}",
        "check the endpoint's port, routes and firewalls between here and there",
    )
    return None


def _tls(findings: Findings, parts: SplitResult, connection: socket.socket) -> bool:
    """The handshake, with the authorities that the S3 client trusts."""
    ca_bundle = botocore.session.get_session().get_config_variable("ca_bundle")
    try:
        context = ssl.create_default_context(cafile=get_cert_path(ca_bundle or True))
        with context.wrap_socket(connection, server_hostname=parts.hostname) as tls:
            version, certificate = tls.version(), tls.getpeercert() or {}
    except (OSError, ValueError) as exc:
        findings.error(
            "tls",
            f"no TLS with {parts.hostname}: {exc}",
            "check the endpoint's certificate; for an authority of your own set AWS_CA_BUNDLE",
        )
        return False
    left = _days_left(certificate)
    if left is not None and left < CERTIFICATE_DAYS:
        findings.warning(
            "tls",
            f"the certificate of {parts.hostname} ends in {left:.0f} days",
            "have it renewed by whoever runs the endpoint",
        )
    else:
        findings.ok("tls", f"{version} with {parts.hostname}")
    return True


def _days_left(certificate: Mapping[str, object]) -> float | None:
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        return None
    left = ssl.cert_time_to_seconds(ends) - dt.datetime.now(dt.UTC).timestamp()
    return left / 86_400
