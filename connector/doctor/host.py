"""What of this host the daemon stands on: folders, disks, memory, descriptors, clock zone, socket.

Folders are tried with a file that is removed at once; a folder that is not there yet is told, and
not made.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import resource
import stat
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from catalog.console import size_text
from connector.doctor.findings import Findings
from connector.pool.coding import Compression
from connector.pool.config import GIB, MIB
from connector.serve.inuse import memory_bound
from connector.settings import PoolSettings, Settings, TcpSettings

PROGRAM = 150 * MIB
"""What the daemon takes besides part buffers. Source: docs/operations.md, "Sizing"."""
STATE_ERROR = 256 * MIB
STATE_WARNING = 2 * GIB
DESCRIPTORS = 256
"""Files that the daemon has open besides connections, handles and requests."""
PRICES_DAYS = 365
SOCKET_PATH = 107
"""Longest path of a UNIX socket, in bytes. Source: unix(7)."""
CERTIFICATE_DAYS = 30

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "fuse.s3fs", "9p", "ceph", "afs"}
)
_MEMORY = frozenset({"tmpfs", "ramfs"})


def check_host(findings: Findings, settings: Settings) -> None:
    """Everything that does not need a store."""
    check_state(findings, settings.state)
    check_socket(findings, settings)
    if settings.tcp is not None:
        check_certificate(findings, settings.tcp)
    check_memory(findings, settings, memory_of_host())
    check_descriptors(findings, settings, resource.getrlimit(resource.RLIMIT_NOFILE))
    if any(pool.bandwidth for pool in settings.pools):
        check_zone(findings)


# --- folders ----------------------------------------------------------------------------------


def check_state(findings: Findings, folder: Path) -> None:
    """The state folder: journals and indexes of all pools."""
    if not _check_folder(findings, "state", folder):
        return
    if file_system(folder) in _MEMORY:
        findings.warning(
            "state",
            f"{folder} is in memory: after a restart of the host images that were not complete "
            "are sent anew",
            "put it on a disk",
        )
    free = _free(folder)
    if free < STATE_ERROR:
        findings.error("state", f"{size_text(free)} are free in {folder}", "make room")
    elif free < STATE_WARNING:
        findings.warning("state", f"{size_text(free)} are free in {folder}", "make room")
    else:
        findings.ok("state", f"{folder}: local, private, {size_text(free)} free")


def check_spool(findings: Findings, pool: PoolSettings) -> None:
    """The spool folder, and whether its bound fits the disk."""
    if pool.spool is None:
        return
    folder, limit = pool.spool.folder, pool.spool.limit
    if not _check_folder(findings, "spool", folder):
        return
    if file_system(folder) in _MEMORY:
        findings.error(
            "spool",
            f"{folder} is in memory: what is acknowledged from it is lost with the power",
            "put the spool on a disk",
        )
    room = _free(folder) + _used(folder)
    if room < limit:
        findings.error(
            "spool",
            f"the spool may hold {size_text(limit)}, and {folder} has room for {size_text(room)}",
            "lower the bound, or give the spool a larger disk of its own",
        )
    else:
        findings.ok("spool", f"{folder} has room for its bound of {size_text(limit)}")


def _check_folder(findings: Findings, check: str, folder: Path) -> bool:
    """Whether a folder can be used; says what is wrong with it. Not there yet: may it be made?"""
    try:
        about = folder.stat()
    except FileNotFoundError:
        _check_parent(findings, check, folder)
        return False
    except OSError as exc:
        findings.error(check, f"{folder}: {exc.strerror}", "check the folder and its parents")
        return False
    if not stat.S_ISDIR(about.st_mode):
        findings.error(check, f"{folder} is not a folder", "name a folder")
        return False
    kind = file_system(folder)
    if kind in _NETWORK:
        findings.error(
            check,
            f"{folder} is on {kind}: locks and syncs there do not hold what they promise",
            "put it on a local disk",
        )
        return False
    if about.st_uid != os.geteuid():
        findings.error(
            check,
            f"{folder} belongs to uid {about.st_uid}, the doctor runs as {os.geteuid()}",
            "run doctor as the daemon's user, or give the folder to it",
        )
        return False
    if about.st_mode & 0o077:
        findings.warning(
            check,
            f"{folder} can be entered by others (mode {stat.S_IMODE(about.st_mode):04o})",
            f"chmod 0700 {folder}",
        )
    try:
        _write_and_sync(folder)
    except OSError as exc:
        findings.error(
            check, f"{folder} cannot be written to: {exc.strerror}", "check rights and disk"
        )
        return False
    return True


def _check_parent(findings: Findings, check: str, folder: Path) -> None:
    parent = next(one for one in folder.absolute().parents if one.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        findings.ok(check, f"{folder} is not there yet and can be made")
    else:
        findings.error(
            check,
            f"{folder} is not there, and may not be made in {parent}",
            f"install -d -m 0700 -o USER {folder}",
        )


def _write_and_sync(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(prefix=".probe-", dir=folder) as probe:
        probe.write(b"tapelift doctor")
        probe.flush()
        os.fsync(probe.fileno())


def _free(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _used(folder: Path) -> int:
    """Bytes on disk below a folder; a daemon may remove files meanwhile."""
    used = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                used += (Path(where) / name).lstat().st_blocks * 512
    return used


def file_system(folder: Path, mounts: str | None = None) -> str:
    """The kind of file system that a folder is on, ``ext4``; empty when it is not known.

    Source: proc(5), ``/proc/self/mountinfo``: field 5 is the mount point, the kind follows `` - ``.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    real = folder.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        first, _, second = line.partition(" - ")
        fields = first.split()
        if len(fields) < 5 or not second:
            continue
        point = Path(fields[4].replace("\\040", " "))
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), second.split()[0]
    return kind


# --- socket and certificate -----------------------------------------------------------------------


def check_socket(findings: Findings, settings: Settings) -> None:
    """Where the UNIX socket is, or will be."""
    if settings.socket is None:
        findings.ok("socket", "none is configured")
        return
    path = settings.socket.path
    if len(os.fsencode(path)) > SOCKET_PATH:
        findings.error(
            "socket", f"{path} is longer than {SOCKET_PATH} bytes", "choose a shorter path"
        )
        return
    if settings.socket.mode & 0o007:
        findings.warning(
            "socket",
            f"everybody on this host may connect to it (mode {settings.socket.mode:04o}); who is "
            "not in users or groups is turned away only after that",
            'set mode = "0660"',
        )
    if path.exists() and not path.is_socket():
        findings.error("socket", f"{path} is there and is no socket", "remove it, or move it away")
    elif path.is_socket():
        findings.ok("socket", f"{path} is there")
    elif not path.parent.is_dir():
        findings.error(
            "socket",
            f"{path.parent} is not there",
            f"make it, or let systemd: RuntimeDirectory={path.parent.name}",
        )
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        findings.error(
            "socket",
            f"{path.parent} may not be written to by uid {os.geteuid()}",
            "run doctor as the daemon's user, or choose another folder",
        )
    else:
        findings.ok("socket", f"{path} can be made")


def check_certificate(findings: Findings, tcp: TcpSettings) -> None:
    """The certificate of the TCP door."""
    try:
        certificate = x509.load_pem_x509_certificate(tcp.certificate.read_bytes())
    except (OSError, ValueError) as exc:
        findings.error(
            "certificate", f"{tcp.certificate}: {exc}", "name a certificate in PEM that is readable"
        )
        return
    left = (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).days
    if left < 0:
        findings.error("certificate", f"{tcp.certificate} has ended", "renew it, then send SIGHUP")
    elif left < CERTIFICATE_DAYS:
        findings.warning(
            "certificate", f"{tcp.certificate} ends in {left} days", "renew it, then send SIGHUP"
        )
    else:
        findings.ok("certificate", f"valid for {left} days")


# --- memory, descriptors, zone --------------------------------------------------------------------


def memory_needed(settings: Settings) -> int:
    """Most bytes that the daemon takes: the part buffers of every pool, once more and one part
    larger where images are compressed or encrypted here, and the program itself.

    Source: docs/operations.md, "Sizing".
    """
    needed = PROGRAM
    for pool in settings.pools:
        config = pool.config
        needed += memory_bound(config)
        if pool.coding.compression is not Compression.NONE or pool.coding.client_key is not None:
            needed += config.images_open * (config.parts_in_flight + 2) * config.part_size
    return needed


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that this process could have, and who says so."""

    size: int
    bound: str


def memory_of_host() -> Memory:
    """The host's memory, or less where a control group bounds it."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = Memory(size, "this host")
    for limit in _group_limits():
        if limit < found.size:
            found = Memory(limit, "the control group (MemoryMax of the unit, or the container)")
    return found


def _group_limits() -> Iterable[int]:
    """Limits of our control group and of those around it. Source: cgroups(7), ``memory.max``."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    ours = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = Path("/sys/fs/cgroup") / ours.lstrip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):
            yield int((folder / "memory.max").read_text())


def check_memory(findings: Findings, settings: Settings, memory: Memory) -> None:
    """The memory formula against what there is."""
    needed = memory_needed(settings)
    message = (
        f"at most {size_text(needed)} with all images open, {memory.bound} has "
        f"{size_text(memory.size)}"
    )
    remedy = "lower images_open, parts_in_flight or part_size"
    if needed > memory.size:
        findings.error("memory", message, remedy)
    elif needed > memory.size * 3 // 4:
        findings.warning("memory", message, remedy)
    else:
        findings.ok("memory", message)


def descriptors_needed(settings: Settings) -> int:
    """Most files open at once: clients, their passed descriptors, requests to S3, spool files."""
    images = sum(pool.config.images_open for pool in settings.pools)
    requests = sum(p.config.images_open * p.config.parts_in_flight for p in settings.pools)
    return DESCRIPTORS + settings.limits.connections + 3 * images + requests


def check_descriptors(findings: Findings, settings: Settings, limit: tuple[int, int]) -> None:
    """``ulimit -n``: limit is (soft, hard)."""
    soft, hard = limit
    needed = descriptors_needed(settings)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        findings.ok("descriptors", f"{soft} may be open, {needed} at most are needed")
    else:
        findings.warning(
            "descriptors",
            f"{soft} files may be open at once (at most {hard}), {needed} may be needed",
            f"LimitNOFILE={needed} in the unit, ulimit -n {needed} in a shell; or fewer "
            "limits.connections",
        )


def check_zone(findings: Findings) -> None:
    """Windows of bandwidth are in local time: say which that is."""
    now = dt.datetime.now().astimezone()
    zone, offset = time.tzname[bool(time.localtime().tm_isdst)], now.strftime("%z")
    findings.ok("windows", f"in local time, now {now:%H:%M} {zone} (UTC{offset})")


def check_prices(findings: Findings, pool: PoolSettings, today: dt.date) -> None:
    """The age of the price table that estimates and ``auto`` come from."""
    try:
        age = (today - dt.date.fromisoformat(pool.prices.date[:10])).days
    except ValueError:
        age = None
    if age is None or age > PRICES_DAYS:
        findings.warning(
            "prices",
            f"the price table is of {pool.prices.date}",
            "replace it: docs/operations.md, What it costs",
        )
    else:
        findings.ok("prices", f"of {pool.prices.date}, {pool.prices.source}")
