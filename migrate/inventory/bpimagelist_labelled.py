"""``bpimagelist -L``: ``Label: value`` lines, the fragments' below those of their image.

Labels are matched without case and blanks, unknown ones are passed over: releases differ.
Dates are text of some locale with the epoch in parentheses behind: only that is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from migrate.errors import InventoryError
from migrate.inventory.options import ImportOptions
from migrate.inventory.records import Field, Records
from migrate.inventory.report import Notes
from migrate.inventory.rows import ImageRow, MediaRow, Row
from migrate.inventory.text import Lines, fault

IMAGE_LABELS = {
    "client": "client", "backupid": "backup_id", "policy": "policy", "schedlabel": "schedule",
    "schedulelabel": "schedule", "scheduletype": "schedule_type", "schedtype": "schedule_type",
    "retentionlevel": "retention", "expirationtime": "expiration", "compressed": "compression",
    "clientencrypted": "encryption", "encrypted": "encryption", "kilobytes": "kbytes",
    "numberoffiles": "num_files", "numberofcopies": "copies",
    "numberoffragments": "num_fragments", "primarycopy": "primary", "hold": "hold",
    "onhold": "hold",
}  # fmt: skip
FRAGMENT_LABELS = {
    "fragment": "number", "kilobytes": "kbytes", "remainder": "remainder",
    "mediatype": "media_type", "filenum": "file", "filenumber": "file", "id": "media_id",
    "id/path": "media_id", "path": "media_id", "blocksize": "block_size", "offset": "offset",
    "mediadate": "media_date", "expirationtime": "expiration", "mpx": "mpx", "keytag": "key_tag",
    "kmskeytag": "key_tag", "copyonhold": "hold", "hold": "hold",
}  # fmt: skip
"""Source: vendor and public text for the commoner ones; others are inferred."""

_IN_PARENTHESES = frozenset(
    ("expiration", "media_date", "retention", "schedule_type", "media_type")
)
"""Fields whose number stands in parentheses behind words."""

_BEHIND = re.compile(r"\((-?\d{1,18})\)$")
_NONE = frozenset(("(none specified)", "(none)", "*null*", ""))
_MAX_LABEL = 40


def read(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of ``bpimagelist -L``.

    An image without fragments gives a row without a copy. Records that cannot be used are left
    out with a finding.

    Raises:
        InventoryError: the file ends within a line or a record; names the line.
    """
    return _Reader(lines, notes).rows()


class _Reader:
    """The image and the fragment being read, until the next one begins."""

    def __init__(self, lines: Lines, notes: Notes) -> None:
        self._lines = lines
        self._notes = notes
        self._records = Records(notes)
        self._fields: dict[str, Field] = {}  # of the image, or of the fragment
        self._labels: list[str] = []  # met in it
        self._last_label: dict[bool, str] = {}  # with which the first of its kind ended
        self._first = 0  # line on which they begin
        self._copy: str | None = None
        self._image: ImageRow | None = None
        self._in_image = False  # False: nothing yet, or among the fragments

    def rows(self) -> Iterator[Row | MediaRow]:
        for line in self._lines:
            if self._lines.unterminated and line.strip():
                raise self._cut("a line")
            label, colon, value = line.partition(":")
            label = label.strip()
            if not colon or len(label) > _MAX_LABEL:
                if line.strip():
                    self._notes.ignore(self._lines.number, "no label", line.strip()[:60])
                continue
            yield from self._line("".join(label.lower().split()), value.strip())
        usual = self._last_label.get(self._in_image)
        if self._fields and self._labels and usual not in (None, *self._labels):
            raise self._cut("a record")
        yield from self._end()

    def _line(self, label: str, value: str) -> Iterator[Row]:
        begins = label == "client" or (label == "backupid" and "backup_id" in self._fields)
        if begins or (label == "backupid" and not self._in_image):
            yield from self._end()
            self._image, self._copy, self._in_image = None, None, True
            self._first = self._lines.number
        elif label == "copynumber":
            yield from self._end()
            self._copy, self._in_image = value, False
        elif label == "fragment":
            yield from self._end()
            self._first, self._in_image = self._lines.number, False
            self._fields["copy"] = self._copy
        self._labels.append(label)
        if self._in_image:
            self._take(IMAGE_LABELS.get(label), value)
        elif label != "copynumber" and self._fields:
            self._take(FRAGMENT_LABELS.get(label), value)

    def _take(self, field: str | None, value: str) -> None:
        if field is None:
            return
        if value.lower() in _NONE:
            self._fields[field] = None
        elif field in _IN_PARENTHESES and (behind := _BEHIND.search(value)):
            self._fields[field] = behind[1]
        elif field == "expiration" and value.upper() == "INFINITY":
            self._fields[field] = "2147483647"
        else:
            self._fields[field] = value

    def _end(self) -> Iterator[Row]:
        """The image or the fragment is over: give its row."""
        fields, self._fields = self._fields, {}
        labels, self._labels = self._labels, []
        if not fields:
            return
        self._last_label.setdefault(self._in_image, labels[-1])
        if self._in_image:
            self._image = self._records.image(self._first, fields.get)
            if self._image is not None:
                yield Row(self._first, self._image)
        elif self._image is None:
            self._notes.ignore(self._first, "fragment without its image", lost=True)
        else:
            row = self._records.fragment(self._first, fields.get, self._image)
            if row is not None:
                yield row

    def _cut(self, within: str) -> InventoryError:
        return fault(
            self._lines.path,
            self._lines.number,
            f"the file ends within {within}",
            hint="export it again; if nothing is missing, end the file with a line end",
        )
