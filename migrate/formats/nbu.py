"""NetBackup tapes: one backup header, then one fragment of one image, in each tape file.

Which image that must be, the catalogue says; the header is asked whether it agrees. A tape file
with several images is multiplexed: it takes a demultiplexer, which comes from outside, or it is
moved whole (``opaque.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migrate.formats.demux import supervise
from migrate.formats.interface import Demultiplexer, Extract, Label, Wanted
from migrate.formats.nbu_layout import HEADER_SIZE, Identity, parse_media_header, whose
from migrate.formats.take import Take, feed, refuse
from migrate.source.interface import BadBlock, Block, TapeEvent

NOTHING = memoryview(b"")
UNCONFIRMED = "backup header could not be confirmed"


@dataclass(frozen=True, slots=True)
class Header:
    """What the first event of a tape file tells.

    problem: nothing may be taken. rest is image data that came in one block with the header;
    unreadable is how many bytes of image data went with it (None: not known how many).
    """

    problem: str = ""
    note: str = ""
    rest: memoryview = NOTHING
    unreadable: int | None = 0


class NetBackup:
    """The tape format of NetBackup, driven by its catalogue."""

    name = "netbackup"
    has_label = True

    def __init__(
        self, *, keeps_records: bool = True, demultiplexer: Demultiplexer | None = None
    ) -> None:
        """keeps_records: as the source says; without it the header may be glued to the data."""
        self._keeps_records = keeps_records
        self._demultiplexer = demultiplexer

    def identify(self, first: bytes) -> Label | None:
        """The media header's media id."""
        header = parse_media_header(first)
        if header is None:
            return None
        return Label(format=self.name, volume=header.media_id or None)

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        """Take one fragment, or several with the demultiplexer.

        Nothing is given when the first record cannot be a backup header, or names another image.
        """
        if len(wanted) > 1:
            yield from self._several(events, wanted)
            return
        for only in wanted:
            header = self._header(next(events, None), only)
            if header.problem:
                yield refuse(only, header.problem)
                return
            take = Take(only)
            yield from take.block(header.rest)
            if header.unreadable != 0:
                yield from take.bad(header.unreadable, header.note)
            yield from feed(take, events, note=header.note)

    def _several(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        if self._demultiplexer is not None:
            yield from supervise(self._demultiplexer, events, wanted)
            return
        for each in wanted:
            yield refuse(each, "the tape file is multiplexed and there is no demultiplexer")

    def _header(self, first: TapeEvent | None, wanted: Wanted) -> Header:
        if isinstance(first, BadBlock):
            return self._bad_header(first, wanted)
        if not isinstance(first, Block):
            return Header(problem="the tape file is empty")
        if self._keeps_records and len(first.data) != HEADER_SIZE:
            return Header(problem=f"the first record is no backup header ({len(first.data)} bytes)")
        if len(first.data) < HEADER_SIZE:
            return Header(
                problem=f"the file ends inside the backup header ({len(first.data)} bytes)"
            )
        identity, found = whose(first.data, wanted.image_id)
        if identity is Identity.OTHER:
            return Header(problem=f"another image lies here: {found}")
        note = UNCONFIRMED if identity is Identity.SILENT else ""
        return Header(note=note, rest=memoryview(first.data)[HEADER_SIZE:])

    def _bad_header(self, first: BadBlock, wanted: Wanted) -> Header:
        """A header that was read with an error is not image data: the image may still be whole."""
        identity, found = whose(first.data or b"", wanted.image_id)
        if identity is Identity.OTHER:
            return Header(problem=f"another image lies here: {found}")
        note = f"{UNCONFIRMED}: {first.reason}"
        if not self._keeps_records:
            beyond = None if first.size is None else max(0, first.size - HEADER_SIZE)
            return Header(note=note, unreadable=beyond)
        if first.size not in (None, HEADER_SIZE):
            return Header(problem=f"the first record is no backup header ({first.size} bytes)")
        return Header(note=note)
