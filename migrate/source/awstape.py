"""AWSTAPE and HET files, as mainframe emulators and virtual tape servers write them.

Every piece says its own length and that of the piece before it. Where the two disagree, and the
chain goes on all the same, the record between them is a result (BadBlock); where it does not go
on, nothing that follows can be trusted, and the tape ends abruptly. A wrong length therefore never
shifts the number of a tape file, and never cuts or lengthens a record in silence. A compressed
record carries a checksum of its own (zlib: Adler-32, bzip2: CRC-32).
"""

from __future__ import annotations

import bz2
import zlib
from pathlib import Path
from typing import Protocol

from migrate.source.awstape_layout import HEADER_SIZE, Header, Method
from migrate.source.interface import (
    MAX_BLOCK,
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    Position,
    TapeEvent,
)
from migrate.source.window import FileWindow

READ_WINDOW = 1024 * 1024
SPACE_WINDOW = 4096


class AwsTape:
    """One ``.aws`` or ``.het`` file as a mounted cartridge.

    Memory: one window (READ_WINDOW), and one record as it lies in the file, joined, and expanded:
    less than four times MAX_BLOCK, whatever the file claims.
    """

    keeps_records = True

    def __init__(self, path: Path, barcode: str) -> None:
        """Open the file.

        Raises:
            TapeError: the file cannot be opened, or is not a file.
        """
        self.barcode = barcode
        self._window = FileWindow(path, reach=SPACE_WINDOW)
        self.rewind()

    @property
    def position(self) -> Position:
        """Where the next ``read`` begins."""
        return Position(self._file, self._block, self._address)

    def read(self) -> TapeEvent:
        """The next record, filemark or damage; EndOfTape once the file has ended."""
        self._window.reach = READ_WINDOW
        return self._next(keep=True)

    def space_files(self, count: int) -> bool:
        """Skip behind the next count filemarks, reading headers only."""
        self._window.reach = SPACE_WINDOW
        while count > 0:
            event = self._next(keep=False)
            if isinstance(event, EndOfTape):
                return False
            if isinstance(event, Filemark):
                count -= 1
        return True

    def rewind(self) -> None:
        """Go back to the beginning of the tape."""
        self._offset = 0
        self._file = self._block = self._address = 0
        self._length_before = 0  # of the piece that ends at _offset, as its own header says it
        self._end: EndOfTape | None = None

    def close(self) -> None:
        """Close the file."""
        self._window.close()

    # --- events -----------------------------------------------------------------------------

    def _next(self, *, keep: bool) -> TapeEvent:
        """Take one step; with keep false a record comes without its bytes, as a Block."""
        if self._end is not None:
            self._window.load(self._offset, 0)  # an error once the tape was closed
            return self._end
        left = self._window.size - self._offset
        if left <= 0:
            return self._finish()
        if left < HEADER_SIZE:
            return self._cut_header()
        header = self._header(self._offset)
        if header is None:
            return self._lost()
        if not self._linked(header):
            if not self._goes_on(self._offset, header):
                return self._lost()
            if header.is_mark:
                return self._missing(header)
        if header.is_mark:
            return self._mark()
        return self._record(keep=keep)

    def _mark(self) -> TapeEvent:
        self._offset += HEADER_SIZE
        self._length_before = 0
        self._file += 1
        self._block = 0
        self._address += 1
        return Filemark()

    def _record(self, *, keep: bool) -> TapeEvent:
        """Join the pieces of the record that begins here.

        Where the beginning of another record or a mark comes before its end, it ends there: the
        chain is whole, but a piece of the record is missing.
        """
        name = f"the record at offset {self._offset}"
        joined = _Joined(keep=keep)
        header = self._header(self._offset)
        while header is not None:
            if not self._linked(header):
                joined.problem(self._disagreement(header))
            piece_at = self._offset + HEADER_SIZE
            joined.take(header, self._window.read(piece_at, header.length) if keep else b"")
            self._offset = piece_at + header.length
            self._length_before = header.length
            if self._offset > self._window.size:
                return self._cut_off(name, joined)
            ended, header = header.ends, self._header(self._offset)
            if header is None or not (self._linked(header) or self._goes_on(self._offset, header)):
                return self._last_record(name, joined, ended=ended)
            if ended or header.is_mark or header.begins:
                break
        assert header is not None  # _next has seen that there is a first piece
        self._passed()
        if not ended:
            joined.problem("a piece is missing at its end")
        if not self._linked(header):
            if self._back_to_hidden_header():
                return BadBlock(f"{name} is said to be longer than it was")
            joined.problem(self._disagreement(header))
            self._length_before = header.before  # said once: the next record is not to blame
        return joined.event(name)

    def _last_record(self, name: str, joined: _Joined, *, ended: bool) -> TapeEvent:
        """A record behind which no piece is: the file ends there, or the framing does."""
        self._passed()
        if self._back_to_hidden_header():
            return BadBlock(f"{name} is said to be longer than it was")
        if self._offset < self._window.size:
            left = self._window.size - self._offset
            lost = self._cut_header() if left < HEADER_SIZE else self._lost()
            return BadBlock(f"{name} cannot be trusted: {lost.reason}")
        if not ended:
            self._finish(f"the file ends before {name} does")
            return joined.partial(f"the file ends before {name} does")
        return joined.event(name)

    # --- damage -----------------------------------------------------------------------------

    def _missing(self, mark: Header) -> TapeEvent:
        """A mark behind a mark, or at the beginning, that says a piece stood before it."""
        reason = (
            f"a record is missing before offset {self._offset}: the mark there says that the "
            f"piece before it is {mark.before} bytes long"
        )
        self._length_before = mark.before
        self._passed()
        return BadBlock(reason)

    def _disagreement(self, header: Header) -> str:
        return (
            f"the piece before offset {self._offset} is {self._length_before} bytes long, "
            f"and the header there says {header.before}"
        )

    def _back_to_hidden_header(self) -> bool:
        """Go back into the last piece where its length hides the headers that follow it; so the
        marks among them are counted."""
        begin = self._offset - self._length_before
        found = hidden_header(self._window.read(begin, self._length_before))
        if found is None:
            return False
        self._offset, self._length_before = begin + found, found
        return True

    def _linked(self, header: Header) -> bool:
        return header.before == self._length_before

    def _goes_on(self, at: int, header: Header) -> bool:
        """Whether the chain goes on behind a piece whose link is wrong: there is the end of the
        file, or a header that agrees with it."""
        after = at + HEADER_SIZE + header.length
        if after == self._window.size:
            return True
        following = self._header(after)
        return following is not None and following.before == header.length

    def _cut_off(self, name: str, joined: _Joined) -> TapeEvent:
        reason = f"the file ends inside {name}"
        self._offset = self._window.size
        self._passed()
        self._finish(reason)
        return joined.partial(reason)

    def _cut_header(self) -> EndOfTape:
        return self._finish(f"the file ends inside a header, at offset {self._offset}")

    def _lost(self) -> EndOfTape:
        raw = self._window.read(self._offset, HEADER_SIZE).hex(" ")
        return self._finish(
            f"the framing is lost at offset {self._offset}: {raw} is no header that follows a "
            f"piece of {self._length_before} bytes"
        )

    def _finish(self, reason: str = "") -> EndOfTape:
        self._end = EndOfTape(abrupt=bool(reason), reason=reason)
        return self._end

    # --- framing ----------------------------------------------------------------------------

    def _passed(self) -> None:
        self._block += 1
        self._address += 1

    def _header(self, at: int) -> Header | None:
        begin = self._window.load(at, HEADER_SIZE)
        return Header.parse(self._window.held, begin)


class _Joined:
    """The pieces of one record, and what is wrong with them. Holds at most MAX_BLOCK bytes and
    one piece, whatever the chain claims."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._pieces: list[bytes] = []
        self._size = 0
        self._first: Header | None = None
        self._problem = ""

    def take(self, header: Header, data: bytes) -> None:
        if self._first is None:
            self._first = header
            if not header.begins:
                self.problem("a piece is missing at its beginning")
        elif header.method != self._first.method:
            self.problem("its pieces are compressed in different ways")
        self._size += header.length
        if self._size > MAX_BLOCK:
            self._pieces.clear()
            self.problem(f"it is longer than {MAX_BLOCK} bytes, which no drive writes")
        else:
            self._pieces.append(data)

    def problem(self, what: str) -> None:
        """Note what is wrong; the first is the one that is told."""
        self._problem = self._problem or what

    def event(self, name: str) -> TapeEvent:
        """The whole record."""
        if not self._keep:
            return Block(b"")
        if self._problem:
            return self.partial(f"{name} is damaged: {self._problem}")
        assert self._first is not None
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._first.method is Method.NONE:
            return Block(data)
        plain, problem = expand(data, self._first.method)
        if problem:
            return BadBlock(f"{name} cannot be decompressed: {problem}", plain or None)
        return Block(plain)

    def partial(self, reason: str) -> BadBlock:
        """What is there of a record that is damaged; of a compressed one nothing can be used."""
        assert self._first is not None
        if self._first.method is not Method.NONE:
            return BadBlock(reason)
        return BadBlock(reason, b"".join(self._pieces) or None)


def hidden_header(data: bytes) -> int | None:
    """Where in a piece's data a header stands that follows a shorter piece, and others behind it
    up to the end of the data: what a length that became longer makes of the pieces that follow.
    """
    for begin in range(1, len(data) - HEADER_SIZE + 1):
        if data[begin + 2] | data[begin + 3] << 8 != begin:
            continue
        at, before = begin, begin
        while (header := Header.parse(data, at)) is not None and header.before == before:
            at, before = at + HEADER_SIZE + header.length, header.length
        if at == len(data):
            return begin
    return None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def expand(data: bytes, method: Method) -> tuple[bytes, str]:
    """Decompress one record: its bytes, and what is wrong ('' when nothing is).

    Where something is wrong the bytes are those that came out before it. Memory: MAX_BLOCK and
    what the library needs (bzip2: 4 MB), however much the data would expand to.
    """
    stream: _Decompressor
    if method is Method.ZLIB:
        stream = zlib.decompressobj()
    elif method is Method.BZIP2:
        stream = bz2.BZ2Decompressor()
    else:
        return b"", "the method is not known"
    try:
        plain = stream.decompress(data, MAX_BLOCK + 1)
    except (zlib.error, OSError) as exc:
        return b"", str(exc)
    if len(plain) > MAX_BLOCK:
        return b"", f"it is longer than {MAX_BLOCK} bytes, which no drive writes"
    if not stream.eof:
        return plain, "the compressed data end too early"
    if stream.unused_data:
        return plain, f"{len(stream.unused_data)} bytes follow the compressed data"
    if not plain:
        return b"", "it holds nothing"
    return plain, ""
