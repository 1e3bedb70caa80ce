"""Rows as they come into the staging tables: images, copies and fragments in batches.

Handing a value to SQLite costs more than anything it does with it here, so each is handed over
as seldom as possible: kinds (see schema.py) are numbered here, and a statement takes many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

from migrate.inventory.report import ImportReport, Severity
from migrate.inventory.rows import CopyRow, ImageRow, MediaRow, Row
from migrate.inventory.schema import (
    COPY,
    FRAGMENT,
    FRAGMENT_KIND,
    FRAGMENT_OWN,
    IMAGE,
    IMAGE_KIND,
    IMAGE_OWN,
)

BATCH = 10_000
"""Rows handed to SQLite at once while importing."""

KINDS = 20_000
"""Kinds remembered at once; real catalogues have a few hundred. A forgotten one is written anew."""

_STATEMENT_VALUES = 12_000
"""Values of one statement; SQLite takes 32,766 unless it was built with another limit."""

_image_own = itemgetter(*map(IMAGE.index, IMAGE_OWN))
_image_kind = itemgetter(*map(IMAGE.index, IMAGE_KIND))
_fragment_own = itemgetter(*map(FRAGMENT.index, FRAGMENT_OWN))
_fragment_kind = itemgetter(*map(FRAGMENT.index, FRAGMENT_KIND))


class Staging:
    """The staging side of one inventory. Memory: a batch, and the kinds remembered."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._raw_no = 0

    def take(self, path: str, rows: Iterable[Row | MediaRow], report: ImportReport) -> int:
        """Take the rows of one source and return how many records. sqlite3.Error passes."""
        source = self._db.execute("INSERT INTO source (path) VALUES (?)", (path,)).lastrowid
        assert source is not None
        images = _Table(self._db, "raw.image_own", len(IMAGE_OWN) + 3)
        copies = _Table(self._db, "raw.copy", len(COPY) + 3)
        fragments = _Table(self._db, "raw.fragment_own", len(FRAGMENT_OWN) + 3)
        image_kinds = _Kinds(self._db, "image_kind", len(IMAGE_KIND), source)
        fragment_kinds = _Kinds(self._db, "fragment_kind", len(FRAGMENT_KIND), source)
        last_image: ImageRow | None = None
        last_copy: CopyRow | None = None
        raw_no, total, waiting = self._raw_no, 0, 0
        for row in rows:
            if isinstance(row, MediaRow):
                total += row.listed  # a barcode beside a fragment is no record of its own
                self._media(path, row, report)
                continue
            total += 1
            line, image, copy, fragment = row
            if image is not last_image and image != last_image:
                raw_no += 1
                kind = image_kinds[_image_kind(image)]
                images.values += (raw_no, *_image_own(image), kind, line)
                last_image, last_copy = image, None
            if copy is not None and copy is not last_copy and copy != last_copy:
                copies.values += (raw_no, *copy, source, line)
                last_copy = copy
            if fragment is not None:
                kind = fragment_kinds[_fragment_kind(fragment)]
                fragments.values += (raw_no, *_fragment_own(fragment), kind, line)
            waiting += 1
            if waiting >= BATCH:
                waiting = 0
                for table in (images, copies, fragments):
                    table.flush()
        for table in (images, copies, fragments):
            table.flush()
        self._raw_no = raw_no
        return total

    def _media(self, path: str, row: MediaRow, report: ImportReport) -> None:
        """Tapes are few: they are merged as they come."""
        place = f"{path}:{row.line}"
        kept = self._db.execute(
            "SELECT * FROM media WHERE media_id = ?", (row.media_id,)
        ).fetchone()
        values = dict(zip(MediaRow._fields[1:], row[1:], strict=True)) | {"place": place}
        if kept is not None:
            old = dict(zip(values, kept, strict=True))
            values, differences = merge_media(old, values)
            for difference in differences:
                report.add(
                    Severity.WARNING,
                    "media_differ",
                    f"{old['place']} and {place}",
                    f"disagree about tape {row.media_id}: {difference}",
                )
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT OR REPLACE INTO media VALUES ({marks})", tuple(values.values()))


class _Table:
    """Rows of one staging table that wait, as one flat list of values."""

    def __init__(self, db: sqlite3.Connection, name: str, width: int) -> None:
        self.values: list[Any] = []
        self._db = db
        self._insert = f"INSERT INTO {name} VALUES "
        self._row = f"({', '.join('?' * width)})"
        limit = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self._width = width
        self._rows = max(1, min(limit, _STATEMENT_VALUES) // width)
        self._many = self._insert + ", ".join([self._row] * self._rows)

    def flush(self) -> None:
        """Hand over what waits, many rows a statement and the rest in one more."""
        values, step = self.values, self._rows * self._width
        whole = len(values) - len(values) % step
        for at in range(0, whole, step):
            self._db.execute(self._many, values[at : at + step])
        if rest := values[whole:]:
            rows = len(rest) // self._width
            self._db.execute(self._insert + ", ".join([self._row] * rows), rest)
        values.clear()


class _Kinds(dict[tuple[Any, ...], int]):
    """The number of each kind of one source; a new one is written when it is first asked for."""

    def __init__(self, db: sqlite3.Connection, table: str, width: int, source: int) -> None:
        super().__init__()
        self._db = db
        self._insert = f"INSERT INTO {table} VALUES (NULL, {', '.join('?' * (width + 1))})"
        self._source = source

    def __missing__(self, kind: tuple[Any, ...]) -> int:
        if len(self) >= KINDS:
            self.clear()
        number = self._db.execute(self._insert, (*kind, self._source)).lastrowid
        assert number is not None
        self[kind] = number
        return number


def merge_media(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Two records of one tape as one, and what they disagree about.

    The more exact assignment wins; of two that contradict each other the later, because it
    makes more images suspicious, not fewer.
    """
    merged, differences = dict(old), list[str]()
    for name in ("barcode", "label", "density", "expires"):
        if old[name] is None:
            merged[name] = new[name]
        elif new[name] not in (None, old[name]) and name in ("barcode", "label"):
            differences.append(f"{name} {old[name]} or {new[name]}")
    for name in ("frozen", "suspended", "listed"):
        merged[name] = bool(old[name] or new[name])
    assigned = ("assigned_at", "assigned_uncertainty")
    if new["assigned_at"] is not None:
        slack = old["assigned_uncertainty"] + new["assigned_uncertainty"]
        if old["assigned_at"] is None:
            better = True
        elif abs(old["assigned_at"] - new["assigned_at"]) > slack:
            better = new["assigned_at"] > old["assigned_at"]
            differences.append("when it was assigned")
        else:
            better = new["assigned_uncertainty"] < old["assigned_uncertainty"]
        if better:
            merged |= {name: new[name] for name in assigned}
    return merged, differences
