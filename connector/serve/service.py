"""The service behind every door: the configured pools, their sessions, and what goes on behind.

It knows no socket. A door gets sessions from it; the daemon starts, drains and ends it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from catalog.errors import NoPool, PoolError
from catalog.ledger import Ledger
from catalog.retry import Retrying
from catalog.s3 import S3Limits, S3Location
from connector.pool.context import WRITER
from connector.pool.journal import Journal
from connector.pool.rebuild import Rebuilt, rebuild
from connector.serve import copies, events
from connector.serve.copies import Copies
from connector.serve.events import Events
from connector.serve.failures import BusyFor
from connector.serve.interface import Peer
from connector.serve.inuse import memory_bound
from connector.serve.keeper import Keeper, Pace
from connector.serve.session import ClientSession
from connector.serve.spool_upload import Uploader
from connector.serve.status import PoolStatus, Status
from connector.serve.units import CONTROL_S, OpenLedger, OpenStore, Unit
from connector.settings import Ack, PoolSettings, Settings
from connector.store.interface import ObjectStore
from connector.store.s3 import S3Store
from connector.store.throttled import ThrottledStore
from connector.wire.messages import CAPABILITIES, LiveHandle

log = logging.getLogger(__name__)

HANDOVER_S = 2.0
"""How long a client that comes back waits for its old session to be noticed as gone."""
WORKERS = 64
"""Calls that may wait for the store at once, beside one for each image that may be open: a pool
whose images all wait does not keep the others from theirs."""
LEDGER_S = 60.0
LAST_FLUSH_S, LAST_FLUSH_OF_DOWN_S = 30.0, 5.0
"""How long an orderly end may take to bring the last rows to the ledger, of a pool that is up and
of one that was down when it was last asked."""


def open_s3_store(settings: PoolSettings) -> ObjectStore:
    """The pool's store: S3, behind its bandwidth windows."""
    config = settings.config
    limits = S3Limits(
        deadline_s=settings.s3_deadline_s,
        max_connections=min(1024, config.images_open * config.parts_in_flight + 16),
    )
    location = S3Location(settings.bucket, settings.prefix, settings.endpoint_url)
    store = S3Store(location, limits=limits, encryption=settings.encryption)
    return ThrottledStore(store, settings.bandwidth) if settings.bandwidth else store


def open_s3_ledger(settings: PoolSettings) -> Ledger:
    """The pool's ledger, beside its images unless configured elsewhere."""
    place = S3Location(settings.bucket, settings.prefix).uri
    limits = S3Limits(deadline_s=min(LEDGER_S, settings.s3_deadline_s))
    return Ledger.open(
        settings.ledger or f"{place}/ledger", endpoint_url=settings.endpoint_url, limits=limits
    )


class Service:
    """See ``interface.Behind``. Calls may come from several threads."""

    server = WRITER

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], int] = time.time_ns,
        open_store: OpenStore = open_s3_store,
        open_ledger: OpenLedger = open_s3_ledger,
        pace: Pace | None = None,
        handover_s: float = HANDOVER_S,
        control_s: float = CONTROL_S,
    ) -> None:
        """Open what is local: journals, indexes, spools.

        Raises:
            JournalError: another daemon uses the state folder, or its disk fails.
        """
        self.settings = settings
        self.handover_s = handover_s
        self.started_at = clock()
        self._clock = clock
        self._open_store, self._open_ledger = open_store, open_ledger
        self._control_s = control_s
        self._pace = pace or Pace()
        self._mutex = threading.RLock()
        self._draining = False
        self._closed = threading.Event()
        self._announced = threading.Event()
        self._sessions: set[ClientSession] = set()
        self.connections: Callable[[], int] = lambda: len(self._sessions)
        self._journal = Journal(
            settings.state / "service.sqlite", schema=events.SCHEMA + copies.SCHEMA
        )
        self._units: dict[str, Unit] = {}
        self._keepers: dict[str, Keeper] = {}
        self._uploaders: dict[str, Uploader] = {}
        self.events = Events(self._journal)
        self.copies = Copies(self._journal, self.unit, clock)
        most = WORKERS + sum(pool.config.images_open for pool in settings.pools)
        self.workers = ThreadPoolExecutor(most, thread_name_prefix="call")
        self._mover = threading.Thread(target=self._move_events, name="events", daemon=True)
        try:
            for pool in settings.pools:
                self._units[pool.name] = self._new_unit(pool)
        except BaseException:
            self._close_journals()
            raise

    # --- life ----------------------------------------------------------------------------

    def start(self, *, wait_s: float = 10.0) -> None:
        """Begin; waits up to wait_s for the pools, and goes on without those that are away.

        Raises:
            ConfigError: a spool's folder cannot be used.
        """
        for unit in self._units.values():
            unit.spool.start()
        self._mover.start()
        for unit in self._units.values():
            self._start_unit(unit)
        ends = time.monotonic() + wait_s
        for unit in self._units.values():
            unit.wait_decided(max(0.0, ends - time.monotonic()))
        self.copies.start()

    def drain(self, deadline_s: float) -> bool:
        """Let no image be begun any more, and wait for those that are open; whether all ended."""
        with self._mutex:
            self._draining = True
        ends = time.monotonic() + deadline_s
        while time.monotonic() < ends:
            if not any(unit.in_use.clients() for unit in self.units()):
                return True
            self._closed.wait(0.1)
        return False

    def close(self) -> None:
        """End everything. What is open becomes incomplete; what is spooled waits for a start."""
        with self._mutex:
            self._draining = True
            sessions = list(self._sessions)
        for session in sessions:
            session.end()
        self.events.close()
        self.copies.close()
        for uploader in self._uploaders.values():
            uploader.stop(self._slowest_s())
        for keeper in self._keepers.values():
            keeper.stop(self._slowest_s())
        self.workers.shutdown(wait=True, cancel_futures=True)
        for unit in self.units():
            self._flush_ledger(unit)
        self._closed.set()
        self._announced.set()
        if self._mover.is_alive():
            self._mover.join(10.0)
        for unit in self.units():
            unit.close()
        self._close_journals()

    def _flush_ledger(self, unit: Unit) -> None:
        """Within bounds: rows that do not get there are in the journal, and wait."""
        pool = unit.opened
        if pool is None:
            return
        patience = Retrying(deadline_s=LAST_FLUSH_S if unit.up else LAST_FLUSH_OF_DOWN_S)
        try:
            patience.call("the last commit to the ledger", pool.flush)
        except PoolError as exc:
            log.warning("pool %s: ledger rows wait for the next start: %s", unit.name, exc.message)

    def _slowest_s(self) -> float:
        return max((unit.settings.s3_deadline_s for unit in self.units()), default=1.0) + 5.0

    def _close_journals(self) -> None:
        for unit in self._units.values():
            unit.journal.close()
        self._journal.close()

    def reload(self, settings: Settings) -> list[str]:
        """Take over a new configuration as far as that is possible now; says what is not.

        New pools are opened. Marks, capacity, retention, recall and limits change at once. Where
        a pool is, how it writes and its spool change with the next start; so do pools that go.
        """
        notes: list[str] = []
        with self._mutex:
            wanted = {pool.name: pool for pool in settings.pools}
            for name in self._units.keys() - wanted.keys():
                notes.append(f"pool {name} is served until the next start")
            for name, pool in wanted.items():
                unit = self._units.get(name)
                if unit is None:
                    self._add(pool)
                elif not unit.take_over(pool):
                    notes.append(f"pool {name}: place, sizes, coding or spool need a new start")
            for keeper in self._keepers.values():
                keeper.abandoned_s = settings.limits.abandoned_s
            if settings.state != self.settings.state:
                notes.append("state.dir needs a new start")
            self.settings = settings
        return notes

    def _add(self, pool: PoolSettings) -> None:
        """Serve one more pool; one that cannot be is none, so that the next reload tries again."""
        unit = self._new_unit(pool)
        try:
            unit.spool.start()
        except BaseException:
            unit.close()
            raise
        self._units[pool.name] = unit
        self._start_unit(unit)

    def rebuild(self, pool: str) -> Rebuilt:
        """Make a pool's index anew from the bucket.

        Raises:
            NoPool, PoolDown; StoreError: the old index stays as it was.
        """
        unit = self.unit(pool)
        with unit.noticing():
            return rebuild(unit.pool(), unit.index)

    # --- for doors -----------------------------------------------------------------------

    @property
    def capabilities(self) -> tuple[str, ...]:
        """See ``interface.Behind``. WORM and LEGAL_HOLD are told for each pool."""
        return tuple(flag for flag in CAPABILITIES if flag not in ("WORM", "LEGAL_HOLD"))

    def session(self, peer: Peer) -> ClientSession:
        """See ``interface.Behind``."""
        with self._mutex:
            if self._closed.is_set() or len(self._sessions) >= self.settings.limits.connections:
                raise BusyFor(
                    f"{len(self._sessions)} clients are here already",
                    retry_after_s=1.0,
                    hint="try again, or raise limits.connections",
                )
            session = ClientSession(self, peer)
            self._sessions.add(session)
        return session

    def ended(self, session: ClientSession) -> None:
        """A session has ended."""
        with self._mutex:
            self._sessions.discard(session)

    def check_open(self) -> None:
        """Refuse new images while the daemon drains.

        Raises:
            TooBusy: it does.
        """
        if self._draining:
            raise BusyFor(
                "the daemon is about to end", retry_after_s=10.0, hint="try again after its restart"
            )

    # --- pools ---------------------------------------------------------------------------

    def unit(self, name: str) -> Unit:
        """A pool.

        Raises:
            NoPool: there is none of this name.
        """
        try:
            return self._units[name]
        except KeyError:
            raise NoPool(f"there is no pool {name!r} here", hint="list_pools names them") from None

    def units(self) -> list[Unit]:
        """The pools, in the order of their names."""
        with self._mutex:
            return [self._units[name] for name in sorted(self._units)]

    def has_pool(self, name: str) -> bool:
        """Whether a pool of this name is served."""
        return name in self._units

    def pool_names(self) -> list[str]:
        """Names of the pools, in order."""
        return [unit.name for unit in self.units()]

    def live_handles(self) -> list[LiveHandle]:
        """The open handles of all pools."""
        return [handle for unit in self.units() for handle in unit.in_use.live()]

    def memory_bound(self) -> int:
        """Bytes that the part buffers of all pools take at most; see ``inuse``."""
        return sum(memory_bound(unit.settings.config) for unit in self.units())

    def status(self) -> Status:
        """The daemon in numbers."""
        pools = tuple(pool_status(unit) for unit in self.units())
        state = "draining" if self._draining else "up"
        if pools and state == "up" and not any(pool.up for pool in pools):
            state = "down"
        return Status(
            state=state,
            version=self.server,
            started_at=self.started_at,
            connections=self.connections(),
            max_connections=self.settings.limits.connections,
            max_handles=self.settings.limits.handles,
            pools=pools,
        )

    # --- within --------------------------------------------------------------------------

    def _new_unit(self, pool: PoolSettings) -> Unit:
        return Unit(
            pool,
            self.settings.state / "pools" / pool.name,
            clock=self._clock,
            open_store=self._open_store,
            open_ledger=self._open_ledger,
            woken=self._announced.set,
            control_s=self._control_s,
        )

    def _start_unit(self, unit: Unit) -> None:
        keeper = Keeper(unit, abandoned_s=self.settings.limits.abandoned_s, pace=self._pace)
        uploader = Uploader(unit)
        self._keepers[unit.name], self._uploaders[unit.name] = keeper, uploader
        keeper.start()
        uploader.start()

    def _move_events(self) -> None:
        """Move what pools announce to where clients read it."""
        while True:
            self._announced.wait(5.0)
            self._announced.clear()
            last = self._closed.is_set()
            for unit in self.units():
                try:
                    while self.events.move(unit.name, unit.journal):
                        pass
                except PoolError as exc:
                    log.warning("pool %s: events wait: %s", unit.name, exc.message)
                except Exception:
                    log.exception("pool %s: moving events", unit.name)
            if last:
                return


def pool_status(unit: Unit) -> PoolStatus:
    """One pool in numbers. Asks nothing of its store."""
    counted = unit.space.count()
    backlog = unit.spool.backlog()
    modes = Counter(handle.mode for handle in unit.in_use.live())
    settings, pool = unit.settings, unit.opened
    with unit.journal.transaction() as db:
        waiting = int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])
        watched = int(db.execute("SELECT count(*) FROM watched_tickets").fetchone()[0])
    return PoolStatus(
        name=unit.name,
        up=unit.up,
        why=unit.why,
        bytes_in=unit.bytes_in,
        bytes_out=unit.bytes_out,
        images=dict(unit.counts),
        writing=modes["write"],
        reading=modes["read"],
        stored=counted.totals.images,
        logical=counted.totals.logical,
        physical=counted.totals.physical,
        locked=counted.totals.locked,
        spooled=backlog.size,
        spool_limit=settings.spool.limit
        if settings.ack is Ack.SPOOLED and settings.spool is not None
        else None,
        oldest_unsafe_s=backlog.oldest_s,
        capacity=settings.capacity,
        soft_quota=settings.soft_quota,
        hard_quota=settings.hard_quota,
        tickets={"waiting": watched},
        ledger_waiting=waiting,
        journal_bytes=sum(
            file.stat().st_size for file in unit.folder.glob("journal.sqlite*") if file.is_file()
        ),
        traffic=getattr(pool.context.store, "traffic", None) if pool is not None else None,
    )
