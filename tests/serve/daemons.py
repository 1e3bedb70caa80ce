"""A whole daemon in this process: real doors, the real service, pools on memory stores."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connector.serve.listener import Door
from connector.serve.service import Service
from connector.settings import ClientLimits, PoolSettings, SocketSettings, TcpSettings
from tests.pool.support import tiny_config
from tests.serve.support import World, drop

PART = 256 << 10
TOKEN = "a-token-that-only-its-owner-knows"


@dataclass
class Daemon:
    """A daemon that can be stopped in order, killed, and started again on what is left."""

    world: World
    path: Path
    pools: tuple[PoolSettings, ...]
    tcp: TcpSettings | None = None
    port: int = 0
    service: Service | None = None
    door: Door | None = None

    def start(self) -> None:
        self.service = self.world.service(*self.pools, handover_s=5.0)
        self.service.start(wait_s=5.0)
        settings = replace(
            self.service.settings,
            socket=SocketSettings(path=self.path),
            tcp=self.tcp,
            limits=ClientLimits(half_open_s=5.0, idle_s=30.0),
        )
        self.door = Door(settings, self.service)
        self.door.start()
        for address in self.door.addresses:
            if isinstance(address, tuple):
                self.port = int(str(address[1]))

    def stop(self) -> None:
        if self.door is not None and self.service is not None:
            self.door.close()
            self.service.close()
        self.door = self.service = None

    def cut(self) -> None:
        """Lose every connection, and what the service has in memory."""
        assert self.door is not None
        assert self.service is not None
        self.door.close()
        drop(self.service)
        self.door = self.service = None


def sizes(**changes: Any) -> Any:
    """A pool's sizes: parts of 256 KiB, fragments of 1 MiB."""
    return tiny_config(part_size=PART, fragment_size=4 * PART, images_open=4, **changes)


@contextmanager
def daemon(
    folder: Path, *, tcp: bool = False, spooled: bool = False, **pool: Any
) -> Iterator[Daemon]:
    """A daemon with pools ``main`` and ``other``, running."""
    world = World(folder)
    first = world.spooled(config=sizes(), limit=64 << 20, **pool) if spooled else None
    pools = (first or world.pool(config=sizes(), **pool), world.pool("other", config=sizes()))
    found = Daemon(world, folder / "pool.sock", pools, _tcp(folder) if tcp else None)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def _tcp(folder: Path) -> TcpSettings:
    """A door on a free loopback port, with a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tapelift test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    key_file.chmod(0o600)
    return TcpSettings(host="127.0.0.1", port=0, certificate=cert_file, key=key_file, token=TOKEN)
