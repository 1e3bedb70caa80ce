"""Who uses what in one pool: which images are open, and how many handles there may be.

Memory: an image that is open, for writing or for reading, takes at most
``(parts_in_flight + 1) * part_size`` bytes, and at most ``images_open`` of them are open in a
pool, those that the daemon itself writes (uploads from the spool, copies) among them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from catalog.errors import ImageBusy
from connector.pool.config import PoolConfig
from connector.serve.failures import BusyFor
from connector.wire.messages import LiveHandle


def memory_bound(config: PoolConfig) -> int:
    """Bytes that the part buffers of one pool take at most."""
    return config.images_open * (config.parts_in_flight + 1) * config.part_size


class Holder(Protocol):
    """Something that holds an image open."""

    def live(self) -> LiveHandle | None:
        """How it is to be shown; None: not at all."""
        ...


Key = tuple[str, int]
BRIEF_S = 5.0
"""How long a client waits for an image that is being looked after or removed, in seconds."""


@dataclass(slots=True)
class _Use:
    key: Key
    mode: str  # write, read, work
    holder: Holder | None = None


class InUse:
    """The uses of one pool. Calls may come from several threads.

    total: how many images may be open at once; reserved of them are for the daemon's own work.
    """

    def __init__(self, total: int, reserved: int) -> None:
        self._total = total
        self._clients = total - reserved
        self._uses: dict[int, _Use] = {}
        self._next = 0
        self._changed = threading.Condition()

    def write(self, name: str, copy: int) -> int:
        """Take an image for writing, and one of the clients' places; gives the use.

        Raises:
            ImageBusy: somebody has it open.
            TooBusy: as many images are open as may be.
        """
        with self._changed:
            self._check_free((name, copy))
            self._check_room()
            return self._add(_Use((name, copy), "write"))

    def read(self, name: str, copy: int, *, wait_s: float = 0.0) -> int:
        """Take an image for reading beside other readers; see ``alone`` for wait_s.

        Raises:
            ImageBusy: it is being deleted.
            TooBusy: as many images are open as may be.
        """
        with self._changed:
            self._wait_brief((name, copy), wait_s)
            self._check_free((name, copy), beside="read")
            self._check_room()
            return self._add(_Use((name, copy), "read"))

    @contextmanager
    def alone(self, name: str, copy: int, *, wait_s: float = 0.0) -> Iterator[None]:
        """Have an image to oneself for a short while, to delete or give it up; takes no place.

        wait_s: how long to wait for somebody else who has it for a short while: the daemon looks
        after images too, and no client should hear of that.

        Raises:
            ImageBusy: somebody has it open.
        """
        with self._changed:
            self._wait_brief((name, copy), wait_s)
            self._check_free((name, copy))
            use = self._add(_Use((name, copy), "alone"))
        try:
            yield
        finally:
            self.let_go(use)

    def work(self, name: str, copy: int, mode: str, *, wait_s: float) -> int | None:
        """Take an image for the daemon's own work, and one of all places; None: none became free.

        mode is write or read. Raises ImageBusy when somebody has the image open.
        """
        beside = "read" if mode == "read" else ""
        with self._changed:
            self._check_free((name, copy), beside=beside)
            if not self._changed.wait_for(lambda: self._taken() < self._total, wait_s):
                return None
            self._check_free((name, copy), beside=beside)
            return self._add(_Use((name, copy), mode))

    def let_go(self, use: int) -> None:
        """End a use. Ending it twice does no harm."""
        with self._changed:
            self._uses.pop(use, None)
            self._changed.notify_all()

    def show(self, use: int, holder: Holder) -> None:
        """Say who holds it, for ``live``."""
        with self._changed:
            if use in self._uses:
                self._uses[use].holder = holder

    def is_open(self, name: str, copy: int) -> bool:
        """Whether somebody uses the image."""
        with self._changed:
            return any(use.key == (name, copy) for use in self._uses.values())

    def is_briefly_held(self, name: str, copy: int) -> bool:
        """Whether it is only ``alone`` that keeps others from the image."""
        with self._changed:
            return self._modes((name, copy)) == {"alone"}

    def wait_free(self, name: str, copy: int, wait_s: float) -> bool:
        """Wait until nobody uses the image; whether it became so."""
        key = (name, copy)
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(use.key == key for use in self._uses.values()), wait_s
            )

    def live(self) -> list[LiveHandle]:
        """The open handles, the oldest first."""
        with self._changed:
            holders = [use.holder for use in self._uses.values() if use.holder is not None]
        shown = (holder.live() for holder in holders)
        return [handle for handle in shown if handle is not None]

    def clients(self) -> int:
        """How many images clients have open."""
        with self._changed:
            return sum(use.holder is not None for use in self._uses.values())

    def _modes(self, key: Key) -> set[str]:
        return {use.mode for use in self._uses.values() if use.key == key}

    def _wait_brief(self, key: Key, wait_s: float) -> None:
        self._changed.wait_for(lambda: self._modes(key) != {"alone"}, wait_s)

    def _add(self, use: _Use) -> int:
        self._next += 1
        self._uses[self._next] = use
        return self._next

    def _taken(self) -> int:
        return sum(use.mode != "alone" for use in self._uses.values())

    def _check_free(self, key: Key, beside: str = "") -> None:
        if any(use.key == key and use.mode != beside for use in self._uses.values()):
            raise ImageBusy(
                f"image {key[0]!r} copy {key[1]} is open just now",
                hint="wait until the other client has closed it",
            )

    def _check_room(self) -> None:
        if self._taken() >= self._clients:
            raise BusyFor(
                f"{self._taken()} images are open in this pool, as many as images_open allows",
                retry_after_s=2.0,
                hint="close one, or raise images_open in the pool's configuration",
            )
