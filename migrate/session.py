"""What the drives of one run share: pool, work folder, outcomes, and the wish to stop.

Every method may be called from any drive's thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from catalog.errors import ConfigError, ImageExists, NameInvalid, PoolError
from catalog.model import StorageClass
from connector.pool import Pool
from connector.pool.classes import choose, remaining_days
from connector.pool.manifest import Within
from connector.pool.outbox import add
from migrate import facts
from migrate.assembly import (
    Assembly,
    ImageJob,
    record_stored,
    stop_reading,
    verify_stored,
)
from migrate.costs import ASSUMED_SIZE
from migrate.facts import POOL_COPY
from migrate.inventory.store import Inventory
from migrate.model import Image, Media
from migrate.progress import Progress
from migrate.selection import Outcome
from migrate.settings import Migration
from migrate.work import TRIED_AGAIN, ImageResult, WorkFolder, record

log = logging.getLogger(__name__)

FINISHING_PER_DRIVE = 2
"""Images of one drive that may be committing while it reads on."""


class StoppedError(PoolError):
    """The run is being stopped; everything that is journaled can be resumed."""

    code = "interrupted"


class Session:
    """One run of a migration."""

    def __init__(
        self,
        settings: Migration,
        pool: Pool,
        work: WorkFolder,
        progress: Progress,
        as_of: int,
    ) -> None:
        if settings.shelf is None:
            raise ConfigError("there is nothing to read tapes from", hint="give --tapes")
        self.settings = settings
        self.shelf = settings.shelf
        self.as_of = as_of
        self.pool = pool
        self.work = work
        self.progress = progress
        self.barcodes = {tape.media_id: tape.barcode for tape in work.tapes()}
        self.bad_tapes: set[str] = set()
        self.advanced = threading.Event()
        self._stop = threading.Event()
        self._fatal: PoolError | None = None
        self._mutex = threading.Lock()
        self._placing = threading.Lock()
        self._claims: set[str] = set()
        self._cartridges: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._over: set[str] = set()
        self._pending = {name for name, _, _ in pool.pending()}
        self._finishers = ThreadPoolExecutor(
            settings.drives * FINISHING_PER_DRIVE, thread_name_prefix="finish"
        )
        self._finishing: dict[int, deque[Future[None]]] = defaultdict(deque)

    # --- stopping ------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask every drive to stop at the next block."""
        self._stop.set()

    def abort(self, error: PoolError) -> None:
        """Stop because the pool or the journal cannot be used."""
        with self._mutex:
            self._fatal = self._fatal or error
        self._stop.set()

    @property
    def fatal(self) -> PoolError | None:
        """Why the run had to end, if it had to."""
        return self._fatal

    @property
    def stopped(self) -> bool:
        """Whether the run is ending before its time."""
        return self._stop.is_set()

    def check_stopped(self) -> None:
        """Raise StoppedError when the run is to end."""
        if self._stop.is_set():
            raise StoppedError("the run was stopped", hint="run the same command to go on")

    def leave_out(self, image_ids: Iterable[str]) -> None:
        """Images that are not tried in this run."""
        with self._mutex:
            self._over.update(image_ids)

    def wait_for_finishing(self) -> None:
        """Until no image is being committed."""
        for queue in self._finishing.values():
            while queue:
                queue.popleft().result()

    def close(self) -> None:
        """Wait for the images that are being committed."""
        self._finishers.shutdown(wait=True, cancel_futures=False)

    # --- jobs ----------------------------------------------------------------------------

    def job(self, inventory: Inventory, image_id: str) -> ImageJob:
        """What is to become of a selected image."""
        image = inventory.image(image_id)
        chosen = inventory.selected_copy(image_id)
        if image is None or chosen is None:
            raise PoolError(f"image {image_id} has left the inventory")  # it cannot
        copy = next(copy for copy in image.copies if copy.copy_number == chosen)
        days = remaining_days(
            now=self.as_of, expires_at=image.expires_at, infinite=image.expires_infinite
        )
        return ImageJob(
            image=image,
            copy=copy,
            storage_class=self.choose_class(image.size_bytes, days),
            retention=facts.retention(
                image,
                lock=self.settings.lock,
                now=self.pool.context.clock(),
                infinite_days=self.settings.lock_infinite_days,
                can_hold=self.pool.context.capabilities.object_lock,
            ),
            barcodes=self.barcodes,
        )

    def choose_class(self, size: int | None, days: float) -> StorageClass:
        """The class for an image of size bytes (None: nobody knows) that is kept for days."""
        size = ASSUMED_SIZE if size is None else size
        objects = max(1, -(-size // self.settings.config.fragment_size))
        policy, prices = self.settings.policy, self.settings.prices
        return choose(policy, prices, size=size, days=days, objects=objects).storage_class

    def claim(self, image_id: str) -> bool:
        """Take an image for one drive; False while another has it."""
        with self._mutex:
            if image_id in self._claims:
                return False
            self._claims.add(image_id)
            return True

    def unclaim(self, image_ids: Iterable[str]) -> None:
        """Give images back."""
        with self._mutex:
            self._claims.difference_update(image_ids)

    def is_pending(self, image_id: str) -> bool:
        """Whether something of the image may be in the store already."""
        return image_id in self._pending or bool(self.work.fragment_ends(image_id))

    def is_over(self, image_id: str) -> bool:
        """Whether the image has ended in this run, or for good."""
        with self._mutex:
            if image_id in self._over:
                return True
        result = self.work.result(image_id)
        return result is not None and result.outcome not in TRIED_AGAIN

    # --- outcomes ------------------------------------------------------------------------

    def finish(self, drive: int, assembly: Assembly) -> None:
        """Commit and verify an image beside the reading; waits while too many are committing."""
        queue = self._finishing[drive]
        while len(queue) >= FINISHING_PER_DRIVE:
            queue.popleft().result()
        image_id = assembly.job.image.image_id
        self._end(image_id)
        queue.append(self._finishers.submit(self._finish, assembly, image_id))

    def _finish(self, assembly: Assembly, image_id: str) -> None:
        """In a finisher's thread."""
        try:
            manifest = assembly.close()
            problem = verify_stored(self.pool, image_id, manifest) if self.settings.verify else ""
            self.progress.counted(Outcome.FAILED if problem else Outcome.STORED)
            self.pool.flush_due()
        except ImageExists:
            self.adopt(assembly.job)
        except PoolError as exc:
            if stop_reading(exc):
                assembly.release()
                self.abort(exc)
                return
            assembly.give_up()
            self._outcome(assembly.job.image, assembly.job, Outcome.FAILED, str(exc))

    def adopt(self, job: ImageJob) -> None:
        """The image is complete in the pool: if it is the same backup, verify and count it."""
        image_id = job.image.image_id
        manifest = self.pool.stat(image_id, POOL_COPY)
        if manifest.origin.backup_time != job.image.backup_time:
            self._outcome(
                job.image,
                job,
                Outcome.FAILED,
                "the pool holds another image of this name, with another backup time",
            )
            return
        with self.pool.journal.transaction(durable=True) as db:
            record_stored(db, image_id, manifest)
        problem = verify_stored(self.pool, image_id, manifest)
        self._end(image_id)
        self.progress.counted(Outcome.FAILED if problem else Outcome.STORED)

    def place_if_complete(self, job: ImageJob) -> None:
        """Commit an image that lies within tape files, once all of them are in the pool."""
        within: list[Within] = []
        for part in facts.data_fragments(job.copy):
            number = part.tape_file_number
            if number is None or self.work.tape_file_size(part.media_id, number) is None:
                return
            within.append(
                Within(
                    image=facts.tape_file_name(part.media_id, number),
                    copy=POOL_COPY,
                    fragment_number=part.fragment_number,
                    size=part.size_bytes,
                )
            )
        with self._placing:  # two drives may end the last two tape files at the same time
            if not self.is_over(job.image.image_id):
                self._place(job, within)

    def _place(self, job: ImageJob, within: list[Within]) -> None:
        image_id = job.image.image_id
        try:
            manifest = self.pool.place_image(
                image_id,
                POOL_COPY,
                within=within,
                origin=facts.origin(job.image, job.copy, job.barcodes),
                retention=job.retention,
                size=job.image.size_bytes,
                on_commit=lambda db, manifest: record_stored(db, image_id, manifest),
            )
        except ImageExists:
            self.adopt(job)
            return
        except NameInvalid as exc:
            self._outcome(job.image, job, Outcome.FAILED, str(exc))
            return
        self._end(image_id)
        problem = verify_stored(self.pool, image_id, manifest) if self.settings.verify else ""
        self.progress.counted(Outcome.FAILED if problem else Outcome.STORED)

    def damaged(self, inventory: Inventory, image_id: str, why: str) -> None:
        """An image's bytes are not whole."""
        job = self.job(inventory, image_id)
        self._outcome(job.image, job, Outcome.DAMAGED, why)

    def failed(self, inventory: Inventory, image_id: str, why: str) -> None:
        """An image could not be tried."""
        job = self.job(inventory, image_id)
        self._outcome(job.image, job, Outcome.FAILED, why)

    def _outcome(self, image: Image, job: ImageJob, outcome: Outcome, why: str) -> None:
        log.warning("image %s: %s: %s", image.image_id, outcome, why)
        self._end(image.image_id)
        result = ImageResult(
            image_id=image.image_id,
            copy=job.copy.copy_number,
            outcome=outcome,
            reason=why,
            size=None,
            sha256=None,
            verified=False,
        )
        fact = facts.outcome_fact(self.pool.context, image, job.copy, outcome, why, self.barcodes)
        with self.pool.journal.transaction(durable=True) as db:
            if record(db, result):
                add(db, [fact])
        self.progress.counted(outcome)

    def _end(self, image_id: str) -> None:
        self.advanced.set()
        with self._mutex:
            self._over.add(image_id)

    # --- tapes ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def tape_in_use(self, media_id: str) -> Iterator[None]:
        """Have a cartridge to oneself; waits while another drive has it.

        Raises:
            StoppedError: the run ends meanwhile.
        """
        with self._mutex:
            lock = self._cartridges[media_id]
        while not lock.acquire(timeout=0.5):
            self.check_stopped()
        try:
            yield
        finally:
            lock.release()

    def mounted(self, drive: int, media: Media, barcode: str) -> None:
        """A tape is in a drive."""
        self.barcodes[media.media_id] = barcode
        self.work.tape_mounted(media.media_id, barcode)
        self.progress.mounted(drive, barcode)

    def tape_failed(self, media: Media, barcode: str, error: PoolError) -> None:
        """A tape cannot be used."""
        self.bad_tapes.add(media.media_id)
        self.work.tape_problem(media.media_id, barcode, error.message)
        self.progress.line(f"tape {barcode}: {error}")
