"""Plain tar: a tape file is an archive, and is moved as it is.

The archive is not unpacked. A volume of a multi-volume set is an archive of its own, whose last
member may go on in the next one: moved unchanged, the set stays a set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from migrate.formats.interface import Extract, Label, Wanted
from migrate.formats.take import Take, feed, refuse
from migrate.formats.tar_layout import parse_header, volume_label
from migrate.source.interface import Block, TapeEvent


class Tar:
    """Archives of tar in all its kinds, one in each tape file. There is no tape label: a volume
    label, where there is one, is the archive's first header."""

    name = "tar"
    has_label = False

    def identify(self, first: bytes) -> Label | None:
        """The volume label of the archive that the tape begins with; detail is its kind."""
        header = parse_header(first)
        if header is None:
            return None
        return Label(format=self.name, volume=volume_label(first), detail=header.kind)

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        """Take the whole tape file."""
        if len(wanted) > 1:
            for each in wanted:
                yield refuse(each, "a tape file holds one tar archive, not several")
            return
        for only in wanted:
            first = next(events, None)
            if not isinstance(first, Block) or parse_header(first.data):
                note = ""
            else:
                note = "the tape file does not begin with a tar header"
            yield from feed(Take(only), _back(first, events), note=note)


def _back(first: TapeEvent | None, events: Iterator[TapeEvent]) -> Iterator[TapeEvent]:
    if first is not None:
        yield first
    yield from events
