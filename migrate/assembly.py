"""One image while its fragments come from tape: which one is next, which bytes are new.

An image that was begun earlier, in this process or before a crash, goes on behind its last safe
byte: a fragment that is read again gives only what is missing.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from catalog.errors import (
    CatalogError,
    ImageDamaged,
    JournalError,
    PoolError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.model import Kind, StorageClass
from connector.pool import Manifest, Pool, Retention
from connector.pool.commit import image_fact
from connector.pool.outbox import add
from connector.pool.verify import Depth
from migrate import facts
from migrate.facts import POOL_COPY
from migrate.model import Copy, Image
from migrate.selection import Outcome
from migrate.work import ImageResult, WorkFolder, record


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageJob:
    """What is to become of one image. fragments of the copy that are data, in order."""

    image: Image
    copy: Copy
    storage_class: StorageClass
    retention: Retention
    barcodes: dict[str, str] = field(repr=False)

    @property
    def fragments(self) -> int:
        """How many fragments make the image."""
        return len(facts.data_fragments(self.copy))

    @property
    def opaque(self) -> bool:
        """Whether any of it is interleaved with other images."""
        return any(part.multiplexed for part in self.copy.fragments if part.fragment_number > 0)


class Assembly:
    """Puts one image together. Used by one drive at a time."""

    def __init__(self, pool: Pool, work: WorkFolder, job: ImageJob) -> None:
        """Begin, or go on.

        Raises:
            ImageExists: the image is complete in the pool.
        """
        self.job = job
        self._pool = pool
        self._work = work
        work.begin(job.image.image_id, job.copy.copy_number)
        self.writer = pool.write_image(
            job.image.image_id,
            POOL_COPY,
            storage_class=job.storage_class,
            on_commit=lambda db, manifest: record_stored(db, job.image.image_id, manifest),
        )
        self._ends = work.fragment_ends(job.image.image_id)
        self._skip = self.writer.skipper(self.writer.offset)
        self.notes: list[str] = []

    @property
    def next_fragment(self) -> int:
        """The first fragment that is not wholly safe; one more than there are when all are."""
        number = 1
        while number <= self.job.fragments:
            end = self._ends.get(number)
            if end is None or end > self.writer.offset:
                break
            number += 1
        return number

    def begin(self, number: int) -> None:
        """A fragment comes now from its first byte."""
        start = self._ends[number - 1] if number > 1 else 0
        self._skip = self.writer.skipper(start)

    def piece(self, data: bytes | memoryview) -> int:
        """Bytes of the fragment, in order; gives how many were new.

        Raises:
            ImageDamaged: what is safe already reads differently today.
        """
        if self._skip.left:
            data = self._skip.feed(data)
        if len(data):
            self.writer.write(data)
        return len(data)

    def end(self, number: int, note: str) -> None:
        """The fragment is over.

        Raises:
            ImageDamaged: it is shorter than when it was read before.
        """
        if self._skip.left:
            raise ImageDamaged(
                f"fragment {number} is {self._skip.left} bytes shorter than when it was read before"
            )
        if note:
            self.notes.append(f"fragment {number}: {note}")
        self._ends[number] = self.writer.offset
        if number < self.job.fragments:
            self._work.fragment_ended(self.job.image.image_id, number, self.writer.offset)

    def suspend(self) -> None:
        """The rest is on another tape: make safe what is here and let go."""
        self.writer.suspend()

    def release(self) -> None:
        """Let go after an error or an interruption; the journal knows how far it got."""
        self.writer.release()

    def give_up(self) -> None:
        """Remove what is in the store of it."""
        self._pool.abort(self.writer)

    def close(self) -> Manifest:
        """All fragments are in: commit."""
        origin = facts.origin(self.job.image, self.job.copy, self.job.barcodes, self.notes)
        return self.writer.close(origin=origin, retention=self.job.retention)


def record_stored(db: sqlite3.Connection, image_id: str, manifest: Manifest) -> None:
    """The outcome, in the transaction of the commit."""
    record(
        db,
        ImageResult(
            image_id=image_id,
            copy=manifest.origin.copy_number,
            outcome=Outcome.STORED,
            reason="",
            size=manifest.size,
            sha256=manifest.sha256,
            verified=False,
        ),
    )


def verify_stored(pool: Pool, image_id: str, manifest: Manifest) -> str:
    """Compare what the store holds with the manifest; '' when it is right, else what is wrong.

    Either way the outcome and a fact say so.
    """
    found = pool.verify(manifest, Depth.CHECKSUM)
    problem = "; ".join(found.problems + found.unknown)
    kind = Kind.FAILED if problem else Kind.VERIFIED
    result = ImageResult(
        image_id=image_id,
        copy=manifest.origin.copy_number,
        outcome=Outcome.FAILED if problem else Outcome.STORED,
        reason=problem,
        size=manifest.size,
        sha256=manifest.sha256,
        verified=not problem,
    )
    detail: dict[str, object] = {"depth": Depth.CHECKSUM}
    fact = image_fact(pool.context, manifest, kind, reason=problem or None, detail=detail)
    with pool.journal.transaction(durable=True) as db:
        record(db, result)
        add(db, [fact])
    return problem


def stop_reading(error: PoolError) -> bool:
    """Whether an error concerns more than the one image: the pool or the journal is unusable."""
    return isinstance(
        error, CatalogError | JournalError | StoreUnusable | TransientStoreError | Unsupported
    )
