"""A folder with one file per tape file, as ``dd``, ``tapecat`` and their kin leave it.

Sorted by name, the regular files in it are the tape files, each with a filemark behind it. Such
a dump has lost the record boundaries: blocks here are as long as the caller says, the last one
of a file short, so a format must not read anything into their lengths (``keeps_records``).
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import ConfigError
from migrate.errors import TapeError
from migrate.source.interface import (
    MAX_BLOCK,
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    Position,
    TapeEvent,
)

log = logging.getLogger(__name__)

DEFAULT_BLOCK = 64 * 1024
SMALLEST_BLOCK = 1024
"""A header of its own (NetBackup's: 1024 bytes) must fit into the first block of a file."""

ERRORS_IN_A_ROW = 8
"""After so many unreadable blocks the rest of a file is given up: a dying disk takes seconds to
fail each of them."""

AMANDA_SLOT_LINK = "data"


@dataclass(frozen=True, slots=True)
class TapeFile:
    """One file of the folder; size in bytes as it was when the folder was listed."""

    path: Path
    size: int


class FolderTape:
    """A folder as a mounted cartridge.

    A file that cannot be opened, cannot be read or is shorter than it was when the tape was
    mounted gives a BadBlock of the bytes that are missing. ``ignored`` names the entries that are
    no tape files: folders, devices, and Amanda's ``data`` link to the slot that is loaded.
    Memory: one block.
    """

    keeps_records = False

    def __init__(self, path: Path, barcode: str, block_size: int = DEFAULT_BLOCK) -> None:
        """List the folder. block_size in bytes, SMALLEST_BLOCK to MAX_BLOCK.

        Raises:
            ConfigError: block_size is out of bounds.
            TapeError: the folder cannot be listed.
        """
        if not SMALLEST_BLOCK <= block_size <= MAX_BLOCK:
            raise ConfigError(
                f"a block size of {block_size} bytes is not possible",
                hint=f"choose {SMALLEST_BLOCK} to {MAX_BLOCK}",
            )
        self.barcode = barcode
        self.ignored: list[str] = []
        self._path = path
        self._block_size = block_size
        self._files = self._list()
        self._handle: int | None = None
        self._offset = self._errors = 0
        self._gave_up = self._closed = False
        self.rewind()

    @property
    def position(self) -> Position:
        """Where the next ``read`` begins; a block is of the size given, not the tape's."""
        return Position(self._file, self._block, self._address)

    def read(self) -> TapeEvent:
        """The next block of the current file, a filemark behind it, or EndOfTape."""
        if self._closed:
            raise TapeError(f"{self._path} was closed")
        if self._file >= len(self._files):
            return EndOfTape()
        file = self._files[self._file]
        if self._gave_up:
            self._next_file()
            return Filemark()
        try:
            data = self._pread(file)
        except OSError as exc:
            return self._unreadable(file, exc)
        self._errors = 0
        if data:
            return self._passed(len(data), Block(data))
        if self._offset < file.size:
            missing = file.size - self._offset
            reason = f"{file.path} is {missing} bytes shorter than when the tape was mounted"
            return self._passed(missing, BadBlock(reason, None, missing))
        self._next_file()
        return Filemark()

    def space_files(self, count: int) -> bool:
        """Skip count files without opening them; the current one counts as the first."""
        if self._closed:
            raise TapeError(f"{self._path} was closed")
        for _ in range(count):
            if self._file >= len(self._files):
                return False
            left = max(0, self._files[self._file].size - self._offset)
            self._address += -(-left // self._block_size)
            self._next_file()
        return True

    def rewind(self) -> None:
        """Go back to the first file."""
        self._leave_file()
        self._file = self._block = self._address = 0

    def close(self) -> None:
        """Close the file that is open."""
        self._leave_file()
        self._closed = True

    def _list(self) -> list[TapeFile]:
        files = []
        try:
            entries = sorted(self._path.iterdir())
        except OSError as exc:
            raise TapeError(
                f"cannot list {self._path}: {exc.strerror}",
                hint="check the path and its permissions",
            ) from exc
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except OSError:  # a file that is lost keeps its number; reading it says what is wrong
                files.append(TapeFile(entry, 0))
                continue
            slot_link = entry.name == AMANDA_SLOT_LINK and entry.is_symlink()
            if stat.S_ISREG(status.st_mode) and not slot_link:
                files.append(TapeFile(entry, status.st_size))
            else:
                self.ignored.append(entry.name)
        return files

    def _pread(self, file: TapeFile) -> bytes:
        if self._handle is None:
            self._handle = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                raise OSError(None, "it is no longer a regular file")
        return os.pread(self._handle, self._block_size, self._offset)

    def _unreadable(self, file: TapeFile, exc: OSError) -> TapeEvent:
        """Step over the block that cannot be read, or over all that is left of the file."""
        self._errors += 1
        left = max(0, file.size - self._offset)
        self._gave_up = (
            self._handle is None or self._errors >= ERRORS_IN_A_ROW or left <= self._block_size
        )
        size = left if self._gave_up else self._block_size
        reason = f"cannot read {file.path} at offset {self._offset}: {exc.strerror}"
        log.warning("%s", reason)
        return self._passed(size, BadBlock(reason, None, size or None))

    def _passed(self, size: int, event: TapeEvent) -> TapeEvent:
        self._offset += size
        self._block += 1
        self._address += 1
        return event

    def _next_file(self) -> None:
        """Stand behind the current file's filemark."""
        self._leave_file()
        self._file += 1
        self._block = 0
        self._address += 1

    def _leave_file(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self._offset = self._errors = 0
        self._gave_up = False
