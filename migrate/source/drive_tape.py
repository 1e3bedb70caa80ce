"""A cartridge in a real drive, read through the Linux ``st`` driver.

``st`` tells of a mark, of the end of the data and of damage by the same few errors; what it was,
the drive's own block address decides, which counts records and marks alike. It is asked behind
every mark too, so a record that was skipped or read twice, a drive that was reset, and a tape that
somebody moved are found within the tape file, and end the reading instead of shifting it.

What cannot be read is a result (BadBlock); a drive that no longer answers is a TapeError, because
another drive may read the same tape well. A call has no time limit of ours: those of the driver
(15 minutes for a read, four hours for spacing, by default) bound it.
"""

from __future__ import annotations

import errno
import logging

from migrate.errors import TapeError
from migrate.source.drive_st import READABLE, Flag, Op, Status, TapeDevice
from migrate.source.interface import (
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    Position,
    TapeEvent,
)

log = logging.getLogger(__name__)

FIRST_BUFFER = 1024 * 1024
"""Longer than what backup programs write by default. A longer record costs one step back."""

ERRORS_IN_A_ROW = 8
"""After so many unreadable records the rest of a tape file is given up: a drive works for minutes
on each of them before it says no."""

MOST_FILES = 0x7FFFFF
"""SPACE(6) counts in 24 bits, with a sign."""

CAUSES = {
    errno.ENOMEDIUM: ("holds no tape", "load the cartridge and run again"),
    errno.EBUSY: ("is used by another program", "end that program (see lsof) and run again"),
    errno.EACCES: ("may not be opened", "run as a member of the group tape"),
    errno.EPERM: ("may not be used so", "run as a member of the group tape"),
    errno.ENOENT: ("does not exist", "look with ls /dev/nst*"),
    errno.ENXIO: ("is not there", "check power and cables; lsscsi -g lists the drives"),
    errno.ENODEV: ("is gone", "check power and cables, then run again"),
    errno.EIO: ("failed", "look at the drive and the kernel's log; another drive may do"),
    errno.EOVERFLOW: (
        "cannot move blocks of this size",
        "raise max_sg_segs of the st module, or use a host adapter that moves longer ones",
    ),
}


class DriveTape:
    """The cartridge in a drive; it begins rewound.

    Memory: a buffer of FIRST_BUFFER bytes that grows to the longest record of the tape, at most
    READABLE, and one record.
    """

    keeps_records = True

    def __init__(self, device: TapeDevice, barcode: str) -> None:
        """Take over an open device that has a tape; ``close`` closes it.

        Raises:
            TapeError: the drive does not rewind, does not take variable blocks or does not know
                where it stands.
        """
        self.barcode = barcode
        self._device = device
        self._buffer = bytearray(FIRST_BUFFER)
        self._mark_is_next = False  # the rest of a tape file was given up: its mark was passed
        self._tried_again_at = -1
        self._end: EndOfTape | None = None
        self.rewind()
        self._choose_variable_blocks()

    @property
    def position(self) -> Position:
        """Where the next ``read`` begins."""
        return Position(self._file, self._block, self._address)

    def read(self) -> TapeEvent:
        """The next record, filemark or damage; EndOfTape at the end of the data.

        Raises:
            TapeError: the drive failed, or stands where it should not.
        """
        self._check_open()
        if self._end is not None:
            return self._end
        if self._mark_is_next:
            return self._mark()
        while True:
            try:
                length = self._device.read(self._buffer)
            except OSError as exc:
                event = self._read_failed(exc)
                if event is not None:
                    return event
                continue
            self._errors = 0
            if length == 0:
                return self._mark_or_end()
            self._passed()
            return Block(bytes(memoryview(self._buffer)[:length]))

    def space_files(self, count: int) -> bool:
        """Skip behind the next count filemarks, as fast as the drive can.

        Where it cannot, because something between here and there is damaged, the records are read.

        Raises:
            TapeError: as in ``read``.
        """
        self._check_open()
        if count > 0 and self._mark_is_next:
            self._mark()
            count -= 1
        while count > 0:
            if self._end is not None:
                return False
            step = min(count, MOST_FILES)
            try:
                self._device.operate(Op.FORWARD_FILES, step)
            except OSError as exc:
                return self._spacing_failed(exc, count)
            self._arrived_behind_mark(self._file + step)
            count -= step
        return True

    def rewind(self) -> None:
        """Go back to the beginning of the tape.

        Raises:
            TapeError: the drive failed.
        """
        self._check_open()
        try:
            self._device.operate(Op.REWIND)
        except OSError as exc:
            raise self._failure("rewinding", exc) from exc
        self._file = self._block = self._address = 0
        self._forget_trouble()
        self._expect(0)

    def locate(self, position: Position) -> None:
        """Go to a position that this tape was at before (its address alone decides where).

        Raises:
            TapeError: the drive failed.
        """
        self._check_open()
        self._seek(position.address)
        self._file, self._block, self._address = position.file, position.block, position.address
        self._forget_trouble()

    def close(self) -> None:
        """Close the device; the tape stays in the drive, where it is."""
        self._device.close()

    # --- marks and ends ---------------------------------------------------------------------

    def _mark_or_end(self) -> TapeEvent:
        """A read that gave nothing: a mark was passed, or there is nothing more to pass."""
        address = self._tell()
        if address == self._address:
            return self._finish()
        if address != self._address + 1:
            raise self._astray(address)
        return self._mark()

    def _mark(self) -> TapeEvent:
        self._mark_is_next = False
        self._file += 1
        self._block = 0
        self._address += 1
        self._errors = 0
        return Filemark()

    def _arrived_behind_mark(self, file: int) -> None:
        """Count what was spaced over, and compare with the driver's own count where it has one."""
        address, counted = self._tell(), self._status().file
        if address <= self._address or counted not in (-1, file):
            raise TapeError(
                f"{self._device.path} should stand before tape file {file} of {self.barcode}, and "
                f"the driver says {counted} (block {address})",
                hint="nothing was taken from there; run again",
            )
        self._file, self._block, self._address = file, 0, address
        self._errors = 0

    def _finish(self, reason: str = "") -> EndOfTape:
        if reason:
            log.warning("%s: %s", self.barcode, reason)
        self._end = EndOfTape(abrupt=bool(reason), reason=reason)
        return self._end

    # --- what cannot be read ----------------------------------------------------------------

    def _read_failed(self, exc: OSError) -> TapeEvent | None:
        """What a failed read means; None when the same record is to be read again."""
        if exc.errno == errno.ENOMEM:
            return self._longer_than_buffer(exc)
        if exc.errno != errno.EIO:
            raise self._failure("reading", exc) from exc
        status = self._status()
        self._check_loaded(status)
        address = self._tell()
        if address == self._address:
            if Flag.END_OF_DATA in status.flags:
                return self._finish()
            if self._tried_again_at != address:  # a bus that was reset fails like a bad record
                self._tried_again_at = address
                return None
            return self._step_over(exc)
        if address < self._address:
            raise self._astray(address) from exc
        if address > self._address + 1:  # what lies between was not even tried
            self._seek(self._address + 1)
        return self._unreadable()

    def _longer_than_buffer(self, exc: OSError) -> TapeEvent | None:
        """A record did not fit: the tape stands behind it. Go back, with more room for it."""
        address = self._tell()
        if address == self._address:
            size = len(self._buffer)
            raise TapeError(
                f"the kernel has no memory for a read of {size} bytes from {self._device.path}",
                hint="free memory, or raise max_sg_segs of the st module, then run again",
            ) from exc
        if address != self._address + 1:
            raise self._astray(address) from exc
        if len(self._buffer) >= READABLE:
            self._passed()
            return BadBlock(f"block {address - 1} is longer than {READABLE} bytes")
        self._buffer = bytearray(min(2 * len(self._buffer), READABLE))
        log.debug("%s: a buffer of %d bytes", self.barcode, len(self._buffer))
        try:
            self._device.operate(Op.BACK_RECORDS)
        except OSError as error:
            raise self._failure("stepping back", error) from error
        self._expect(self._address)
        return None

    def _step_over(self, exc: OSError) -> TapeEvent:
        """The drive failed to read what is next and still stands before it: find out what it is,
        and get behind it."""
        try:
            self._device.operate(Op.FORWARD_RECORDS)
        except OSError as error:
            if error.errno != errno.EIO:
                raise self._failure("spacing", error) from error
        else:
            self._expect(self._address + 1)
            return self._unreadable()
        status = self._status()
        self._check_loaded(status)
        address = self._tell()
        if address == self._address and Flag.END_OF_DATA in status.flags:
            return self._finish()
        if address == self._address + 1 and Flag.FILEMARK in status.flags:
            return self._mark()
        try:
            self._seek(self._address + 1)
        except TapeError:
            return self._finish(
                f"the drive does not get past block {self._address}: {exc.strerror}"
            )
        return self._unreadable()

    def _unreadable(self) -> TapeEvent:
        """The tape stands behind a record that could not be read."""
        reason = f"the drive cannot read block {self._address}"
        log.warning("%s: %s", self.barcode, reason)
        self._passed()
        self._errors += 1
        if self._errors < ERRORS_IN_A_ROW:
            return BadBlock(reason)
        return self._give_up_file()

    def _give_up_file(self) -> TapeEvent:
        """Leave out the rest of a tape file: one BadBlock of unknown size, then its mark."""
        begin = self._address
        reason = (
            f"{self._errors} records up to block {begin - 1} cannot be read one after the other"
        )
        try:
            self._device.operate(Op.FORWARD_FILES)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise self._failure("spacing", exc) from exc
            self._check_loaded(self._status())
            self._finish(f"{reason}, and no filemark is found behind them")
            return BadBlock(reason)
        address = self._tell()
        if address <= begin:
            raise self._astray(address)
        self._block += address - 1 - begin
        self._address = address - 1
        self._mark_is_next = True
        return BadBlock(f"{reason}; tape file {self._file} is given up from there")

    def _spacing_failed(self, exc: OSError, count: int) -> bool:
        """The end of the data, or damage on the way: then go back, and read the way."""
        if exc.errno != errno.EIO:
            raise self._failure("spacing", exc) from exc
        status = self._status()
        self._check_loaded(status)
        if Flag.END_OF_DATA in status.flags:
            self._address = self._tell()
            self._file, self._block = max(status.file, self._file), 0
            self._finish()
            return False
        log.warning("%s: cannot space over what follows block %d", self.barcode, self._address)
        try:
            self._seek(self._address)
        except TapeError as error:
            self._finish(f"the drive cannot space from block {self._address}: {error.message}")
            return False
        while count > 0:
            event = self.read()
            if isinstance(event, EndOfTape):
                return False
            count -= isinstance(event, Filemark)
        return True

    # --- the device -------------------------------------------------------------------------

    def _forget_trouble(self) -> None:
        self._errors = 0
        self._tried_again_at = -1
        self._mark_is_next = False
        self._end = None

    def _passed(self) -> None:
        self._block += 1
        self._address += 1

    def _seek(self, address: int) -> None:
        try:
            self._device.operate(Op.LOCATE, address)
        except OSError as exc:
            raise self._failure(f"going to block {address}", exc) from exc
        self._expect(address)

    def _expect(self, address: int) -> None:
        found = self._tell()
        if found != address:
            raise TapeError(
                f"{self._device.path} should stand at block {address} of {self.barcode} and says "
                f"{found}",
                hint="look whether another program uses the drive, then run again",
            )

    def _tell(self) -> int:
        try:
            return self._device.address()
        except OSError as exc:
            raise self._failure("asking for the position", exc) from exc

    def _status(self) -> Status:
        try:
            return self._device.status()
        except OSError as exc:
            raise self._failure("asking for the status", exc) from exc

    def _choose_variable_blocks(self) -> None:
        """One read, one record. With a fixed block size a record would come in pieces, or fail."""
        if self._status().block_size == 0:
            return
        try:
            self._device.operate(Op.BLOCK_SIZE, 0)
        except OSError as exc:
            raise self._failure("choosing variable blocks", exc) from exc
        size = self._status().block_size
        if size:
            raise TapeError(
                f"{self._device.path} keeps to blocks of {size} bytes",
                hint="a drive that cannot read variable blocks cannot be used",
            )

    def _check_open(self) -> None:
        if self._device.closed:
            raise TapeError(f"{self._device.path} was closed")

    def _check_loaded(self, status: Status) -> None:
        if Flag.NO_TAPE in status.flags or Flag.ONLINE not in status.flags:
            raise TapeError(
                f"the tape {self.barcode} is no longer ready in {self._device.path}",
                hint="look at the drive, load the cartridge and run again",
            )

    def _astray(self, address: int) -> TapeError:
        return TapeError(
            f"{self._device.path} stands at block {address} of {self.barcode} and should be at "
            f"{self._address} or {self._address + 1}: it was reset, or another program moved it",
            hint="look whether another program uses the drive, then run again",
        )

    def _failure(self, doing: str, exc: OSError) -> TapeError:
        return drive_failure(self._device.path, f"{doing} {self.barcode}", exc)


def drive_failure(path: str, doing: str, exc: OSError) -> TapeError:
    """The driver's errno in words, with what to do."""
    what, hint = CAUSES.get(exc.errno or 0, (f"failed: {exc.strerror}", "look at the kernel's log"))
    return TapeError(f"{path} {what} ({doing})", hint=hint)
