"""How full a pool is, against its marks. The store has no end, so room is what was configured.

Counted are the bytes of complete images, as the index has them, and those of images that are not
complete yet: open, incomplete or in the spool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from catalog.errors import QuotaExceeded
from connector.pool.index import Index, Totals
from connector.serve.inuse import Key
from connector.settings import PoolSettings

FRESH_S = 30.0
"""The index is asked again after this many seconds, and after every change that is told here."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A count of the index, and how old it is."""

    totals: Totals
    age_s: float


class Space:
    """One pool's fill. Calls may come from several threads."""

    def __init__(self, settings: PoolSettings, index: Index, clock: Callable[[], int]) -> None:
        self.settings = settings
        self._index = index
        self._clock = clock
        self._mutex = threading.Lock()
        self._counted: tuple[Totals, float] | None = None
        self._pending: dict[Key, int] = {}
        self._pending_sum = 0
        self._was_low = False

    def count(self, *, fresh_s: float = FRESH_S) -> Counted:
        """The totals of the index, at most fresh_s seconds old."""
        with self._mutex:
            now = time.monotonic()
            if self._counted is None or now - self._counted[1] > fresh_s:
                self._counted = (self._index.totals(self._clock()), now)
            totals, at = self._counted
            return Counted(totals, now - at)

    def used(self) -> int:
        """Bytes of all images, also of those that are not complete."""
        counted = self.count()
        with self._mutex:
            return max(0, counted.totals.logical + self._pending_sum)

    def pending(self, name: str, copy: int, size: int) -> None:
        """An image that is not complete has size bytes now; 0: it is gone."""
        with self._mutex:
            self._pending_sum += size - self._pending.pop((name, copy), 0)
            if size:
                self._pending[name, copy] = size

    def changed(self, name: str, copy: int) -> None:
        """An image has become complete, or was deleted."""
        self.pending(name, copy, 0)
        with self._mutex:
            self._counted = None

    def left(self) -> int | None:
        """Bytes up to the hard quota; None: there is none."""
        if self.settings.hard_quota is None:
            return None
        return max(0, self.settings.hard_quota - self.used())

    @property
    def low(self) -> bool:
        """Whether the soft mark is reached."""
        return self.settings.soft_quota is not None and self.used() >= self.settings.soft_quota

    def became_low(self) -> bool:
        """True once, each time that the soft mark is passed."""
        low = self.low
        with self._mutex:
            passed, self._was_low = low and not self._was_low, low
        return passed

    def check_create(self) -> None:
        """Refuse a new image at the hard mark.

        Raises:
            QuotaExceeded: it is reached.
        """
        if self.left() == 0:
            raise QuotaExceeded(
                f"pool {self.settings.name} has reached its hard quota of"
                f" {self.settings.hard_quota} bytes",
                hint="delete or expire images, or raise hard_quota",
            )
