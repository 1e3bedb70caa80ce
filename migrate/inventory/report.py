"""What an import found out: counts, what was ignored and why, findings. It grows no further.

A catalogue of ten million bad rows must not fill memory with complaints: every kind is counted
in full, and the first few of a kind are kept word for word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

KEPT_PER_KIND = 100


class Severity(StrEnum):
    """NOTE: for the record. WARNING: look at it. ERROR: rows contradict each other or are lost."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing an operator should know. place is ``file:line`` or a file."""

    severity: Severity
    code: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.place}: {self.message} [{self.code}]"


@dataclass(slots=True)
class SourceReport:
    """What became of one catalogue file. rows counts records that were taken."""

    path: str
    format: str
    encoding: str = "utf-8"
    rows: int = 0
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ImportReport:
    """Everything an import has to say. counts holds the full number of each finding's code."""

    sources: list[SourceReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def rows_read(self) -> int:
        """Records taken, over all files."""
        return sum(source.rows for source in self.sources)

    @property
    def rows_ignored(self) -> int:
        """Records left out, over all files; each has a finding that says why."""
        return sum(sum(source.ignored.values()) for source in self.sources)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats met, in order of the files."""
        return tuple(source.format for source in self.sources)

    def add(self, severity: Severity, code: str, place: str, message: str) -> None:
        """Count a finding, and keep its words while there are few of its kind."""
        seen = self.counts.get(code, 0)
        self.counts[code] = seen + 1
        if seen < KEPT_PER_KIND:
            self.findings.append(Finding(severity, code, place, message))

    def lines(self) -> Iterator[str]:
        """The report as text, one finding a line, worst first."""
        for source in self.sources:
            ignored = "".join(f", {count} {why}" for why, count in sorted(source.ignored.items()))
            yield f"{source.path}: {source.format}, {source.rows} rows taken{ignored}"
        order = (Severity.ERROR, Severity.WARNING, Severity.NOTE)
        for severity in order:
            yield from (str(one) for one in self.findings if one.severity is severity)
        for code, count in sorted(self.counts.items()):
            if count > KEPT_PER_KIND:
                yield f"{count - KEPT_PER_KIND} more findings of the kind {code}"


class Notes:
    """The report as one reader sees it: bound to its file."""

    def __init__(self, report: ImportReport, source: SourceReport) -> None:
        self._report = report
        self._source = source
        self._once: set[str] = set()

    def ignore(self, line: int, why: str, detail: str = "", *, lost: bool = False) -> None:
        """A record is left out. lost: it held data, so this is worth more than a note."""
        self._source.ignored[why] = self._source.ignored.get(why, 0) + 1
        severity = Severity.WARNING if lost else Severity.NOTE
        message = f"row ignored: {why}" + (f" ({detail})" if detail else "")
        self._report.add(severity, "row_ignored", self.place(line), message)

    def warn(self, line: int, code: str, message: str) -> None:
        """Something about a record that was taken all the same."""
        self._report.add(Severity.WARNING, code, self.place(line), message)

    def once(self, line: int, code: str, message: str) -> None:
        """A warning that concerns the whole file: given at its first occasion only."""
        if code not in self._once:
            self._once.add(code)
            self.warn(line, code, message)

    def place(self, line: int) -> str:
        """``file:line``, as findings and errors name it."""
        return f"{self._source.path}:{line}"
