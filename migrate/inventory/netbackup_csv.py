"""CSV catalogues: one row per fragment, or per copy with a list of media.

Only a backup id and a media id are needed. A row that cannot be placed is left out with a
finding; a cell that cannot be read is unknown with a finding. The hot loop compares the cells
that belong to the image and to the copy with those of the row before, because a catalogue
repeats them for every fragment.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from migrate.inventory import netbackup
from migrate.inventory.csv_header import HEADER_WITHIN, Header, find_header
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Notes
from migrate.inventory.rows import CopyRow, FragmentRow, ImageRow, MediaRow, Row
from migrate.inventory.text import Lines, fault
from migrate.inventory.times import TimeReader
from migrate.inventory.values import (
    kib,
    nothing,
    spreadsheet_number,
    text_or_none,
    whole,
    yes,
)
from migrate.model import Storage

_OWN_FIELDS = (
    "image_id",
    "client",
    "backup_time",
    "expires",
    "image_kib",
    "image_size",
    "file_count",
)
"""Cells that nearly every image has for itself."""

_SHARED_FIELDS = (
    "product", "policy", "schedule", "schedule_type", "retention_level", "compressed",
    "encrypted", "hold", "copies", "fragments", "primary_copy",
)  # fmt: skip
"""Cells in which images come in few combinations: each combination is read once."""

_COPY_FIELDS = ("copy", "copy_expires", "copy_hold", "storage")
_PLACE_FIELDS = (
    "fragment", "fragment_kib", "remainder", "fragment_size", "tape_file", "block_offset",
    "block_size", "multiplexed", "media_date", "key_tag",
)  # fmt: skip
_TAPE_FIELDS = ("media_id", "barcode", "density")
_ALL_FIELDS = (*_OWN_FIELDS, *_SHARED_FIELDS, *_COPY_FIELDS, *_PLACE_FIELDS, *_TAPE_FIELDS)

_MEDIA_LIST = re.compile(r"[;,|\s]+")
_LEVEL = re.compile(r"(?:.*\()?(\d{1,3})\)?")

_FOOTER_CELLS = 2
"""A footer is a word and a total; a row with more cells held data."""

_MEDIA_ID_LENGTH = 6
_CACHE_SIZE = 20_000
"""Entries a cache may hold before it starts again; a file has few tapes and combinations."""


def read(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of a CSV catalogue.

    Raises:
        InventoryError: no header, a file that ends within a record, or local times whose zone
            nothing tells; names the line.
    """
    stream = iter(lines)
    head = [line for _, line in zip(range(HEADER_WITHIN), stream, strict=False)]
    header = find_header(head)
    if header is None:
        raise fault(
            lines.path,
            1,
            f"no header with a backup id and a media id in the first {HEADER_WITHIN} lines",
            hint="name these two columns, for example 'Backup ID' and 'Media ID'",
        )
    if header.line > 1:
        notes.ignore(1, "preamble above the header", f"lines 1 to {header.line - 1}")
    return _Table(header, lines, options, notes).rows(chain(head[header.line :], stream))


class _Skip(Exception):
    """This row cannot be placed. lost: it seems to have held data."""

    def __init__(self, why: str, detail: str = "", *, lost: bool = False) -> None:
        super().__init__(why)
        self.why, self.detail, self.lost = why, detail, lost


class _Shared(NamedTuple):
    """What a combination of the shared cells means."""

    product: str
    policy: str | None
    schedule: str | None
    schedule_type: str | None
    retention_level: int | None
    compressed: bool | None
    encrypted: bool | None
    hold: bool
    copies: int | None
    fragments: int | None
    primary_copy: int | None


class _Table:
    """One file: its columns, and what its earlier rows settled."""

    def __init__(self, header: Header, lines: Lines, options: ImportOptions, notes: Notes) -> None:
        self._header = header
        self._lines = lines
        self._notes = notes
        self._times = TimeReader(options.zone(), notes, lines.path)
        self._line = 0
        self._warned = 0
        self._shared_of: dict[tuple[str, ...], _Shared] = {}
        self._media_dates: dict[str, int | None] = {}
        self._tapes: set[tuple[str, ...]] = set()
        self._column = {  # an absent column is one behind the last: every row gets "" there
            field: header.columns.get(field, header.width) for field in _ALL_FIELDS
        }
        has, utc = header.columns, header.utc
        self._utc = {name: name in utc for name in ("backup_time", "expires", "media_date")}
        # One expiry in rows that are copies is the copy's; the image expires with its last copy.
        self._expiry_is_copys = "copy" in has and "copy_expires" not in has
        if "copy_expires" not in has:
            self._column["copy_expires"] = self._column["expires"]
        self._utc["copy_expires"] = ("copy_expires" if "copy_expires" in has else "expires") in utc
        self._exact = "remainder" in has
        self._per_fragment = "fragment" in has or "tape_file" in has

    def _cells(self, fields: tuple[str, ...]) -> Callable[[list[str]], tuple[str, ...]]:
        return itemgetter(*(self._column[field] for field in fields))

    def rows(self, stream: Iterator[str]) -> Iterator[Row | MediaRow]:
        own_cells, shared_cells = self._cells(_OWN_FIELDS), self._cells(_SHARED_FIELDS)
        copy_cells, place_cells = self._cells(_COPY_FIELDS), self._cells(_PLACE_FIELDS)
        tape_cells = self._cells(_TAPE_FIELDS)
        last_own: tuple[str, ...] = ()
        last_shared: tuple[str, ...] = ()
        last_copy: tuple[str, ...] = ()
        image: ImageRow | None = None  # of the row before, while its cells stay the same
        copy: CopyRow | None = None
        for cells in self._records(stream):
            try:
                tape = tape_cells(cells)
                media_id = tape[0].strip()
                own, shared = own_cells(cells), shared_cells(cells)
                if image is None or own != last_own or shared != last_shared:
                    image = copy = None
                    self._check_image_id(own[0], cells, media_id)
                    image = self._image(own, shared, cells)
                    last_own, last_shared = own, shared
                if tape not in self._tapes:
                    yield from self._new_tape(tape, image)
                now = copy_cells(cells)
                if copy is None or now != last_copy:
                    copy = None
                    copy = self._copy(now, media_id, own[3], image)
                    last_copy = now
                if self._per_fragment:
                    place = self._fragment(place_cells(cells), media_id, copy)
                    yield Row(self._line, image, copy, place)
                else:
                    yield from self._listed(media_id, image, copy)
            except _Skip as skip:
                self._notes.ignore(self._line, skip.why, skip.detail, lost=skip.lost)

    # --- records ------------------------------------------------------------------------------

    def _records(self, stream: Iterator[str]) -> Iterator[list[str]]:
        """Rows of cells, as wide as the header and one empty cell more."""
        width = self._header.width
        reader = csv.reader(stream, delimiter=self._header.delimiter, strict=True)
        before = self._header.line
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
            self._line = before = self._header.line + reader.line_num
            if len(cells) < width:
                if self._short(cells):
                    continue
                cells += [""] * (width - len(cells))
            elif len(cells) > width:
                if any(cells[width:]):
                    self._notes.once(
                        self._line,
                        "more_cells",
                        f"{len(cells)} cells under {width} headers; an unquoted "
                        f"{self._header.delimiter!r} inside a cell shifts the columns",
                    )
                    self._notes.ignore(
                        self._line, "more cells than headers", f"{len(cells)} of {width}", lost=True
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
        at_end = self._lines.unterminated and self._line >= self._lines.number
        if at_end and self._looks_like_data(cells):
            raise fault(
                self._lines.path,
                self._line,
                f"the file ends within a record: {len(cells)} of {self._header.width} cells",
                hint="the export was cut off; export it again",
            )
        needed = max(self._column["image_id"], self._column["media_id"])
        if len(cells) > needed and cells[self._column["image_id"]].strip():
            return False
        lost = self._looks_like_data(cells)
        self._notes.ignore(self._line, "fewer cells than headers", cells[0][:60], lost=lost)
        return True

    def _looks_like_data(self, cells: list[str]) -> bool:
        """A footer is a word or two and a total; data has an id, or cells enough."""
        at = self._column["image_id"]
        image_id = cells[at].strip() if at < len(cells) else ""
        if len(cells) == 1:
            return " " not in image_id and any(sign in image_id for sign in "_.")
        return "_" in image_id or len(cells) > max(3, self._header.width // 2)

    # --- cells --------------------------------------------------------------------------------

    def _check_image_id(self, cell: str, cells: list[str], media_id: str) -> None:
        image_id = cell.strip()
        if cells[: self._header.width] == list(self._header.cells):
            raise _Skip("header repeated")
        if nothing(image_id):
            raise _Skip("no backup id", _first_text(cells), lost=not nothing(media_id))
        if spreadsheet_number(image_id):
            raise _Skip("backup id turned into a number by a spreadsheet", image_id, lost=True)
        if nothing(media_id):
            raise _Skip("no media id", image_id, lost="_" in image_id)

    def _new_tape(self, tape: tuple[str, ...], image: ImageRow) -> Iterator[MediaRow]:
        """Look at a media id once, and give the barcode and density that stand beside it.

        A later row of the same image may lack its media id, so that is looked at here again.
        """
        media_id, barcode, density = (cell.strip() for cell in tape)
        if nothing(media_id):
            raise _Skip("no media id", image.image_id, lost=True)
        if spreadsheet_number(media_id):
            raise _Skip("media id turned into a number by a spreadsheet", media_id, lost=True)
        if media_id.isdecimal() and len(media_id) < _MEDIA_ID_LENGTH:
            self._notes.warn(
                self._line,
                "media_id_short",
                f"media id {media_id!r} may have lost its leading zeros in a spreadsheet",
            )
        if len(self._tapes) >= _CACHE_SIZE:
            self._tapes.clear()
        self._tapes.add(tape)
        names = text_or_none(barcode), text_or_none(density)
        if any(names):
            yield MediaRow(self._line, media_id, barcode=names[0], density=names[1])

    def _warn(self, what: str, exc: Exception) -> None:
        self._warned += 1
        self._notes.warn(self._line, "bad_value", f"{what}: {exc}; taken as unknown")

    def _number(self, text: str, what: str) -> int | None:
        """A count that is not negative."""
        if text.isdecimal() and len(text) < 16:
            return int(text)
        try:
            value = whole(text)
        except ValueError as exc:
            self._warn(what, exc)
            return None
        return value if value is None or value >= 0 else None

    def _yes(self, text: str, what: str) -> bool | None:
        try:
            return yes(text)
        except ValueError as exc:
            self._warn(what, exc)
            return None

    def _expiry(self, text: str, field: str) -> int | None:
        try:
            return self._times.expiry(text, self._line, utc=self._utc[field])
        except (ValueError, OverflowError) as exc:
            self._warn("expiry", exc)
            return None

    def _backup_time(self, text: str, epoch: int | None) -> int | None:
        try:
            return self._times.backup_time(
                text, self._line, utc=self._utc["backup_time"], epoch=epoch
            )
        except (ValueError, OverflowError) as exc:
            self._warn("backup time", exc)
            return netbackup.instant(epoch)

    def _media_date(self, text: str) -> int | None:
        if text not in self._media_dates:
            if len(self._media_dates) >= _CACHE_SIZE:
                self._media_dates.clear()
            try:
                value = self._times.instant(text, self._line, utc=self._utc["media_date"])
            except (ValueError, OverflowError) as exc:
                self._warn("media date", exc)
                return None
            self._media_dates[text] = value
        return self._media_dates[text]

    def _shared(self, cells: tuple[str, ...]) -> _Shared:
        known = self._shared_of.get(cells)
        if known is not None:
            return known
        (
            product, policy, schedule, schedule_type, level_text, compressed, encrypted, hold,
            copies, fragments, primary,
        ) = cells  # fmt: skip
        warned = self._warned
        level = _LEVEL.fullmatch(level_text.strip())
        shared = _Shared(
            product=(text_or_none(product) or netbackup.PRODUCT).lower(),
            policy=text_or_none(policy),
            schedule=text_or_none(schedule),
            schedule_type=netbackup.schedule_type(schedule_type),
            retention_level=int(level[1]) if level else None,
            compressed=self._yes(compressed, "compressed"),
            encrypted=self._yes(encrypted, "encrypted"),
            hold=bool(self._yes(hold, "hold")),
            copies=self._number(copies, "copies"),
            fragments=self._number(fragments, "fragments"),
            primary_copy=self._number(primary, "primary copy"),
        )
        if warned == self._warned:  # what is bad is to be found again in every row
            if len(self._shared_of) >= _CACHE_SIZE:
                self._shared_of.clear()
            self._shared_of[cells] = shared
        return shared

    def _image(
        self, own: tuple[str, ...], shared_cells: tuple[str, ...], cells: list[str]
    ) -> ImageRow:
        image_id, client, backup_time, expires, image_kib, image_size, file_count = own
        shared = self._shared(shared_cells)
        image_id = image_id.strip()
        is_ours = shared.product == netbackup.PRODUCT
        parts = netbackup.split_backup_id(image_id) if is_ours else None
        if is_ours and parts is None:  # a footer, a cut id, or a product without its column
            lost = sum(map(bool, cells)) > _FOOTER_CELLS
            raise _Skip("not a backup id", image_id[:80], lost=lost)
        size = kib(self._number(image_kib, "image KB"))
        started = self._backup_time(backup_time, parts[1] if parts else None)
        return ImageRow(  # in the order of its fields: this is the hot path
            image_id,
            shared.product,
            text_or_none(client) or (parts[0] if parts else None),
            shared.policy,
            shared.schedule,
            shared.schedule_type,
            started,
            None if self._expiry_is_copys else self._expiry(expires, "expires"),
            shared.retention_level,
            size if size is not None else self._number(image_size, "image size"),
            self._number(file_count, "files"),
            shared.compressed,
            shared.encrypted,
            shared.hold,
            expires.strip() == "0",
            shared.copies,
            shared.fragments,
            shared.primary_copy,
        )

    def _copy(
        self, cells: tuple[str, ...], media_id: str, image_expires: str, image: ImageRow
    ) -> CopyRow:
        number, expires, hold, storage = cells
        same = expires == image_expires and not self._expiry_is_copys
        return CopyRow(
            self._placed(number, "copy number"),
            netbackup.storage_of(media_id, storage).value,
            image.expires if same else self._expiry(expires, "copy_expires"),
            bool(hold) and bool(self._yes(hold, "copy on hold")),
        )

    def _placed(self, text: str, what: str) -> int:
        """A number that says where a row belongs: 1 when there is none, else it must be right."""
        if text.isdecimal() and len(text) < 9:
            return int(text)
        try:
            value = whole(text)
        except ValueError as exc:
            word = netbackup.FRAGMENT_WORDS.get(text.strip().lower())
            if word is None:
                raise _Skip(f"{what} cannot be read", str(exc), lost=True) from exc
            return word
        return 1 if value is None else value

    def _fragment(self, cells: tuple[str, ...], media_id: str, copy: CopyRow) -> FragmentRow:
        (
            number, kilobytes, remainder, exact_size, file_number, offset_text, block_size, mpx,
            media_date, key_tag,
        ) = cells  # fmt: skip
        place = self._placed(number, "fragment number")
        size = kib(
            self._number(kilobytes, "fragment KB"),
            self._number(remainder, "remainder") if remainder else 0,
        )
        exact = size is None or self._exact
        if size is None:
            size = self._number(exact_size, "fragment size")
        if copy.storage == Storage.DISK:
            return FragmentRow(
                copy.copy_number, place, media_id, size_bytes=size, size_is_exact=exact
            )
        tape_file = self._number(file_number, "file number")
        offset = self._number(offset_text, "offset")
        if offset is not None and tape_file is not None and offset < tape_file:
            # Each of the marks before it has an address of its own.
            self._notes.once(
                self._line,
                "offset_impossible",
                f"offset {offset} cannot be the block address of tape file {tape_file}; such "
                "offsets are taken as unknown",
            )
            offset = None
        return FragmentRow(
            copy.copy_number,
            place,
            media_id,
            tape_file,
            offset,
            self._number(block_size, "block size") or None,
            size,
            exact,
            mpx != "0" and bool(self._yes(mpx, "multiplexed")),
            self._media_date(media_date) if media_date else None,
            text_or_none(key_tag) if key_tag else None,
        )

    def _listed(self, cell: str, image: ImageRow, copy: CopyRow) -> Iterator[Row]:
        """A row per copy: its media in the order written, positions and sizes unknown."""
        is_disk = copy.storage == Storage.DISK
        names = [cell] if is_disk else [name for name in _MEDIA_LIST.split(cell) if name]
        for number, media_id in enumerate(names, 1):
            fragment = FragmentRow(copy.copy_number, number, media_id)
            yield Row(self._line, image, copy, fragment)


def _first_text(cells: list[str]) -> str:
    return next((cell.strip()[:60] for cell in cells if cell.strip()), "")
