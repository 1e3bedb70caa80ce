"""Times as people export them, turned into instants: zones, day and month order, AM and PM.

Two authorities settle what a local time means: the zone an operator states, and the backup id,
whose end is the backup's epoch. Source: docs/design.md, section 8; a time is never guessed
without a finding that says so.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from migrate.inventory import netbackup
from migrate.inventory.report import Notes
from migrate.inventory.rows import NEVER
from migrate.inventory.text import fault
from migrate.inventory.values import NOTHING

Order = Literal["day", "month"]

_EPOCH = dt.datetime(1970, 1, 1)
_MAX_OFFSET_S = 14 * 3600
_OFFSET_STEP_S = 15 * 60
_CACHE_SIZE = 90_000
"""Dates, or clocks, to be remembered: a day has 86,400 seconds."""

_ISO_DATE = len("2019-01-04")
_EPOCH_DIGITS = 11

_INFINITE = frozenset(("infinity", "infinite", "never", "unlimited", "unendlich", "inf"))

_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(:\d\d)?)?")
_PARTS = re.compile(
    r"(\d{1,2})[./-](\d{1,2})[./-](\d{4})"
    r"(?:[ ,T]+(\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?)?"
)
_CLOCK = re.compile(r" (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]")
_EPOCH_BEHIND = re.compile(r"\((\d{1,11})\)$")
_ZONE_WORD = re.compile(r" ?(?:UTC|GMT|Z)$")


@dataclass(frozen=True, slots=True)
class Wall:
    """A time as written. seconds are since 1970 as if it were UTC.

    absolute: it names its zone, or is an epoch. resolution_s is 60 when seconds are not given,
    and 86400 for a date.
    """

    seconds: int
    absolute: bool
    resolution_s: int = 1


def date_order(text: str) -> Order | None:
    """Whether day or month stands first, where the numbers themselves tell."""
    match = _PARTS.match(text)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2])
    if first > 12 >= second:
        return "day"
    if second > 12 >= first:
        return "month"
    return None


def read_wall(text: str, order: Order) -> Wall:
    """Read a time in any of the shapes exports have; order is for ``05/06/2019``.

    Raises:
        ValueError: none of them.
    """
    if text.isascii() and text.isdecimal():
        return _number(text)
    if behind := _EPOCH_BEHIND.search(text):
        return Wall(int(behind[1]), absolute=True)
    if (iso := _ISO.match(text)) is not None:
        return _iso(text, iso)
    if parts := _PARTS.match(text):
        return _parts(text, parts, order)
    raise ValueError(f"{text[:40]!r} is not a time")


def _number(text: str) -> Wall:
    if len(text) <= 11:
        return Wall(int(text), absolute=True)
    if len(text) == 13:  # milliseconds, as web interfaces export
        return Wall(int(text) // 1000, absolute=True)
    if len(text) == 18:
        ticks = int(text)
        if ticks in netbackup.INFINITE_TICKS:
            return Wall(2_147_483_647, absolute=True)
        return Wall(netbackup.ticks_to_seconds(ticks), absolute=True)
    raise ValueError(f"{text[:40]!r} is not a time")


def _iso(text: str, match: re.Match[str]) -> Wall:
    rest = _ZONE_WORD.sub("Z", text) if text[-1] in "CTZ" else text
    moment = dt.datetime.fromisoformat(rest)
    resolution = 1 if match[1] else 60 if len(match[0]) > 10 else 86_400
    if moment.tzinfo is not None:
        naive = moment.astimezone(dt.UTC).replace(tzinfo=None)
        return Wall(_seconds(naive), True, resolution)
    return Wall(_seconds(moment), False, resolution)


def _parts(text: str, match: re.Match[str], order: Order) -> Wall:
    if "." in match[0][:3]:  # 04.01.2019 is day first wherever it is written
        order = "day"
    first, second, year = int(match[1]), int(match[2]), int(match[3])
    day, month = (first, second) if order == "day" else (second, first)
    hour = int(match[4] or 0)
    if match[7]:
        if not 1 <= hour <= 12:
            raise ValueError(f"{text[:40]!r} is not a time")
        hour = hour % 12 + (12 if match[7] in "pP" else 0)
    minute, second_of = int(match[5] or 0), int(match[6] or 0)
    tail = text[match.end() :]
    if tail and not _ZONE_WORD.fullmatch(tail):
        raise ValueError(f"{text[:40]!r} is not a time")
    moment = dt.datetime(year, month, day, hour, minute, second_of)
    resolution = 1 if match[6] else 60 if match[4] else 86_400
    return Wall(_seconds(moment), bool(tail), resolution)


def _seconds(moment: dt.datetime) -> int:
    delta = moment - _EPOCH
    return delta.days * 86_400 + delta.seconds


def to_utc(wall: Wall, zone: ZoneInfo) -> int:
    """Epoch seconds of a local time. The hour that occurs twice is read as its second pass:
    an expiry may then be an hour late, and is never an hour early."""
    if wall.absolute:
        return wall.seconds
    local = _EPOCH + dt.timedelta(seconds=wall.seconds)
    return int(local.replace(tzinfo=zone, fold=1).timestamp())


class _Walls:
    """Dates and clocks read before, each by itself: few of both make up very many times.

    ISO dates and others are kept apart, because a clock that may follow the one need not be
    right behind the other.
    """

    def __init__(self) -> None:
        self._iso: tuple[dict[str, int], dict[str, int]] = {}, {}
        self._other: tuple[dict[str, int], dict[str, int]] = {}, {}

    def seconds(self, text: str, order_known: bool) -> int | None:
        """Seconds of a local time whose date and clock were met before; None for other texts."""
        if text[4:8:3] == "--":
            days, clocks = self._iso
            at = _ISO_DATE
        elif order_known:
            days, clocks = self._other
            at = text.find(" ")
        else:
            return None
        day = days.get(text[:at])
        if day is None:
            return None
        rest = text[at:]
        clock = clocks.get(rest)
        if clock is None:
            if _CLOCK.fullmatch(rest) is None:
                return None
            clock = clocks[rest] = int(rest[1:3]) * 3600 + int(rest[4:6]) * 60 + int(rest[7:])
        return day + clock

    def learn(self, text: str, wall: Wall, order: Order) -> None:
        """Remember the parts of a local time that was read."""
        is_iso = text[4:8:3] == "--"
        at = _ISO_DATE if is_iso else text.find(" ")
        if wall.absolute or at < 0 or at == len(text):
            return
        days, clocks = self._iso if is_iso else self._other
        if max(len(days), len(clocks)) >= _CACHE_SIZE:
            days.clear()
            clocks.clear()
        day = read_wall(text[:at], order).seconds
        days[text[:at]] = day
        clocks[text[at:]] = wall.seconds - day

    def forget(self) -> None:
        """The order of day and month turned out to be another one."""
        self._other = {}, {}


class _Offsets:
    """What a zone's local time is ahead of UTC, day by day; few days have two answers."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._days: dict[int, int | None] = {}

    def utc(self, seconds: int) -> int:
        """Epoch seconds of a local time, as ``to_utc`` finds them."""
        day = seconds // 86_400
        if day not in self._days:
            if len(self._days) >= _CACHE_SIZE:
                self._days.clear()
            first, last = (self._ahead(one * 86_400) for one in (day, day + 1))
            self._days[day] = first if first == last else None
        ahead = self._days[day]
        return to_utc(Wall(seconds, False), self._zone) if ahead is None else seconds - ahead

    def _ahead(self, seconds: int) -> int:
        return seconds - to_utc(Wall(seconds, False), self._zone)


class TimeReader:
    """The times of one file: remembers what earlier rows settled about zone and order."""

    def __init__(self, zone: ZoneInfo | None, notes: Notes, path: str) -> None:
        self._zone = None if zone is None else _Offsets(zone)
        self._notes = notes
        self._path = path
        self._order: Order | None = None
        self._offset_s: int | None = None
        self._derived_is_told = False
        self._walls = _Walls()

    def known(self, text: str, utc: bool) -> int | None:
        """Epoch seconds of a time made of parts that were read before, or plain epoch seconds.

        None for other texts, and for a local time before a finding said how it is read.
        """
        return self._met(text, utc, self._offset_s if self._derived_is_told else None)

    def is_start(self, text: str, utc: bool, epoch: int) -> bool:
        """Whether a text is made of known parts and means this epoch, so that it needs no look."""
        return self._met(text, utc, self._offset_s) == epoch

    def _met(self, text: str, utc: bool, offset_s: int | None) -> int | None:
        """See ``known``; offset_s is what local times are ahead of UTC without a stated zone."""
        seconds = self._walls.seconds(text, self._order is not None)
        if seconds is None:
            plain = len(text) <= _EPOCH_DIGITS and text.isascii() and text.isdecimal()
            return int(text) if plain else None
        if utc:
            return seconds
        if self._zone is not None:
            return self._zone.utc(seconds)
        return None if offset_s is None else seconds - offset_s

    def backup_time(self, text: str, line: int, *, utc: bool, epoch: int | None) -> int | None:
        """The backup's instant in nanoseconds. epoch, from the backup id, is the authority.

        Raises:
            ValueError: the text is not a time, and there is no epoch.
            InventoryError: a local time, and no zone is known.
        """
        if epoch is not None and self.is_start(text, utc, epoch):
            return netbackup.instant(epoch)
        text = text.strip()
        if text.lower() in NOTHING:
            return netbackup.instant(epoch)
        if epoch is None:
            return netbackup.instant(self._utc(text, line, utc=utc))
        self._settle_order(text, epoch, utc)
        wall = self._wall(text)
        if wall.absolute or utc:
            offset = 0
        elif self._zone is not None:
            offset = wall.seconds - self._zone.utc(wall.seconds)
        else:
            offset = self._derive(wall, epoch)
        behind = wall.seconds - offset - (epoch - epoch % wall.resolution_s)
        if wall.resolution_s < 86_400 and behind not in (0, 3600, -3600):
            self._notes.once(
                line,
                "backup_time_mismatch",
                f"backup time {text!r} is not that of the backup id (epoch {epoch}); the id is "
                "taken, look at --timezone",
            )
        return netbackup.instant(epoch)

    def settle_order(self, order: Order) -> None:
        """Day or month stands first in this file, as the reader found out."""
        self._order = order
        self._walls.forget()

    def expiry(self, text: str, line: int, *, utc: bool) -> int | None:
        """An expiry in nanoseconds, NEVER, or None when there is none or it is 0.

        Raises:
            ValueError: the text is not a time.
            InventoryError: a local time, and no zone is known.
        """
        seconds = self.known(text, utc)
        if seconds is not None:
            return netbackup.expiry(seconds)
        text = text.strip()
        word = text.lower()
        if word in NOTHING:
            return None
        if word in _INFINITE:
            return NEVER
        return netbackup.expiry(self._utc(text, line, utc=utc))

    def instant(self, text: str, line: int, *, utc: bool) -> int | None:
        """Any other time, in nanoseconds; raises as ``expiry`` does."""
        text = text.strip()
        if text.lower() in NOTHING:
            return None
        return netbackup.instant(self._utc(text, line, utc=utc))

    def _utc(self, text: str, line: int, *, utc: bool) -> int:
        order = date_order(text)
        if order is not None and self._order is None:
            self._order = order
            self._walls.forget()
        elif order is None and self._order is None and _PARTS.match(text) and text[2:3] != ".":
            self._notes.once(line, "date_order_assumed", f"{text!r} is read with the month first")
        wall = self._wall(text)
        if wall.absolute or utc:
            return wall.seconds
        if self._zone is not None:
            return self._zone.utc(wall.seconds)
        if self._offset_s is None:
            raise fault(
                self._path,
                line,
                f"{text!r} is a local time and its zone is not known",
                hint="state the zone with --timezone, for example --timezone Europe/Berlin",
            )
        self._derived_is_told = True
        self._notes.once(
            line,
            "zone_derived",
            f"local times are read with the offset that the backup ids give "
            f"({self._offset_s // 60:+d} minutes here); where the clock changes, expiries may be "
            "an hour off: state --timezone",
        )
        return wall.seconds - self._offset_s

    def _wall(self, text: str) -> Wall:
        own = date_order(text)
        order = own or self._order or "month"
        wall = read_wall(text, order)
        if own is not None and self._order not in (None, own):
            raise ValueError(f"{text!r} has day and month the other way round than before")
        self._walls.learn(text, wall, order)
        return wall

    def _settle_order(self, text: str, epoch: int, utc: bool) -> None:
        """The reading whose day is the backup id's is the file's order of day and month."""
        if self._order is not None or not _PARTS.match(text):
            return
        order = date_order(text)
        if order is None:
            limit = _MAX_OFFSET_S + 86_400
            fits: list[Order] = [
                choice
                for choice in ("day", "month")
                if abs(read_wall(text, choice).seconds - epoch) <= limit
            ]
            order = fits[0] if len(fits) == 1 else None
        if order is not None:
            self._order = order
            self._walls.forget()

    def _derive(self, wall: Wall, epoch: int) -> int:
        offset = wall.seconds - (epoch - epoch % min(wall.resolution_s, 60))
        fits = wall.resolution_s < 86_400 and abs(offset) <= _MAX_OFFSET_S
        if fits and offset % _OFFSET_STEP_S == 0:
            self._offset_s = offset
            return offset
        return self._offset_s or 0
