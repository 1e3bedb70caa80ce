"""The work folder of a migration: its journal, its inventory, and what became of each image.

The same folder and the same command go on where a run stopped. A folder belongs to one set of
catalogues, one pool and one as-of time; it says so when somebody brings another.
"""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import ConfigError
from catalog.model import from_iso, iso
from connector.pool.journal import Journal
from migrate.inventory.detect import read_catalogs
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import ImportReport
from migrate.inventory.store import Inventory
from migrate.selection import Outcome

SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
    image_id TEXT PRIMARY KEY, copy INTEGER, outcome TEXT NOT NULL, reason TEXT NOT NULL,
    size INTEGER, sha256 TEXT, verified INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS begun (
    image_id TEXT PRIMARY KEY, copy INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fragment_ends (
    image_id TEXT NOT NULL, fragment INTEGER NOT NULL, end INTEGER NOT NULL,
    PRIMARY KEY (image_id, fragment)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tape_files (
    media_id TEXT NOT NULL, tape_file INTEGER NOT NULL, size INTEGER NOT NULL,
    verified INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (media_id, tape_file)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tapes (
    media_id TEXT PRIMARY KEY, barcode TEXT NOT NULL, mounts INTEGER NOT NULL,
    problem TEXT NOT NULL, released INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""


TRIED_AGAIN = frozenset({Outcome.FAILED, Outcome.DAMAGED})
"""Outcomes that another run may better: with a mended tape, a second pass, another copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """What the journal keeps of an image that has ended."""

    image_id: str
    copy: int | None
    outcome: Outcome
    reason: str
    size: int | None
    sha256: str | None
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeResult:
    """What the journal keeps of a tape. problem is empty when it could be used."""

    media_id: str
    barcode: str
    mounts: int
    problem: str
    released: bool


class WorkFolder:
    """An open work folder; one process at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open or create; read_only looks at one while a run is using it.

        Raises:
            JournalError: another run uses it, or it cannot be written.
        """
        self.path = path
        self.journal = Journal(path / "journal.sqlite", schema=SCHEMA, read_only=read_only)

    def close(self) -> None:
        """Close and unlock."""
        self.journal.close()

    @property
    def run_id(self) -> str:
        """The run's name in the ledger: one for all sessions of this folder."""
        known = self.journal.setting("run_id")
        if known is None:
            known = uuid.uuid4().hex[:12]
            self.journal.remember("run_id", known)
        return known

    def bind(self, key: str, value: str, what: str) -> None:
        """Remember what this folder belongs to.

        Raises:
            ConfigError: it belongs to something else already.
        """
        if self.check(key, value, what) is None:
            self.journal.remember(key, value)

    def check(self, key: str, value: str, what: str) -> str | None:
        """What this folder belongs to, None while nothing is remembered.

        Raises:
            ConfigError: it belongs to something else than value.
        """
        known = self.journal.setting(key)
        if known not in (None, value):
            raise ConfigError(
                f"the work folder {self.path} belongs to {what} {known}, not {value}",
                hint="repeat the earlier command, or choose another --workdir",
            )
        return known

    def as_of(self, stated: int | None, now: int) -> int:
        """The moment that decides about expiry: stated, remembered, or now."""
        known = self.journal.setting("as_of")
        if known is None or stated is not None:
            value = iso(stated if stated is not None else now) or ""
            self.bind("as_of", value, "the --as-of time")
            return from_iso(value)
        return from_iso(known)

    def inventory(
        self, catalogs: Sequence[Path], options: ImportOptions
    ) -> tuple[Inventory, ImportReport | None]:
        """The inventory of these catalogues: imported once, opened afterwards.

        The report is None when it was imported before.
        """
        digest, what = _digest(catalogs), "catalogues with the SHA-256"
        path = self.path / "inventory.sqlite"
        if self.check("catalogs", digest, what) is not None and path.exists():
            return Inventory.open(path), None
        inventory = Inventory.create(path)
        try:
            report = read_catalogs(catalogs, inventory, options)
        except BaseException:
            inventory.close()
            raise
        self.bind("catalogs", digest, what)
        return inventory, report

    def another_inventory(self) -> Inventory:
        """The same inventory for another thread."""
        return Inventory.open(self.path / "inventory.sqlite")

    # --- outcomes ------------------------------------------------------------------------

    def finished(self) -> Callable[[str], bool]:
        """Whether an image needs no more work; one that failed or is damaged is tried again."""

        def lookup(image_id: str) -> bool:
            result = self.result(image_id)
            return result is not None and result.outcome not in TRIED_AGAIN

        return lookup

    def damaged_copy(self, image_id: str) -> int | None:
        """The copy in which an image was found damaged, or None."""
        result = self.result(image_id)
        return result.copy if result and result.outcome is Outcome.DAMAGED else None

    def result(self, image_id: str) -> ImageResult | None:
        """What became of an image, or None."""
        with self.journal.transaction() as db:
            row = db.execute("SELECT * FROM outcomes WHERE image_id = ?", (image_id,)).fetchone()
        return None if row is None else _result(row)

    def results(self) -> Iterator[ImageResult]:
        """Every image that has ended, by its id; a page at a time."""
        last = ""
        while True:
            with self.journal.transaction() as db:
                rows = db.execute(
                    "SELECT * FROM outcomes WHERE image_id > ? ORDER BY image_id LIMIT 1000",
                    (last,),
                ).fetchall()
            if not rows:
                return
            yield from (_result(row) for row in rows)
            last = rows[-1][0]

    def counts(self) -> dict[Outcome, int]:
        """Images by outcome, all four named."""
        with self.journal.transaction() as db:
            rows = db.execute("SELECT outcome, count(*) FROM outcomes GROUP BY outcome").fetchall()
        found = dict(rows)
        return {outcome: found.get(outcome, 0) for outcome in Outcome}

    def bytes_stored(self) -> int:
        """Bytes in the pool that this folder's runs stored: images, and tape files moved whole."""
        with self.journal.transaction() as db:
            images = db.execute(
                "SELECT coalesce(sum(size), 0) FROM outcomes"
                " WHERE outcome = ? AND sha256 IS NOT NULL",
                (Outcome.STORED,),
            ).fetchone()[0]
            files = db.execute("SELECT coalesce(sum(size), 0) FROM tape_files").fetchone()[0]
        return int(images) + int(files)

    # --- fragments and tape files ----------------------------------------------------------

    def begin(self, image_id: str, copy: int) -> None:
        """From now on this image is made from this copy: others have other fragments."""
        with self.journal.transaction() as db:
            db.execute("INSERT OR IGNORE INTO begun VALUES (?, ?)", (image_id, copy))

    def begun(self, image_id: str) -> int | None:
        """The copy that an image was begun with, or None."""
        with self.journal.transaction() as db:
            row = db.execute("SELECT copy FROM begun WHERE image_id = ?", (image_id,)).fetchone()
        return None if row is None else int(row[0])

    def fragment_ends(self, image_id: str) -> dict[int, int]:
        """Where in the image each fragment ended that was read whole, in bytes."""
        with self.journal.transaction() as db:
            return dict(
                db.execute(
                    "SELECT fragment, end FROM fragment_ends WHERE image_id = ?", (image_id,)
                ).fetchall()
            )

    def fragment_ended(self, image_id: str, fragment: int, end: int) -> None:
        """A fragment was read whole; it ends at byte end of the image."""
        with self.journal.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO fragment_ends VALUES (?, ?, ?)", (image_id, fragment, end)
            )

    def tape_file_size(self, media_id: str, tape_file: int) -> int | None:
        """The size of a tape file that was moved whole, or None."""
        with self.journal.transaction() as db:
            row = db.execute(
                "SELECT size FROM tape_files WHERE media_id = ? AND tape_file = ?",
                (media_id, tape_file),
            ).fetchone()
        return None if row is None else int(row[0])

    def unverified_tape_files(self) -> list[tuple[str, int]]:
        """Tape files that were moved whole and not compared with the store since."""
        with self.journal.transaction() as db:
            return db.execute(
                "SELECT media_id, tape_file FROM tape_files WHERE NOT verified"
            ).fetchall()

    # --- tapes ---------------------------------------------------------------------------

    def tape_mounted(self, media_id: str, barcode: str) -> None:
        """A tape was mounted; what was wrong with it before is forgotten."""
        with self.journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO tapes VALUES (?, ?, 1, '', 0) ON CONFLICT (media_id)"
                " DO UPDATE SET mounts = mounts + 1, problem = '', barcode = excluded.barcode",
                (media_id, barcode),
            )

    def forget_tape_problems(self) -> None:
        """A new run may find the tapes in order."""
        with self.journal.transaction() as db:
            db.execute("UPDATE tapes SET problem = ''")

    def tape_problem(self, media_id: str, barcode: str, problem: str) -> None:
        """A tape could not be used."""
        with self.journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO tapes VALUES (?, ?, 0, ?, 0) ON CONFLICT (media_id)"
                " DO UPDATE SET problem = excluded.problem",
                (media_id, barcode, problem),
            )

    def tapes(self) -> list[TapeResult]:
        """Every tape that was touched, by media id."""
        with self.journal.transaction() as db:
            rows = db.execute("SELECT * FROM tapes ORDER BY media_id").fetchall()
        return [
            TapeResult(
                media_id=media, barcode=barcode, mounts=mounts, problem=problem,
                released=bool(released),
            )
            for media, barcode, mounts, problem, released in rows
        ]  # fmt: skip


def tape_file_moved(
    db: sqlite3.Connection, media_id: str, tape_file: int, size: int | None
) -> None:
    """Note that a tape file is in the pool, within the caller's transaction."""
    db.execute(
        "INSERT OR REPLACE INTO tape_files (media_id, tape_file, size) VALUES (?, ?, ?)",
        (media_id, tape_file, size),
    )


def record(db: sqlite3.Connection, result: ImageResult) -> bool:
    """Write an outcome, within the caller's transaction; False when it says nothing new."""
    known = db.execute(
        "SELECT outcome, reason FROM outcomes WHERE image_id = ?", (result.image_id,)
    ).fetchone()
    db.execute(
        "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            result.image_id,
            result.copy,
            result.outcome,
            result.reason,
            result.size,
            result.sha256,
            result.verified,
        ),
    )
    if result.outcome is not Outcome.FAILED:  # that is tried again, and goes on
        db.execute("DELETE FROM fragment_ends WHERE image_id = ?", (result.image_id,))
        db.execute("DELETE FROM begun WHERE image_id = ?", (result.image_id,))
    return bool(known != (result.outcome, result.reason))


def _result(row: tuple[str, int | None, str, str, int | None, str | None, int]) -> ImageResult:
    image_id, copy, outcome, reason, size, sha256, verified = row
    return ImageResult(
        image_id=image_id,
        copy=copy,
        outcome=Outcome(outcome),
        reason=reason,
        size=size,
        sha256=sha256,
        verified=bool(verified),
    )


def _digest(paths: Sequence[Path]) -> str:
    """One SHA-256 over the catalogues' contents, whatever their names and order."""
    digests: list[str] = []
    for path in paths:
        try:
            with path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as exc:
            raise ConfigError(
                f"cannot read the catalogue {path}: {exc.strerror}", hint="check --catalog"
            ) from exc
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
