"""What a tape is to the rest of Tapelift: blocks and filemarks in order, and nothing else.

A source knows nothing of images. A drive, a SIMH file and a folder of tape files look the same
from here, and none of them can be written to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Block:
    """One tape record, whole."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Filemark:
    """The end of a tape file."""


@dataclass(frozen=True, slots=True)
class BadBlock:
    """A record that was read with an error.

    data holds what could be read, or None. size is the record's length where it is known even
    though its bytes are not. After it the source stands behind the record and can go on.
    """

    reason: str
    data: bytes | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class EndOfTape:
    """Nothing follows. abrupt: the medium ended where its own framing says it should not."""

    abrupt: bool = False
    reason: str = ""


TapeEvent = Block | Filemark | BadBlock | EndOfTape


@dataclass(frozen=True, slots=True)
class Position:
    """Where a source stands.

    file: filemarks passed since the beginning of the tape. block: records passed since the last
    filemark. address: the drive's logical block address, where a mark counts as a block.
    """

    file: int = 0
    block: int = 0
    address: int = 0


class TapeSource(Protocol):
    """One mounted cartridge, read forward. Passes ``tests/conformance/source.py``.

    Only TapeError and FormatError leave a source. Every length that the medium claims has a
    ceiling (MAX_BLOCK) before memory is taken.
    """

    @property
    def barcode(self) -> str:
        """The cartridge's barcode, as the shelf or the library names it."""
        ...

    @property
    def keeps_records(self) -> bool:
        """Whether a Block is a record as it was written. False where the boundaries are lost (a
        folder of tape files): then the blocks' lengths mean nothing."""
        ...

    @property
    def position(self) -> Position:
        """Where the next ``read`` begins."""
        ...

    def read(self) -> TapeEvent:
        """The next event. After EndOfTape it stays EndOfTape."""
        ...

    def space_files(self, count: int) -> bool:
        """Skip forward behind the next count filemarks, faster than by reading.

        False when the tape ended first.
        """
        ...

    def rewind(self) -> None:
        """Go back to the beginning of the tape."""
        ...

    def close(self) -> None:
        """Unmount. Closing twice does no harm."""
        ...


MAX_BLOCK = 16 * 1024 * 1024
"""The largest record an LTO drive reads, in bytes (READ BLOCK LIMITS is 24 bits wide)."""
