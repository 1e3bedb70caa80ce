"""Questions to a drive through ``/dev/sg*``, beside the tape driver: never a motion, never a write.

``st`` must not lose track of the tape, so only commands that move nothing are let through
(ALLOWED). Source: ``scsi/sg.h``; SPC-4 for the commands.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from migrate.errors import TapeError
from migrate.source.drive_st import ForbiddenOperation

SG_IO = 0x2285
FROM_DEVICE = -3  # SG_DXFER_FROM_DEV
TIMEOUT_MS = 60_000
SENSE_SIZE = 64

INQUIRY = 0x12
LOG_SENSE = 0x4D
READ_ATTRIBUTE = 0x8C
ALLOWED = {INQUIRY, LOG_SENSE, READ_ATTRIBUTE}

LONGEST_REPLY = 64 * 1024

SENSE_KEYS = {
    2: "not ready",
    3: "medium error",
    4: "hardware error",
    5: "illegal request",
    6: "unit attention",
    11: "aborted command",
}
ILLEGAL_REQUEST = 5

SYSTEM = Path("/sys/class/scsi_tape")


class NotOffered(TapeError):
    """The drive does not know this command, page or attribute."""

    code = "tape_not_offered"


class SgHeader(ctypes.Structure):
    """sg_io_hdr."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. status and host_status are 0 when all went well; sense is raw."""

    data: bytes
    status: int = 0
    host_status: int = 0
    sense: bytes = b""


class Transport(Protocol):
    """Something that takes a command and gives a reply. Raises OSError."""

    def send(self, cdb: bytes, length: int) -> Reply:
        """Send a command that gives at most length bytes."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class SgDevice:
    """An open ``/dev/sg*``."""

    def __init__(self, path: str) -> None:
        """Open it. The kernel lets LOG SENSE through only where writing is allowed, so it is
        opened so; what may be sent is decided in ``ask``."""
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def send(self, cdb: bytes, length: int) -> Reply:
        """One SG_IO; at most TIMEOUT_MS."""
        command = ctypes.create_string_buffer(cdb, len(cdb))
        data = ctypes.create_string_buffer(length)
        sense = ctypes.create_string_buffer(SENSE_SIZE)
        header = SgHeader(
            interface_id=ord("S"),
            dxfer_direction=FROM_DEVICE,
            cmd_len=len(cdb),
            mx_sb_len=SENSE_SIZE,
            dxfer_len=length,
            dxferp=ctypes.addressof(data),
            cmdp=ctypes.addressof(command),
            sbp=ctypes.addressof(sense),
            timeout=TIMEOUT_MS,
        )
        fcntl.ioctl(self._handle, SG_IO, header)
        got = max(0, min(length, length - header.resid))
        return Reply(
            data.raw[:got], header.status, header.host_status, sense.raw[: header.sb_len_wr]
        )

    def close(self) -> None:
        """Close the device. Closing twice does no harm."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def generic_of(path: str, system: Path = SYSTEM) -> str | None:
    """The ``/dev/sg*`` of a ``/dev/nst*``; None where the kernel has none (no sg module)."""
    name = Path(path).resolve().name  # by-id names are links
    try:
        node = (system / name / "device" / "generic").readlink()
    except OSError:
        return None
    return f"/dev/{node.name}"


def ask(transport: Transport, cdb: bytes, length: int, what: str) -> bytes:
    """Send a question and give its answer, at most length bytes.

    Raises:
        ForbiddenOperation: the command is not on the list.
        NotOffered: the drive does not know it.
        TapeError: the drive did not answer.
    """
    if cdb[0] not in ALLOWED:
        raise ForbiddenOperation(f"SCSI command {cdb[0]:#04x} is not one of a reader")
    if not 0 < length <= LONGEST_REPLY:
        raise ValueError(f"a reply of {length} bytes")
    hint = "the migration does not need it"
    try:
        reply = transport.send(cdb, length)
    except OSError as exc:
        known = {errno.EACCES, errno.EPERM}
        more = "; run as a member of the group tape" if exc.errno in known else ""
        raise TapeError(f"cannot ask for {what}: {exc.strerror}", hint=hint + more) from exc
    if reply.host_status:
        raise TapeError(f"cannot ask for {what}: host status {reply.host_status:#x}", hint=hint)
    if reply.status == 0:
        return reply.data
    key, asc, ascq = sense_of(reply.sense)
    name = SENSE_KEYS.get(key, f"sense key {key}")
    kind = NotOffered if key == ILLEGAL_REQUEST else TapeError
    raise kind(f"{what}: {name} ({asc:02x}/{ascq:02x}), status {reply.status:#04x}", hint=hint)


def sense_of(sense: bytes) -> tuple[int, int, int]:
    """Sense key and additional codes, of fixed or descriptor format; zeros where there is none."""
    if not sense:
        return 0, 0, 0
    padded = sense.ljust(14, b"\0")
    if sense[0] & 0x7F in (0x72, 0x73):
        return padded[1] & 0xF, padded[2], padded[3]
    return padded[2] & 0xF, padded[12], padded[13]
