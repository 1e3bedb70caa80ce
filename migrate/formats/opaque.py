"""Moving a tape file whole: every record as it is, and how long each was.

For what cannot be taken apart, a multiplexed NetBackup file above all. The records' bytes are
joined; the block map tells their lengths, so that the file can be written to a tape again as it
was and read by the product that wrote it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from migrate.formats.interface import Extract, Wanted
from migrate.formats.take import Take, feed, refuse
from migrate.source.interface import BadBlock, Block, TapeEvent

UNKNOWN_LENGTH = 0
"""No record is of length 0: it stands for one that was not read and whose length is not known."""


class BlockMap:
    """The lengths of a tape file's records, in order, as runs of equal lengths.

    Memory: 12 bytes for a run; at worst, when no two neighbours are alike, for a record.
    """

    def __init__(self) -> None:
        self._sizes = array("I")
        self._counts = array("Q")

    def add(self, size: int) -> None:
        """Note a record of size bytes."""
        if self._sizes and self._sizes[-1] == size:
            self._counts[-1] += 1
        else:
            self._sizes.append(size)
            self._counts.append(1)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """``(size, count)`` pairs, in the order of the tape."""
        return list(zip(self._sizes, self._counts, strict=True))

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(self._counts)

    @property
    def size(self) -> int:
        """Bytes of all records whose length is known."""
        return sum(size * count for size, count in zip(self._sizes, self._counts, strict=True))


class OpaqueFile:
    """One tape file that is moved whole. For one use; ``block_map`` is complete after extract.

    block_map is None where the source does not keep records: there is nothing to replay then.
    """

    name = "opaque"

    def __init__(self, *, keeps_records: bool = True) -> None:
        self.block_map = BlockMap() if keeps_records else None

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        """Take all bytes of the tape file, headers included, as the one wanted fragment."""
        if len(wanted) > 1:
            for each in wanted:
                yield refuse(each, "a tape file that is moved whole is one object, not several")
            return
        for only in wanted:
            yield from feed(Take(only), self._mapped(events))

    def _mapped(self, events: Iterator[TapeEvent]) -> Iterator[TapeEvent]:
        for event in events:
            if self.block_map is not None:
                if isinstance(event, Block):
                    self.block_map.add(len(event.data))
                elif isinstance(event, BadBlock):
                    self.block_map.add(event.size or UNKNOWN_LENGTH)
            yield event
