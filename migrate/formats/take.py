"""Taking exactly one fragment's bytes out of a run of records.

The one place that decides what a size is worth: too few bytes, too many, padding, a catalogue that
rounds, records that cannot be read. Formats feed it the records that are image data and nothing
else; it never cuts a byte that is not zero, and never says that a fragment is whole when it is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from migrate.formats.interface import Done, Extract, Gap, Piece, Wanted
from migrate.source.interface import BadBlock, Block, EndOfTape, TapeEvent

ROUNDING = 1024
"""A size that is not exact was rounded down to KiB: fewer than this many bytes may be missing."""


class Take:
    """One wanted fragment while it is being read. Feed it, then call ``done`` once.

    Memory: at most one record is held, never copied.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._placed = 0  # bytes given as pieces, and gaps of known size
        self._bad_records = 0
        self._bad_bytes = 0
        self._lost_reason: str | None = None
        self._unplaced = 0  # bytes behind a record of unknown length
        self._unplaced_records = 0
        self._beyond = 0  # bytes behind the wanted size
        self._beyond_records = 0
        self._beyond_unreadable = False
        self._held: list[memoryview] = []  # what lies behind the wanted size, while it may matter

    def block(self, data: bytes | memoryview) -> Iterator[Extract]:
        """Take a record that was read well."""
        size = self._wanted.size
        if self._lost_reason is not None:
            self._unplace(len(data))
        elif size is None or self._placed + len(data) <= size:
            if data:
                self._placed += len(data)
                yield Piece(self._wanted, data)
        else:
            view = memoryview(data)
            room = size - self._placed
            if room:
                self._placed = size
                yield Piece(self._wanted, view[:room])
            self._surplus(view[room:])

    def bad(self, size: int | None, reason: str) -> Iterator[Extract]:
        """Take a record of size bytes that could not be read."""
        wanted = self._wanted.size
        if wanted is not None and self._placed == wanted and self._lost_reason is None:
            self._beyond += size or 0
            self._beyond_records += 1
            self._beyond_unreadable = True
            return
        if self._lost_reason is not None:
            self._unplace(size or 0)
        elif size is None:
            self._lost_reason = reason
        else:
            gap = size if wanted is None else min(size, wanted - self._placed)
            self._placed += gap
            self._bad_records += 1
            self._bad_bytes += gap
            if size > gap:
                self._beyond += size - gap
                self._beyond_records += 1
                self._beyond_unreadable = True
            yield Gap(self._wanted, gap, reason)

    def done(self, end: EndOfTape | None = None, *, note: str = "") -> Iterator[Extract]:
        """End the fragment. end: the medium ended here, and no filemark was met."""
        problems: list[str] = []
        notes = [note] if note else []
        if self._lost_reason is not None:
            yield self._lost_gap()
            problems.append(self._lost_problem())
        elif self._wanted.size is not None and self._placed < self._wanted.size:
            problems.append(
                f"only {self._placed} of {self._wanted.size} bytes lie before {_where(end)}"
            )
        if self._bad_records:
            problems.append(
                f"{self._bad_records} records ({self._bad_bytes} bytes) could not be read"
            )
        if self._beyond_records:
            yield from self._settle_surplus(problems, notes)
        if end is not None and not problems:
            self._judge_end(end, problems, notes)
        yield Done(self._wanted, "; ".join(problems), "; ".join(notes))

    def _surplus(self, view: memoryview) -> None:
        self._beyond += len(view)
        self._beyond_records += 1
        if self._beyond_records == 1 or self._beyond < ROUNDING:
            self._held.append(view)
        else:
            self._held.clear()

    def _settle_surplus(self, problems: list[str], notes: list[str]) -> Iterator[Extract]:
        """Decide about the bytes behind the wanted size: they belong to a size that was rounded,
        they are padding, or the catalogue is wrong."""
        rounded = not self._wanted.size_is_exact
        if self._beyond_unreadable:
            problems.append("a record behind the last byte that the catalogue names is unreadable")
        elif rounded and self._beyond < ROUNDING:
            for view in self._held:
                yield Piece(self._wanted, view)
            notes.append(f"{self._beyond} bytes more than the catalogue's rounded size were taken")
        elif self._beyond_records == 1 and self._held[0].tobytes().count(0) == self._beyond:
            notes.append(f"{self._beyond} bytes of zero padding were cut")
        else:
            problems.append(f"tape file holds {self._beyond} more bytes than the catalogue says")

    def _lost_gap(self) -> Gap:
        """The gap of unknown length; where nothing follows it, the catalogue's size tells it."""
        size = None
        if self._wanted.size is not None and self._wanted.size_is_exact:
            size = None if self._unplaced_records else self._wanted.size - self._placed
        return Gap(self._wanted, size, self._lost_reason or "")

    def _unplace(self, size: int) -> None:
        self._unplaced += size
        self._unplaced_records += 1

    def _lost_problem(self) -> str:
        return (
            f"a record of unknown length could not be read: {self._placed} bytes lie before it, "
            f"{self._unplaced} behind it cannot be placed"
        )

    def _judge_end(self, end: EndOfTape, problems: list[str], notes: list[str]) -> None:
        """A tape that ends without a filemark is a worry only where nothing else tells that the
        fragment is whole."""
        if end.abrupt and self._wanted.size is None:
            problems.append(f"the tape ends before the filemark: {end.reason}")
        elif end.abrupt:
            notes.append(f"the tape ends abruptly behind the last byte: {end.reason}")
        elif self._wanted.size is None:
            notes.append("the tape ends without a filemark")


def feed(take: Take, events: Iterator[TapeEvent], *, note: str = "") -> Iterator[Extract]:
    """Take all of a tape file that is left, and end the fragment."""
    for event in events:
        if isinstance(event, Block):
            yield from take.block(event.data)
        elif isinstance(event, BadBlock):
            yield from take.bad(event.size, event.reason)
        else:
            yield from take.done(event if isinstance(event, EndOfTape) else None, note=note)
            return
    yield from take.done(note=note)


def refuse(wanted: Wanted, problem: str) -> Done:
    """End a fragment of which nothing is taken."""
    return Done(wanted, problem)


def _where(end: EndOfTape | None) -> str:
    if end is None:
        return "the filemark"
    return f"the end of the tape ({end.reason})" if end.reason else "the end of the tape"
