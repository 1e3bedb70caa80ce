"""Tape lists: ``bpmedialist -mlist``, ``-l``, ``-L`` and ``vmquery -b -a``, ``-a``.

They say which tapes exist, when each was assigned and what its barcode is. All are optional;
the validator needs them to find reused and unknown media.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from catalog.model import NANOSECONDS
from migrate.inventory import netbackup
from migrate.inventory.bpimagelist import DENSITIES
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Notes
from migrate.inventory.rows import NEVER, MediaRow
from migrate.inventory.text import Lines
from migrate.inventory.times import date_order, read_wall, to_utc
from migrate.inventory.values import text_or_none

_FROZEN, _SUSPENDED = 1, 2
"""Status bits of ``bpmedialist``. Source: public scripts."""

_MINUTE = 60 * NANOSECONDS
_ANY_ZONE = 14 * 3600 * NANOSECONDS
"""A local time of an unknown zone is within this of the same figures in UTC."""

_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4} \d{1,2}:\d\d(?::\d\d)?(?: [AaPp][Mm])?"
_MLIST_FIRST = re.compile(rf"(\S+)\s+\d+\s+\d+\s+({_DATE}|N/A)\s+(?:{_DATE}|N/A)\s+(\S+)\s")
_MLIST_SECOND = re.compile(rf"\s+\d+\s+({_DATE}|INFINITY|N/A)\s+(?:{_DATE}|N/A)(.*)")
_PAIR = re.compile(r"(\w+) = ([^,]*)")
_EPOCH = re.compile(r"\((\d{1,11})\)")


def is_bpmedialist_l(line: str) -> bool:
    """Whether a line is a record of ``bpmedialist -l``."""
    tokens = line.split()
    if len(tokens) < 14 or len(tokens[0]) > 6:
        return False
    return all(token.lstrip("-").isdecimal() and len(token) < 20 for token in tokens[2:14])


def read_bpmedialist_l(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[MediaRow]:
    """``bpmedialist -l``: one line a tape, epochs."""
    for line in lines:
        if not line.strip():
            continue
        if not is_bpmedialist_l(line):
            notes.ignore(lines.number, "not a bpmedialist -l record", line.strip()[:60])
            continue
        tokens = line.split()
        status = int(tokens[14]) if len(tokens) > 14 and tokens[14].isdecimal() else 0
        yield MediaRow(
            lines.number,
            tokens[0],
            density=DENSITIES.get(int(tokens[3])),
            assigned_at=netbackup.instant(int(tokens[4])),
            expires=netbackup.expiry(int(tokens[6])),
            frozen=bool(status & _FROZEN),
            suspended=bool(status & _SUSPENDED),
            listed=True,
        )


def read_bpmedialist_labelled(
    lines: Lines, options: ImportOptions, notes: Notes
) -> Iterator[MediaRow]:
    """``bpmedialist -L``: ``key = value`` pairs, epochs in parentheses, a blank line between."""
    values: dict[str, str] = {}
    first = 0
    for line in lines:
        pairs = dict(_PAIR.findall(line.rstrip("\r\n")))
        if "media_id" in pairs:
            if values:
                yield _labelled(values, first)
            values, first = pairs, lines.number
        elif values:
            values.update(pairs)
    if values:
        yield _labelled(values, first)


def _labelled(values: dict[str, str], line: int) -> MediaRow:
    def epoch(key: str) -> int | None:
        match = _EPOCH.search(values.get(key, ""))
        return int(match[1]) if match else None

    status = values.get("status", "0").strip().lower()
    bits = int(status, 16) if re.fullmatch(r"0x[0-9a-f]{1,8}", status) else 0
    return MediaRow(
        line,
        values.get("media_id", "").strip(),
        density=text_or_none(values.get("density", "").partition("(")[0]),
        assigned_at=netbackup.instant(epoch("allocated")),
        expires=netbackup.expiry(epoch("expiration")),
        frozen=bool(bits & _FROZEN),
        suspended=bool(bits & _SUSPENDED),
        listed=True,
    )


def read_mlist(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[MediaRow]:
    """``bpmedialist -mlist``: two or three lines a tape, local times to the minute."""
    local = _LocalTimes(options)
    row: MediaRow | None = None
    for line in lines:
        if first := _MLIST_FIRST.match(line):
            if row is not None:
                yield row
            assigned = local.instant(first[2], lines.number, notes)
            row = MediaRow(
                lines.number,
                first[1],
                density=first[3],
                assigned_at=assigned,
                assigned_uncertainty=0 if assigned is None else local.uncertainty,
                listed=True,
            )
        elif row is not None and (second := _MLIST_SECOND.match(line)):
            status = second[2].upper().split()
            row = row._replace(
                expires=local.expiry(second[1], lines.number, notes),
                frozen="FROZEN" in status,
                suspended="SUSPENDED" in status,
            )
    if row is not None:
        yield row


class _LocalTimes:
    """Times of a report for people: no seconds, and a zone only if the operator states one."""

    def __init__(self, options: ImportOptions) -> None:
        self._zone = options.zone()
        self.uncertainty = _MINUTE if self._zone is not None else _ANY_ZONE + _MINUTE

    def instant(self, text: str, line: int, notes: Notes) -> int | None:
        if text in ("N/A", "INFINITY"):
            return None
        try:
            wall = read_wall(text, date_order(text) or "month")
        except ValueError as exc:
            notes.warn(line, "bad_value", f"time of a tape: {exc}; taken as unknown")
            return None
        if self._zone is None:
            notes.once(
                line,
                "media_zone_unknown",
                "the tape list has local times; without --timezone a tape counts as reused only "
                "when it was assigned more than 14 hours later",
            )
            return netbackup.instant(wall.seconds)
        return netbackup.instant(to_utc(wall, self._zone))

    def expiry(self, text: str, line: int, notes: Notes) -> int | None:
        return NEVER if text == "INFINITY" else self.instant(text, line, notes)


def read_vmquery_b(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[MediaRow]:
    """``vmquery -b -a``: a table with the id in front; it has no barcode."""
    in_table = False
    for line in lines:
        if line.startswith("---"):
            in_table = True
            continue
        tokens = line.split()
        if in_table and len(tokens) >= 3:
            yield MediaRow(lines.number, tokens[0], density=tokens[1].lower(), listed=True)


def read_vmquery(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[MediaRow]:
    """``vmquery -a``: ``label: value`` blocks; the only list that has the barcodes."""
    media_id: str | None = None
    barcode: str | None = None
    first = 0
    for line in lines:
        label, colon, value = line.partition(":")
        label = label.strip().lower()
        if colon and label == "media id":
            if media_id is not None:
                yield MediaRow(first, media_id, barcode=barcode, listed=True)
            media_id, barcode, first = value.strip(), None, lines.number
        elif colon and label == "barcode":
            barcode = text_or_none(value)
    if media_id:
        yield MediaRow(first, media_id, barcode=barcode, listed=True)
