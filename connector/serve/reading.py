"""Images open for reading: short reads are cheap, long ones and runs of short ones fetch ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator

from catalog.errors import ImageArchived, ImageDamaged, StoreUnusable, TransientStoreError
from connector.logs import Step
from connector.pool.manifest import Manifest
from connector.pool.reader import ImageReader
from connector.serve import recalls
from connector.serve.events import EventKind
from connector.serve.sinks import ByteSource
from connector.serve.units import Unit
from connector.wire.messages import Closed, LiveHandle, Name


class PoolSource:
    """A committed image."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self.manifest: Manifest = reader.manifest

    @property
    def size(self) -> int:
        """See ByteSource."""
        return self.manifest.size or 0

    @property
    def step(self) -> int:
        """A part, which is what a checksum covers."""
        return self.manifest.fragments[0].part_size if self.manifest.fragments else 1

    def stream(self, offset: int, size: int | None) -> Iterator[memoryview]:
        """See ByteSource."""
        return self._reader.stream(offset, size)

    def read(self, offset: int, size: int) -> bytes:
        """See ByteSource."""
        return self._reader.read(offset, size)

    def close(self) -> None:
        """See ByteSource. What it fetched goes with it."""


class _Flow:
    """A stream that is being read on, in pieces of other sizes than it comes in."""

    def __init__(self, source: ByteSource, at: int) -> None:
        self.at = at
        self._views = source.stream(at, None)
        self._view: memoryview | None = None

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next size bytes; fewer only at the end."""
        while size > 0:
            if self._view is None or not self._view.nbytes:
                self._view = next(self._views, None)
                if self._view is None:
                    return
            piece, self._view = self._view[:size], self._view[size:]
            size -= piece.nbytes
            self.at += piece.nbytes
            yield piece

    def close(self) -> None:
        """Give up what was fetched ahead."""
        self._view = None
        close = getattr(self._views, "close", None)
        if close is not None:
            close()


class Reading:
    """An image open for reading (``ReadHandle``). Holds one use of its unit.

    Short reads fetch one part and keep it. Reads that have followed one another for more than a
    part go on as a stream that fetches ahead; a read elsewhere ends it.
    """

    def __init__(
        self, unit: Unit, name: str, copy: int, id: str, source: ByteSource, use: int, client: str
    ) -> None:
        self.unit = unit
        self.name = name
        self.copy = copy
        self.id = id
        self._source = source
        self._use = use
        self._client = client
        self._flow: _Flow | None = None
        self._run_start = self._run_end = -1
        self._opened = self._touched = time.monotonic()
        self._given = 0
        unit.in_use.show(use, self)

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return self._source.size

    def stream(self, offset: int, length: int | None) -> Iterator[memoryview]:
        """See ReadHandle. Past the end there is nothing."""
        end = self.size if length is None else min(self.size, offset + max(0, length))
        try:
            for view in self._pieces(offset, end - offset):
                self._given += view.nbytes
                self._touched = time.monotonic()
                self.unit.moved(given=view.nbytes)
                yield view
        except ImageDamaged as exc:
            self.unit.count("damaged")
            self.unit.told(Step.DAMAGED, self.name, self.copy, self.id, why=exc.message)
            self.unit.say(EventKind.DAMAGED, self.name, self.copy, why=exc.message)
            raise
        except ImageArchived as exc:
            if isinstance(self._source, PoolSource):
                raise recalls.offer_for(self.unit, self._source.manifest, exc) from exc
            raise
        except (TransientStoreError, StoreUnusable):
            self.unit.suspect()
            raise

    def close(self) -> None:
        """Let go."""
        try:
            self._end_flow()
            self._source.close()
        finally:
            self.unit.in_use.let_go(self._use)

    def closed(self) -> Closed:
        """What ``close`` answers for it."""
        return Closed(
            pool=self.unit.name,
            image=Name(self.name),
            copy=self.copy,
            state="complete",
            offset=self._run_end if self._run_end >= 0 else 0,
            sha256=None,
            id=self.id,
        )

    def live(self) -> LiveHandle:
        """As ``server_props`` shows it."""
        now = time.monotonic()
        seconds = max(now - self._opened, 1e-3)
        return LiveHandle(
            pool=self.unit.name,
            image=Name(self.name),
            copy=self.copy,
            mode="read",
            client=self._client,
            offset=max(0, self._run_end),
            unsafe=0,
            bytes_per_second=self._given / seconds,
            open_seconds=seconds,
            idle_seconds=now - self._touched,
        )

    def _pieces(self, offset: int, size: int) -> Iterator[memoryview]:
        if offset < 0 or size <= 0:
            return
        if offset != self._run_end:
            self._run_start = offset
        self._run_end = offset + size
        if self._flow is not None and self._flow.at != offset:
            self._end_flow()
        step = self._source.step
        if self._flow is None and offset - self._run_start >= step:
            self._flow = _Flow(self._source, offset)
        if self._flow is None and size >= 2 * step:
            yield from self._source.stream(offset, size)
            return
        if self._flow is None:
            yield memoryview(self._source.read(offset, size))
            return
        try:
            yield from self._flow.take(size)
        except BaseException:
            self._end_flow()
            raise

    def _end_flow(self) -> None:
        if self._flow is not None:
            self._flow.close()
            self._flow = None
