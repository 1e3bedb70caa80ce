"""CSV catalogues: one row per fragment, or per copy with a list of media.

Only a backup id and a media id are needed. A row that cannot be placed is left out with a
finding; a cell that cannot be read is unknown with a finding. The hot loop compares the cells
that belong to the image and to the copy with those of the row before, because a catalogue
repeats them for every fragment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from catalog.model import NANOSECONDS
from migrate.inventory import netbackup
from migrate.inventory.csv_header import HEADER_WITHIN, Header, find_header
from migrate.inventory.csv_records import CsvRecords
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Notes
from migrate.inventory.rows import CopyRow, FragmentRow, ImageRow, MediaRow, Row
from migrate.inventory.text import Lines, fault
from migrate.inventory.times import TimeReader
from migrate.inventory.values import (
    KIB,
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

_FLAGS = {"": False, "0": False, "1": True, "N": False, "Y": True, "No": False, "Yes": True}
"""Yes and no as most exports write them; every other spelling is read with care."""

_USUAL = 10**15
"""Numbers below are neither damaged nor beyond what a catalogue may claim."""

_EPOCH_DIGITS = 10
_LEAST_ID = len("a_") + _EPOCH_DIGITS
_LAST_PLAIN = 2_147_483_647
"""Expiries from here on may mean never."""

_TAPE = Storage.TAPE.value
_new = tuple.__new__
"""Makes a row of its fields in their order, without the detour of a named tuple's own call."""

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
    is_ours: bool
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
        self._notes = notes
        self._times = TimeReader(options.zone(), notes, lines.path)
        self._records = CsvRecords(header, lines, notes)
        self._warned = 0
        self._shared_of: dict[tuple[str, ...], _Shared] = {}
        self._media_dates: dict[str, int | None] = {}
        self._tapes: set[tuple[str, ...]] = set()
        self._clients: dict[str, str | None] = {}  # as cells, and as they are taken
        self._copies: dict[tuple[str, ...], tuple[int, str, bool]] = {}
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
        records, tapes, per_fragment = self._records, self._tapes, self._per_fragment
        for cells in records.rows(stream):
            try:
                tape, own, shared = tape_cells(cells), own_cells(cells), shared_cells(cells)
                if image is None or own != last_own or shared != last_shared:
                    image = copy = None
                    image = self._quick_image(own, shared) or self._image(own, shared, cells)
                    last_own, last_shared = own, shared
                if tape not in tapes:
                    yield from self._new_tape(tape, image)
                media_id = tape[0].strip()
                now = copy_cells(cells)
                if copy is None or now != last_copy:
                    copy = None
                    copy = self._copy(now, media_id, own[3], image)
                    last_copy = now
                if per_fragment:
                    place_of = place_cells(cells)
                    place = self._quick_fragment(place_of, media_id, copy)
                    if place is None:
                        place = self._fragment(place_of, media_id, copy)
                    yield _new(Row, (records.line, image, copy, place))
                else:
                    yield from self._listed(media_id, image, copy)
            except _Skip as skip:
                self._notes.ignore(records.line, skip.why, skip.detail, lost=skip.lost)

    # --- cells --------------------------------------------------------------------------------

    def _check_image_id(self, cell: str, cells: list[str]) -> None:
        image_id = cell.strip()
        media_id = cells[self._column["media_id"]].strip()
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
                self._records.line,
                "media_id_short",
                f"media id {media_id!r} may have lost its leading zeros in a spreadsheet",
            )
        if len(self._tapes) >= _CACHE_SIZE:
            self._tapes.clear()
        self._tapes.add(tape)
        names = text_or_none(barcode), text_or_none(density)
        if any(names):
            yield MediaRow(self._records.line, media_id, barcode=names[0], density=names[1])

    def _warn(self, what: str, exc: Exception) -> None:
        self._warned += 1
        self._notes.warn(self._records.line, "bad_value", f"{what}: {exc}; taken as unknown")

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
            return self._times.expiry(text, self._records.line, utc=self._utc[field])
        except (ValueError, OverflowError) as exc:
            self._warn("expiry", exc)
            return None

    def _backup_time(self, text: str, epoch: int | None) -> int | None:
        try:
            return self._times.backup_time(
                text, self._records.line, utc=self._utc["backup_time"], epoch=epoch
            )
        except (ValueError, OverflowError) as exc:
            self._warn("backup time", exc)
            return netbackup.instant(epoch)

    def _media_date(self, text: str) -> int | None:
        if text not in self._media_dates:
            if len(self._media_dates) >= _CACHE_SIZE:
                self._media_dates.clear()
            try:
                value = self._times.instant(text, self._records.line, utc=self._utc["media_date"])
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
        product = (text_or_none(product) or netbackup.PRODUCT).lower()
        shared = _Shared(
            product=product,
            is_ours=product == netbackup.PRODUCT,
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
        self._check_image_id(image_id, cells)
        shared = self._shared(shared_cells)
        image_id = image_id.strip()
        parts = netbackup.split_backup_id(image_id) if shared.is_ours else None
        if shared.is_ours and parts is None:  # a footer, a cut id, another product
            lost = sum(map(bool, cells)) > _FOOTER_CELLS
            raise _Skip("not a backup id", image_id[:80], lost=lost)
        size = kib(self._number(image_kib, "image KB")) if image_kib else None
        if size is None:
            size = self._number(image_size, "image size")
        started = self._backup_time(backup_time, parts[1] if parts else None)
        fields = (  # in the order of ImageRow's: this is the hot path
            image_id,
            shared.product,
            text_or_none(client) or (parts[0] if parts else None),
            shared.policy,
            shared.schedule,
            shared.schedule_type,
            started,
            None if self._expiry_is_copys else self._expiry(expires, "expires"),
            shared.retention_level,
            size,
            self._number(file_count, "files"),
            shared.compressed,
            shared.encrypted,
            shared.hold,
            expires.strip() == "0",
            shared.copies,
            shared.fragments,
            shared.primary_copy,
            False,
        )
        if len(self._clients) >= _CACHE_SIZE:
            self._clients.clear()
        self._clients[client] = text_or_none(client)
        return _new(ImageRow, fields)

    def _quick_image(self, own: tuple[str, ...], shared_cells: tuple[str, ...]) -> ImageRow | None:
        """As ``_image`` for the cells that nearly every row has; None when one is not so."""
        image_id, client, backup_time, expires, image_kib, image_size, file_count = own
        shared, name = self._shared_of.get(shared_cells), self._clients.get(client)
        _, _, digits = image_id.rpartition("_")
        if shared is None or not name or not shared.is_ours or image_id[:1].isspace():
            return None
        if len(digits) != _EPOCH_DIGITS or not digits.isdecimal() or len(image_id) < _LEAST_ID:
            return None
        epoch = int(digits)
        times, utc = self._times, self._utc
        if backup_time and not times.is_start(backup_time, utc["backup_time"], epoch):
            return None
        ends = times.known(expires, utc["expires"])
        if ends is None or not 0 < ends < _LAST_PLAIN > epoch:
            return None
        try:
            size = int(image_kib) * KIB if image_kib else int(image_size) if image_size else None
            files = int(file_count) if file_count else None
        except ValueError:
            return None
        if not 0 <= (size or 0) < _USUAL > (files or 0) >= 0:
            return None
        fields = (
            image_id,
            netbackup.PRODUCT,
            name,
            shared.policy,
            shared.schedule,
            shared.schedule_type,
            epoch * NANOSECONDS,
            None if self._expiry_is_copys else ends * NANOSECONDS,
            shared.retention_level,
            size,
            files,
            shared.compressed,
            shared.encrypted,
            shared.hold,
            False,
            shared.copies,
            shared.fragments,
            shared.primary_copy,
            False,
        )
        return _new(ImageRow, fields)

    def _copy(
        self, cells: tuple[str, ...], media_id: str, image_expires: str, image: ImageRow
    ) -> CopyRow:
        number, expires, hold, storage = cells
        key = number, hold, storage, media_id
        known = self._copies.get(key)
        if known is None:
            known = self._read_copy(key)
        copy_number, kind, on_hold = known
        if expires == image_expires and not self._expiry_is_copys:
            ends = image.expires
        else:
            ends = self._expiry(expires, "copy_expires")
        return _new(CopyRow, (copy_number, kind, ends, on_hold))

    def _read_copy(self, key: tuple[str, ...]) -> tuple[int, str, bool]:
        number, hold, storage, media_id = key
        warned = self._warned
        known = (
            self._placed(number, "copy number"),
            netbackup.storage_of(media_id, storage).value,
            bool(hold) and bool(self._yes(hold, "copy on hold")),
        )
        if warned == self._warned:  # what is bad is to be found again in every row
            if len(self._copies) >= _CACHE_SIZE:
                self._copies.clear()
            self._copies[key] = known
        return known

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

    def _quick_fragment(
        self, cells: tuple[str, ...], media_id: str, copy: CopyRow
    ) -> FragmentRow | None:
        """As ``_fragment`` for the cells that nearly every row has; None when one is not so."""
        (
            number, kilobytes, remainder, exact_size, file_number, offset_text, block_size, mpx,
            media_date, key_tag,
        ) = cells  # fmt: skip
        try:
            place = int(number) if number else 1
            size = exact = None
            if kilobytes:
                rest = int(remainder) if remainder else 0
                size = int(kilobytes) * KIB + rest
                exact = self._exact and 0 <= rest < KIB
            elif exact_size:
                size, exact = int(exact_size), True
            tape_file = int(file_number) if file_number else 0
            offset = int(offset_text) if offset_text else tape_file
            block = int(block_size) if block_size else 0
            assigned = self._media_dates[media_date] if media_date else None
            multiplexed = _FLAGS[mpx]
        except (ValueError, KeyError):
            return None
        usual = (
            0 < place < _USUAL
            and size is not None
            and 0 <= size < _USUAL
            and exact is self._exact | (not kilobytes)
            and 0 <= tape_file <= offset < _USUAL
            and 0 <= block < _USUAL
            and copy.storage == _TAPE
        )
        if not usual:
            return None
        fields = (
            copy.copy_number,
            place,
            media_id,
            tape_file if file_number else None,
            offset if offset_text else None,
            block or None,
            size,
            exact,
            multiplexed,
            assigned,
            text_or_none(key_tag) if key_tag else None,
        )
        return _new(FragmentRow, fields)

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
                self._records.line,
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
            yield Row(self._records.line, image, copy, fragment)


def _first_text(cells: list[str]) -> str:
    return next((cell.strip()[:60] for cell in cells if cell.strip()), "")
