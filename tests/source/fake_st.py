"""The Linux st driver and an LTO drive, as far as a reader can tell them from the real ones.

Each rule says where it comes from: (st) drivers/scsi/st.c as of Linux 6.1, (man) st(4), (seen)
``tests/fixtures/st/*.json``, which a real kernel answered; ``test_fake_st.py`` replays those here.
The state is the driver's: ``eof`` with its steps, ``file`` and ``block`` with -1 for lost count.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from migrate.source.drive_st import (
    ADDRESS,
    MTIOCGET,
    MTIOCPOS,
    MTIOCTOP,
    OPERATION,
    STATUS,
    Flag,
    Op,
)

MARK = None
Item = bytes | None  # a record, or a mark

NST0 = (9, 128)
LTO5 = 0x58

# (st) enum of STps->eof
NOEOF, FM, EOM_OK, EOD_2, EOD = "none", "mark", "end of medium", "one zero left", "end of data"


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass
class Bad:
    """A record that cannot be read. moves: the drive passes it when it fails. spaceable: SPACE
    gets over it. locatable: LOCATE gets behind it. heals: so many failures, then it reads."""

    moves: bool = True
    spaceable: bool = True
    locatable: bool = True
    heals: int | None = None


@dataclass
class FakeKernel:
    """One device with one drive. items: what is on the tape; None: no tape.

    before: called with the name of each call ahead of it ("read", "op 1", "status", "address",
    "open"); it may raise OSError, or change the drive: the script of a test.
    """

    items: list[Item] | None
    bad: dict[int, Bad] = field(default_factory=dict)
    block_size: int = 0
    numbers: tuple[int, int] | None = NST0
    largest: int = 1 << 24  # of a transfer that the host can make
    before: Callable[[str], None] = lambda name: None
    ready: bool = True
    calls: list[str] = field(default_factory=list)
    handles: int = 0
    at: int = 0
    eof: str = NOEOF
    file: int = 0
    block: int = 0

    # --- system calls -----------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        self._called("open")
        assert flags & os.O_ACCMODE == os.O_RDONLY, "a reader opens for reading"
        assert flags & os.O_NONBLOCK
        if self.handles:
            raise error(errno.EBUSY)  # (st) STp->in_use
        self.handles = 1
        return 99

    def device_numbers(self, path: str) -> tuple[int, int] | None:
        return self.numbers

    def close(self, handle: int) -> None:
        assert self.handles == 1
        self.handles = 0

    def read(self, handle: int, buffer: bytearray) -> int:
        self._called("read")
        self._need_tape()
        if len(buffer) > self.largest:
            raise error(errno.EOVERFLOW)  # (st) setup_buffering: enlarge_buffer fails
        assert len(buffer) < 1 << 24, "READ(6) has 24 bits"
        if self.eof == EOD:
            raise error(errno.EIO)  # (st) st_read: eof >= ST_EOD_1 and no step left
        if self._at_end():
            return self._blank_check()
        record = self._tape()[self.at]
        trouble = self.bad.get(self.at)
        if trouble is not None and trouble.heals != 0:
            if trouble.heals is not None:
                trouble.heals -= 1
            self.at += trouble.moves
            self.block = -1  # (st) read_tape: drv_block = -1 after any other sense
            raise error(errno.EIO)
        self.at += 1
        if record is MARK:
            self.eof = FM  # (st) FM_HIT, then FM when nothing was read
            self.file += self.file >= 0
            self.block = 0
            return 0
        self.block += self.block >= 0
        if self.block_size:
            raise error(errno.EIO)  # a record of another size than the fixed one
        if len(record) > len(buffer):
            raise error(errno.ENOMEM)  # (st) "Failed to read %d byte block": the tape is behind it
        self.eof = NOEOF
        buffer[: len(record)] = record
        return len(record)

    def ioctl(self, handle: int, request: int, argument: bytes) -> bytes:
        if request == MTIOCTOP:
            assert len(argument) == OPERATION.size
            op, count = OPERATION.unpack(argument)
            self._called(f"op {op} {count}")
            self._operate(Op(op), count)
            return argument
        if request == MTIOCGET:
            assert len(argument) == STATUS.size
            self._called("status")
            return self._status()
        assert request == MTIOCPOS
        self._called("address")
        self._need_tape()
        return ADDRESS.pack(self.at)

    # --- the drive --------------------------------------------------------------------------

    def _operate(self, op: Op, count: int) -> None:
        if op is Op.BLOCK_SIZE:
            self.block_size = count
            return
        self._need_tape()
        if op is Op.REWIND:
            self.at = self.file = self.block = 0
            self.eof = NOEOF
        elif op is Op.UNLOAD:
            self.items = None
        elif op is Op.LOCATE:
            self._locate(count)
        elif op is Op.FORWARD_FILES:
            self._forward_files(count)
        elif op is Op.FORWARD_RECORDS:
            self._forward_records(count)
        else:
            self._back_records(count)

    def _forward_files(self, count: int) -> None:
        undone = count
        while undone:
            if self._at_end():
                # (st) st_int_ioctl: MTFSF, BLANK CHECK: what was not done is taken off
                self.file = self.file + count - undone if self.file >= 0 else -1
                self.block = -1
                self.eof = EOD
                raise error(errno.EIO)
            self._space_over_trouble()
            undone -= self._tape()[self.at] is MARK
            self.at += 1
        self.file += count if self.file >= 0 else 0
        self.block = 0
        self.eof = FM

    def _forward_records(self, count: int) -> None:
        for done in range(count):
            if self._at_end():
                self.block = self.block + done if self.block >= 0 else -1
                self.eof = EOD
                raise error(errno.EIO)
            self._space_over_trouble()
            self.at += 1
            if self._tape()[self.at - 1] is MARK:
                # (st) st_int_ioctl: MTFSR, "Hit filemark": the tape is behind it
                self.file += self.file >= 0
                self.block = 0
                self.eof = FM
                raise error(errno.EIO)
        self.block += count if self.block >= 0 else 0
        self.eof = NOEOF

    def _back_records(self, count: int) -> None:
        for _ in range(count):
            assert self.at > 0
            self.at -= 1
            assert self._tape()[self.at] is not MARK
        self.block -= count if self.block >= 0 else 0
        self.eof = NOEOF

    def _locate(self, address: int) -> None:
        self.file = self.block = -1  # (man) MTSEEK: both are unknown afterwards
        self.eof = NOEOF
        trouble = self.bad.get(address - 1)
        if trouble is not None and not trouble.locatable:
            raise error(errno.EIO)
        if address > len(self._tape()):
            self.at = len(self._tape())
            raise error(errno.EIO)  # (seen) and the end of the data is not flagged
        self.at = address
        if address == 0:
            self.file = self.block = 0  # (st) st_int_ioctl: MTSEEK to 0

    def _space_over_trouble(self) -> None:
        trouble = self.bad.get(self.at)
        if trouble is not None and not trouble.spaceable:
            self.block = -1
            self.eof = NOEOF
            raise error(errno.EIO)

    def _blank_check(self) -> int:
        """(st) read_tape: the first BLANK CHECK behind a mark reads as nothing, others fail."""
        self.block = -1
        if self.eof == FM:
            self.eof = EOD  # EOD_2, and one step on because nothing was read
            return 0
        raise error(errno.EIO)

    def _status(self) -> bytes:
        """(st) st_ioctl, MTIOCGET."""
        flags = Flag(0)
        if self.items is None:
            flags |= Flag.NO_TAPE
        elif self.ready:
            flags |= Flag.ONLINE
        if self.block == 0 and self.items is not None:
            flags |= Flag.BEGINNING if self.file == 0 else Flag.FILEMARK
        if self.eof == EOD:
            flags |= Flag.END_OF_DATA
        signed = flags - (1 << 32) if flags & 0x80000000 else flags
        return STATUS.pack(
            0x72, 0, LTO5 << 24 | self.block_size, int(signed), 0, self.file, self.block
        )

    def _need_tape(self) -> None:
        if self.items is None:
            raise error(errno.ENOMEDIUM)  # (st) rw_checks, st_ioctl: ST_NO_TAPE
        if not self.ready:
            raise error(errno.EIO)  # (st) rw_checks: not ST_READY

    def _at_end(self) -> bool:
        return self.at >= len(self._tape())

    def _tape(self) -> list[Item]:
        assert self.items is not None
        return self.items

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)


def tape_of(layout: list[list[bytes]]) -> list[Item]:
    """The tape files of a layout, each with a mark behind it."""
    return [item for records in layout for item in (*records, MARK)]
