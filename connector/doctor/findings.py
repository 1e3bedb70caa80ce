"""What a finding is, and how findings are collected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from catalog.errors import PoolError


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # works, and will cost or surprise somebody
    ERROR = "error"  # does not work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found. remedy says what to do; it is empty when nothing is to be done.

    check is a stable name for scripts. pool is empty for what concerns the host.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""
    pool: str = ""


@dataclass(slots=True)
class Findings:
    """Findings of one pool, or of the host, in the order in which they were made."""

    pool: str = ""
    made: list[Finding] = field(default_factory=list)

    def ok(self, check: str, message: str) -> None:
        """All is well."""
        self._add(check, Level.OK, message, "")

    def warning(self, check: str, message: str, remedy: str) -> None:
        """Works, but."""
        self._add(check, Level.WARNING, message, remedy)

    def error(self, check: str, message: str, remedy: str) -> None:
        """Does not work."""
        self._add(check, Level.ERROR, message, remedy)

    def failed(self, check: str, error: PoolError, remedy: str = "") -> None:
        """An error of ours; its own hint is the remedy unless there is a better one."""
        self._add(
            check, Level.ERROR, error.message, remedy or error.hint or "see docs/operations.md"
        )

    def _add(self, check: str, level: Level, message: str, remedy: str) -> None:
        self.made.append(
            Finding(check=check, level=level, message=message, remedy=remedy, pool=self.pool)
        )


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among findings; ok when there are none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def to_json(findings: Iterable[Finding]) -> dict[str, object]:
    """Findings as ``doctor --json`` prints them."""
    made = list(findings)
    return {"level": str(worst(made)), "findings": [asdict(finding) for finding in made]}
