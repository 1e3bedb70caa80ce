"""The doctor on this host: folders, disks, memory, descriptors, socket, certificate, prices."""

from __future__ import annotations

import datetime as dt
import os
import resource
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from catalog.s3 import S3Location
from connector.doctor import host
from connector.doctor.findings import Finding, Findings, Level
from connector.doctor.host import Memory
from connector.doctor.network import check_network
from connector.pool.coding import Coding, Compression
from connector.pool.config import GIB, MIB, PoolConfig
from connector.settings import (
    Ack,
    BandwidthWindow,
    ClientLimits,
    PoolSettings,
    SocketSettings,
    SpoolSettings,
    TcpSettings,
)
from tests.connector.doctor_support import pool_at, settings_for

POOL = pool_at(S3Location("b", "p", "http://127.0.0.1:9"))


def found(check: Callable[..., None], *args: object) -> Finding:
    """The worst finding of one check."""
    findings = Findings()
    check(findings, *args)
    order = list(Level)
    worst = max(findings.made, key=lambda one: order.index(one.level))
    assert bool(worst.remedy) is (worst.level is not Level.OK)
    return worst


def private(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


# --- folders ----------------------------------------------------------------------------------


def test_a_private_folder_on_a_local_disk_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "STATE_WARNING", 1)
    monkeypatch.setattr(host, "STATE_ERROR", 0)
    folder = private(tmp_path / "state")
    assert found(host.check_state, folder).level is Level.OK
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_can_enter_is_warned_of(tmp_path: Path) -> None:
    folder = private(tmp_path / "state")
    folder.chmod(0o755)
    finding = found(host.check_state, folder)
    assert finding.level is Level.WARNING
    assert "mode 0755" in finding.message
    assert finding.remedy == f"chmod 0700 {folder}"


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert found(host.check_state, folder).level is Level.OK
    assert not folder.parent.exists()


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("")
    assert found(host.check_state, path).level is Level.ERROR


def test_a_folder_of_somebody_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = private(tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to uid" in found(host.check_state, folder).message


MOUNTS = """\
21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
22 21 0:5 / /mnt/backup rw shared:7 - nfs4 filer:/backup rw
23 21 0:6 / /mnt/backup\\040two rw - tmpfs tmpfs rw
24 22 8:2 / /mnt/backup/local rw - xfs /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/tapelift", "ext4"),
        ("/mnt/backup", "nfs4"),
        ("/mnt/backup/state", "nfs4"),
        ("/mnt/backup/local/state", "xfs"),
        ("/mnt/backup two/state", "tmpfs"),
        ("/mnt/backups", "ext4"),
    ],
)
def test_the_kind_of_a_file_system_is_that_of_the_innermost_mount(path: str, kind: str) -> None:
    assert host.file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "state", "spool"),
    [("nfs4", Level.ERROR, Level.ERROR), ("tmpfs", Level.WARNING, Level.ERROR)],
)
def test_network_and_memory_are_no_place_for_state_or_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: Level, spool: Level
) -> None:
    folder = private(tmp_path / "f")
    monkeypatch.setattr(host, "file_system", lambda _: kind)
    assert found(host.check_state, folder).level is state
    assert found(host.check_spool, spooling(folder, 1)).level is spool


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private(tmp_path / "state")
    monkeypatch.setattr(host, "_free", lambda _: 3 * MIB)
    assert found(host.check_state, folder).level is Level.ERROR
    monkeypatch.setattr(host, "_free", lambda _: GIB)
    assert found(host.check_state, folder).level is Level.WARNING


def spooling(folder: Path, limit: int) -> PoolSettings:
    return replace(POOL, ack=Ack.SPOOLED, spool=SpoolSettings(folder=folder, limit=limit))


def test_a_spool_must_have_room_for_its_bound_with_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = private(tmp_path / "spool")
    (folder / "image").write_bytes(bytes(8 * MIB))
    monkeypatch.setattr(host, "_free", lambda _: 10 * MIB)
    assert found(host.check_spool, spooling(folder, 17 * MIB)).level is Level.OK
    finding = found(host.check_spool, spooling(folder, 30 * MIB))
    assert finding.level is Level.ERROR
    assert "31.46 MB" in finding.message


def test_a_pool_without_a_spool_needs_none() -> None:
    findings = Findings()
    host.check_spool(findings, POOL)
    assert findings.made == []


# --- socket and certificate -----------------------------------------------------------------------


def socket_finding(tmp_path: Path, path: Path, mode: int = 0o660) -> Finding:
    settings = settings_for(tmp_path, POOL, socket=SocketSettings(path=path, mode=mode))
    return found(host.check_socket, settings)


def test_a_socket_that_can_be_made_or_is_there_is_well(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert socket_finding(tmp_path, path).level is Level.OK
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert socket_finding(tmp_path, path).level is Level.OK


def test_a_socket_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert socket_finding(tmp_path, tmp_path / "file").level is Level.ERROR
    assert "RuntimeDirectory=gone" in socket_finding(tmp_path, tmp_path / "gone" / "s").remedy
    assert "107 bytes" in socket_finding(tmp_path, tmp_path / ("x" * 107)).message


def test_a_socket_for_everybody_is_warned_of(tmp_path: Path) -> None:
    assert socket_finding(tmp_path, tmp_path / "s", 0o666).level is Level.WARNING


def certificate(folder: Path, *, days: float) -> TcpSettings:
    """A self-signed certificate for 127.0.0.1 that ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=90))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    paths = {"certificate": folder / "c.pem", "key": folder / "k.pem"}
    return TcpSettings(host="127.0.0.1", port=0, token="t" * 32, **paths)


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (10, "warning"), (-1, "error")])
def test_a_certificate_that_ends_soon_is_told(tmp_path: Path, days: float, level: str) -> None:
    assert found(host.check_certificate, certificate(tmp_path, days=days)).level == level


def test_a_certificate_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    tcp = certificate(tmp_path, days=90)
    tcp.certificate.write_text("no certificate")
    assert found(host.check_certificate, tcp).level is Level.ERROR


def test_an_endpoint_whose_certificate_nobody_vouches_for_is_an_error(tmp_path: Path) -> None:
    tcp = certificate(tmp_path, days=90)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tcp.certificate, tcp.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(OSError):  # noqa: PT011 - the client hangs up
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        findings = Findings()
        port = listener.getsockname()[1]
        assert not check_network(findings, f"https://127.0.0.1:{port}")
        thread.join(timeout=10)
    assert findings.made[-1].check == "tls"
    assert "AWS_CA_BUNDLE" in findings.made[-1].remedy


# --- memory, descriptors, zone, prices ------------------------------------------------------------


def test_the_memory_formula_is_that_of_the_documents(tmp_path: Path) -> None:
    config = PoolConfig(part_size=16 * MIB, parts_in_flight=4, images_open=8)
    coded = Coding(compression=Compression.ZSTD)
    settings = settings_for(
        tmp_path,
        replace(POOL, config=config),
        replace(POOL, name="coded", config=replace(config, images_open=2), coding=coded),
    )
    buffers = (8 * 5 + 2 * 5 + 2 * 6) * 16 * MIB
    assert host.memory_needed(settings) == host.PROGRAM + buffers


def test_more_memory_than_there_is_is_an_error(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, POOL)
    needed = host.memory_needed(settings)
    for size, level in ((2 * needed, "ok"), (needed + 1, "warning"), (needed - 1, "error")):
        assert found(host.check_memory, settings, Memory(size, "this host")).level == level


def test_the_memory_of_this_host_is_known() -> None:
    memory = host.memory_of_host()
    assert 64 * MIB < memory.size < 1 << 60


def test_too_few_descriptors_are_told_with_the_number_that_is_needed(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, POOL, limits=ClientLimits(connections=2000))
    finding = found(host.check_descriptors, settings, (1024, 4096))
    needed = host.descriptors_needed(settings)
    assert needed > 2000 + 4 * 4
    assert finding.level is Level.WARNING
    assert f"LimitNOFILE={needed}" in finding.remedy
    assert found(host.check_descriptors, settings, (needed, needed)).level is Level.OK
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert found(host.check_descriptors, settings, endless).level is Level.OK


def test_windows_of_bandwidth_are_told_with_their_zone(tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path, replace(POOL, bandwidth=(BandwidthWindow(bytes_per_second=1),))
    )
    findings = Findings()
    host.check_host(findings, settings)
    (finding,) = [one for one in findings.made if one.check == "windows"]
    assert "in local time" in finding.message


@pytest.mark.parametrize(
    ("date", "level"), [("2026-01-01", "ok"), ("2024-01-01", "warning"), ("soon", "warning")]
)
def test_a_price_table_of_long_ago_is_told(date: str, level: str) -> None:
    pool = replace(POOL, prices=replace(POOL.prices, date=date))
    assert found(host.check_prices, pool, dt.date(2026, 11, 1)).level == level
