"""Sections of a configuration as tables of keys, and the one engine that reads them.

A key is a row: its name, what values it takes, its default, what it means. docs/configuration.md is
made from the same rows (scripts/docs). Nothing here knows what a pool is; see ``config.py``.
"""

from __future__ import annotations

import difflib
import grp
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from catalog.errors import ConfigError
from connector.wire.messages import MAX_INT

UNITS = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)},
}
_SIZE = re.compile(rf"(\d{{1,19}})\s*({'|'.join(UNITS)})")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOMENT = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|(24):(00)")
NEEDED = object()
"""The default of a key that must be given."""


class Wrong(Exception):
    """A value is not what its key takes: what it is, and what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy


class Problems:
    """What is wrong with a file, all of it, so that it is mended in one go."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._found: list[tuple[str, str, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, key: str, what: str, remedy: str) -> None:
        """Note one thing; key is its full name, as ``pools.main.bucket``."""
        self._found.append((key, what, remedy))

    def add_error(self, key: str, error: ConfigError) -> None:
        """Note what the owner of a setting says of it."""
        self.add(key, error.message, error.hint or "see docs/configuration.md")

    def raise_if_any(self) -> None:
        """Raises ConfigError, which names the file and each key with its remedy."""
        if not self._found:
            return
        if len(self._found) == 1:
            ((key, what, remedy),) = self._found
            raise ConfigError(f"{self.file}: {key}: {what}", hint=remedy)
        told = " | ".join(f"{key}: {what}; {remedy}" for key, what, remedy in self._found)
        raise ConfigError(
            f"{self.file} has {len(self._found)} errors: {told}",
            hint="docs/configuration.md has every key",
        )


# --- what values a key takes ----------------------------------------------------------------------


class Kind(Protocol):
    """What a key takes."""

    @property
    def name(self) -> str:
        """The kind with its bounds, for the page and for errors."""
        ...

    def read(self, value: object, folder: Path) -> Any:
        """The value as settings hold it; folder is what relative paths start from.

        Raises:
            Wrong: it is none.
        """
        ...


@dataclass(frozen=True)
class Text:
    """A text that is not empty, or may be."""

    longest: int = 1024
    empty: bool = False
    name: str = "text"

    def read(self, value: object, folder: Path) -> str:
        """The text."""
        if not isinstance(value, str):
            raise Wrong(f"is {shown(value)} and not text", "put it in quotes")
        if not value and not self.empty:
            raise Wrong("is empty", "give a value, or leave the key out")
        if len(value) > self.longest or not value.isprintable():
            raise Wrong(
                "is too long or has control characters", f"use up to {self.longest} printable ones"
            )
        return value


@dataclass(frozen=True)
class OneOf:
    """One word of a list, in any case; make turns it into what settings hold."""

    words: tuple[str, ...]
    make: Callable[[str], Any] = str

    @property
    def name(self) -> str:
        """The words."""
        return ", ".join(f'"{word}"' for word in self.words)

    def read(self, value: object, folder: Path) -> Any:
        """The word, made into what settings hold."""
        if isinstance(value, str) and value.lower() in self.words:
            return self.make(value.lower())
        near = difflib.get_close_matches(str(value).lower(), self.words, 1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise Wrong(f"is {shown(value)}{guess}", f"use {', '.join(self.words)}")


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    lowest: int
    highest: int

    @property
    def name(self) -> str:
        """With bounds."""
        return f"integer, {self.lowest} to {self.highest}"

    def read(self, value: object, folder: Path) -> int:
        """The number."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"is {shown(value)} and not a whole number", "write it without quotes")
        if not self.lowest <= value <= self.highest:
            raise Wrong(f"is {value}", f"use {self.lowest} to {self.highest}")
        return value


@dataclass(frozen=True)
class Number:
    """A number, with or without decimals."""

    lowest: float
    highest: float

    @property
    def name(self) -> str:
        """With bounds."""
        return f"number, {self.lowest:.15g} to {self.highest:.15g}"

    def read(self, value: object, folder: Path) -> float:
        """The number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Wrong(f"is {shown(value)} and not a number", "write it without quotes")
        if not self.lowest <= value <= self.highest:  # which also refuses nan
            raise Wrong(f"is {value}", f"use {self.lowest:.15g} to {self.highest:.15g}")
        return float(value)


@dataclass(frozen=True)
class YesNo:
    """``true`` or ``false``."""

    name: str = "true or false"

    def read(self, value: object, folder: Path) -> bool:
        """The value."""
        if not isinstance(value, bool):
            raise Wrong(f"is {shown(value)}", "write true or false, without quotes")
        return value


@dataclass(frozen=True)
class Size:
    """Bytes, as a number or as text with a unit."""

    lowest: int = 1
    highest: int = MAX_INT

    @property
    def name(self) -> str:
        """With bounds."""
        top = "2^63 - 1 bytes" if self.highest == MAX_INT else size_name(self.highest)
        return f"size, {size_name(self.lowest)} to {top}"

    def read(self, value: object, folder: Path) -> int:
        """The bytes."""
        if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
            size: int = int(found[1]) * UNITS[found[2]]
        elif isinstance(value, int) and not isinstance(value, bool):
            size = value
        else:
            raise Wrong(
                f"is {shown(value)} and not a size", 'write bytes as a number, or like "16 MiB"'
            )
        if not self.lowest <= size <= self.highest:
            raise Wrong(f"is {shown(value)}", f"use a {self.name}")
        return size


@dataclass(frozen=True)
class File:
    """A path; a relative one starts at the folder of the configuration."""

    name: str = "path"

    def read(self, value: object, folder: Path) -> Path:
        """The path, absolute."""
        if not isinstance(value, str) or not value or "\0" in value:
            raise Wrong(f"is {shown(value)} and not a path", "give a path in quotes")
        try:
            return folder / Path(value).expanduser()
        except RuntimeError:
            raise Wrong(
                f"is {shown(value)}, of a user who is unknown", "write it in full"
            ) from None


@dataclass(frozen=True)
class People:
    """Users or groups of this host, by name or number."""

    groups: bool = False

    @property
    def name(self) -> str:
        """Whom it lists."""
        return f"list of {'groups' if self.groups else 'users'}, by name or number"

    def read(self, value: object, folder: Path) -> tuple[int, ...]:
        """Their numbers."""
        if not isinstance(value, list):
            raise Wrong(f"is {shown(value)} and not a list", 'write it like ["backup", 1001]')
        return tuple(self._number(one) for one in value)

    def _number(self, who: object) -> int:
        what = "group" if self.groups else "user"
        if isinstance(who, int) and not isinstance(who, bool) and 0 <= who < 2**32 - 1:
            return who
        if not isinstance(who, str):
            raise Wrong(f"has {shown(who)}", f"name a {what}, or give its number")
        try:
            return int(grp.getgrnam(who).gr_gid if self.groups else pwd.getpwnam(who).pw_uid)
        except (KeyError, ValueError):
            raise Wrong(
                f"{what} {shown(who)} is not known on this host", "create it, or take it out"
            ) from None


@dataclass(frozen=True)
class Mode:
    """Permission bits."""

    name: str = 'permissions, like "0660" or 0o660'

    def read(self, value: object, folder: Path) -> int:
        """The bits."""
        if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
            return int(value, 8)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
            return value
        raise Wrong(f"is {shown(value)}", f"write {self.name}")


@dataclass(frozen=True)
class MomentOfDay:
    """A time of the local day, in minutes after midnight."""

    name: str = 'time of day, like "06:30"'

    def read(self, value: object, folder: Path) -> int:
        """The minutes."""
        found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise Wrong(f"is {shown(value)}", 'write it like "06:30"; the end of a day is "24:00"')
        return int(found[1] or found[3]) * 60 + int(found[2] or found[4])


@dataclass(frozen=True)
class DaysOfWeek:
    """Days; 0 is Monday."""

    name: str = f"list of {', '.join(DAYS)}"

    def read(self, value: object, folder: Path) -> tuple[int, ...]:
        """Their numbers, in order."""
        if not isinstance(value, list) or not value or not all(day in DAYS for day in value):
            raise Wrong(f"is {shown(value)}", f"list days of {', '.join(DAYS)}")
        return tuple(sorted({DAYS.index(day) for day in value}))


@dataclass(frozen=True)
class Table:
    """A table of keys; make turns them into what settings hold."""

    section: Section
    make: Callable[[Mapping[str, Any]], Any]

    @property
    def name(self) -> str:
        """Where its keys stand."""
        return f"table, see {self.section.title}"


@dataclass(frozen=True)
class Tables:
    """A list of tables of keys."""

    section: Section
    make: Callable[[Mapping[str, Any]], Any]

    @property
    def name(self) -> str:
        """Where its keys stand."""
        return f"list of tables, see {self.section.title}"


# --- keys and sections ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key. default NEEDED: it must be given; default_text is for the page."""

    name: str
    kind: Kind | Table | Tables
    default: Any
    meaning: str
    default_text: str | None = None


@dataclass(frozen=True)
class Section:
    """A table of the file. title is how the page heads it, as ``[socket]``."""

    title: str
    keys: tuple[Key, ...]

    def read(
        self, table: object, where: str, problems: Problems, *, optional: bool = False
    ) -> dict[str, Any]:
        """Every key's value or default; what is wrong goes to problems, with the default instead.

        A needed key that is missing or wrong is None in the answer.
        """
        if not isinstance(table, dict):
            problems.add(
                where, f"is {shown(table)} and not a table", f"write [{where}] and its keys"
            )
            table = {}
        known = {key.name: key for key in self.keys}
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                guess = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
                problems.add(f"{where}.{name}", "is not a key", guess)
        return {key.name: _value(key, table, f"{where}.{key.name}", problems) for key in self.keys}


def _value(key: Key, table: Mapping[str, Any], where: str, problems: Problems) -> Any:
    if key.name not in table:
        if key.default is NEEDED:
            problems.add(where, "is missing", f"give it: {key.kind.name}")
            return None
        return key.default
    value, before = table[key.name], len(problems)
    fallback = None if key.default is NEEDED else key.default
    try:
        if isinstance(key.kind, Table):
            read = key.kind.section.read(value, where, problems)
            return key.kind.make(read) if len(problems) == before else fallback
        if isinstance(key.kind, Tables):
            return _many(key.kind, value, where, problems)
        return key.kind.read(value, problems.file.parent)
    except Wrong as exc:
        problems.add(where, exc.what, exc.remedy)
    return fallback


def _many(kind: Tables, value: object, where: str, problems: Problems) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Wrong(f"is {shown(value)} and not a list", "write [{...}, {...}]")
    made = []
    for number, entry in enumerate(value, 1):
        before = len(problems)
        read = kind.section.read(entry, f"{where}[{number}]", problems)
        if len(problems) == before:
            try:
                made.append(kind.make(read))
            except Wrong as exc:
                problems.add(f"{where}[{number}]", exc.what, exc.remedy)
    return tuple(made)


def shown(value: object) -> str:
    """A value in an error: short, and on one line."""
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    return str(text) if len(str(text)) <= 60 else f"{str(text)[:60]}..."


def size_name(size: int) -> str:
    """Bytes as this file would write them: ``16 MiB``."""
    for unit, factor in sorted(UNITS.items(), key=lambda item: -item[1]):
        if unit.endswith("iB") and size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} bytes" if size != 1 else "1 byte"


def page_rows(section: Section) -> Sequence[str]:
    """The rows of a section for docs/configuration.md: key, values, default, meaning."""
    rows = []
    for key in section.keys:
        default = key.default_text
        if default is None:
            default = _default_text(key)
        rows.append(f"| `{key.name}` | {key.kind.name} | {default} | {key.meaning} |")
    return rows


def _default_text(key: Key) -> str:
    value = key.default
    if value is NEEDED:
        return "needed"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(key.kind, Size):
        return f"`{size_name(value)}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
