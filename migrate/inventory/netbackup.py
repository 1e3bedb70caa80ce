"""Facts about NetBackup that its text exports share: ids, infinities, schedule types, disks.

The readers are in netbackup_csv.py, bpimagelist.py and media_lists.py.
"""

from __future__ import annotations

from catalog.model import NANOSECONDS, ScheduleType
from migrate.inventory.rows import NEVER
from migrate.model import Storage

PRODUCT = "netbackup"

INFINITE_SECONDS = frozenset((2_147_483_647, 32_535_212_400))
"""Expiry epochs that mean never: before release 9.0, and from 9.0 on. Both occur together."""

INFINITE_TICKS = frozenset((143_667_764_470_000_000, 447_545_052_000_000_000))
"""The same two in the database unit of the reporting product, see ``ticks_to_seconds``."""

_TICKS_AT_1970 = 122_192_928_000_000_000
_TICKS_PER_SECOND = 10_000_000

_LAST_SECOND = NEVER // NANOSECONDS
"""Expiries after the year 2262 do not fit 64-bit nanoseconds; they are kept as never."""

SCHEDULE_TYPES = {
    0: ScheduleType.FULL,
    1: ScheduleType.DIFF_INCR,
    2: ScheduleType.USER_BACKUP,
    3: ScheduleType.USER_ARCHIVE,
    4: ScheduleType.CUMUL_INCR,
    5: ScheduleType.TLOG,
}
"""``sched_type`` of the image header. Source: vendor's list; 5 is inferred."""

_SCHEDULE_WORDS = {
    "full": ScheduleType.FULL,
    "fullbackup": ScheduleType.FULL,
    "incr": ScheduleType.DIFF_INCR,
    "dinc": ScheduleType.DIFF_INCR,
    "incrbackup": ScheduleType.DIFF_INCR,
    "incremental": ScheduleType.DIFF_INCR,
    "diffincr": ScheduleType.DIFF_INCR,
    "differentialincremental": ScheduleType.DIFF_INCR,
    "differentialincrementalbackup": ScheduleType.DIFF_INCR,
    "cinc": ScheduleType.CUMUL_INCR,
    "cumulincr": ScheduleType.CUMUL_INCR,
    "cumulativeincremental": ScheduleType.CUMUL_INCR,
    "cumulativeincrementalbackup": ScheduleType.CUMUL_INCR,
    "ubak": ScheduleType.USER_BACKUP,
    "user": ScheduleType.USER_BACKUP,
    "userbackup": ScheduleType.USER_BACKUP,
    "uarc": ScheduleType.USER_ARCHIVE,
    "userarchive": ScheduleType.USER_ARCHIVE,
    "tlog": ScheduleType.TLOG,
    "transactionlog": ScheduleType.TLOG,
}


FRAGMENT_WORDS = {"tir": -1, "idx": 0}
"""What listings for people print instead of the number of a fragment that is not image data."""


def split_backup_id(image_id: str) -> tuple[str, int] | None:
    """Client and backup time (epoch seconds) of a backup id; the client may contain ``_``."""
    client, _, epoch = image_id.rpartition("_")
    if client and 9 <= len(epoch) <= 11 and epoch.isdecimal():
        return client, int(epoch)
    return None


def expiry(seconds: int | None) -> int | None:
    """An expiry epoch as nanoseconds: NEVER when infinite, None when unknown or not yet set."""
    if seconds is None or seconds <= 0:
        return None
    if seconds in INFINITE_SECONDS or seconds >= _LAST_SECOND:
        return NEVER
    return seconds * NANOSECONDS


def instant(seconds: int | None) -> int | None:
    """An epoch as nanoseconds; 0 and less is unknown, and so is what 64 bits cannot hold."""
    if seconds is None or not 0 < seconds < _LAST_SECOND:
        return None
    return seconds * NANOSECONDS


def ticks_to_seconds(ticks: int) -> int:
    """Time stamps of the reporting database: 100 ns since 1582-10-15."""
    return (ticks - _TICKS_AT_1970) // _TICKS_PER_SECOND


def schedule_type(text: str) -> ScheduleType | None:
    """A schedule type from its number or from any of the words reports use for it."""
    word = "".join(ch for ch in text.lower() if ch.isalnum())
    if word in ("", "null", "na"):
        return None
    if word.isascii() and word.isdecimal() and len(word) < 4:
        return SCHEDULE_TYPES.get(int(word), ScheduleType.OTHER)
    return _SCHEDULE_WORDS.get(word, ScheduleType.OTHER)


def storage_of(media_id: str, stated: str = "") -> Storage:
    """Disk or tape: as stated, else by the id; a tape's id holds no path or pool sign."""
    word = stated.strip().lower()
    if word in ("disk", "0"):
        return Storage.DISK
    if word in ("tape", "rmed", "removable", "2"):
        return Storage.TAPE
    looks_like_path = media_id[:1] in ("@", "/") or "\\" in media_id or "/" in media_id
    return Storage.DISK if looks_like_path else Storage.TAPE
