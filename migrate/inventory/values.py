"""Cells of text exports as values: numbers, yes and no, nothing. Product independent."""

from __future__ import annotations

import re

from migrate.inventory.rows import MAX_COUNT

KIB = 1024

NOTHING = frozenset(
    ("", "*null*", "null", "n/a", "na", "-", "--", "---", "none", "(none)", "(none specified)")
)
"""What exports print where they have nothing, in lower case."""

_YES = frozenset(("y", "yes", "ja", "j", "oui", "si", "true", "1", "x"))
_NO = frozenset(("n", "no", "nein", "non", "false", "0"))

_GROUPED = re.compile(r"[+]?\d{1,3}(?:([.,'\u2019\u00a0\u202f ])\d{3})(?:\1\d{3})*")
_SPREADSHEET_ZEROS = re.compile(r"(\d+)[.,]0+")
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE][+]?\d+")


def nothing(text: str) -> bool:
    """Whether a cell says that it has no value."""
    return text.strip().lower() in NOTHING


def text_or_none(text: str) -> str | None:
    """A cell's text without the blanks around it, or None."""
    text = text.strip()
    return None if text.lower() in NOTHING else text


def whole(text: str) -> int | None:
    """A count: plain, with thousands separators, or as a spreadsheet's ``12.0``. None if empty.

    Raises:
        ValueError: not a whole number of at most MAX_COUNT either way.
    """
    try:
        value = int(text) if len(text) < 32 else MAX_COUNT + 1
    except ValueError:
        text = text.strip()
        if text.lower() in NOTHING:
            return None
        value = _formatted(text)
    if not -MAX_COUNT <= value <= MAX_COUNT:
        raise ValueError(f"{text[:40]!r} is too large")
    return value


def _formatted(text: str) -> int:
    if len(text) < 40:
        if _GROUPED.fullmatch(text):
            return int("".join(ch for ch in text if ch.isdigit()))
        if zeros := _SPREADSHEET_ZEROS.fullmatch(text):
            return int(zeros[1])
    raise ValueError(f"{text[:40]!r} is not a whole number")


def kib(kilobytes: int | None, remainder: int | None = None) -> int | None:
    """KiB and the bytes beyond them, as bytes. Below 0 and above MAX_COUNT bytes is unknown."""
    if kilobytes is None or not 0 <= kilobytes < MAX_COUNT // KIB:
        return None
    return kilobytes * KIB + (remainder if remainder is not None and 0 < remainder < KIB else 0)


def yes(text: str) -> bool | None:
    """Yes, no, or None when the cell is empty.

    Raises:
        ValueError: neither. A number other than 0 is yes.
    """
    word = text.strip().lower()
    if word in _NO:
        return False
    if word in _YES:
        return True
    if word in NOTHING:
        return None
    if word.isdecimal():
        return True
    raise ValueError(f"{text[:40]!r} is neither yes nor no")


def spreadsheet_number(text: str) -> bool:
    """Whether a spreadsheet turned this identifier into ``1.54664E+09``."""
    return _SCIENTIFIC.fullmatch(text) is not None
