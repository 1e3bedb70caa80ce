"""What all images of one open pool share: store, journal, memory, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from mmap import mmap

from catalog.errors import PoolError
from connector.pool.attempts import Attempts
from connector.pool.buffers import part_buffer
from connector.pool.coding import Coding
from connector.pool.config import PoolConfig
from connector.pool.journal import Journal
from connector.store.interface import Capabilities, ObjectStore

WRITER = f"tapelift {version('tapelift')}"


class Arena:
    """Part buffers that are used again: at most ``count`` of ``size`` bytes, taken when needed."""

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._left = count
        self._free: list[mmap] = []
        self._mutex = threading.Lock()

    def take(self, size: int = 0) -> mmap:
        """A buffer whose contents do not matter, of at least size bytes.

        An image that was begun with larger parts than are configured now gets buffers of its own.

        Raises:
            PoolError: more images are open than the pool was configured for.
        """
        with self._mutex:
            if self._free and size <= self.size:
                return self._free.pop()
            if self._left == 0:
                raise PoolError(
                    "more images are being written at once than images_open allows",
                    hint="close one, or raise images_open; each takes "
                    f"(parts_in_flight + 1) * {self.size} bytes",
                )
            self._left -= 1
        return part_buffer(max(size, self.size))

    def give_back(self, buffer: mmap) -> None:
        """Return a buffer that nobody uses any more."""
        with self._mutex:
            if len(buffer) == self.size:
                self._free.append(buffer)
            else:
                self._left += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolContext:
    """The parts of an open pool. clock gives UTC nanoseconds; actor and run_id go into facts.

    arena has the buffers that images are received into, coded_arena those of coded parts.
    """

    store: ObjectStore
    journal: Journal
    attempts: Attempts
    config: PoolConfig
    arena: Arena
    coded_arena: Arena
    threads: ThreadPoolExecutor = field(repr=False)
    clock: Callable[[], int]
    actor: str
    run_id: str | None
    encryption: str
    coding: Coding = field(default_factory=Coding)

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do. It is tried by writing, so who only reads must not ask."""
        return self.store.probe()
