"""One NetBackup image and one of its fragments, from fields by name, whatever text they came in.

The vendor's listings differ in how they write a record, not in what it says: the readers find
the fields, this gives the rows. Field names are those of ``bpimagelist -l``. A field is a text,
a number as JSON has it, or None when the listing does not have it.
"""

from __future__ import annotations

from collections.abc import Callable

from migrate.inventory import netbackup
from migrate.inventory.report import Notes
from migrate.inventory.rows import MAX_COUNT, CopyRow, FragmentRow, ImageRow, Row
from migrate.inventory.values import kib, whole, yes
from migrate.model import Storage

Field = str | int | float | bool | None
Get = Callable[[str], Field]
"""Gives a field of one record by its name."""

NULL = "*NULL*"
_MAX_TEXT = 4096


class Records:
    """Makes the rows of one file; what is wrong with a field is a finding with its line."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def image(self, line: int, get: Get) -> ImageRow | None:
        """The image of a record, or None, with a finding, when its backup id is none."""
        image_id = self._text(line, get, "backup_id")
        parts = netbackup.split_backup_id(image_id or "")
        if image_id is None or parts is None:
            self._notes.ignore(line, "not a backup id", (image_id or "")[:80], lost=True)
            return None

        def number(field: str) -> int | None:
            return self._number(line, get, field)

        expiration = number("expiration")
        return ImageRow(
            image_id=image_id,
            product=netbackup.PRODUCT,
            client=self._text(line, get, "client") or parts[0],
            policy=self._text(line, get, "policy"),
            schedule=self._text(line, get, "schedule"),
            schedule_type=_schedule_type(get("schedule_type")),
            backup_time=netbackup.instant(parts[1]),
            expires=netbackup.expiry(expiration),
            retention_level=number("retention"),
            size_bytes=kib(number("kbytes")),
            file_count=_not_negative(number("num_files")),
            compressed=self._flag(line, get, "compression"),
            encrypted=self._flag(line, get, "encryption"),
            hold=bool(self._flag(line, get, "hold")),
            unfinished=expiration is not None and expiration <= 0,
            expected_copies=_not_negative(number("copies")),
            expected_fragments=_not_negative(number("num_fragments")),
            primary_copy=number("primary"),
        )

    def fragment(self, line: int, get: Get, image: ImageRow) -> Row | None:
        """A fragment's row, or None, with a finding, when its place cannot be read."""

        def number(field: str) -> int | None:
            return self._number(line, get, field)

        copy_number, fragment_number = number("copy"), self._fragment_number(line, get)
        media_id = self._text(line, get, "media_id")
        if copy_number is None or fragment_number is None or media_id is None:
            why = "fragment without copy, number or media id"
            self._notes.ignore(line, why, image.image_id, lost=True)
            return None
        media_type = get("media_type")
        storage = netbackup.storage_of(media_id, "" if media_type is None else str(media_type))
        # Fragments below 1 (true image restore information) may expire apart from the data.
        is_data = fragment_number > 0
        copy = CopyRow(
            copy_number=copy_number,
            storage=storage.value,
            expires=netbackup.expiry(number("expiration")) if is_data else None,
            hold=is_data and bool(self._flag(line, get, "hold")),
        )
        remainder = number("remainder")
        size = kib(number("kbytes"), remainder)
        exact = size is None or remainder is not None
        if storage is Storage.DISK:
            place = FragmentRow(
                copy_number, fragment_number, media_id, size_bytes=size, size_is_exact=exact
            )
            return Row(line, image, copy, place)
        place = FragmentRow(
            copy_number,
            fragment_number,
            media_id,
            tape_file_number=_not_negative(number("file")),
            block_offset=_not_negative(number("offset")),
            block_size=_not_negative(number("block_size")) or None,
            size_bytes=size,
            size_is_exact=exact,
            multiplexed=bool(self._flag(line, get, "mpx")),
            media_assigned_at=netbackup.instant(number("media_date")),
            key_tag=self._key_tag(line, get),
        )
        return Row(line, image, copy, place)

    def _fragment_number(self, line: int, get: Get) -> int | None:
        field = get("number")
        if isinstance(field, str):
            word = netbackup.FRAGMENT_WORDS.get(field[:3].lower())
            if word is not None:
                return word
        return self._number(line, get, "number")

    def _key_tag(self, line: int, get: Get) -> str | None:
        """The key's tag; short records have an unused number at its place or none."""
        tag = self._text(line, get, "key_tag")
        return None if tag == "0" else tag

    def _text(self, line: int, get: Get, field: str) -> str | None:
        found = get(field)
        if found is None or found == NULL or found == "":
            return None
        if isinstance(found, bool | float) or len(str(found)) > _MAX_TEXT:
            self._bad(line, field, found, "a name")
            return None
        text = str(found)
        if not text.isascii() and not _encodable(text):
            self._bad(line, field, ascii(text), "text")
            return None
        return text

    def _number(self, line: int, get: Get, field: str) -> int | None:
        found = get(field)
        if found is None or found == NULL:
            return None
        if isinstance(found, str):
            try:
                return whole(found)
            except ValueError:
                self._bad(line, field, found, "a number")
                return None
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, int) and -MAX_COUNT <= found <= MAX_COUNT:
            return int(found)
        self._bad(line, field, found, "a number")
        return None

    def _flag(self, line: int, get: Get, field: str) -> bool | None:
        """Yes and no as words, or a number that is not 0."""
        found = get(field)
        if isinstance(found, bool):
            return found
        if isinstance(found, str) and found[:1].isalpha():
            try:
                return yes(found)
            except ValueError:
                self._bad(line, field, found, "yes or no")
                return None
        number = self._number(line, get, field)
        return None if number is None else number != 0

    def _bad(self, line: int, field: str, found: object, what: str) -> None:
        message = f"{field}: {str(found)[:40]!r} is not {what}; taken as unknown"
        self._notes.warn(line, "bad_value", message)


def _schedule_type(found: Field) -> str | None:
    if found is None or found == NULL:
        return None
    return netbackup.schedule_type(str(found).lstrip("-"))


def _not_negative(value: int | None) -> int | None:
    return value if value is None or value >= 0 else None


def _encodable(text: str) -> bool:
    """Whether a text is whole characters: JSON may have half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
