"""Tape lists: ``bpmedialist -mlist``, ``-l``, ``-L`` and ``vmquery -b -a``, ``-w -a``, ``-a``.

They say which tapes exist, when each was assigned and what its barcode is. All are optional;
the validator needs them to find reused and unknown media.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from catalog.model import NANOSECONDS
from migrate.inventory import netbackup
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Notes
from migrate.inventory.rows import NEVER, MediaRow
from migrate.inventory.text import Lines
from migrate.inventory.times import date_order, read_wall, to_utc
from migrate.inventory.values import text_or_none

DENSITIES = {
    6: "hcart", 14: "hcart2", 20: "hcart3", 13: "dlt", 15: "dlt2", 21: "dlt3", 12: "4mm",
    16: "8mm", 19: "dtf",
}  # fmt: skip
"""Source: public scripts. LTO generations are mapped freely to the hcart ones."""

_FROZEN, _SUSPENDED = 1, 2
"""Status bits of ``bpmedialist``. Source: public scripts."""

_MINUTE = 60 * NANOSECONDS
_ANY_ZONE = 14 * 3600 * NANOSECONDS
"""A local time of an unknown zone is within this of the same figures in UTC."""

_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4} \d{1,2}:\d\d(?::\d\d)?(?: [AaPp][Mm])?"
_MLIST_FIRST = re.compile(rf"(\S+)\s+\d+\s+\d+\s+({_DATE}|N/A)\s+(?:{_DATE}|N/A)\s+(\S+)\s")
_MLIST_SECOND = re.compile(rf"\s+\d+\s+({_DATE}|INFINITY|N/A)\s+(?:{_DATE}|N/A)(.*)")
_PAIR = re.compile(r"(\w+) = ([^,]*)")
_PAIR_LIKE = " = "
_MAX_RECORD = 4096
"""Characters of a line that are looked at with a pattern; a real one has under two hundred."""

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
        pairs = dict(_PAIR.findall(line.rstrip("\r\n")[:_MAX_RECORD]))
        if not pairs:
            if line.strip() and _PAIR_LIKE not in line:
                notes.ignore(lines.number, "no key and value", line.strip()[:60])
            continue
        if "media_id" in pairs:
            yield from _labelled(values, first, notes)
            values, first = pairs, lines.number
        elif values:
            values.update(pairs)
    yield from _labelled(values, first, notes)


def _labelled(values: dict[str, str], line: int, notes: Notes) -> Iterator[MediaRow]:
    """The tape of these pairs, if there are any."""
    media_id = values.get("media_id", "").strip()
    if not media_id:
        if values:
            notes.ignore(line, "no media id", lost=True)
        return

    def epoch(key: str) -> int | None:
        match = _EPOCH.search(values.get(key, ""))
        return int(match[1]) if match else None

    status = values.get("status", "0").strip().lower()
    bits = int(status, 16) if re.fullmatch(r"0x[0-9a-f]{1,8}", status) else 0
    yield MediaRow(
        line,
        media_id,
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
    in_table = False
    for line in lines:
        text = line[:_MAX_RECORD]
        if line.startswith("---"):
            in_table = True
        elif first := _MLIST_FIRST.match(text):
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
        elif row is not None and (second := _MLIST_SECOND.match(text)):
            status = second[2].upper().split()
            row = row._replace(
                expires=local.expiry(second[1], lines.number, notes),
                frozen="FROZEN" in status,
                suspended="SUSPENDED" in status,
            )
        elif in_table and line.strip() and not line.strip().isdecimal():
            in_table = not line.startswith("Server Host")  # the next server's header begins
            if in_table:
                notes.ignore(lines.number, "not of a tape's entry", line.strip()[:60], lost=True)
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
    for tokens in _table(lines, notes, least=_B_COLUMNS):
        yield MediaRow(lines.number, tokens[0], density=tokens[1].lower(), listed=True)


def read_vmquery_w(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[MediaRow]:
    """``vmquery -w -a``: a wide table, id, partner, type and barcode in front."""
    for tokens in _table(lines, notes, least=_W_COLUMNS):
        barcode = text_or_none(tokens[3].strip("-"))
        yield MediaRow(
            lines.number, tokens[0], barcode=barcode, density=tokens[2].lower(), listed=True
        )


_B_COLUMNS = 8
_W_COLUMNS = 30
"""Columns of the two tables, at least; the wide one has 37, of which the last may be empty."""


def is_vmquery_w(line: str) -> bool:
    """Whether a line is a record of ``vmquery -w -a``: a short id, and very many columns."""
    tokens = line.split()
    return len(tokens) >= _W_COLUMNS and len(tokens[0]) <= _MAX_MEDIA_ID and "=" not in line


_MAX_MEDIA_ID = 6


def _table(lines: Lines, notes: Notes, least: int) -> Iterator[list[str]]:
    """The records below the rule; others are left out with a finding."""
    in_table = False
    for line in lines:
        if line.startswith("---"):
            in_table = True
            continue
        tokens = line.split()
        if not tokens or not in_table:
            continue
        if len(tokens) < least or len(tokens[0]) > _MAX_MEDIA_ID:
            notes.ignore(lines.number, "not a record of the table", line.strip()[:60], lost=True)
            continue
        yield tokens


def read_vmquery(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[MediaRow]:
    """``vmquery -a``: ``label: value`` blocks; the usual list that has the barcodes."""
    media_id = ""
    barcode: str | None = None
    first = 0
    for line in lines:
        label, colon, value = line.partition(":")
        label = label.strip().lower()
        if colon and label == "media id":
            if media_id:
                yield MediaRow(first, media_id, barcode=barcode, listed=True)
            media_id, barcode, first = value.strip(), None, lines.number
            if not media_id:
                notes.ignore(first, "no media id", lost=True)
        elif colon and label == "barcode":
            barcode = text_or_none(value)
        elif not colon and line.strip("=- \t\r\n"):
            notes.ignore(lines.number, "no label", line.strip()[:60])
    if media_id:
        yield MediaRow(first, media_id, barcode=barcode, listed=True)
