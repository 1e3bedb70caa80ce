"""Keeps one pool in order: opens it, watches it, recovers it, cleans up behind clients.

Two threads for each pool. One opens and probes, so that a pool that is away is known within
seconds and tried again with growing pauses; the other does what may take long. Nothing here
deletes what another host may own: uploads that this journal never knew are told of, because a
living daemon may own them and nothing in the bucket says when it last wrote; the bucket's own
lifecycle rule for incomplete uploads is what ends them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from catalog.errors import (
    ImageBusy,
    ImageComplete,
    PoolDown,
    PoolError,
    StoreError,
    StoreUnusable,
    TransientStoreError,
)
from catalog.model import NANOSECONDS
from catalog.retry import Retrying
from connector.pool import names
from connector.pool.attempts import AttemptRow, AttemptState
from connector.pool.delete import finish_deletes
from connector.pool.keep import finish_keeps
from connector.pool.pool import Pool
from connector.pool.rebuild import rebuild
from connector.serve import recalls
from connector.serve.drafts import RESUMABLE, DraftState
from connector.serve.events import EventKind
from connector.serve.operations_writing import give_up, settle_commit
from connector.serve.units import Unit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often things are done, in seconds.

    probe_s between looks at a pool that is up, probe_deadline_s for one; retry_s the first pause
    after a failure, doubled up to longest_retry_s; tidy_s between cleanings, open_s the longest
    that opening may wait for the store.
    """

    probe_s: float = 15.0
    probe_deadline_s: float = 10.0
    retry_s: float = 1.0
    longest_retry_s: float = 30.0
    tidy_s: float = 30.0
    orphans_s: float = 6 * 3600.0
    open_s: float = 60.0


SKEW_S = 3600.0
"""A wall clock that moved this much against the monotonic one is not trusted to age anything."""


class Keeper:
    """The threads of one pool."""

    def __init__(self, unit: Unit, *, abandoned_s: float, pace: Pace) -> None:
        self._unit = unit
        self._pace = pace
        self.abandoned_s = abandoned_s
        self._stop = threading.Event()
        self._recovered = False
        self._pause = pace.retry_s
        self._orphans_at = 0.0
        self._known_orphans: set[str] = set()
        self._started = (unit.clock(), time.monotonic())
        self._threads = [
            threading.Thread(target=self._watch, name=f"watch-{unit.name}", daemon=True),
            threading.Thread(target=self._tidy, name=f"tidy-{unit.name}", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, wait_s: float) -> None:
        """End soon."""
        self._stop.set()
        self._unit.suspect()
        ends = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.1, ends - time.monotonic()))

    # --- up and down ---------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.is_set():
            wait_s = self._look()
            if self._unit.suspected.wait(wait_s):
                self._unit.suspected.clear()

    def _look(self) -> float:
        """Probe or open; gives how long to wait until the next look."""
        unit, pace = self._unit, self._pace
        try:
            if self._recovered:
                self._probe()
            else:
                self._open()
        except PoolError as exc:
            wait_s = self._pause * (0.5 + random.random() / 2)
            self._pause = min(2 * self._pause, pace.longest_retry_s)
            unit.set_down(str(exc), wait_s)
            # what is suspected while the pool is down is no reason to try more often
            unit.suspected.clear()
            self._stop.wait(min(wait_s, 0.2))
            return wait_s
        except Exception:
            log.exception("pool %s: the look at it failed", unit.name)
            unit.set_down("a fault of the daemon, see its log", pace.longest_retry_s)
            return pace.longest_retry_s
        self._pause = pace.retry_s
        unit.set_up()
        return pace.probe_s

    def _within(self, deadline_s: float, what: str, fn: Callable[[], object]) -> None:
        Retrying(deadline_s=deadline_s, first_wait_s=deadline_s).call(what, fn)

    def _probe(self) -> None:
        """A read of a small object: it asks whether the bucket is there and may be read."""
        store = self._unit.open_pool().context.store
        self._within(
            self._pace.probe_deadline_s,
            "probing",
            lambda: store.read(names.POOL_FILE, ceiling=65_536),
        )

    def _open(self) -> None:
        """Open the pool; recover, once. Then, and only then, it is up."""
        unit = self._unit
        self._within(self._pace.open_s, "opening", lambda: unit.open_pool())
        pool = unit.open_pool()
        unit.learn(pool)
        if not unit.index.complete:
            unit.set_opening("its index is being made from the bucket; this happens once")
            rebuild(pool, unit.index)
        finish_deletes(pool, unit.index)
        finish_keeps(pool, unit.index)
        finish_commits(unit, pool)
        forget_unowned(unit, pool)
        self._recovered = True

    # --- cleaning up ---------------------------------------------------------------------

    def _tidy(self) -> None:
        while not self._stop.is_set():
            pool = self._unit.opened
            if self._unit.up and pool is not None:
                self.tidy(pool)
            self._stop.wait(self._pace.tidy_s)

    def tidy(self, pool: Pool) -> None:
        """One round; what fails is tried again in the next one."""
        rounds: tuple[tuple[str, Callable[[], object]], ...] = (
            ("commits", lambda: finish_commits(self._unit, pool)),
            ("aborted images", lambda: finish_aborts(self._unit)),
            ("abandoned images", self._give_up_abandoned),
            ("deletions", lambda: finish_deletes(pool, self._unit.index)),
            ("retention and holds", lambda: finish_keeps(pool, self._unit.index)),
            ("recalls", lambda: recalls.watch(self._unit, pool)),
            ("ledger", pool.flush_due),
            ("orphans", lambda: self._look_for_orphans(pool)),
            ("drafts", lambda: self._unit.drafts.forget_old(self._unit.clock())),
        )
        for what, action in rounds:
            if self._stop.is_set():
                return
            try:
                action()
            except (TransientStoreError, StoreUnusable, PoolDown) as exc:
                log.info("pool %s: %s wait: %s", self._unit.name, what, exc.message)
                self._unit.suspect()
                return
            except PoolError as exc:
                log.warning("pool %s: %s: %s", self._unit.name, what, exc)
            except Exception:
                log.exception("pool %s: %s", self._unit.name, what)

    def _give_up_abandoned(self) -> None:
        """Incomplete images that nobody resumed in time; not by a clock that has jumped."""
        unit = self._unit
        if not self.abandoned_s or not self._clock_is_steady():
            return
        before = unit.clock() - int(self.abandoned_s * NANOSECONDS)
        for draft in unit.drafts.in_states(RESUMABLE, before=before):
            try:
                with unit.in_use.alone(draft.name, draft.copy):
                    now = unit.drafts.find(draft.name, draft.copy)
                    if now is None or now.state not in RESUMABLE or now.changed_at >= before:
                        continue
                    give_up(unit, now, "nobody resumed it in time", EventKind.ABANDONED)
            except (ImageBusy, ImageComplete):
                continue

    def _clock_is_steady(self) -> bool:
        wall, mono = self._started
        drift = (self._unit.clock() - wall) / NANOSECONDS - (time.monotonic() - mono)
        if abs(drift) > SKEW_S:
            log.warning("the clock has moved by %.0f s; nothing is given up by its age", drift)
            return False
        return True

    def _look_for_orphans(self, pool: Pool) -> None:
        """Uploads that no attempt owns: this host's are removed, others' are told of."""
        if time.monotonic() < self._orphans_at:
            return
        self._orphans_at = time.monotonic() + self._pace.orphans_s
        unit, foreign = self._unit, 0
        for upload in pool.orphans():
            token = upload.key.rpartition("/")[2].partition("-")[0]
            if unit.drafts.own(token) and _is_over(pool, token):
                pool.context.store.abort_upload(upload)
                unit.say(EventKind.ORPHAN_SWEPT, key=upload.key, upload_id=upload.upload_id)
                continue
            foreign += 1
            if upload.upload_id not in self._known_orphans:
                self._known_orphans.add(upload.upload_id)
                log.warning("%s/%s: an upload that this host did not begin", unit.uri, upload.key)
                unit.say(EventKind.ORPHAN_FOUND, key=upload.key, started_at=upload.started_at)
        unit.orphans = foreign


def _is_over(pool: Pool, token: str) -> bool:
    """Whether an attempt has ended; looked at again, because the listing took its time."""
    return all(row.token != token for row in pool.context.attempts.all())


def _is_copy(unit: Unit, attempt: AttemptRow) -> bool:
    with unit.journal.transaction() as db:
        row = db.execute("SELECT 1 FROM copies WHERE token = ?", (attempt.token,)).fetchone()
    return row is not None


def finish_commits(unit: Unit, pool: Pool) -> None:
    """Finish the commits that a crash or an outage interrupted, of images that nobody has open.

    A commit that the store refuses to finish is left, and does not keep the others back.
    """
    for attempt in pool.context.attempts.all():
        if attempt.state is not AttemptState.COMMITTING:
            continue
        draft = unit.drafts.find(attempt.name, attempt.copy)
        if draft is not None and draft.state is DraftState.ABORTED:
            continue  # its client was told that it is gone; ``finish_aborts`` sees to it
        try:
            with unit.in_use.alone(attempt.name, attempt.copy):
                settle_commit(unit, pool, attempt.name, attempt.copy)
        except ImageBusy:
            continue
        except (TransientStoreError, StoreUnusable):
            raise
        except (StoreError, PoolError) as exc:
            log.warning("image %r: its commit cannot be finished: %s", attempt.name, exc)


def finish_aborts(unit: Unit) -> None:
    """Remove what was given up while the store was away."""
    for draft in unit.drafts.in_states((DraftState.ABORTED,)):
        try:
            with unit.in_use.alone(draft.name, draft.copy):
                now = unit.drafts.find(draft.name, draft.copy)
                if now is not None and now.state is DraftState.ABORTED:
                    give_up(unit, now, "removed now that the store is back")
        except (ImageBusy, ImageComplete):
            continue


def forget_unowned(unit: Unit, pool: Pool) -> None:
    """Give up attempts that no draft and no copy owns: a crash came between the two."""
    for attempt in pool.context.attempts.all():
        if attempt.state is AttemptState.COMMITTING:
            continue
        if unit.drafts.find(attempt.name, attempt.copy) is None and not _is_copy(unit, attempt):
            log.info("pool %s: attempt at %r without an owner given up", unit.name, attempt.name)
            pool.abandon(attempt.name, attempt.copy)
