"""The records of a CSV export as rows of cells, as wide as the header: ragged and torn ones found.

What the cells mean is not known here, but for the place of the backup and media ids.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from migrate.inventory.csv_header import Header
from migrate.inventory.report import Notes
from migrate.inventory.text import Lines, fault


class CsvRecords:
    """The records of one file below its header. line is that on which the last one ends."""

    def __init__(self, header: Header, lines: Lines, notes: Notes) -> None:
        self.line = header.line
        self._header = header
        self._lines = lines
        self._notes = notes
        self._image_id = header.columns["image_id"]
        self._needed = max(self._image_id, header.columns["media_id"])

    def rows(self, stream: Iterator[str]) -> Iterator[list[str]]:
        """Rows of cells, as wide as the header and one empty cell more.

        Raises:
            InventoryError: the file ends within a record; names the line.
        """
        width = self._header.width
        reader = csv.reader(stream, delimiter=self._header.delimiter, strict=True)
        top = before = self._header.line
        while True:
            first = before + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                before = self._header.line + reader.line_num
                self._bad_quotes(exc, first, before)
                continue
            self.line = before = top + reader.line_num
            if len(cells) < width:
                if self._short(cells):
                    continue
                cells += [""] * (width - len(cells))
            elif len(cells) > width:
                if any(cells[width:]):
                    self._notes.once(
                        self.line,
                        "more_cells",
                        f"{len(cells)} cells under {width} headers; an unquoted "
                        f"{self._header.delimiter!r} inside a cell shifts the columns",
                    )
                    self._notes.ignore(
                        self.line, "more cells than headers", f"{len(cells)} of {width}", lost=True
                    )
                    continue
                del cells[width:]
            cells.append("")
            yield cells

    def _bad_quotes(self, exc: csv.Error, first: int, last: int) -> None:
        text = str(exc)
        if "unexpected end of data" in text:
            raise fault(
                self._lines.path,
                first,
                "the file ends within a quoted cell that begins here",
                hint="the export was cut off; export it again",
            ) from exc
        if "field limit" in text or "field larger" in text:
            raise fault(
                self._lines.path,
                first,
                "a quoted cell begins here and does not end",
                hint="close the quotation marks, or double those inside a cell",
            ) from exc
        where = f"lines {first} to {last}" if last > first else ""
        self._notes.ignore(last, "quotation marks do not match", where or text, lost=True)

    def _short(self, cells: list[str]) -> bool:
        """Whether to leave out a row with fewer cells than the header: blank lines, footers.

        Raises:
            InventoryError: the file was cut off within this row.
        """
        if not any(cell.strip() for cell in cells):
            return True
        at_end = self._lines.unterminated and self.line >= self._lines.number
        if at_end and self._looks_like_data(cells):
            raise fault(
                self._lines.path,
                self.line,
                f"the file ends within a record: {len(cells)} of {self._header.width} cells",
                hint="the export was cut off; export it again",
            )
        if len(cells) > self._needed and cells[self._image_id].strip():
            return False
        lost = self._looks_like_data(cells)
        self._notes.ignore(self.line, "fewer cells than headers", cells[0][:60], lost=lost)
        return True

    def _looks_like_data(self, cells: list[str]) -> bool:
        """A footer is a word or two and a total; data has an id, or cells enough."""
        at = self._image_id
        image_id = cells[at].strip() if at < len(cells) else ""
        if len(cells) == 1:
            return " " not in image_id and any(sign in image_id for sign in "_.")
        return "_" in image_id or len(cells) > max(3, self._header.width // 2)
