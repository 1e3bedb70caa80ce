"""What the bytes of an AWSTAPE or HET file are. Sources: Hercules, ``hetlib.h`` and ``hetlib.c``.

A file is a chain of pieces, each a header of six bytes and its data. A record is one piece, or
several; a filemark is a piece without data. HET is AWSTAPE with records that may be compressed,
each by itself, as a whole, before it was cut into pieces.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct("<HHBB")  # length, length of the piece before (a mark: 0), flags, flags
HEADER_SIZE = HEADER.size

BEGIN = 0x80  # first piece of a record
MARK = 0x40  # a filemark
END = 0x20  # last piece of a record
COMPRESSION = 0x03
KNOWN_FLAGS = BEGIN | MARK | END | COMPRESSION

OTHER_ZLIB = 0x80  # in the second flags: a zlib of another maker, whose layout is not public


class Method(IntEnum):
    """How a record is compressed; the value of its COMPRESSION bits."""

    NONE = 0
    ZLIB = 1
    BZIP2 = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Header:
    """One piece's header. length and before in bytes; before is the previous piece's length."""

    length: int
    before: int
    flags: int
    more_flags: int

    @classmethod
    def parse(cls, data: bytes, at: int = 0) -> Header | None:
        """The header at an offset; None where six bytes are not there or are no header."""
        if at + HEADER_SIZE > len(data):
            return None
        header = cls(*HEADER.unpack_from(data, at))
        return header if header.possible else None

    @property
    def possible(self) -> bool:
        """Whether a writer of such files makes a header like this one."""
        if self.flags & ~KNOWN_FLAGS or self.more_flags & ~OTHER_ZLIB:
            return False
        if self.is_mark:
            return self.length == 0 and self.flags == MARK and self.more_flags == 0
        return self.length > 0  # an empty piece is what a hole in the file looks like

    @property
    def is_mark(self) -> bool:
        """Whether it is a filemark."""
        return bool(self.flags & MARK)

    @property
    def begins(self) -> bool:
        """Whether a record begins with this piece."""
        return bool(self.flags & BEGIN)

    @property
    def ends(self) -> bool:
        """Whether a record ends with this piece."""
        return bool(self.flags & END)

    @property
    def method(self) -> Method:
        """How the record is compressed that this piece belongs to."""
        return Method.UNKNOWN if self.more_flags else Method(self.flags & COMPRESSION)
