"""Multiplexed tape files are moved whole, once; their images name their place in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from catalog.errors import ImageDamaged, ImageExists
from catalog.model import Kind, LockMode, StorageClass, TapePlace
from connector.pool import Manifest, Origin, Pool, Retention
from connector.pool.classes import remaining_days
from connector.pool.commit import image_fact
from connector.pool.outbox import add
from connector.pool.verify import Depth
from migrate import facts
from migrate.assembly import ImageJob
from migrate.facts import POOL_COPY
from migrate.formats.interface import Done, Gap, Piece, Wanted
from migrate.formats.opaque import OpaqueFile
from migrate.model import Media
from migrate.session import Session
from migrate.source.interface import TapeEvent
from migrate.work import tape_file_moved


@dataclass(slots=True)
class TapeFileMover:
    """Moves one tape file. moved is how many bytes were new."""

    session: Session
    drive: int
    media: Media
    number: int
    moved: int = 0

    def move(
        self, events: Iterator[TapeEvent], jobs: Sequence[ImageJob], *, keeps_records: bool
    ) -> str:
        """Store the tape file; '' when it is there, else what is wrong with it."""
        name = facts.tape_file_name(self.media.media_id, self.number)
        retention = longest([job.retention for job in jobs])
        pool = self.session.pool
        try:
            writer = pool.write_image(
                name,
                POOL_COPY,
                storage_class=self._class(jobs, retention),
                on_commit=self._on_commit,
            )
        except ImageExists:
            manifest = pool.stat(name, POOL_COPY)
            with pool.journal.transaction(durable=True) as db:
                self._on_commit(db, manifest)
            return ""
        whole = OpaqueFile(keeps_records=keeps_records)
        wanted = Wanted(image_id=name, copy=POOL_COPY, fragment_number=1)
        known = writer.skipper(0)
        problem = ""
        try:
            for extract in whole.extract(events, [wanted]):
                self.session.check_stopped()
                if isinstance(extract, Piece):
                    new = known.feed(extract.data)
                    if new.nbytes:
                        writer.write(new)
                        self.moved += new.nbytes
                    self.session.progress.moved(self.drive, len(extract.data))
                elif isinstance(extract, Gap):
                    problem = problem or extract.reason
                elif isinstance(extract, Done):
                    problem = extract.problem or problem
        except ImageDamaged as exc:  # not what was read before a crash: nothing of it is kept
            pool.abort(writer)
            return str(exc)
        except BaseException:
            writer.release()
            raise
        if known.left:
            problem = f"it is {known.left} bytes shorter than when it was read before"
        if problem:
            pool.abort(writer)
            return problem
        runs = tuple(whole.block_map.runs) if whole.block_map else ()
        manifest = writer.close(origin=self._origin(jobs), retention=retention, blocks=runs)
        if not self.session.settings.verify:
            return ""
        return verify_tape_file(pool, manifest, self.media.media_id, self.number)

    def _class(self, jobs: Sequence[ImageJob], retention: Retention) -> StorageClass:
        now = self.session.as_of
        sizes = [job.image.size_bytes for job in jobs]
        size = None if None in sizes else sum(filter(None, sizes))
        days = remaining_days(
            now=now, expires_at=retention.expires_at, infinite=retention.expires_infinite
        )
        return self.session.choose_class(size, days)

    def _origin(self, jobs: Sequence[ImageJob]) -> Origin:
        place = TapePlace(
            media_id=self.media.media_id,
            barcode=jobs[0].barcodes.get(self.media.media_id),
            tape_file=self.number,
        )
        names = ", ".join(job.image.image_id for job in jobs[:100])
        return Origin(
            product=jobs[0].image.product,
            places=(place,),
            notes=(f"multiplexed tape file with {len(jobs)} images: {names}",),
        )

    def _on_commit(self, db: sqlite3.Connection, manifest: Manifest) -> None:
        tape_file_moved(db, self.media.media_id, self.number, manifest.size)


def verify_tape_file(pool: Pool, manifest: Manifest, media_id: str, number: int) -> str:
    """Compare a tape file with the store; '' when it is right, and then a fact says so.

    What is wrong with the file is wrong with every image in it.
    """
    found = pool.verify(manifest, Depth.CHECKSUM)
    if not found.ok:
        return "; ".join(found.problems + found.unknown)
    detail: dict[str, object] = {"depth": Depth.CHECKSUM}
    fact = image_fact(pool.context, manifest, Kind.VERIFIED, detail=detail)
    with pool.journal.transaction(durable=True) as db:
        db.execute(
            "UPDATE tape_files SET verified = 1 WHERE media_id = ? AND tape_file = ?",
            (media_id, number),
        )
        add(db, [fact])
    return ""


def longest(retentions: Sequence[Retention]) -> Retention:
    """The retention that covers all: a tape file is kept as long as any image in it."""
    result = Retention()
    for each in retentions:
        infinite = result.expires_infinite or each.expires_infinite
        ends = [end for end in (result.expires_at, each.expires_at) if end is not None]
        locks = [end for end in (result.lock_until, each.lock_until) if end is not None]
        modes = {result.lock_mode, each.lock_mode}
        strongest = next(
            mode
            for mode in (LockMode.COMPLIANCE, LockMode.GOVERNANCE, LockMode.NONE)
            if mode in modes
        )
        result = replace(
            result,
            expires_infinite=infinite,
            expires_at=None if infinite else max(ends, default=None),
            lock_mode=strongest,
            lock_until=max(locks, default=None),
            hold=result.hold or each.hold,
        )
    return result
