"""Writing small tapes, and a tape that lives in memory."""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import TapeError
from migrate.source.interface import (
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    Position,
    TapeEvent,
    TapeSource,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tapes"

Layout = Sequence[Sequence[bytes]]


@dataclass(frozen=True)
class Bad:
    """A record that a .tap file marks as read with an error."""

    data: bytes


@dataclass(frozen=True)
class Raw:
    """Bytes that go into the file as they are: gaps, private records, damage."""

    data: bytes


MARK = Raw(struct.pack("<I", 0))
GAP = Raw(struct.pack("<I", 0xFFFFFFFE))
END = Raw(struct.pack("<I", 0xFFFFFFFF))

Item = bytes | Bad | Raw


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def tap(items: Iterable[Item], *, padded: bool = True) -> bytes:
    """The bytes of a .tap file; odd records are padded, or not as in the E11 variant."""
    out = bytearray()
    for item in items:
        if isinstance(item, Raw):
            out += item.data
            continue
        data = item.data if isinstance(item, Bad) else item
        length = word(len(data) | (0x80000000 if isinstance(item, Bad) else 0))
        out += length + data + (b"\0" if padded and len(data) % 2 else b"") + length
    return bytes(out)


def aws_header(length: int, before: int, flags: int, more_flags: int = 0) -> bytes:
    return struct.pack("<HHBB", length, before, flags, more_flags)


def aws(layout: Layout, *, piece: int = 65535, method: int = 0) -> bytes:
    """The bytes of an AWSTAPE or HET file; a record above piece bytes becomes a chain.

    method: 0 none, 1 zlib, 2 bzip2; as Hercules does, a record that it does not make smaller is
    stored as it is.
    """
    out, before = bytearray(), 0
    for records in layout:
        for record in records:
            packed = {0: bytes, 1: zlib.compress, 2: bz2.compress}[method](record)
            smaller = len(packed) < len(record)
            data = packed if smaller else record
            for at in range(0, len(data), piece):
                part = data[at : at + piece]
                flags = (0x80 if at == 0 else 0) | (0x20 if at + piece >= len(data) else 0)
                out += aws_header(len(part), before, flags | (method if smaller else 0)) + part
                before = len(part)
        out += aws_header(0, before, 0x40)
        before = 0
    return bytes(out)


def items_of(layout: Layout) -> list[Item]:
    """The layout's tape files, each with a filemark behind it."""
    items: list[Item] = []
    for records in layout:
        items += [*records, MARK]
    return items


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def events(source: TapeSource, limit: int = 10_000) -> list[TapeEvent]:
    """All events of a source to the end of the tape, which is the last one."""
    found: list[TapeEvent] = []
    while len(found) < limit:
        found.append(source.read())
        if isinstance(found[-1], EndOfTape):
            return found
    raise AssertionError(f"no end of tape within {limit} events")


class MemoryTape:
    """A list of events with a cursor: what every other source is compared with."""

    keeps_records = True

    def __init__(self, script: Sequence[TapeEvent], barcode: str = "MEM001") -> None:
        self.barcode = barcode
        self.script = list(script)
        self.position = Position()
        self.at = 0
        self.closed = False

    @classmethod
    def of(cls, layout: Layout) -> MemoryTape:
        script: list[TapeEvent] = []
        for records in layout:
            script += [*map(Block, records), Filemark()]
        return cls(script)

    def read(self) -> TapeEvent:
        if self.closed:
            raise TapeError("closed")
        if self.at >= len(self.script):
            return EndOfTape()
        event = self.script[self.at]
        if isinstance(event, EndOfTape):
            return event
        self.at += 1
        file, block, address = self.position.file, self.position.block, self.position.address
        if isinstance(event, Filemark):
            self.position = Position(file + 1, 0, address + 1)
        else:
            assert isinstance(event, Block | BadBlock)
            self.position = Position(file, block + 1, address + 1)
        return event

    def space_files(self, count: int) -> bool:
        while count > 0:
            event = self.read()
            if isinstance(event, EndOfTape):
                return False
            count -= isinstance(event, Filemark)
        return True

    def rewind(self) -> None:
        self.at = 0
        self.position = Position()

    def close(self) -> None:
        self.closed = True
