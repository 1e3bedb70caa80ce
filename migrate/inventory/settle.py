"""From rows as they came to an inventory in order: sorted, repetitions dropped, conflicts named.

All heavy work is sorting inside SQLite, which spills to disk, so memory does not grow with the
catalogue. Python sees only those repeated rows that differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from catalog.model import NANOSECONDS, iso
from migrate.inventory import netbackup
from migrate.inventory.report import ImportReport, Severity
from migrate.inventory.rows import NEVER
from migrate.inventory.schema import (
    COPY,
    FRAGMENT,
    FRAGMENT_INDEX,
    FRAGMENT_KIND,
    FRAGMENT_OWN,
    IMAGE,
    IMAGE_KIND,
    IMAGE_OWN,
    listed,
)
from migrate.inventory.values import KIB

Values = Mapping[str, Any]
Merge = Callable[[Values, Values], tuple[dict[str, Any], list[str]]]
"""Given the kept row and the other one: what to change in the kept one, and what differs."""


_MINUTE = 60 * NANOSECONDS


def settle(db: sqlite3.Connection, report: ImportReport) -> None:
    """Fill the final tables from the staging tables, and index them."""
    _images(db, report)
    _copies(db, report)
    _fragments(db, report)
    db.execute("UPDATE image_kind SET product = ? WHERE product IS NULL", (netbackup.PRODUCT,))
    db.execute(FRAGMENT_INDEX)
    db.execute(  # by the index: a tape is known by the first fragment that is not on disk
        "INSERT OR IGNORE INTO media SELECT media_id, NULL, NULL, NULL, NULL, 0, NULL, 0, 0, 0,"
        " NULL FROM (SELECT DISTINCT media_id FROM fragment_own) d WHERE EXISTS ("
        "SELECT 1 FROM fragment_own f JOIN copy c USING (image_no, copy_number)"
        " WHERE f.media_id = d.media_id AND c.storage IS NOT 'disk')"
    )


def _images(db: sqlite3.Connection, report: ImportReport) -> None:
    columns = listed(IMAGE_OWN)
    db.execute(
        f"INSERT OR IGNORE INTO image_own ({columns}, kind, line, raw_no)"
        f" SELECT {columns}, kind, line, raw_no FROM raw.image_own ORDER BY image_id, raw_no"
    )
    db.execute("INSERT INTO raw.place SELECT raw_no, image_no FROM main.image_own ORDER BY raw_no")
    if _count(db, "raw.image_own") == _count(db, "main.image_own"):
        return
    db.execute(
        "INSERT INTO raw.place SELECT r.raw_no, i.image_no FROM raw.image_own r"
        " JOIN main.image_own i ON i.image_id = r.image_id"
        " WHERE r.raw_no NOT IN (SELECT raw_no FROM raw.place)"
    )
    _merge_repeats(
        db,
        report,
        _Merging("image", IMAGE, IMAGE_KIND, ("image_no",), _merge_image),
        "raw_image r JOIN raw.place p ON p.raw_no = r.raw_no"
        " JOIN main.image k ON k.image_no = p.image_no",
        "r.raw_no",
    )


def _copies(db: sqlite3.Connection, report: ImportReport) -> None:
    columns = listed(COPY)
    db.execute(
        f"INSERT OR IGNORE INTO copy (image_no, {columns}, source, line)"
        f" SELECT p.image_no, {listed(COPY, 'r')}, r.source, r.line"
        " FROM raw.copy r JOIN raw.place p ON p.raw_no = r.raw_no"
        " ORDER BY p.image_no, r.copy_number, r.rowid"
    )
    if _count(db, "raw.copy") == _count(db, "main.copy"):
        return
    _merge_repeats(
        db,
        report,
        _Merging("copy", COPY, (), ("image_no", "copy_number"), _merge_copy),
        "raw_copy r JOIN raw.place p ON p.raw_no = r.raw_no"
        " JOIN main.copy k ON k.image_no = p.image_no AND k.copy_number = r.copy_number",
        "r.came",
    )


def _fragments(db: sqlite3.Connection, report: ImportReport) -> None:
    columns = listed(FRAGMENT_OWN)
    db.execute(
        f"INSERT OR IGNORE INTO fragment_own (image_no, {columns}, kind, line)"
        f" SELECT p.image_no, {listed(FRAGMENT_OWN, 'r')}, r.kind, r.line"
        " FROM raw.fragment_own r JOIN raw.place p ON p.raw_no = r.raw_no"
        " ORDER BY p.image_no, r.copy_number, r.fragment_number, r.rowid"
    )
    if _count(db, "raw.fragment_own") == _count(db, "main.fragment_own"):
        return
    key = ("image_no", "copy_number", "fragment_number")
    _merge_repeats(
        db,
        report,
        _Merging("fragment", FRAGMENT, FRAGMENT_KIND, key, _merge_fragment),
        "raw_fragment r JOIN raw.place p ON p.raw_no = r.raw_no"
        " JOIN main.fragment k ON k.image_no = p.image_no AND k.copy_number = r.copy_number"
        " AND k.fragment_number = r.fragment_number",
        "r.came",
    )


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class _Merging(NamedTuple):
    """How the repeated rows of a table become one. kind: the columns that its kind holds."""

    table: str
    columns: Sequence[str]
    kind: Sequence[str]
    key: Sequence[str]
    merge: Merge


def _merge_repeats(
    db: sqlite3.Connection, report: ImportReport, how: _Merging, joined: str, order: str
) -> None:
    """Compare every repeated row with the one that was kept, one at a time.

    The kept row is read anew for each, by itself: what a join gave may be from before an update,
    and then a third row would be compared with the first alone.
    """
    columns, key = tuple(how.columns), how.key
    same = " AND ".join(f'r."{name}" IS k."{name}"' for name in columns)
    query = (
        f"SELECT {', '.join(f'k.{name}' for name in key)}, i.image_id,"
        f" {listed(columns, 'r')}, rs.path || ':' || r.line"
        f" FROM {joined} JOIN main.image_own i ON i.image_no = k.image_no"
        " JOIN source rs ON rs.source = r.source"
        f" WHERE (r.source, r.line) IS NOT (k.source, k.line) AND NOT ({same})"
        f" ORDER BY {order}"
    )
    kept_query = (
        f"SELECT {listed(columns, 't')}, path || ':' || t.line FROM main.{how.table} t"
        f" JOIN source USING (source) WHERE {_is(key)}"
    )
    for found in db.execute(query):
        identity, image_id = found[: len(key)], found[len(key)]
        kept_row = db.execute(kept_query, identity).fetchone()
        kept = dict(zip(columns, kept_row[:-1], strict=True))
        other = dict(zip(columns, found[len(key) + 1 : -1], strict=True))
        changes, differences = how.merge(kept, other)
        if changes:
            _update(db, how, identity, kept, changes)
        if differences:
            what = " ".join([image_id, *(f"{name} {kept[name]}" for name in key[1:])])
            _report(report, how.table, f"{kept_row[-1]} and {found[-1]}", what, differences)
            if how.table == "fragment":
                _mark_conflict(db, identity[0])


def _is(key: Sequence[str]) -> str:
    return " AND ".join(f"{name} = ?" for name in key)


def _update(
    db: sqlite3.Connection,
    how: _Merging,
    identity: Sequence[Any],
    kept: Values,
    changes: Mapping[str, Any],
) -> None:
    """Change a kept row; where its kind changes it gets one of its own."""
    own = {name: value for name, value in changes.items() if name not in how.kind}
    physical = f"main.{how.table}_own" if how.kind else f"main.{how.table}"
    if len(own) < len(changes):
        names = listed(tuple(how.kind))
        marks = ", ".join("?" * len(how.kind))
        own["kind"] = db.execute(
            f"INSERT INTO main.{how.table}_kind ({names}, source)"
            f" SELECT {marks}, source FROM main.{how.table}_kind"
            f" WHERE kind = (SELECT kind FROM {physical} WHERE {_is(how.key)})",
            (*({**kept, **changes}[name] for name in how.kind), *identity),
        ).lastrowid
    sets = ", ".join(f'"{name}" = ?' for name in own)
    db.execute(f"UPDATE {physical} SET {sets} WHERE {_is(how.key)}", (*own.values(), *identity))


def _mark_conflict(db: sqlite3.Connection, image_no: int) -> None:
    query = f"SELECT {listed(IMAGE)} FROM main.image WHERE image_no = ?"
    kept = dict(zip(IMAGE, db.execute(query, (image_no,)).fetchone(), strict=True))
    if not kept["conflict"]:
        how = _Merging("image", IMAGE, IMAGE_KIND, ("image_no",), _merge_image)
        _update(db, how, (image_no,), kept, {"conflict": 1})


def _report(
    report: ImportReport, table: str, places: str, what: str, differences: Sequence[str]
) -> None:
    what = what.replace("_number", "")
    message = f"disagree about {what}: {'; '.join(differences)}"
    if table == "fragment":
        report.add(Severity.ERROR, "rows_conflict", places, message)
    else:
        report.add(Severity.WARNING, "rows_differ", places, message)


# --- what happens when two rows of the same thing differ ---------------------------------------


def _fill(kept: Values, other: Values, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What one row does not know the other may tell; what both know has to agree."""
    changes: dict[str, Any] = {}
    differences: list[str] = []
    for name in names:
        if other[name] is None or other[name] == kept[name]:
            continue
        if kept[name] is None:
            changes[name] = other[name]
        else:
            differences.append(f"{name} {kept[name]} or {other[name]}")
    return changes, differences


def _later(kept: Values, other: Values) -> tuple[dict[str, Any], list[str]]:
    """Of two expiries the later one is kept: data is held too long rather than lost."""
    mine, theirs = kept["expires"], other["expires"]
    if theirs is None or mine == theirs:
        return {}, []
    changes = {"expires": theirs} if mine is None or theirs > mine else {}
    if mine is not None and abs(mine - theirs) < _MINUTE and min(mine, theirs) % _MINUTE == 0:
        return changes, []  # a listing without seconds agrees with every time within its minute
    words = ["infinity" if time == NEVER else iso(time) for time in (mine, theirs)]
    return changes, [] if mine is None else [f"expiry {words[0]} or {words[1]}"]


def _either(kept: Values, other: Values, names: Sequence[str]) -> dict[str, Any]:
    return {name: 1 for name in names if other[name] and not kept[name]}


def _merge_image(kept: Values, other: Values) -> tuple[dict[str, Any], list[str]]:
    """First come, but later expiry, any hold, and the row of a finished backup, win.

    Exports of two days may rightly differ: copies were added, a running backup ended.
    """
    if kept["unfinished"] and other["expires"] is not None:
        changes = {name: value for name, value in other.items() if value is not None}
        return {**changes, "unfinished": 0, **_either(changes, kept, ("hold", "conflict"))}, []
    if other["unfinished"] and kept["expires"] is not None:
        return _either(kept, other, ("hold", "conflict")), []
    own = ("expires", "hold", "conflict", "unfinished")
    changes, differences = _fill(kept, other, [name for name in IMAGE if name not in own])
    later, expiries = _later(kept, other)
    flags = _either(kept, other, ("hold", "conflict", "unfinished"))
    return {**changes, **later, **flags}, differences + expiries


def _merge_copy(kept: Values, other: Values) -> tuple[dict[str, Any], list[str]]:
    changes, differences = _fill(kept, other, ("storage",))
    later, expiries = _later(kept, other)
    return {**changes, **later, **_either(kept, other, ("hold",))}, differences + expiries


def _merge_fragment(kept: Values, other: Values) -> tuple[dict[str, Any], list[str]]:
    own = ("size_bytes", "size_is_exact")
    changes, differences = _fill(kept, other, [name for name in FRAGMENT if name not in own])
    mine, theirs = kept["size_bytes"], other["size_bytes"]
    if theirs is None or (mine == theirs and kept["size_is_exact"]):
        return changes, differences
    if mine is None or (mine == theirs and other["size_is_exact"]):
        return {
            **changes,
            "size_bytes": theirs,
            "size_is_exact": other["size_is_exact"],
        }, differences
    # A size in whole KiB agrees with every exact size that rounds down to it.
    if not kept["size_is_exact"] and other["size_is_exact"] and 0 <= theirs - mine < KIB:
        return {**changes, "size_bytes": theirs, "size_is_exact": 1}, differences
    if kept["size_is_exact"] and not other["size_is_exact"] and 0 <= mine - theirs < KIB:
        return changes, differences
    if mine != theirs:
        differences.append(f"size_bytes {mine} or {theirs}")
    return changes, differences
