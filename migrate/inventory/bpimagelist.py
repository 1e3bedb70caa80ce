"""``bpimagelist -l``: IMAGE, HISTO and FRAG records, read by position from the left.

Releases append fields and never insert any, so surplus tokens are ignored and missing ones are
unknown. Positions below are those of the vendor's field list, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from migrate.inventory import netbackup
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Notes
from migrate.inventory.rows import MAX_COUNT, CopyRow, FragmentRow, ImageRow, MediaRow, Row
from migrate.inventory.text import Lines, fault
from migrate.inventory.values import kib
from migrate.model import Storage

IMAGE = {
    "client": 2, "backup_id": 6, "policy": 7, "schedule": 11, "schedule_type": 12,
    "retention": 13, "backup_time": 14, "expiration": 16, "compression": 17, "encryption": 18,
    "kbytes": 19, "num_files": 20, "copies": 21, "num_fragments": 22, "primary": 28, "hold": 61,
}  # fmt: skip
FRAG = {
    "copy": 2, "number": 3, "kbytes": 4, "remainder": 5, "media_type": 6, "density": 7,
    "file": 8, "media_id": 9, "block_size": 11, "offset": 12, "media_date": 13,
    "expiration": 17, "mpx": 18, "key_tag": 28, "hold": 31,
}  # fmt: skip

KNOWN_COUNTS = {
    "IMAGE": frozenset((50, 54, 55, 58, 62, 67)),
    "FRAG": frozenset((26, 27, 28, 31, 36)),
}
"""Token counts seen in the field; others are read all the same."""

_LEAST = {"IMAGE": IMAGE["backup_time"], "FRAG": FRAG["media_id"]}
_NULL = "*NULL*"
_TOKEN = re.compile(r'(?:[^\s"]|"[^"]*")+')

DENSITIES = {
    6: "hcart", 14: "hcart2", 20: "hcart3", 13: "dlt", 15: "dlt2", 21: "dlt3", 12: "4mm",
    16: "8mm", 19: "dtf",
}  # fmt: skip
"""Source: public scripts. LTO generations are mapped freely to the hcart ones."""


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
    return _Reader(lines, notes).rows()


class _Reader:
    def __init__(self, lines: Lines, notes: Notes) -> None:
        self._lines = lines
        self._notes = notes
        self._counts: dict[str, int] = {}

    def rows(self) -> Iterator[Row | MediaRow]:
        image: ImageRow | None = None
        for line in self._lines:
            number = self._lines.number
            tokens = split(line)
            if not tokens or tokens[0] == "HISTO":
                continue
            kind = tokens[0]
            if kind not in _LEAST:
                self._notes.ignore(number, "neither IMAGE nor FRAG", line.strip()[:60])
                continue
            usable = self._usable(kind, tokens)
            if kind == "IMAGE":
                image = self._image(tokens) if usable else None
                if image is not None:
                    yield Row(number, image)
            elif usable and image is None:
                self._notes.ignore(number, "FRAG without its IMAGE", lost=True)
            elif usable and image is not None:
                yield from self._fragment(tokens, image)

    def _usable(self, kind: str, tokens: Sequence[str]) -> bool:
        """Whether a record has the tokens that are needed; notes odd counts once per count."""
        number, count = self._lines.number, len(tokens)
        usual = self._counts.setdefault(kind, count)
        if self._lines.unterminated and (count < usual or count < min(KNOWN_COUNTS[kind])):
            raise fault(
                self._lines.path,
                number,
                f"the file ends within a record: {count} tokens of {kind}",
                hint="the export was cut off; export it again",
            )
        if count < _LEAST[kind]:
            self._notes.ignore(number, f"{kind} record is too short", f"{count} tokens", lost=True)
            return False
        if count not in KNOWN_COUNTS[kind] and (kind == "IMAGE" or count > 31):
            self._notes.once(
                number,
                f"{kind.lower()}_tokens_{count}",
                f"{kind} records of {count} tokens are of no release that is known here; the "
                "known positions are read",
            )
        return True

    def _number(self, tokens: Sequence[str], position: int, what: str) -> int | None:
        """The whole number at a position; unknown when missing, and with a finding when bad."""
        if position > len(tokens):
            return None
        token = tokens[position - 1]
        if token == _NULL:
            return None
        try:
            value = int(token) if len(token) < 32 else MAX_COUNT + 1
        except ValueError:
            value = MAX_COUNT + 1
        if not -MAX_COUNT <= value <= MAX_COUNT:
            message = f"{what}: {token[:40]!r} is not a number; taken as unknown"
            self._notes.warn(self._lines.number, "bad_value", message)
            return None
        return value

    def _image(self, tokens: Sequence[str]) -> ImageRow | None:
        image_id = tokens[IMAGE["backup_id"] - 1]
        parts = netbackup.split_backup_id(image_id)
        if parts is None:
            self._notes.ignore(self._lines.number, "not a backup id", image_id[:80], lost=True)
            return None

        def number(field: str) -> int | None:
            return self._number(tokens, IMAGE[field], field)

        kind = number("schedule_type")
        expiration = number("expiration")
        compression, encryption = number("compression"), number("encryption")
        return ImageRow(
            image_id=image_id,
            product=netbackup.PRODUCT,
            client=_text(tokens, IMAGE["client"]),
            policy=_text(tokens, IMAGE["policy"]),
            schedule=_text(tokens, IMAGE["schedule"]),
            schedule_type=netbackup.schedule_type("" if kind is None else str(abs(kind))),
            backup_time=netbackup.instant(parts[1]),
            expires=netbackup.expiry(expiration),
            retention_level=number("retention"),
            size_bytes=kib(number("kbytes")),
            file_count=_not_negative(number("num_files")),
            compressed=None if compression is None else compression != 0,
            encrypted=None if encryption is None else encryption != 0,
            hold=(number("hold") or 0) > 0,
            unfinished=expiration is not None and expiration <= 0,
            expected_copies=_not_negative(number("copies")),
            expected_fragments=_not_negative(number("num_fragments")),
            primary_copy=number("primary"),
        )

    def _fragment(self, tokens: Sequence[str], image: ImageRow) -> Iterator[Row | MediaRow]:
        def number(field: str) -> int | None:
            return self._number(tokens, FRAG[field], field)

        line = self._lines.number
        copy_number, fragment_number = number("copy"), number("number")
        if copy_number is None or fragment_number is None:
            self._notes.ignore(line, "FRAG without copy or number", image.image_id, lost=True)
            return
        media_id = tokens[FRAG["media_id"] - 1]
        media_type = number("media_type")
        storage = netbackup.storage_of(media_id, "" if media_type is None else str(media_type))
        # Fragments below 1 (true image restore information) may expire apart from the data.
        is_data = fragment_number > 0
        copy = CopyRow(
            copy_number=copy_number,
            storage=storage.value,
            expires=netbackup.expiry(number("expiration")) if is_data else None,
            hold=is_data and (number("hold") or 0) > 0,
        )
        size = kib(number("kbytes"), number("remainder"))
        if storage is Storage.DISK:
            place = FragmentRow(copy_number, fragment_number, media_id, size_bytes=size)
            yield Row(line, image, copy, place)
            return
        fragment = FragmentRow(
            copy_number,
            fragment_number,
            media_id,
            tape_file_number=_not_negative(number("file")),
            block_offset=_not_negative(number("offset")),
            block_size=_not_negative(number("block_size")) or None,
            size_bytes=size,
            size_is_exact=True,
            multiplexed=(number("mpx") or 0) > 0,
            media_assigned_at=netbackup.instant(number("media_date")),
            key_tag=_key_tag(tokens),
        )
        yield Row(line, image, copy, fragment)


def _text(tokens: Sequence[str], position: int) -> str | None:
    token = tokens[position - 1]
    return None if token == _NULL else token


def _key_tag(tokens: Sequence[str]) -> str | None:
    """The key's tag; short records have an unused number at its place or none."""
    at = FRAG["key_tag"] - 1
    if at >= len(tokens) or tokens[at] in (_NULL, "0"):
        return None
    return tokens[at]


def _not_negative(value: int | None) -> int | None:
    return value if value is None or value >= 0 else None
