"""The inventory: everything the catalogues say, in SQLite, read back as a stream of images.

Made for ten million images in bounded memory. Life of an inventory: ``create``, ``add`` rows of
any number of files, ``settle`` once; from then on it is read. ``open`` takes a settled one.
The planner may mark copies as ``select``-ed and walk their fragments tape by tape.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from migrate.errors import InventoryError
from migrate.inventory import reading, settle
from migrate.inventory.report import ImportReport
from migrate.inventory.rows import MediaRow, Row
from migrate.inventory.schema import FINAL, SCHEMA_VERSION, STAGING
from migrate.inventory.staging import Staging
from migrate.model import Fragment, Image, Media

_T = TypeVar("_T")

CACHE_KIB = {"main": 32 * 1024, "raw": 8 * 1024}
"""SQLite's page caches while importing. Its sorter takes as much as main has before it spills,
so an import needs the two caches and main's a second time, whatever the catalogue's size."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much an inventory holds. media counts tapes, not disks."""

    images: int
    copies: int
    fragments: int
    media: int


@dataclass(frozen=True, slots=True)
class PlacedFragment:
    """A fragment with the names of its image and copy."""

    image_id: str
    copy_number: int
    fragment: Fragment


@dataclass(frozen=True, slots=True)
class MediaTotal:
    """What lies on one tape. size_bytes sums the known sizes, unknown_sizes counts the others."""

    media_id: str
    images: int
    fragments: int
    size_bytes: int
    unknown_sizes: int


@dataclass(frozen=True, slots=True)
class Spanning:
    """A copy on more than one tape; media in the order in which its data continues."""

    image_id: str
    copy_number: int
    media: tuple[str, ...]


class Inventory:
    """See the module. One connection: used by one thread at a time."""

    def __init__(self, db: sqlite3.Connection, path: Path | None, *, settled: bool) -> None:
        self._db = db
        self._path = path
        self._settled = settled
        self._staging = Staging(db)

    # --- making -------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path | str) -> Inventory:
        """Begin a new inventory at a path, or in memory (``:memory:``).

        Nothing appears under path before ``settle``: work goes on in ``path.partial`` and
        ``path.staging``, and what an interrupted import left there is replaced.

        Raises:
            InventoryError: the place cannot be written.
        """
        target = None if str(path) == ":memory:" else Path(path)
        work, staging = ":memory:", ""  # "" is a temporary file of SQLite's own
        if target is not None:
            work, staging = _aside(target, "partial"), _aside(target, "staging")
            for leftover in (work, staging):
                Path(leftover).unlink(missing_ok=True)
        try:
            db = _connect(work)
            db.execute("ATTACH ? AS raw", (staging,))
            for (
                schema,
                cache,
            ) in CACHE_KIB.items():  # made again from the catalogues if the host dies
                db.execute(f"PRAGMA {schema}.journal_mode = OFF")
                db.execute(f"PRAGMA {schema}.synchronous = OFF")
                db.execute(f"PRAGMA {schema}.cache_size = -{cache}")
            db.executescript(FINAL + STAGING)
        except (sqlite3.Error, OSError) as exc:
            raise _database_error(target, exc) from exc
        return cls(db, target, settled=False)

    @classmethod
    def open(cls, path: Path) -> Inventory:
        """Open a settled inventory.

        Raises:
            InventoryError: there is none, or it is of another version.
        """
        if not path.is_file():
            raise InventoryError(f"{path}: there is no inventory", hint="import the catalogue")
        try:
            db = _connect(str(path))
            row = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        except sqlite3.Error as exc:
            raise _database_error(path, exc) from exc
        if row is None or row[0] != SCHEMA_VERSION:
            db.close()
            raise InventoryError(
                f"{path}: the inventory is of another version", hint="import the catalogue again"
            )
        return cls(db, path, settled=True)

    def add(
        self,
        source: str,
        rows: Iterable[Row | MediaRow],
        report: ImportReport | None = None,
    ) -> int:
        """Take the rows of one source and return how many records. source is for reports.

        Raises:
            InventoryError: the inventory is settled, or the disk is full.
        """
        if self._settled:
            raise InventoryError("a settled inventory takes no more rows")
        try:
            return self._staging.take(source, rows, report or ImportReport())
        except sqlite3.Error as exc:
            raise _database_error(self._path, exc) from exc

    def settle(self, report: ImportReport | None = None) -> None:
        """Sort, drop repetitions, name conflicts in the report, index. Done once.

        Raises:
            InventoryError: already settled, or the disk is full.
        """
        if self._settled:
            raise InventoryError("the inventory is settled already")
        try:
            settle.settle(self._db, report or ImportReport())
            self._db.execute("INSERT INTO meta VALUES ('version', ?)", (SCHEMA_VERSION,))
            self._db.commit()
            for view in ("raw_image", "raw_copy", "raw_fragment"):
                self._db.execute(f"DROP VIEW {view}")
            self._db.execute("DETACH raw")
            if self._path is not None:
                self._publish(self._path)
        except (sqlite3.Error, OSError) as exc:
            raise _database_error(self._path, exc) from exc
        self._settled = True

    def _publish(self, path: Path) -> None:
        """The finished file gets its name only when its bytes are on the disk."""
        self._db.close()
        work = _aside(path, "partial")
        with Path(work).open("rb") as stream:
            os.fsync(stream.fileno())
        Path(work).replace(path)
        Path(_aside(path, "staging")).unlink(missing_ok=True)
        self._db = _connect(str(path))

    def close(self) -> None:
        """Close; an inventory that was not settled leaves nothing behind."""
        self._db.close()
        if self._path is not None and not self._settled:
            for name in ("partial", "staging"):
                Path(_aside(self._path, name)).unlink(missing_ok=True)

    def __enter__(self) -> Inventory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- reading ------------------------------------------------------------------------------

    def images(self) -> Iterator[Image]:
        """Every image by its id, as the catalogue says; problems holds at most ``conflict``.

        The validator adds the other problems. Memory: one image.
        """
        self._need_settled()
        return self._reading(reading.images(self._db))

    def image(self, image_id: str) -> Image | None:
        """One image, or None."""
        self._need_settled()
        return next(self._reading(reading.images(self._db, image_id)), None)

    def media(self) -> Iterator[Media]:
        """Every tape by its id: the listed ones, and those that only fragments name."""
        self._need_settled()
        return (tape for tape, _ in self.media_with_listing())

    def media_with_listing(self) -> Iterator[tuple[Media, bool]]:
        """As ``media``, and whether the tape stands in a list of the tapes that exist."""
        self._need_settled()
        return self._reading(reading.media(self._db))

    def has_media_list(self) -> bool:
        """Whether any list of tapes was imported; without one no tape counts as unknown."""
        self._need_settled()
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM media WHERE listed)"))

    def counts(self) -> Counts:
        """Numbers of images, copies, fragments and tapes."""
        self._need_settled()
        return Counts(
            images=self._one("SELECT count(*) FROM image_own"),
            copies=self._one("SELECT count(*) FROM copy"),
            fragments=self._one("SELECT count(*) FROM fragment_own"),
            media=self._one("SELECT count(*) FROM media"),
        )

    # --- for the planner ----------------------------------------------------------------------

    def fragments_on(
        self, media_id: str, *, selected_only: bool = False
    ) -> Iterator[PlacedFragment]:
        """The fragments on one tape in the order of the tape: file, block address, image.

        Fragments of unknown position come first. Memory: one fragment.
        """
        self._need_settled()
        rows = reading.fragments_on(self._db, media_id, selected_only)
        for image_id, copy_number, fragment in self._reading(rows):
            yield PlacedFragment(image_id, copy_number, fragment)

    def spanning(self, *, selected_only: bool = False) -> Iterator[Spanning]:
        """Copies whose fragments lie on more than one tape, by image id."""
        self._need_settled()
        rows = reading.spanning(self._db, selected_only)
        for image_id, copy_number, tapes in self._reading(rows):
            yield Spanning(image_id, copy_number, tapes)

    def media_totals(self, *, selected_only: bool = False) -> Iterator[MediaTotal]:
        """What lies on each tape, by media id; tapes with nothing on them are left out."""
        self._need_settled()
        for row in self._reading(reading.media_totals(self._db, selected_only)):
            yield MediaTotal(*row)

    def select(self, copies: Iterable[tuple[str, int]]) -> int:
        """Mark (image id, copy number) pairs for the ``selected_only`` queries; the number marked.

        Replaces the selection before. May be fed from ``images()`` of this same inventory.
        """
        self._need_settled()
        try:
            self._db.execute("DELETE FROM selected")
            self._db.executemany(
                "INSERT OR IGNORE INTO selected"
                " SELECT image_no, ? FROM image_own WHERE image_id = ?",
                ((number, image_id) for image_id, number in copies),
            )
            self._db.commit()
        except sqlite3.Error as exc:
            raise _database_error(self._path, exc) from exc
        return self._one("SELECT count(*) FROM selected")

    def _reading(self, rows: Iterator[_T]) -> Iterator[_T]:
        """Pass rows on; what SQLite complains about on the way becomes our error."""
        try:
            yield from rows
        except sqlite3.Error as exc:
            raise _database_error(self._path, exc) from exc

    def selected_copy(self, image_id: str) -> int | None:
        """The copy number that ``select`` marked of an image, or None."""
        self._need_settled()
        row = self._db.execute(
            "SELECT copy_number FROM selected JOIN image_own USING (image_no) WHERE image_id = ?",
            (image_id,),
        ).fetchone()
        return None if row is None else int(row[0])

    def _one(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _need_settled(self) -> None:
        if not self._settled:
            raise InventoryError("the inventory is not settled yet")


def _aside(path: Path, suffix: str) -> str:
    return str(path.with_name(f"{path.name}.{suffix}"))


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level="DEFERRED", check_same_thread=False)
    db.execute("PRAGMA temp_store = FILE")
    return db


def _database_error(path: Path | None, exc: Exception) -> InventoryError:
    where = path or "inventory"
    with suppress(AttributeError):
        if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return InventoryError(f"{where}: the disk is full", hint="free space and import again")
    return InventoryError(
        f"{where}: the inventory cannot be read or written: {exc}",
        hint="look at the folder's permissions and space, then import the catalogue again",
    )
