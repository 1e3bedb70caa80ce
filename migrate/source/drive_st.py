"""The Linux tape driver ``st`` as a program sees it: a device, three ioctls, what may be asked.

Everything that reaches a drive goes through ``TapeDevice``, and it lets nothing through that could
change a tape: the device is opened for reading only, an operation that is not on the list below is
refused here, and block size 0 (variable) is the only setting that is ever made. Sources: st(4),
``linux/mtio.h``, ``drivers/scsi/st.c``.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Protocol

TAPE_MAJOR = 9
NO_REWIND = 0x80  # in the minor number: the tape stays where it is when the device is closed

MTIOCTOP = 0x40086D01
MTIOCGET = 0x80306D02
MTIOCPOS = 0x80086D03

OPERATION = struct.Struct("@hi")  # op, count
STATUS = struct.Struct("@lllllii")  # type, resid, dsreg, gstat, erreg, fileno, blkno
ADDRESS = struct.Struct("@l")

READABLE = 0xFFFFFF
"""The longest transfer that READ(6) can ask for, in bytes: 24 bits."""


class Op(IntEnum):
    """The operations that a reader needs: all that exist here."""

    FORWARD_FILES = 1  # MTFSF
    FORWARD_RECORDS = 3  # MTFSR
    BACK_RECORDS = 4  # MTBSR
    REWIND = 6  # MTREW
    UNLOAD = 7  # MTOFFL
    BLOCK_SIZE = 20  # MTSETBLK, with 0 only
    LOCATE = 22  # MTSEEK


class Flag(IntFlag):
    """Bits of mt_gstat."""

    FILEMARK = 0x80000000  # directly behind a mark
    BEGINNING = 0x40000000
    END_OF_TAPE = 0x20000000
    END_OF_DATA = 0x08000000
    WRITE_PROTECTED = 0x04000000
    ONLINE = 0x01000000
    NO_TAPE = 0x00040000
    CLEANING = 0x00008000


class ForbiddenOperation(Exception):
    """Our own mistake: something was asked of a drive that could change a tape. Never caught."""


@dataclass(frozen=True, slots=True)
class Status:
    """What MTIOCGET says. block_size 0 is variable; file and block are -1 where st lost count."""

    flags: Flag
    density: int
    block_size: int
    file: int
    block: int
    soft_errors: int

    @classmethod
    def parse(cls, data: bytes) -> Status:
        """From the ioctl's struct; its long fields are signed, and their high bits mean nothing."""
        _, _, dsreg, gstat, erreg, file, block = STATUS.unpack(data)
        return cls(
            flags=Flag(gstat & 0xFFFFFFFF),
            density=dsreg >> 24 & 0xFF,
            block_size=dsreg & 0xFFFFFF,
            file=file,
            block=block,
            soft_errors=erreg & 0xFFFF,
        )


class Kernel(Protocol):
    """The system calls of a device. Errors are OSError with the driver's errno."""

    def open(self, path: str, flags: int) -> int:
        """Open a device."""
        ...

    def device_numbers(self, path: str) -> tuple[int, int] | None:
        """Major and minor number; None for what is no character device."""
        ...

    def read(self, handle: int, buffer: bytearray) -> int:
        """One read of at most len(buffer) bytes into buffer."""
        ...

    def ioctl(self, handle: int, request: int, argument: bytes) -> bytes:
        """An ioctl with a struct; the struct as it is afterwards."""
        ...

    def close(self, handle: int) -> None:
        """Close the device."""
        ...


class LinuxKernel:
    """The kernel this program runs on."""

    def open(self, path: str, flags: int) -> int:
        """Open a device."""
        return os.open(path, flags)

    def device_numbers(self, path: str) -> tuple[int, int] | None:
        """Major and minor number; None for what is no character device."""
        status = Path(path).stat()
        if not stat.S_ISCHR(status.st_mode):
            return None
        return os.major(status.st_rdev), os.minor(status.st_rdev)

    def read(self, handle: int, buffer: bytearray) -> int:
        """One read into buffer. The interpreter repeats it after a signal (EINTR)."""
        return os.readv(handle, [buffer])

    def ioctl(self, handle: int, request: int, argument: bytes) -> bytes:
        """An ioctl with a struct; the struct as it is afterwards."""
        return fcntl.ioctl(handle, request, argument)

    def close(self, handle: int) -> None:
        """Close the device."""
        os.close(handle)


def why_no_tape_device(path: str, kernel: Kernel) -> str:
    """Why a path is no ``/dev/nst*``; '' when it is one. Looks at the name only, and opens nothing:
    opening some devices has effects, and ``/dev/st*`` rewinds when it is closed.

    Raises:
        OSError: there is no such path.
    """
    numbers = kernel.device_numbers(path)
    if numbers is None or numbers[0] != TAPE_MAJOR:
        return "is not a tape drive"
    return "" if numbers[1] & NO_REWIND else "rewinds when it is closed"


class TapeDevice:
    """One open ``/dev/nst*``. Raises OSError with the driver's errno, and nothing else of its own
    but ForbiddenOperation."""

    def __init__(self, path: str, kernel: Kernel) -> None:
        """Open for reading, without waiting for a tape (O_NONBLOCK matters to st in open only)."""
        self.path = path
        self._kernel = kernel
        self._handle: int | None = kernel.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self, buffer: bytearray) -> int:
        """Read one record (variable block size) into buffer; its length, 0 at a mark."""
        return self._kernel.read(self._open(), buffer)

    def operate(self, op: Op, count: int = 1) -> None:
        """Do one tape operation.

        Raises:
            ForbiddenOperation: it is not on the list, or would set a block size.
        """
        if not isinstance(op, Op):
            raise ForbiddenOperation(f"tape operation {op!r} is not one of a reader")
        if op is Op.BLOCK_SIZE and count != 0:
            raise ForbiddenOperation(f"a block size of {count} would read records in pieces")
        self._kernel.ioctl(self._open(), MTIOCTOP, OPERATION.pack(op, count))

    def status(self) -> Status:
        """Flags, block size, density and the driver's own count of files and blocks."""
        return Status.parse(self._kernel.ioctl(self._open(), MTIOCGET, bytes(STATUS.size)))

    def address(self) -> int:
        """The drive's logical block address (READ POSITION); records and marks count alike."""
        data = self._kernel.ioctl(self._open(), MTIOCPOS, bytes(ADDRESS.size))
        address: int = ADDRESS.unpack(data)[0]
        return address

    def close(self) -> None:
        """Close the device; the tape stays where it is. Closing twice does no harm."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._kernel.close(handle)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._handle is None

    def _open(self) -> int:
        if self._handle is None:
            raise ValueError(f"{self.path} was closed")
        return self._handle
