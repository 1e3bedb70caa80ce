"""A container file behind one sliding window, so that small headers do not cost a call each."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from migrate.errors import TapeError


class FileWindow:
    """A regular file that is read at offsets, mostly in ascending order.

    ``reach`` is how many bytes a miss asks for. Memory: the larger of reach and the longest
    single request. A read never goes beyond the size the file had when it was opened, so that a
    length that lies takes no memory.
    """

    def __init__(self, path: Path, *, reach: int) -> None:
        """Open the file.

        Raises:
            TapeError: the file cannot be opened, or is not a regular file.
        """
        self.reach = reach
        self._path = path
        self._held = b""
        self._held_at = 0
        self._closed = False
        try:
            self._raw = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115
            status = os.fstat(self._raw.fileno())
        except OSError as exc:
            raise TapeError(
                f"cannot open {path}: {exc.strerror}", hint="check the path and its permissions"
            ) from exc
        if not stat.S_ISREG(status.st_mode):
            self._raw.close()
            raise TapeError(
                f"{path} is not a file", hint="a cartridge of this kind is one regular file"
            )
        self.size = status.st_size

    def read(self, offset: int, count: int) -> bytes:
        """count bytes from offset; fewer where the file ends first.

        Raises:
            TapeError: the file was closed, or the disk fails.
        """
        begin = self.load(offset, count)
        return self._held[begin : begin + count]

    def load(self, offset: int, count: int) -> int:
        """Hold count bytes from offset, as far as the file goes; where in ``held`` they begin."""
        if self._closed:
            raise TapeError(f"{self._path} was closed")
        begin = offset - self._held_at
        if begin < 0 or begin + count > len(self._held):
            self._held = self._pread(max(count, self.reach), offset)
            self._held_at = offset
            begin = 0
        return begin

    @property
    def held(self) -> bytes:
        """The bytes in memory; see ``load``."""
        return self._held

    def close(self) -> None:
        """Close the file; reading it is an error from here on. Closing twice does no harm."""
        self._closed = True
        self._held = b""
        self._raw.close()

    def _pread(self, count: int, offset: int) -> bytes:
        count = max(0, min(count, self.size - offset))
        try:
            return os.pread(self._raw.fileno(), count, offset)
        except OSError as exc:
            raise TapeError(
                f"cannot read {self._path} at offset {offset}: {exc.strerror}",
                hint="check the disk that holds the file, then run again",
            ) from exc


def _open_without_waiting(path: str, flags: int) -> int:
    """Open, but not wait for the other end of a pipe that is named like a tape."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
