"""A service on memory stores with tiny parts, and a client that speaks to it without sockets."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.errors import StoreError, TransientStoreError
from catalog.ledger import Ledger
from connector.pool.classes import ClassPolicy
from connector.pool.prices import Prices
from connector.serve.handles import Writing
from connector.serve.interface import Peer
from connector.serve.keeper import Pace
from connector.serve.service import Service
from connector.serve.session import ClientSession
from connector.settings import Ack, PoolSettings, Settings, SpoolSettings
from connector.store.memory import MemoryStore
from connector.wire import messages
from connector.wire.messages import Name
from tests.pool.support import tiny_config

QUICK = Pace(
    probe_s=0.2, probe_deadline_s=2.0, retry_s=0.02, longest_retry_s=0.1, tidy_s=0.05,
    orphans_s=0.0, open_s=5.0,
)  # fmt: skip
PRICES = Prices.load()
TOKEN = "token-of-client-1"
OTHER = "token-of-client-2"


class AwayStore:
    """A store that can be away: then every call fails at once, or waits until it is back."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.away = False
        self.failing: dict[str, StoreError] = {}
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._store, method)
        if not callable(real):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(method)
            assert self.gate.wait(30)
            if self.away:
                raise TransientStoreError("the store does not answer", hint="wait")
            if method in self.failing:
                raise self.failing[method]
            return real(*args, **kwargs)

        return call


class World:
    """Stores that outlive services, so that a restart finds what was there."""

    def __init__(self, folder: Path, **store_settings: Any) -> None:
        self.folder = folder
        self.skew = 0
        self.stores: dict[str, AwayStore] = {}
        self._store_settings = {"smallest_part": 1, **store_settings}

    def clock(self) -> int:
        return time.time_ns() + self.skew

    def open_store(self, settings: PoolSettings) -> Any:
        return self.store(settings.name)

    def store(self, name: str) -> AwayStore:
        if name not in self.stores:
            memory = MemoryStore(name, clock=self.clock, **self._store_settings)
            self.stores[name] = AwayStore(memory)
        return self.stores[name]

    def open_ledger(self, settings: PoolSettings) -> Ledger:
        return Ledger.open(str(self.folder / "ledgers" / settings.name))

    def pool(self, name: str = "main", **changes: Any) -> PoolSettings:
        config = changes.pop("config", None) or tiny_config(**changes.pop("sizes", {}))
        return replace(
            PoolSettings(
                name=name,
                bucket=f"bucket-{name}",
                prefix="",
                endpoint_url=None,
                policy=ClassPolicy(),
                prices=PRICES,
                config=config,
                s3_deadline_s=5.0,
            ),
            **changes,
        )

    def spooled(self, name: str = "main", limit: int = 1 << 20, **changes: Any) -> PoolSettings:
        spool = SpoolSettings(folder=self.folder / "spool", limit=limit)
        return self.pool(name, ack=Ack.SPOOLED, spool=spool, **changes)

    def settings(self, *pools: PoolSettings, **changes: Any) -> Settings:
        return replace(
            Settings(state=self.folder / "state", socket=None, pools=pools or (self.pool(),)),
            **changes,
        )

    def service(self, *pools: PoolSettings, **changes: Any) -> Service:
        limits = changes.pop("limits", None)
        settings = self.settings(*pools, **({"limits": limits} if limits else {}))
        return Service(
            settings,
            clock=self.clock,
            open_store=self.open_store,
            open_ledger=self.open_ledger,
            **{"pace": QUICK, "handover_s": 0.05, "control_s": 2.0, **changes},
        )

    @contextmanager
    def running(self, *pools: PoolSettings, **changes: Any) -> Iterator[Service]:
        service = self.service(*pools, **changes)
        service.start(wait_s=5.0)
        try:
            yield service
        finally:
            for store in self.stores.values():
                store.gate.set()
            service.close()


def drop(service: Service) -> None:
    """End a service as a kill would: nothing is closed in order, only threads and files end."""
    for keeper in service._keepers.values():
        keeper.stop(5.0)
    for uploader in service._uploaders.values():
        uploader.stop(5.0)
    service.events.close()
    service.copies._stop.set()
    service.copies._threads.shutdown(wait=True, cancel_futures=True)
    service._closed.set()
    service._announced.set()
    service._mover.join(5.0)
    service.workers.shutdown(wait=True)
    for unit in service.units():
        if unit.opened is not None:
            unit.opened.close()
    service._close_journals()


class Caller:
    """A client's session, with the calls as a person would make them."""

    def __init__(self, service: Service, name: str = "alice@host") -> None:
        self.session: ClientSession = service.session(Peer(name=name))
        self.notices: list[dict[str, object]] = []
        self.gone = False

    def __call__(self, call: messages.Call) -> Any:
        return self.session.perform(call, self.notices.append, lambda: self.gone)

    def create(self, image: str, token: str = TOKEN, pool: str = "main", **fields: Any) -> int:
        call = messages.Create(pool=pool, image=Name(image), token=token, **fields)
        answer: messages.Writing = self(call)
        return answer.handle

    def resume(self, image: str, token: str = TOKEN, **fields: Any) -> messages.Writing:
        answer: messages.Writing = self(
            messages.Resume(pool="main", image=Name(image), token=token, **fields)
        )
        return answer

    def write(self, handle: int, data: bytes, *, frame: int = 100) -> None:
        writer = self.session.writing(handle)
        for at in range(0, len(data), frame):
            feed(writer, data[at : at + frame])

    def close(self, handle: int, **fields: Any) -> messages.Closed:
        answer: messages.Closed = self(messages.Close(handle=handle, **fields))
        return answer

    def put(self, image: str, data: bytes, token: str = TOKEN, **fields: Any) -> messages.Closed:
        handle = self.create(image, token, **fields)
        self.write(handle, data)
        return self.close(handle, size=len(data), sha256=sha256(data))

    def open(self, image: str, copy: int | None = None, pool: str = "main") -> messages.Reading:
        answer: messages.Reading = self(messages.Open(pool=pool, image=Name(image), copy=copy))
        return answer

    def get(self, image: str, copy: int | None = None, pool: str = "main") -> bytes:
        handle = self.open(image, copy, pool).handle
        try:
            return self.read(handle, 0, None)
        finally:
            self.close(handle)

    def read(self, handle: int, offset: int, length: int | None) -> bytes:
        stream = self.session.reading(handle).stream(offset, length)
        return b"".join(bytes(view) for view in stream)

    def list(self, state: str = "", pool: str = "main", **fields: Any) -> list[str]:
        page: messages.Page = self(messages.ListImages(pool=pool, state=state, **fields))
        return [facts.image for facts in page.images]

    def settle(self, image: str, token: str = TOKEN, **fields: Any) -> messages.Closed:
        answer: messages.Closed = self(
            messages.Settle(pool="main", image=Name(image), token=token, **fields)
        )
        return answer

    def kinds(self, cursor: int = 0) -> list[str]:
        page: messages.EventPage = self(messages.GetEvents(cursor=cursor, limit=1000))
        return [event.kind for event in page.events]

    def pool_props(self, pool: str = "main") -> messages.PoolProps:
        answer: messages.PoolProps = self(messages.GetPoolProps(pool=pool))
        return answer


def feed(writer: Writing, data: bytes) -> None:
    """One write, as a door does it."""
    if not writer.begin(writer.offset, len(data)):
        raise AssertionError("these bytes are new")
    fill(writer, data)


def fill(writer: Writing, data: bytes) -> None:
    rest = memoryview(data)
    while rest.nbytes:
        room = writer.room()
        size = min(room.nbytes, rest.nbytes)
        room[:size] = rest[:size]
        room.release()
        writer.advance(size)
        rest = rest[size:]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def eventually(condition: Callable[[], object], wait_s: float = 8.0) -> None:
    """Wait until something is true; fail when it never is."""
    ends = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < ends, "it never became true"
        time.sleep(0.01)
