"""SIMH ``.tap`` files: a tape as one file of length-framed records.

This room knows the container's framing and nothing of what the records hold. Every record stands
between two copies of its length; a zero word is a filemark. Damage of the framing is an event,
not an exception: a record that can be stepped over is a ``BadBlock``, a place from which nothing
can be framed any more is an abrupt ``EndOfTape``.

Source: the SIMH magnetic tape note (2017) for the words, open-simh's ``sim_tape`` for half gaps,
and the proposed record classes of 2020 for the top four bits of a length.
"""

from __future__ import annotations

import logging
import struct
from pathlib import Path

from migrate.errors import ContainerDamaged
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

log = logging.getLogger(__name__)

WORD = struct.Struct("<I")
WORD_SIZE = 4

MARK = 0x00000000
GAP = 0xFFFFFFFE
HALF_GAP = 0xFFFEFFFF  # a gap read from its middle: two bytes further on stands a whole one
END_OF_MEDIUM = 0xFFFFFFFF

LENGTH_BITS = 0x0FFFFFFF
GOOD, BAD = 0x0, 0x8  # record classes, the top four bits
RESERVED_RECORDS = range(0x1, 0x8)
PRIVATE_RECORDS = range(0x9, 0xE)
PRIVATE_MARKER = 0xE

READ_WINDOW = 1024 * 1024
SPACE_WINDOW = 4096
GAP_RUN = WORD.pack(GAP) * (SPACE_WINDOW // WORD_SIZE)

MAX_MARKS_IN_A_ROW = 65_536
"""More filemarks than this without a record between them are a hole in the file, not a tape:
without a limit a sparse file of terabytes would be read for days."""

LOOK_AHEAD_WORDS = 8


class SimhTape:
    """One ``.tap`` file as a mounted cartridge.

    Memory: one window of READ_WINDOW bytes, or one record (at most MAX_BLOCK) where that is more.
    Odd records are padded to even length, or not (the E11 variant): the first odd record of the
    file decides. ``skipped`` counts private records and markers, which are not tape data.
    """

    keeps_records = True

    def __init__(self, path: Path, barcode: str) -> None:
        """Open the file.

        Raises:
            TapeError: the file cannot be opened, or is not a file.
            ContainerDamaged: its lengths are big-endian.
        """
        self.barcode = barcode
        self.skipped = 0
        self._path = path
        self._window = FileWindow(path, reach=SPACE_WINDOW)
        self._size = self._window.size
        self._padded: bool | None = None
        self._read_reach = READ_WINDOW
        self.rewind()
        try:
            self._refuse_big_endian()
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> Position:
        """Where the next ``read`` begins."""
        return Position(self._file, self._block, self._address)

    def read(self) -> TapeEvent:
        """The next record, filemark or damage; EndOfTape once the medium has ended."""
        self._window.reach = self._read_reach
        return self._next(keep=True)

    def space_files(self, count: int) -> bool:
        """Skip behind the next count filemarks, reading lengths only."""
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
        self._marks_in_a_row = 0
        self._end: EndOfTape | None = None

    def close(self) -> None:
        """Close the file."""
        self._window.close()

    # --- events -----------------------------------------------------------------------------

    def _next(self, *, keep: bool) -> TapeEvent:
        """Take one step; with keep false a Block comes without its bytes."""
        while self._end is None:
            word = self._word(self._offset)
            if word is None:
                return self._file_ended()
            if word == MARK:
                return self._mark()
            if word == END_OF_MEDIUM:
                return self._finish()
            if word == GAP:
                self._skip_gap()
                continue
            if word == HALF_GAP:
                self._offset += WORD_SIZE // 2
                continue
            event = self._record(word, keep=keep)
            if event is not None:
                return event
        return self._end

    def _record(self, word: int, *, keep: bool) -> TapeEvent | None:
        """The record or marker that begins with word; None when it is not tape data."""
        kind, length = word >> 28, word & LENGTH_BITS
        if kind == GOOD and length <= MAX_BLOCK:
            return self._good_record(length, keep=keep)
        if kind == BAD and length <= MAX_BLOCK:
            return self._marked_bad(word, length)
        if kind in RESERVED_RECORDS or kind in PRIVATE_RECORDS:
            return self._foreign_record(word, kind, length)
        if kind == PRIVATE_MARKER or (kind > PRIVATE_MARKER and self._framed(self._offset + 4)):
            self._skip(f"marker {word:#010x}", self._offset + WORD_SIZE)
            return None
        return self._lost(f"{word:#010x} is no length that a tape drive writes")

    def _good_record(self, length: int, *, keep: bool) -> TapeEvent:
        at = self._offset
        if keep:
            whole = length + 2 * WORD_SIZE + 1  # with both lengths and a pad
            # records of one size follow each other: ask for as many whole ones as fit
            self._read_reach = self._window.reach = whole * max(1, READ_WINDOW // whole)
            self._window.load(at, whole)
        after = self._frame(at, length, length)
        if after is None:
            return self._disagreement(length, length)
        data = self._data(at, length) if keep else b""
        self._passed(after)
        return Block(data)

    def _marked_bad(self, word: int, length: int) -> TapeEvent:
        """A record that the writer of the file could not read without error."""
        at = self._offset
        after = self._frame(at, length, word)
        if after is None:
            return self._disagreement(word, length)
        data = self._data(at, length) if length else None
        self._passed(after)
        reason = f"the record at offset {at} is marked as read with an error"
        return BadBlock(reason, data, length or None)

    def _foreign_record(self, word: int, kind: int, length: int) -> TapeEvent | None:
        """Private records are skipped. What a reserved record means nobody has said yet: it may
        be data, so it is a result."""
        at = self._offset
        after = self._frame(at, length, word)
        if after is None:
            return self._lost(f"{word:#010x} is no length that a tape drive writes")
        if kind in PRIVATE_RECORDS:
            self._skip(f"private record of class {kind:X}, {length} bytes", after)
            return None
        self._passed(after)
        reason = f"the record at offset {at} is of the reserved class {kind:X}"
        return BadBlock(reason, None, length if length <= MAX_BLOCK else None)

    def _mark(self) -> TapeEvent:
        self._marks_in_a_row += 1
        if self._marks_in_a_row > MAX_MARKS_IN_A_ROW:
            return self._lost(f"more than {MAX_MARKS_IN_A_ROW} filemarks follow each other")
        self._offset += WORD_SIZE
        self._file += 1
        self._block = 0
        self._address += 1
        return Filemark()

    # --- damage -----------------------------------------------------------------------------

    def _disagreement(self, word: int, length: int) -> TapeEvent:
        """No second length equal to word stands where one must: step over the record when the
        framing goes on behind it, otherwise end."""
        at = self._offset
        end = at + WORD_SIZE + length
        for pad in self._pads(length):
            after = end + pad + WORD_SIZE
            if after <= self._size and self._framed(after):
                data = self._data(at, length) or None
                self._passed(after)
                second = self._word(after - WORD_SIZE)
                reason = f"the record at offset {at} says {word:#x} before and {second:#x} behind"
                return BadBlock(reason, data, length or None)
        if end + max(self._pads(length)) + WORD_SIZE > self._size:
            reason = f"the file ends inside the record at offset {at}"
            data = self._data(at, length) or None
            self._passed(self._size)
            self._finish(reason)
            return BadBlock(reason, data, length or None)
        return self._lost(f"a record of {length} bytes begins there, but does not end as one")

    def _framed(self, offset: int) -> bool:
        """Whether the framing goes on at offset: there, or after a few marks and gaps, is a record
        whose two lengths agree, or the end of the file.

        A mark alone proves nothing, because data are often zeros, and a mark too many would
        shift the number of every tape file behind it.
        """
        for _ in range(LOOK_AHEAD_WORDS):
            word = self._word(offset)
            if word is None:
                return offset == self._size
            if word == END_OF_MEDIUM:
                return offset + WORD_SIZE == self._size
            if word in (MARK, GAP):
                offset += WORD_SIZE
                continue
            kind, length = word >> 28, word & LENGTH_BITS
            if kind not in (GOOD, BAD) or length > MAX_BLOCK:
                return False
            return any(
                self._word(offset + WORD_SIZE + length + pad) == word for pad in self._pads(length)
            )
        return False

    def _file_ended(self) -> EndOfTape:
        """The end of the file is the end of the medium, unless it cuts a word."""
        left = self._size - self._offset
        if left <= 0:
            return self._finish()
        return self._finish(f"the file ends {left} bytes into a length, at offset {self._offset}")

    def _lost(self, what: str) -> EndOfTape:
        return self._finish(f"the framing is lost at offset {self._offset}: {what}")

    def _finish(self, reason: str = "") -> EndOfTape:
        self._end = EndOfTape(abrupt=bool(reason), reason=reason)
        return self._end

    def _refuse_big_endian(self) -> None:
        """Raise ContainerDamaged when the first record frames only with its bytes swapped."""
        at = 0
        while at < LOOK_AHEAD_WORDS * WORD_SIZE and self._word(at) == MARK:
            at += WORD_SIZE
        word = self._word(at)
        if not word:
            return
        swapped = int.from_bytes(WORD.pack(word), "big")
        if swapped == word or swapped > MAX_BLOCK:
            return
        little, big = (
            length <= MAX_BLOCK
            and any(self._word(at + WORD_SIZE + length + pad) == word for pad in self._pads(length))
            for length in (word & LENGTH_BITS, swapped)
        )
        if big and not little:
            raise ContainerDamaged(
                f"{self._path} holds big-endian lengths (a first record of {swapped} bytes)",
                offset=at,
                hint="a SIMH tape is little-endian: swap the length words and try again",
            )

    # --- framing and bytes ------------------------------------------------------------------

    def _pads(self, length: int) -> tuple[int, ...]:
        """How many bytes may stand between a record's data and its second length."""
        if length % 2 == 0:
            return (0,)
        if self._padded is None:
            return (1, 0)
        return (1,) if self._padded else (0,)

    def _frame(self, at: int, length: int, word: int) -> int | None:
        """The offset behind the record's second length, None when that is not equal to word."""
        end = at + WORD_SIZE + length
        for pad in self._pads(length):
            if self._word(end + pad) == word:
                if length % 2:
                    self._padded = bool(pad)
                return end + pad + WORD_SIZE
        return None

    def _passed(self, after: int) -> None:
        """Stand behind a record that counts."""
        self._offset = after
        self._block += 1
        self._address += 1
        self._marks_in_a_row = 0

    def _skip(self, what: str, after: int) -> None:
        """Stand behind something that is not tape data."""
        if not self.skipped:
            log.warning("%s: skipping a %s at offset %d", self._path, what, self._offset)
        self.skipped += 1
        self._offset = after

    def _skip_gap(self) -> None:
        """Stand behind a run of gap words; a long run is compared by the page."""
        self._offset += WORD_SIZE
        begin = self._window.load(self._offset, len(GAP_RUN))
        while self._window.held.startswith(GAP_RUN, begin):
            self._offset += len(GAP_RUN)
            begin = self._window.load(self._offset, len(GAP_RUN))

    def _word(self, offset: int) -> int | None:
        """The word at offset, None where the file ends before its fourth byte."""
        begin = self._window.load(offset, WORD_SIZE)
        held = self._window.held
        if begin + WORD_SIZE > len(held):
            return None
        word: int = WORD.unpack_from(held, begin)[0]
        return word

    def _data(self, at: int, length: int) -> bytes:
        """The bytes of the record whose first length is at offset at; fewer at the file's end."""
        return self._window.read(at + WORD_SIZE, length)
