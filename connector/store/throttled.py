"""A store under a bandwidth limit that changes with the time of the day.

Each way has the whole limit to itself: lines carry both at once, and a restore must not queue
behind backups. Bodies are metered, listings and heads are not. Small bodies (manifests) are metered
and never queue.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from catalog.errors import ConfigError, TransientStoreError
from catalog.model import LockMode
from catalog.retry import time_left
from connector.store.body import bytes_view
from connector.store.interface import (
    Capabilities,
    ObjectStore,
    Part,
    PutOptions,
    RecallTier,
    StoredObject,
    StoredVersion,
    Upload,
)
from connector.store.pace import LOOK_S, Meter, Pace, under

SLOWEST = 64 * 1024
"""Least bytes per second of a window: below it a part would not get through within a deadline."""
SMALL = 1024 * 1024
"""Bodies of at most so many bytes do not queue."""
UNDER_WAY_S = 10.0
"""What is on its way at once is at most what the limit carries in so many seconds (or one body).
The others wait for their turn before their call begins, where no deadline runs: if all of them
shared a slow line, all of them would pass their deadlines and be sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthWindow:
    """A limit in bytes per second, from one minute of the local day to another (may pass midnight).

    days: 0 is Monday, the day on which the window begins. A time in several windows has the lowest
    limit; in none, no limit.
    """

    bytes_per_second: int
    from_minute: int = 0
    to_minute: int = 24 * 60
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)

    def holds_at(self, moment: dt.datetime) -> bool:
        """Whether a local time lies in the window."""
        minute = moment.hour * 60 + moment.minute
        if self.from_minute < self.to_minute:
            return moment.weekday() in self.days and self.from_minute <= minute < self.to_minute
        if minute >= self.from_minute:
            return moment.weekday() in self.days
        return minute < self.to_minute and (moment.weekday() - 1) % 7 in self.days


def limit_at(windows: Sequence[BandwidthWindow], moment: dt.datetime) -> int | None:
    """Bytes per second at a local time; None: no limit."""
    limits = [window.bytes_per_second for window in windows if window.holds_at(moment)]
    return min(limits, default=None)


class ThrottledStore:
    """An ``ObjectStore`` that is another one under a limit.

    windows: see ``BandwidthWindow``. clock gives monotonic seconds, local_time the local time,
    sleep takes seconds. A call keeps the deadline of the store below from when its body has its
    turn. Waiting for the turn ends with the deadline of an outer call or with ``close``; it has no
    other end, for the bodies before it end within their deadlines, and so the queue moves.
    """

    def __init__(
        self,
        store: ObjectStore,
        windows: Sequence[BandwidthWindow],
        *,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], dt.datetime] = dt.datetime.now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wrap a store.

        Raises:
            ConfigError: a window's limit is too low to get a part through.
        """
        slowest = min((window.bytes_per_second for window in windows), default=SLOWEST)
        if slowest < SLOWEST:
            raise ConfigError(
                f"a bandwidth limit of {slowest} bytes per second is too low to move a part",
                hint=f"use at least {SLOWEST} bytes per second",
            )

        def rate() -> float | None:
            return limit_at(windows, local_time())

        self._store = store
        self._up = _Line(Meter(rate, clock=clock, sleep=sleep), rate)
        self._down = _Line(Meter(rate, clock=clock, sleep=sleep), rate)

    @property
    def uri(self) -> str:
        """That of the store below."""
        return self._store.uri

    def close(self) -> None:
        """Let those go who wait for their turn, with TransientStoreError. The store below stays."""
        self._up.close()
        self._down.close()

    # --- bodies -----------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        options: PutOptions | None = None,
        *,
        only_if_absent: bool = False,
    ) -> StoredObject:
        """Create or replace an object in one request."""
        with self._up.body(f"putting {key}", bytes_view(body).nbytes):
            return self._store.put(key, body, options, only_if_absent=only_if_absent)

    def put_part(self, upload: Upload, number: int, body: memoryview, *, crc64nvme: int) -> Part:
        """Send one part."""
        with self._up.body(f"part {number} of {upload.key}", bytes_view(body).nbytes):
            return self._store.put_part(upload, number, body, crc64nvme=crc64nvme)

    def read_into(
        self, key: str, buffer: memoryview, *, offset: int = 0, version_id: str | None = None
    ) -> None:
        """Fill the buffer with the object's bytes from offset on."""
        with self._down.body(f"reading {key}", bytes_view(buffer).nbytes):
            self._store.read_into(key, buffer, offset=offset, version_id=version_id)

    def read(self, key: str, *, ceiling: int, version_id: str | None = None) -> bytes:
        """A small object whole."""
        pace = Pace(self._down.meter)
        with under(pace):
            data = self._store.read(key, ceiling=ceiling, version_id=version_id)
        pace.settle(len(data))
        return data

    # --- the rest, as the store below does it -------------------------------------------------

    def probe(self) -> Capabilities:
        """What the endpoint can do."""
        return self._store.probe()

    def start_upload(self, key: str, options: PutOptions | None = None) -> Upload:
        """Start a multipart upload."""
        return self._store.start_upload(key, options)

    def parts(self, upload: Upload) -> Iterator[Part]:
        """The parts that the store has."""
        return self._store.parts(upload)

    def complete_upload(
        self, upload: Upload, parts: Sequence[Part], *, crc64nvme: int | None
    ) -> StoredObject:
        """Make the object visible."""
        return self._store.complete_upload(upload, parts, crc64nvme=crc64nvme)

    def abort_upload(self, upload: Upload) -> None:
        """Give up an upload."""
        self._store.abort_upload(upload)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Uploads in progress below a key prefix."""
        return self._store.uploads(prefix)

    def stat(self, key: str, *, version_id: str | None = None) -> StoredObject:
        """Facts of one object."""
        return self._store.stat(key, version_id=version_id)

    def scan(self, prefix: str) -> Iterator[StoredObject]:
        """Current objects below a key prefix."""
        return self._store.scan(prefix)

    def scan_versions(self, prefix: str) -> Iterator[StoredVersion]:
        """Every version below a key prefix."""
        return self._store.scan_versions(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        """The distinct names directly below a folder."""
        return self._store.folders(prefix)

    def recall(
        self, key: str, *, days: int, tier: RecallTier, version_id: str | None = None
    ) -> None:
        """Ask for a readable copy of an archived object."""
        self._store.recall(key, days=days, tier=tier, version_id=version_id)

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        """Remove an object, or one version of it."""
        self._store.delete(key, version_id=version_id)

    def set_lock(
        self, key: str, *, mode: LockMode, until: int, version_id: str | None = None
    ) -> None:
        """Put a retention on one version."""
        self._store.set_lock(key, mode=mode, until=until, version_id=version_id)

    def set_hold(self, key: str, *, on: bool, version_id: str | None = None) -> None:
        """Set or release the legal hold of one version."""
        self._store.set_hold(key, on=on, version_id=version_id)


class _Line:
    """One direction: the meter, and the turns of large bodies in the order in which they came."""

    def __init__(self, meter: Meter, rate: Callable[[], float | None]) -> None:
        self.meter = meter
        self._rate = rate
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._under_way = 0
        self._closed = False

    @contextmanager
    def body(self, what: str, size: int) -> Iterator[None]:
        """Around the call that moves a body of size bytes."""
        queued = size > SMALL
        if queued:
            self._wait_for_turn(what, size)
        pace = Pace(self.meter)
        try:
            with under(pace):
                yield
            pace.settle(size)
        finally:
            if queued:
                with self._changed:
                    self._under_way -= size
                    self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for_turn(self, what: str, size: int) -> None:
        me = object()
        with self._changed:
            self._queue.append(me)
            try:
                self._check(what)
                while not (self._queue[0] is me and self._has_room(size)):
                    left = time_left()
                    # only the first can get its turn from the passing of time: the rate may change
                    first = LOOK_S if self._queue[0] is me else None
                    waits = [wait for wait in (first, left) if wait is not None]
                    self._changed.wait(max(0.01, min(waits)) if waits else None)
                    self._check(what)
                self._under_way += size
            finally:
                self._queue.remove(me)
                self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        rate = self._rate()
        room = rate is None or self._under_way + size <= rate * UNDER_WAY_S
        return room or self._under_way == 0

    def _check(self, what: str) -> None:
        if self._closed:
            raise TransientStoreError(f"{what}: the store is being closed", hint="try again later")
        left = time_left()
        if left is not None and left <= 0:
            raise TransientStoreError(
                f"{what}: its turn under the bandwidth limit did not come before the deadline",
                hint="raise the bandwidth limit, or move fewer images at once",
            )
