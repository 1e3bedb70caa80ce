"""Reading a settled inventory back as the neutral model: scans side by side, never a lookup."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from catalog.model import ScheduleType
from migrate.inventory.rows import NEVER
from migrate.inventory.schema import COPY, FRAGMENT, FRAGMENT_KIND, IMAGE, listed
from migrate.model import Copy, Fragment, Image, Media, Problem, Storage

_Rows = Iterator[tuple[Any, ...]]

_STORAGE = {kind.value: kind for kind in Storage}
_SCHEDULES = {kind.value: kind for kind in ScheduleType}


def images(db: sqlite3.Connection, image_id: str | None = None) -> Iterator[Image]:
    """Every image in the order of its id, or only the one."""
    chosen, parameters = "", ()
    if image_id is not None:
        row = db.execute(
            "SELECT image_no FROM image_own WHERE image_id = ?", (image_id,)
        ).fetchone()
        if row is None:
            return
        chosen, parameters = "WHERE image_no = ?", row
    image_rows = db.execute(
        f"SELECT image_no, {listed(IMAGE)}, path || ':' || line FROM image"
        f" LEFT JOIN source USING (source) {chosen} ORDER BY image_no",
        parameters,
    )
    copy_rows = _Ahead(
        db.execute(f"SELECT image_no, {listed(COPY)} FROM copy {chosen} ORDER BY 1, 2", parameters)
    )
    fragment_rows = _Ahead(
        db.execute(
            f"SELECT image_no, {listed(FRAGMENT)} FROM fragment {chosen} ORDER BY 1, 2, 3",
            parameters,
        )
    )
    for row in image_rows:
        number = row[0]
        yield _image(row, copy_rows.of(number), fragment_rows.of(number))


class _Ahead:
    """A sorted cursor from which the rows of one image are taken at a time."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self._next: tuple[Any, ...] | None = cursor.fetchone()

    def of(self, number: int) -> list[tuple[Any, ...]]:
        """The rows of this image; the rows of images before it are over."""
        found = []
        row = self._next
        while row is not None and row[0] <= number:
            if row[0] == number:
                found.append(row)
            row = self._cursor.fetchone()
        self._next = row
        return found


def _image(
    row: tuple[Any, ...], copy_rows: list[tuple[Any, ...]], fragment_rows: list[tuple[Any, ...]]
) -> Image:
    (
        _, image_id, product, client, policy, schedule, schedule_type, backup_time, expires,
        retention_level, size_bytes, file_count, compressed, encrypted, hold, unfinished,
        expected_copies, expected_fragments, primary, conflict, place,
    ) = row  # fmt: skip
    copies = _copies(copy_rows, fragment_rows, primary)
    if expires is None and not unfinished:
        expires = _latest([copy[3] for copy in copy_rows])
    if size_bytes is None:
        size_bytes = _sum(copies)
    return Image(
        image_id=image_id,
        product=product,
        client=client,
        policy=policy,
        schedule=schedule,
        schedule_type=None if schedule_type is None else _SCHEDULES[schedule_type],
        backup_time=backup_time,
        expires_at=None if expires == NEVER else expires,
        expires_infinite=expires == NEVER,
        retention_level=retention_level,
        size_bytes=size_bytes,
        file_count=file_count,
        compressed=None if compressed is None else bool(compressed),
        encrypted=None if encrypted is None else bool(encrypted),
        hold=bool(hold),
        unfinished=bool(unfinished),
        expected_copies=expected_copies,
        expected_fragments=expected_fragments,
        copies=copies,
        problems=(Problem.CONFLICT,) if conflict else (),
        row=place,
    )


def _copies(
    copy_rows: list[tuple[Any, ...]], fragment_rows: list[tuple[Any, ...]], primary: int | None
) -> tuple[Copy, ...]:
    copies = []
    for _, number, storage, expires, hold in copy_rows:
        own = [_fragment(row[1:]) for row in fragment_rows if row[1] == number]
        copies.append(
            Copy(
                copy_number=number,
                storage=_STORAGE[storage or Storage.TAPE.value],
                primary=number == primary,
                expires_at=None if expires == NEVER else expires,
                expires_infinite=expires == NEVER,
                hold=bool(hold),
                fragments=_in_order(own),
            )
        )
    return tuple(copies)


def _in_order(fragments: list[Fragment]) -> tuple[Fragment, ...]:
    """Data in ascending order, then what is not image data (numbers below 1)."""
    if not fragments or fragments[0].fragment_number > 0:
        return tuple(fragments)
    below = [one for one in fragments if one.fragment_number < 1]
    return tuple(fragments[len(below) :] + below[::-1])


def _fragment(row: tuple[Any, ...]) -> Fragment:
    (
        _, number, media_id, tape_file, block_offset, block_size, size_bytes, exact, multiplexed,
        assigned_at, key_tag,
    ) = row  # fmt: skip
    return Fragment(
        fragment_number=number,
        media_id=media_id,
        tape_file_number=tape_file,
        block_offset=block_offset,
        block_size=block_size,
        size_bytes=size_bytes,
        size_is_exact=bool(exact),
        multiplexed=bool(multiplexed),
        media_assigned_at=assigned_at,
        key_tag=key_tag,
    )


def _latest(expiries: list[int | None]) -> int | None:
    """An image whose own expiry is not given expires with its last copy."""
    known = [time for time in expiries if time is not None]
    return max(known) if known else None


def _sum(copies: tuple[Copy, ...]) -> int | None:
    """The size of an image that only its fragments give: of the first whole copy that has it."""
    for copy in sorted(copies, key=lambda one: not one.primary):
        data = [one for one in copy.fragments if one.fragment_number > 0]
        whole = [one.fragment_number for one in data] == list(range(1, len(data) + 1))
        sizes = [one.size_bytes for one in data if one.size_bytes is not None]
        if data and whole and len(sizes) == len(data):
            return sum(sizes)
    return None


def media(db: sqlite3.Connection) -> Iterator[tuple[Media, bool]]:
    """Every tape by its id, and whether it is listed."""
    for row in db.execute(
        "SELECT media_id, barcode, label, density, assigned_at, assigned_uncertainty, expires,"
        " frozen, suspended, listed FROM media ORDER BY media_id"
    ):
        expires = row[6]
        tape = Media(
            media_id=row[0],
            barcode=row[1],
            label=row[2],
            density=row[3],
            assigned_at=row[4],
            assigned_uncertainty=row[5],
            expires_at=None if expires == NEVER else expires,
            expires_infinite=expires == NEVER,
            frozen=bool(row[7]),
            suspended=bool(row[8]),
        )
        yield tape, bool(row[9])


_SELECTED = " JOIN selected s USING (image_no, copy_number)"


def fragments_on(
    db: sqlite3.Connection, media_id: str, selected_only: bool
) -> Iterator[tuple[str, int, Fragment]]:
    """Image id, copy number and fragment, in the order of the tape."""
    for row in db.execute(fragments_on_query(selected_only), (media_id,)):
        yield row[0], row[1], _fragment(row[1:])


def fragments_on_query(selected_only: bool) -> str:
    """The query behind ``fragments_on``; it has to walk the index and must not sort."""
    chosen = _SELECTED.replace("JOIN", "CROSS JOIN") if selected_only else ""
    shown = ", ".join(f'{"k" if name in FRAGMENT_KIND else "f"}."{name}"' for name in FRAGMENT)
    return (  # CROSS JOIN keeps the order of the loops
        f"SELECT i.image_id, {shown} FROM fragment_own f"
        f" INDEXED BY fragment_by_place{chosen} CROSS JOIN image_own i USING (image_no)"
        " CROSS JOIN fragment_kind k ON k.kind = f.kind"
        " WHERE f.media_id = ? ORDER BY f.tape_file_number, f.block_offset, f.image_no,"
        " f.copy_number, f.fragment_number"
    )


def spanning(
    db: sqlite3.Connection, selected_only: bool
) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Image id, copy number and the tapes in the order of the data."""
    chosen = _SELECTED if selected_only else ""
    cursor = db.execute(
        "SELECT f.image_no, f.copy_number FROM fragment_own f"
        " JOIN copy c USING (image_no, copy_number)"
        f"{chosen} WHERE f.fragment_number > 0 AND c.storage IS NOT 'disk'"
        " GROUP BY f.image_no, f.copy_number HAVING min(f.media_id) <> max(f.media_id)"
        " ORDER BY f.image_no, f.copy_number"
    )
    for image_no, copy_number in cursor:
        name = db.execute(
            "SELECT image_id FROM image_own WHERE image_no = ?", (image_no,)
        ).fetchone()
        tapes = db.execute(
            "SELECT media_id FROM fragment_own WHERE image_no = ? AND copy_number = ?"
            " AND fragment_number > 0 ORDER BY fragment_number",
            (image_no, copy_number),
        )
        yield name[0], copy_number, tuple(dict.fromkeys(row[0] for row in tapes))


def media_totals(db: sqlite3.Connection, selected_only: bool) -> _Rows:
    """Media id, images, fragments, bytes, fragments of unknown size; tapes only."""
    chosen = _SELECTED if selected_only else ""
    return db.execute(
        "SELECT media_id, count(DISTINCT image_no), count(*), coalesce(sum(size_bytes), 0),"
        " sum(size_bytes IS NULL) FROM fragment_own INDEXED BY fragment_by_place"
        f"{chosen} WHERE media_id IN (SELECT media_id FROM media)"
        " GROUP BY media_id ORDER BY media_id"
    )
