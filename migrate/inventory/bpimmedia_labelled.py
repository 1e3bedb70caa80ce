"""``bpimmedia -L``: a table for people, an image a line and its fragments indented below.

It has no size, no block size and no claimed numbers; expiries are local times to the minute,
and nothing in it tells their zone. Columns are found from both ends of a line, because names
push them aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from migrate.inventory.options import ImportOptions
from migrate.inventory.records import Field, Records
from migrate.inventory.report import Notes
from migrate.inventory.rows import NEVER, ImageRow, MediaRow, Row
from migrate.inventory.text import Lines, fault, opened
from migrate.inventory.times import Order, TimeReader, date_order

_CLOCK = r"\d{1,2}:\d\d(?::\d\d)?(?: [AaPp][Mm])?"
_DAY = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
_EXPIRES = rf"(INFINITY|{_CLOCK} {_DAY}|{_DAY} {_CLOCK}|{_DAY}|N/A|-)"
_IMAGE = re.compile(  # of a line with single blanks, so that no run of them is tried in every way
    r"(\S+) (\S.*?) ([A-Z]{2,5}|\d{1,2}) (\d{1,3}) (\d{1,18}) ([YN]) ([YN]) (\S{1,3}) (\d{1,3}) "
    + _EXPIRES
)
_FRAGMENT = re.compile(
    r"\s*(\d{1,3})\s+(\d{1,9}|TIR|IDX)\s+(\d{1,18})\s+(\w+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)"
    rf"\s+([YN])\s+{_EXPIRES}\s+(\d{{1,3}})\s+(\S.*)"
)

_DAY_BEHIND = re.compile(rf"({_CLOCK}) ({_DAY})")
_DAY_S = 86_400 * 10**9


def looks_like(line: str) -> bool:
    """Whether a line is the table's first header."""
    words = line.lower().split()
    return words[:2] == ["backup-id", "policy"] and "expires" in words


def read(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of ``bpimmedia -L``.

    Raises:
        InventoryError: a local time, and no zone is stated; or the file ends within a line.
    """
    return _Reader(lines, options, notes).rows()


def _order_told(lines: Lines) -> Order | None:
    """Whether day or month stands first, by the first date of the file that tells."""
    with opened(Path(lines.path), lines.encoding) as stream:
        for line in Lines(stream, lines.path, lines.encoding):
            for day in re.findall(_DAY, line):
                if (order := date_order(day)) is not None:
                    return order
    return None


class _Reader:
    def __init__(self, lines: Lines, options: ImportOptions, notes: Notes) -> None:
        self._lines = lines
        self._notes = notes
        self._records = Records(notes)
        self._times = TimeReader(options.zone(), notes, lines.path)
        if (told := _order_told(lines)) is not None:
            self._times.settle_order(told)

    def rows(self) -> Iterator[Row | MediaRow]:
        image: ImageRow | None = None
        for line in self._lines:
            if not line.strip() or line.startswith("---"):
                continue
            if self._lines.unterminated:
                self._check_end(line)
            number = self._lines.number
            if found := _FRAGMENT.fullmatch(line.rstrip()):
                if image is None:
                    self._notes.ignore(number, "fragment without its image", lost=True)
                elif (row := self._fragment(found, image)) is not None:
                    yield row
            elif found := _IMAGE.fullmatch(" ".join(line.split())):
                image = self._image(found)
                if image is not None:
                    yield Row(number, image)
            elif looks_like(line) or line.split()[:2] == ["Copy", "Frag"]:
                continue  # the headers, which a glued export repeats
            else:
                image = None if not line[0].isspace() else image
                self._notes.ignore(
                    number, "neither an image nor a fragment", line.strip()[:60], lost=True
                )

    def _check_end(self, line: str) -> None:
        """A last line without its end may lack characters of its media id or its expiry.

        Raises:
            InventoryError: it has no line end.
        """
        raise fault(
            self._lines.path,
            self._lines.number,
            f"the file ends within a line: {line.strip()[-40:]!r}",
            hint="export it again; if nothing is missing, end the file with a line end",
        )

    def _image(self, found: re.Match[str]) -> ImageRow | None:
        fields: dict[str, Field] = {
            "backup_id": found[1], "policy": found[2], "schedule_type": found[3],
            "retention": found[4], "num_files": found[5], "compression": found[6],
            "encryption": found[7], "primary": found[9],
        }  # fmt: skip
        image = self._records.image(self._lines.number, fields.get)
        if image is None:
            return None
        expires = self._expiry(found[10])
        return image._replace(expires=expires, unfinished=expires is None)

    def _fragment(self, found: re.Match[str], image: ImageRow) -> Row | None:
        fields: dict[str, Field] = {
            "copy": found[1], "number": found[2], "kbytes": found[3], "media_type": found[4],
            "file": found[6], "offset": found[7], "mpx": found[10], "media_id": found[13],
        }  # fmt: skip
        row = self._records.fragment(self._lines.number, fields.get, image)
        if row is None or row.copy is None or row.fragment is None:
            return None
        if row.fragment.fragment_number < 1:
            return row
        return row._replace(copy=row.copy._replace(expires=self._expiry(found[11])))

    def _expiry(self, text: str) -> int | None:
        """NEVER, a time, or None for none: an epoch of 0 is the first of January 1970 there."""
        text = _DAY_BEHIND.sub(r"\2 \1", text)
        try:
            time = self._times.expiry(text, self._lines.number, utc=False)
        except (ValueError, OverflowError) as exc:
            self._notes.warn(self._lines.number, "bad_value", f"expiry: {exc}; taken as unknown")
            return None
        return None if time is None or (time != NEVER and time <= _DAY_S) else time
