"""A demultiplexer for the invented layout of the test tapes, and for nothing else.

NetBackup's own multiplex control block is not public. The test tapes carry an invented one that
says so in its first bytes: ``SYNTHMPX``, BE u32 index within the set, BE u32 sequence number within
the backup, BE u32 bytes of data in this block, BE u32 0, the backup id at 24, NUL padded; the data
from 512. Every block of a backup but its last is full.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from migrate.formats.interface import Done, Extract, Wanted
from migrate.formats.nbu_layout import HEADER_SIZE
from migrate.formats.take import Take
from migrate.source.interface import Block, EndOfTape, TapeEvent

MAGIC = b"SYNTHMPX"
CONTROL = struct.Struct(">8sIII")
CONTROL_SIZE = 512
BACKUP_ID = slice(24, CONTROL_SIZE)


class SynthMpx:
    """Sorts the blocks by the backup id that their control block names."""

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        takes = {each.image_id: Take(each) for each in wanted}
        next_number = dict.fromkeys(takes, 0)
        end: EndOfTape | None = None
        problem = ""
        for event in events:
            if isinstance(event, EndOfTape):
                end = event
            if not isinstance(event, Block) or len(event.data) == HEADER_SIZE:
                continue
            view = memoryview(event.data)
            magic, _, number, size = CONTROL.unpack_from(view)
            image = bytes(view[BACKUP_ID]).rstrip(b"\0").decode()
            if magic != MAGIC or size > len(view) - CONTROL_SIZE:
                problem = "a block without a SYNTHMPX control block"
                break
            if image not in takes:
                continue
            for _ in range(next_number[image], number):
                full = len(view) - CONTROL_SIZE
                yield from takes[image].bad(full, "a block of this image is missing")
            next_number[image] = number + 1
            yield from takes[image].block(view[CONTROL_SIZE : CONTROL_SIZE + size])
        for each in wanted:
            if problem:
                yield Done(each, problem)
            else:
                yield from takes[each.image_id].done(end)
