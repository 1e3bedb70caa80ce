"""A pool with its index, as the daemon has it, on a store and in a folder that outlive it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalog.ledger import Ledger
from catalog.model import NANOSECONDS
from connector.pool import Manifest, Pool, Retention
from connector.pool.index import SCHEMA, Entry, Index
from connector.pool.journal import Journal
from connector.store.interface import ObjectStore
from tests.pool.support import NOTHING, some_bytes, tiny_config

DAY = 86_400 * NANOSECONDS


class Clock:
    """A clock that a test moves. It starts in the middle of a second."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * NANOSECONDS + 123_456_789

    def __call__(self) -> int:
        return self.now

    def days(self, days: float) -> None:
        self.now += int(days * DAY)


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """A store that ends the process, or fails, before or after the n-th change that it makes."""

    CHANGES = ("put", "delete", "set_lock", "set_hold", "complete_upload")

    def __init__(self, store: ObjectStore, at: int, *, after: bool, error: BaseException) -> None:
        self._store, self._left, self._after, self._error = store, at, after, error
        self.died = False

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self._store, name)
        if name not in self.CHANGES:
            return whole

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.died and isinstance(self._error, Killed):
                raise self._error
            self._left -= 1
            if self._left == 0 and not self._after:
                self.died = True
                raise self._error
            answer = whole(*args, **kwargs)
            if self._left == 0:
                self.died = True
                raise self._error
            return answer

        return call


@contextmanager
def indexed_pool(store: ObjectStore, folder: Path, **settings: Any) -> Iterator[tuple[Pool, Index]]:
    """A pool and its index; opening them again on the same folder goes on."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.sqlite", schema=SCHEMA)
    ledger = Ledger.open(str(folder / "ledger"))
    settings.setdefault("config", tiny_config())
    try:
        with Pool(store, journal, ledger, **settings) as pool:
            yield pool, Index(journal)
    finally:
        journal.close()


def keep_image(
    pool: Pool,
    index: Index,
    name: str,
    data: bytes | None = None,
    copy: int = 1,
    *,
    retention: Retention | None = None,
    **settings: Any,
) -> Manifest:
    """Write an image whole, into the index too."""
    writer = pool.write_image(name, copy, on_commit=index.on_commit, **settings)
    writer.write(some_bytes(300) if data is None else data)
    return writer.close(origin=NOTHING, retention=retention or Retention())


def listing(index: Index, **wanted: Any) -> bytes:
    """Everything that the index lists, as bytes."""
    entries: list[Entry] = index.page(limit=1_000_000, **wanted)
    lines = [json.dumps(dataclasses.asdict(entry), sort_keys=True) for entry in entries]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def facts(pool: Pool) -> list[dict[str, Any]]:
    """Facts that wait for the ledger."""
    with pool.journal.transaction() as db:
        return [json.loads(row[0]) for row in db.execute("SELECT fact FROM outbox ORDER BY id")]


def keys(store: ObjectStore, prefix: str = "images/") -> list[str]:
    """What lies below a prefix, hidden versions included."""
    return sorted({one.key for one in store.scan_versions(prefix)})
