"""A unit: one configured pool as the daemon runs it, whether its store answers or not.

What is local (journal, index, drafts, spool) is there from the start; the pool itself only while
its store answers. ``keeper.py`` opens it, watches it and cleans up; whoever needs the store asks
through ``ask``, which answers ``down`` at once, or within seconds, instead of hanging.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from catalog.errors import PoolError, StoreUnusable, TransientStoreError
from catalog.ledger import Ledger
from catalog.model import StorageClass
from catalog.retry import Retrying
from connector.logs import ImageLog, Step, image_log
from connector.pool import Pool
from connector.pool.index import SCHEMA as INDEX_SCHEMA
from connector.pool.index import Index
from connector.pool.journal import Journal
from connector.pool.lifecycle import fragment_tags
from connector.pool.manifest import Manifest
from connector.serve import drafts, events
from connector.serve.drafts import Draft, Drafts, DraftState
from connector.serve.events import EventKind, announce
from connector.serve.failures import PoolAway
from connector.serve.inuse import InUse
from connector.serve.space import Space
from connector.serve.spool import SCHEMA as SPOOL_SCHEMA
from connector.serve.spool import Spool, mark_stored
from connector.settings import Ack, PoolSettings
from connector.store.interface import ObjectStore

log = logging.getLogger(__name__)

T = TypeVar("T")

WATCHED = """
CREATE TABLE IF NOT EXISTS watched_tickets (
    ticket TEXT PRIMARY KEY, at INTEGER NOT NULL
) WITHOUT ROWID;
"""
"""Recall tickets whose end is to be announced; see ``recalls.watch``."""

LIVE_SETTINGS = (
    "policy", "keep_days", "lock", "capacity", "soft_quota", "hard_quota", "recall", "lifecycle",
)  # fmt: skip
"""What can change while a pool is open."""
OBJECT_LOCK = "bucket has Object Lock"
"""Key of the journal's settings."""
CONTROL_S = 20.0
"""How long a call that moves no image bytes may wait for the store, in seconds."""

OpenStore = Callable[[PoolSettings], ObjectStore]
OpenLedger = Callable[[PoolSettings], Ledger]


class Unit:
    """One pool. Calls may come from several threads.

    woken is called after something was announced; control_s bounds what ``ask`` waits.
    """

    def __init__(
        self,
        settings: PoolSettings,
        folder: Path,
        *,
        clock: Callable[[], int],
        open_store: OpenStore,
        open_ledger: OpenLedger,
        woken: Callable[[], None],
        control_s: float = CONTROL_S,
    ) -> None:
        """Open what is local.

        Raises:
            JournalError: another process holds the journal, or its disk fails.
        """
        self.settings = settings
        self.name = settings.name
        self.clock = clock
        self.folder = folder
        self._open_store, self._open_ledger = open_store, open_ledger
        self._woken = woken
        self._control_s = control_s
        self.journal = Journal(
            folder / "journal.sqlite",
            schema=INDEX_SCHEMA + drafts.SCHEMA + events.ANNOUNCED + SPOOL_SCHEMA + WATCHED,
        )
        self.index = Index(self.journal)
        self.drafts = Drafts(self.journal)
        self.space = Space(settings, self.index, clock)
        reserved = 1 if settings.ack is Ack.SPOOLED and settings.config.images_open > 1 else 0
        self.in_use = InUse(settings.config.images_open, reserved)
        self.spool = Spool(self)
        self.counts: Counter[str] = Counter()
        self.bytes_in = self.bytes_out = 0
        self.orphans = 0
        word = self.journal.setting(OBJECT_LOCK)
        self.object_lock: bool | None = None if word is None else word == "yes"
        self.suspected = threading.Event()
        self.changed = threading.Condition()
        self._store: ObjectStore | None = None
        self._pool: Pool | None = None
        self._why = "the pool is being opened"
        self._up = self._decided = False
        self._retry_at = time.monotonic() + 1.0
        self._counting = threading.Lock()
        for draft in self.drafts.in_states(drafts.LISTED):
            self.space.pending(draft.name, draft.copy, draft.durable)

    # --- up and down ---------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """Where the pool is; holds no secret."""
        place = f"s3://{self.settings.bucket}/{self.settings.prefix}".rstrip("/")
        return self._pool.uri if self._pool is not None else place

    @property
    def up(self) -> bool:
        """Whether the store answers."""
        return self._up

    @property
    def why(self) -> str:
        """What is wrong while it is down, else empty."""
        return "" if self._up else self._why

    @property
    def opened(self) -> Pool | None:
        """The pool if it was opened, even while its store is away."""
        return self._pool

    def pool(self) -> Pool:
        """The pool.

        Raises:
            PoolDown: its store does not answer now; it says when that is tried again.
        """
        if self._pool is None or not self._up:
            wait = max(1.0, self._retry_at - time.monotonic())
            raise PoolAway(
                f"pool {self.name} is down: {self._why}",
                retry_after_s=wait,
                hint="images are kept; it is tried again by itself, and doctor says more",
            )
        return self._pool

    def ask(self, what: str, fn: Callable[[Pool], T], *, patient: bool = False) -> T:
        """Run fn, which only asks the store or can be repeated, within control_s seconds.

        patient: within the store's own deadline for each request, for what S3 may take minutes
        for (to complete a large upload).

        Raises:
            PoolDown: the pool is down, or has just become so.
        """
        pool = self.pool()
        # its first wait is as long as its deadline: the store itself repeats, not this
        once = Retrying(deadline_s=self._control_s, first_wait_s=self._control_s)
        with self.noticing():
            return fn(pool) if patient else once.call(what, lambda: fn(pool))

    @contextlib.contextmanager
    def noticing(self) -> Iterator[None]:
        """Have the pool probed at once when its store fails within; the error becomes ``down``."""
        try:
            yield
        except (TransientStoreError, StoreUnusable) as exc:
            self.suspect()
            raise PoolAway(
                f"pool {self.name}: {exc.message}",
                retry_after_s=5.0,
                hint=exc.hint or "try again; the pool is probed now",
            ) from exc

    def suspect(self) -> None:
        """Have the keeper probe the pool now."""
        self.suspected.set()

    def open_pool(self) -> Pool:
        """Open store and pool, once; the pool is not up by this."""
        if self._store is None:
            self._store = self._open_store(self.settings)
        if self._pool is None:
            self._pool = Pool(
                self._store,
                self.journal,
                self._open_ledger(self.settings),
                config=self.settings.config,
                clock=self.clock,
                encryption=self.settings.encryption.kind,
                coding=self.settings.coding,
                prices=self.settings.prices,
                recall=self.settings.recall,
                fragment_tags=fragment_tags(self.settings.lifecycle),
            )
        return self._pool

    def learn(self, pool: Pool) -> None:
        """Remember what the bucket can do, for when it is away."""
        self.object_lock = pool.context.capabilities.object_lock
        self.journal.remember(OBJECT_LOCK, "yes" if self.object_lock else "no")

    def set_up(self) -> None:
        """The store answers."""
        with self.changed:
            was, self._up = self._up, True
            self._decided = True
            self.changed.notify_all()
        if not was:
            log.info("pool %s is up: %s", self.name, self.uri)
            self.say(EventKind.POOL_UP)

    def set_down(self, why: str, retry_s: float) -> None:
        """The store does not answer; it is tried again in retry_s seconds."""
        with self.changed:
            was, self._up = self._up, False
            self._decided = True
            first = why != self._why
            self._why, self._retry_at = why, time.monotonic() + retry_s
            self.changed.notify_all()
        if was or first:
            log.warning("pool %s is down: %s", self.name, why)
        if was:
            self.say(EventKind.POOL_DOWN, why=why)

    def set_opening(self, why: str) -> None:
        """Say what an opening that takes long is about."""
        self._why = why

    def wait_decided(self, wait_s: float) -> None:
        """Wait until it is known whether the store answers."""
        with self.changed:
            self.changed.wait_for(lambda: self._decided, wait_s)

    def take_over(self, settings: PoolSettings) -> bool:
        """Take over what can change while the pool is open; whether that is all."""
        live = {name: getattr(settings, name) for name in LIVE_SETTINGS}
        self.settings = replace(self.settings, **live)
        self.space.settings = self.settings
        if self._pool is not None:
            self._pool.take_over(
                recall=self.settings.recall,
                fragment_tags=fragment_tags(self.settings.lifecycle),
            )
        return self.settings == settings

    def wait_up(self, wait_s: float) -> bool:
        """Wait until the store answers; whether it does."""
        with self.changed:
            return self.changed.wait_for(lambda: self._up, wait_s)

    def storage_class(self, draft: Draft) -> StorageClass:
        """The class that a draft was begun for."""
        return StorageClass(draft.definition.storage_class)

    def close(self) -> None:
        """Let go of everything; nothing may be open any more."""
        if self._pool is not None:
            self._pool.close()
        close_store = getattr(self._store, "close", None)
        if close_store is not None:
            close_store()
        self.journal.close()

    # --- what happens to images ----------------------------------------------------------

    def on_commit(self, db: sqlite3.Connection, manifest: Manifest) -> None:
        """In the transaction of every commit: index, draft, spooled file, event."""
        self.index.on_commit(db, manifest)
        size = manifest.size or 0
        draft = drafts.find(db, manifest.name, manifest.copy)
        kind = EventKind.COMPLETE
        if draft is not None and draft.state in (DraftState.SPOOLED, DraftState.REFUSED):
            if (draft.durable, draft.sha256) == (size, manifest.sha256):
                kind = EventKind.STORED
                mark_stored(db, manifest.name, manifest.copy)
            else:  # another image took the name: what was acknowledged here stays on the books
                draft = None
        if draft is not None:
            drafts.change(
                db,
                draft,
                DraftState.COMPLETE,
                durable=size,
                now=self.clock(),
                id=manifest.token,
                sha256=manifest.sha256,
            )
        self.announce(db, kind, manifest.name, manifest.copy, size=size, sha256=manifest.sha256)

    def announce(
        self,
        db: sqlite3.Connection,
        kind: EventKind,
        name: str | None = None,
        copy: int | None = None,
        **detail: object,
    ) -> None:
        """Announce an event, within the caller's transaction; then call ``woken``."""
        announce(db, kind, now=self.clock(), name=name, copy=copy, **detail)

    def say(
        self, kind: EventKind, name: str | None = None, copy: int | None = None, **detail: object
    ) -> None:
        """Announce an event in a transaction of its own; a full disk costs the event only."""
        try:
            with self.journal.transaction() as db:
                self.announce(db, kind, name, copy, **detail)
        except PoolError as exc:
            log.warning("pool %s: event %s is lost: %s", self.name, kind, exc.message)
        self._woken()

    def woken(self) -> None:
        """Something was announced."""
        self._woken()

    def story(self, name: str, copy: int, id: str) -> ImageLog:
        """The log of one image."""
        return image_log(self.name, name, copy, id)

    def count(self, outcome: str) -> None:
        """Count what became of an image; see ``status.OUTCOMES``."""
        with self._counting:
            self.counts[outcome] += 1

    def moved(self, *, taken: int = 0, given: int = 0) -> None:
        """Count bytes from and to clients."""
        with self._counting:
            self.bytes_in += taken
            self.bytes_out += given

    def told(self, step: Step, name: str, copy: int, id: str, **fields: object) -> None:
        """Put a step of an image's story into the log."""
        self.story(name, copy, id).tell(step, **fields)
