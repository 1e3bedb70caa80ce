"""``bpimagelist -l`` and ``bpimmedia -l``: IMAGE and FRAG records, by position from the left.

Releases append fields and never insert any, so surplus tokens are ignored and missing ones are
unknown. Positions below are those of the vendor's field list, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from migrate.inventory.options import ImportOptions
from migrate.inventory.records import Get, Records
from migrate.inventory.report import Notes
from migrate.inventory.rows import ImageRow, MediaRow, Row
from migrate.inventory.text import Lines, fault


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of IMAGE and FRAG records stand, and how long these are.

    counts are the token counts seen in the field; others are read all the same, down to least.
    FRAG records of any count up to quiet_up_to are too common to be worth a word.
    """

    image: Mapping[str, int]
    frag: Mapping[str, int]
    counts: Mapping[str, frozenset[int]]
    least: Mapping[str, int]
    quiet_up_to: int


_FRAG = {
    "copy": 2, "number": 3, "kbytes": 4, "remainder": 5, "media_type": 6, "file": 8,
    "media_id": 9, "block_size": 11, "offset": 12, "media_date": 13, "expiration": 17, "mpx": 18,
}  # fmt: skip

BPIMAGELIST = Layout(
    image={
        "client": 2, "backup_id": 6, "policy": 7, "schedule": 11, "schedule_type": 12,
        "retention": 13, "expiration": 16, "compression": 17, "encryption": 18, "kbytes": 19,
        "num_files": 20, "copies": 21, "num_fragments": 22, "primary": 28, "hold": 61,
    },
    frag=_FRAG | {"key_tag": 28, "hold": 31},
    counts={
        "IMAGE": frozenset((50, 54, 55, 58, 62, 67)),
        "FRAG": frozenset((26, 27, 28, 31, 36)),
    },
    least={"IMAGE": 14, "FRAG": 9},
    quiet_up_to=31,
)  # fmt: skip

BPIMMEDIA = Layout(
    image={
        "client": 2, "backup_id": 4, "policy": 5, "schedule": 7, "schedule_type": 8,
        "retention": 9, "num_files": 10, "expiration": 11, "compression": 12, "encryption": 13,
        "hold": 14,
    },
    frag=_FRAG | {"hold": 21},
    counts={"IMAGE": frozenset((13, 14, 15)), "FRAG": frozenset((18, 19, 20, 21))},
    least={"IMAGE": 11, "FRAG": 9},
    quiet_up_to=21,
)  # fmt: skip
"""It has no size and no primary copy: the size is the sum of the fragments."""

_TOKEN = re.compile(r'(?:[^\s"]|"[^"]*")+')


def split(line: str) -> list[str]:
    """Split a record like a shell, double quotes only; plainly when they do not balance."""
    if '"' not in line or line.count('"') % 2:
        return line.split()
    return [token.replace('"', "") for token in _TOKEN.findall(line)]


def read(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of ``bpimagelist -l``.

    An image without fragments gives a row without a copy. Records that cannot be used are left
    out with a finding.

    Raises:
        InventoryError: the file ends within a record; names the line.
    """
    return _Reader(lines, notes, BPIMAGELIST).rows()


def read_bpimmedia(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of ``bpimmedia -l``; raises as ``read`` does."""
    return _Reader(lines, notes, BPIMMEDIA).rows()


class _Reader:
    def __init__(self, lines: Lines, notes: Notes, layout: Layout) -> None:
        self._lines = lines
        self._notes = notes
        self._layout = layout
        self._records = Records(notes)
        self._counts: dict[str, int] = {}

    def rows(self) -> Iterator[Row | MediaRow]:
        image: ImageRow | None = None
        for line in self._lines:
            number = self._lines.number
            tokens = split(line)
            if not tokens or tokens[0] == "HISTO":
                continue
            kind = tokens[0]
            if kind not in ("IMAGE", "FRAG"):
                self._notes.ignore(number, "neither IMAGE nor FRAG", line.strip()[:60])
                continue
            usable = self._usable(kind, tokens)
            if kind == "IMAGE":
                image = None
                if usable:
                    image = self._records.image(number, _getter(tokens, self._layout.image))
                if image is not None:
                    yield Row(number, image)
            elif usable and image is None:
                self._notes.ignore(number, "FRAG without its IMAGE", lost=True)
            elif usable and image is not None:
                row = self._records.fragment(number, _getter(tokens, self._layout.frag), image)
                if row is not None:
                    yield row

    def _usable(self, kind: str, tokens: Sequence[str]) -> bool:
        """Whether a record has the tokens that are needed; notes odd counts once per count."""
        number, count = self._lines.number, len(tokens)
        known, least = self._layout.counts[kind], self._layout.least[kind]
        usual = self._counts.setdefault(kind, count)
        if self._lines.unterminated and (count < usual or count < min(known)):
            raise fault(
                self._lines.path,
                number,
                f"the file ends within a record: {count} tokens of {kind}",
                hint="the export was cut off; export it again",
            )
        if count < least:
            self._notes.ignore(number, f"{kind} record is too short", f"{count} tokens", lost=True)
            return False
        if count not in known and (kind == "IMAGE" or count > self._layout.quiet_up_to):
            self._notes.once(
                number,
                f"{kind.lower()}_tokens_{count}",
                f"{kind} records of {count} tokens are of no release that is known here; the "
                "known positions are read",
            )
        return True


def _getter(tokens: Sequence[str], positions: Mapping[str, int]) -> Get:
    """Fields by name; one that the record is too short for is None."""
    count = len(tokens)

    def get(field: str) -> str | None:
        position = positions.get(field, 0)
        return tokens[position - 1] if 0 < position <= count else None

    return get
