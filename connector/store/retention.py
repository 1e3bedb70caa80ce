"""The rule of a lock: it can grow, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.errors import ObjectLocked, Unsupported
from catalog.model import LockMode, iso

_STRENGTH = {LockMode.NONE: 0, LockMode.GOVERNANCE: 1, LockMode.COMPLIANCE: 2}


@dataclass(frozen=True, slots=True)
class Retention:
    """A lock on one version; until is nanoseconds, and one that has ended binds nobody."""

    mode: LockMode = LockMode.NONE
    until: int = 0

    def holds(self, now: int) -> bool:
        """Whether it forbids anything now."""
        return self.mode is not LockMode.NONE and self.until > now

    def check_extended_by(self, asked: Retention, what: str, *, now: int) -> bool:
        """Whether asked changes anything. Raises ObjectLocked when it would weaken this lock."""
        if asked.mode is LockMode.NONE:
            raise Unsupported(f"{what}: a lock cannot be taken away", hint="wait until it ends")
        if not self.holds(now):
            return True
        if asked.until < self.until:
            raise ObjectLocked(
                f"{what}: locked until {iso(self.until)}, asked for {iso(asked.until)}",
                hint="a lock can be extended, never shortened",
            )
        if _STRENGTH[asked.mode] < _STRENGTH[self.mode]:
            raise ObjectLocked(
                f"{what}: locked in {self.mode} mode, asked for {asked.mode}",
                hint="a lock can be strengthened, never weakened",
            )
        return asked != self
