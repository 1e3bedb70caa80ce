"""A run: plan what is left, read it with all drives, verify, release tapes, tell the ledger.

Everything that must survive is in the work folder's journal before it is acted upon, so the same
command goes on after Ctrl-C, kill -9 or a power cut. When a round has brought images further and
some are left (their fragments lay on tapes in a contradicting order), there is another round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import FrameType

from catalog.console import ExitCode
from catalog.errors import PoolError
from catalog.ledger import Ledger
from catalog.model import Kind
from catalog.s3 import S3Limits, parse_uri
from connector.pool import Manifest, Pool
from connector.pool.outbox import add
from connector.store.s3 import S3Store
from migrate import facts
from migrate.assembly import record_stored, verify_stored
from migrate.inventory.store import Inventory
from migrate.model import Media, Problem
from migrate.plan import Plan, make_plan
from migrate.progress import Progress
from migrate.schedule import Visit
from migrate.selection import Decision, Outcome
from migrate.session import FINISHING_PER_DRIVE, Session, StoppedError
from migrate.settings import Migration
from migrate.tape_files import verify_tape_file
from migrate.visit import TapeVisit
from migrate.work import ImageResult, WorkFolder, record, tape_file_moved

log = logging.getLogger(__name__)

MOST_STREAMS = 64
"""Images that one tape file may interleave, when a demultiplexer takes them apart."""
DECISIONS_AT_ONCE = 1000


@dataclass(kw_only=True)
class RunResult:
    """How a run ended. Counts are of the whole work folder, not only of this session."""

    images: dict[Outcome, int]
    bytes_stored: int
    mounted: int
    unusable: list[str]
    released: list[str]
    workdir: str
    run_id: str
    ledger: str
    interrupted: bool
    warnings: list[str] = field(default_factory=list)


def run(settings: Migration, *, quiet: bool = False) -> RunResult:
    """Migrate what is left to migrate.

    Raises:
        PoolError: the destination, the journal or the catalogue cannot be used. What was
        journaled stands; the same command goes on.
    """
    work = WorkFolder(settings.workdir)
    try:
        work.check("pool", settings.to, "the pool")
        inventory, _ = work.inventory(settings.catalogs, settings.options)
        with contextlib.closing(inventory), open_pool(settings, work) as pool:
            work.bind("pool", settings.to, "the pool")  # not before: it may have been a slip
            as_of = work.as_of(settings.as_of, pool.context.clock())
            return _run(settings, work, inventory, pool, as_of, quiet)
    finally:
        work.close()


def open_pool(settings: Migration, work: WorkFolder) -> Pool:
    """The pool that a migration writes to, with memory for all its drives."""
    streams = MOST_STREAMS if settings.demultiplexer else 1
    images_open = settings.drives * (streams + FINISHING_PER_DRIVE + 1)
    config = replace(settings.config, images_open=images_open)
    limits = S3Limits(
        deadline_s=settings.s3_deadline_s,
        max_connections=images_open * config.parts_in_flight + settings.drives,
    )
    location = parse_uri(settings.to, settings.endpoint_url)
    store = S3Store(location, limits=limits, encryption=settings.encryption)
    ledger = Ledger.open(settings.ledger, endpoint_url=settings.endpoint_url, limits=limits)
    pool = Pool(
        store,
        work.journal,
        ledger,
        config=config,
        run_id=work.run_id,
        encryption=settings.encryption.kind,
    )
    pool.check_lock(settings.lock)
    return pool


def _run(
    settings: Migration,
    work: WorkFolder,
    inventory: Inventory,
    pool: Pool,
    as_of: int,
    quiet: bool,
) -> RunResult:
    for manifest in pool.recover(record_recovered):
        log.info("image %s: the commit was finished", manifest.name)
    finished = work.finished()
    decisions = DecisionLog(pool, work)
    plan = make_plan(
        inventory,
        settings,
        as_of,
        wanted=lambda image_id: not finished(image_id),
        begun=work.begun,
        damaged=work.damaged_copy,
        decided=decisions.add,
    )
    decisions.flush()
    totals = [sum(plan.tapes[v.media_id].size for v in visits) for visits in plan.visits]
    progress = Progress(totals, plan.mounts, quiet=quiet)
    for warning in plan.warnings:
        progress.line(f"warning: {warning}")
    work.forget_tape_problems()
    session = Session(settings, pool, work, progress, as_of)
    session.leave_out(decisions.failed)
    try:
        with _stopping_on_signals(session), contextlib.closing(session):
            _rounds(session, inventory, plan, as_of)
        if not session.stopped:
            _verify_the_rest(session)
            release_tapes(session, inventory)
    finally:
        progress.close()
    if session.fatal is not None:
        raise session.fatal
    pool.flush()
    return _result(session, plan)


def _rounds(session: Session, inventory: Inventory, plan: Plan, as_of: int) -> None:
    """Visit tapes until nothing is left, or a round brought nothing further."""
    while any(plan.visits):
        session.advanced.clear()
        _one_round(session, plan.visits)
        session.wait_for_finishing()
        if session.stopped or not session.advanced.is_set():
            break
        plan = make_plan(
            inventory,
            session.settings,
            as_of,
            wanted=lambda image_id: not session.is_over(image_id),
            begun=session.work.begun,
        )
    if session.stopped:
        return
    for media_id in plan.tapes:
        for placed in inventory.fragments_on(media_id, selected_only=True):
            if not session.is_over(placed.image_id):
                why = "its fragments could not be read in their order"
                session.failed(inventory, placed.image_id, why)


def _one_round(session: Session, visits: list[list[Visit]]) -> None:
    """One thread per drive; this thread waits, so that signals find it awake."""
    threads = [
        threading.Thread(target=_drive, args=(session, number, run), name=f"drive {number}")
        for number, run in enumerate(visits)
        if run
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)


def _drive(session: Session, number: int, visits: list[Visit]) -> None:
    """Read tape after tape in one drive."""
    try:
        with contextlib.closing(session.work.another_inventory()) as inventory:
            tapes = {media.media_id: media for media in inventory.media()}
            for visit in visits:
                session.check_stopped()
                media = tapes.get(visit.media_id) or Media(media_id=visit.media_id)
                TapeVisit(session, inventory, number, media).perform()
    except StoppedError:
        pass
    except PoolError as exc:
        session.abort(exc)
    except Exception as exc:
        log.exception("drive %d", number)
        session.abort(PoolError(f"drive {number}: {type(exc).__name__}: {exc}", hint="report this"))


@contextlib.contextmanager
def _stopping_on_signals(session: Session) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run at the next block; a second one at once, as a kill does.

    A drive that waits for the store would otherwise hold the process until the store's deadline.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(ExitCode.INTERRUPTED)  # the journal stands a kill at any moment
        asked = True
        session.progress.line("stopping; once more to stop at once")
        session.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- outcomes that need no tape ---------------------------------------------------------------


class DecisionLog:
    """Writes the outcomes of images that are not read at all, many in a transaction."""

    def __init__(self, pool: Pool, work: WorkFolder) -> None:
        self._pool = pool
        self._work = work
        self._waiting: list[Decision] = []
        self.failed: list[str] = []

    def add(self, decision: Decision) -> None:
        """Take a decision; those with a copy to read are not ours."""
        if decision.outcome is None:
            return
        if decision.outcome is Outcome.FAILED:
            self.failed.append(decision.image.image_id)
        self._waiting.append(decision)
        if len(self._waiting) >= DECISIONS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._pool.journal.transaction(durable=True) as db:
            for decision in self._waiting:
                self._record(db, decision)
        self._waiting.clear()
        self._pool.flush_due()

    def _record(self, db: sqlite3.Connection, decision: Decision) -> None:
        assert decision.outcome is not None
        image = decision.image
        result = ImageResult(
            image_id=image.image_id,
            copy=None,
            outcome=decision.outcome,
            reason=decision.reason,
            size=None,
            sha256=None,
            verified=False,
        )
        if record(db, result):
            copy = next((one for one in image.copies if one.primary), None)
            add(
                db,
                [
                    facts.outcome_fact(
                        self._pool.context, image, copy, decision.outcome, decision.reason, {}
                    )
                ],
            )


def record_recovered(db: sqlite3.Connection, manifest: Manifest) -> None:
    """The outcome of a commit that a crash interrupted: a tape file's, or an image's."""
    place = manifest.origin.places[0] if manifest.origin.places else None
    if (
        place is not None
        and place.tape_file is not None
        and manifest.name == facts.tape_file_name(place.media_id, place.tape_file)
    ):
        tape_file_moved(db, place.media_id, place.tape_file, manifest.size)
    else:
        record_stored(db, manifest.name, manifest)


def _verify_the_rest(session: Session) -> None:
    """What was committed before a crash and not compared with the store since."""
    if not session.settings.verify:
        return
    for media_id, number in session.work.unverified_tape_files():
        session.check_stopped()
        moved = session.pool.stat(facts.tape_file_name(media_id, number), facts.POOL_COPY)
        verify_tape_file(session.pool, moved, media_id, number)
    for result in session.work.results():
        if result.outcome is Outcome.STORED and not result.verified:
            session.check_stopped()
            manifest = session.pool.stat(result.image_id)
            verify_stored(session.pool, result.image_id, manifest)


# --- tapes ------------------------------------------------------------------------------------


def release_tapes(session: Session, inventory: Inventory) -> None:
    """Say of which tapes every image that has not expired is stored and verified."""
    known = {tape.media_id: tape for tape in session.work.tapes()}
    for media in inventory.media():
        tape = known.get(media.media_id)
        if (tape and (tape.released or tape.problem)) or media.media_id in session.bad_tapes:
            continue
        if not _all_safe(session, inventory, media.media_id):
            continue
        barcode = tape.barcode if tape else media.barcode or media.media_id
        fact = facts.tape_fact(session.pool.context, Kind.TAPE_RELEASED, media, barcode)
        with session.pool.journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO tapes VALUES (?, ?, 0, '', 1) ON CONFLICT (media_id)"
                " DO UPDATE SET released = 1",
                (media.media_id, barcode),
            )
            add(db, [fact])


def _all_safe(session: Session, inventory: Inventory, media_id: str) -> bool:
    """Every image with anything on the tape is stored and verified, or has expired."""
    seen = False
    for placed in inventory.fragments_on(media_id):
        seen = True
        result = session.work.result(placed.image_id)
        if result is None:
            return False
        stored = result.outcome is Outcome.STORED and result.verified
        expired = result.outcome is Outcome.SKIPPED and Problem.EXPIRED in result.reason.split(", ")
        if not stored and not expired:
            return False
    return seen


def _result(session: Session, plan: Plan) -> RunResult:
    tapes = session.work.tapes()
    return RunResult(
        images=session.work.counts(),
        bytes_stored=session.work.bytes_stored(),
        mounted=sum(tape.mounts for tape in tapes),
        unusable=sorted(tape.barcode for tape in tapes if tape.problem),
        released=sorted(tape.barcode for tape in tapes if tape.released),
        workdir=str(session.settings.workdir),
        run_id=session.work.run_id,
        ledger=session.settings.ledger,
        interrupted=session.stopped,
        warnings=plan.warnings,
    )
