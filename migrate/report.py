"""Plans, results, status and checks as text and as JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog import console
from catalog.console import ExitCode
from catalog.errors import StoreError
from catalog.model import Kind
from connector.pool import Manifest, Pool
from connector.pool.commit import image_fact
from connector.pool.verify import Depth
from migrate.plan import Plan
from migrate.progress import duration
from migrate.run import RunResult
from migrate.selection import Outcome
from migrate.work import WorkFolder

FACTS_AT_ONCE = 500


def print_plan(plan: Plan, *, to_stderr: bool = False) -> None:
    """The plan for people: warnings first."""

    def line(text: str = "") -> None:
        print(console.printable(text), file=sys.stderr if to_stderr else sys.stdout)

    size = console.size_text
    for warning in plan.warnings:
        line(f"warning: {warning}")
    line(f"{plan.images} images, {size(plan.size)}, on {len(plan.tapes)} tapes")
    for (outcome, reason), count in sorted(plan.left_out.items()):
        line(f"{count} images {outcome}: {reason}")
    line()
    _table(
        ("drive", "order", "tape", "generation", "files", "images", "size", "time"),
        (
            (drive, at, tape.barcode + (" (again)" if visit.again else ""), tape.generation,
             tape.files, tape.images, size(tape.size), duration(tape.seconds))
            for drive, run in enumerate(plan.visits)
            for at, visit in enumerate(run, start=1)
            for tape in (plan.tapes[visit.media_id],)
        ),
        line,
    )  # fmt: skip
    for drive, run in enumerate(plan.visits):
        if run:
            line(f"drive {drive}: {len(run)} mounts, {duration(plan.drive_seconds(drive))}")
    line()
    prices = plan.costs.prices
    _table(
        ("class", "images", "objects", "size", "requests", "writing", "until expiry"),
        (
            (("-> " if cost.storage_class in plan.costs.chosen else "") + cost.storage_class,
             cost.images, cost.objects, size(cost.size), cost.requests, money(cost.once),
             money(cost.whole_life))
            for cost in plan.costs.alone.values()
        ),
        line,
    )  # fmt: skip
    line(f"{prices.currency}, prices of {prices.date} ({prices.source}); -> is what was chosen")


def money(amount: float) -> str:
    """An amount with cents, or with six digits where it is less than one."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.6f}"


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], line: Callable[[str], None]
) -> None:
    console.print_table(columns, rows, write=line)


def result_json(result: RunResult) -> dict[str, Any]:
    """A run's end as data."""
    return {
        "images": {outcome.value: count for outcome, count in result.images.items()},
        "bytes_stored": result.bytes_stored,
        "tapes": {
            "mounted": result.mounted,
            "unusable": result.unusable,
            "released": result.released,
        },
        "workdir": result.workdir,
        "run_id": result.run_id,
        "ledger": result.ledger,
        "interrupted": result.interrupted,
        "warnings": result.warnings,
    }


def print_result(result: RunResult) -> None:
    """A run's end for people."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in result.images.items())
    print(f"images: {counts}; {console.size_text(result.bytes_stored)} stored")
    print(f"tapes mounted: {result.mounted}")
    if result.released:
        print(f"tapes that may be destroyed: {', '.join(result.released)}")
    if result.unusable:
        print(f"tapes that could not be used: {', '.join(result.unusable)}")
    if result.interrupted:
        print("interrupted: run the same command to go on")
    elif result.images[Outcome.FAILED] or result.images[Outcome.DAMAGED]:
        print(f"see why: tapemigrate status --workdir {result.workdir}")
    print(f"ledger: {result.ledger}")


def exit_code(result: RunResult) -> ExitCode:
    """How the run's process ends."""
    if result.interrupted:
        return ExitCode.INTERRUPTED
    if result.unusable:
        return ExitCode.UNUSABLE
    if result.images[Outcome.FAILED] or result.images[Outcome.DAMAGED]:
        return ExitCode.INCOMPLETE
    return ExitCode.DONE


# --- status -----------------------------------------------------------------------------------


def read_status(workdir: Path) -> dict[str, Any]:
    """What a work folder says, also while a run is writing it."""
    work = WorkFolder(workdir, read_only=True)
    with contextlib.closing(work):
        counts = work.counts()
        with work.journal.transaction() as db:
            attempts = db.execute("SELECT count(*) FROM attempts").fetchone()[0]
            waiting = db.execute("SELECT count(*) FROM outbox").fetchone()[0]
        return {
            "workdir": str(workdir),
            "pool": work.journal.setting("pool"),
            "run_id": work.journal.setting("run_id"),
            "as_of": work.journal.setting("as_of"),
            "images": {outcome.value: count for outcome, count in counts.items()},
            "bytes_stored": work.bytes_stored(),
            "in_progress": attempts,
            "facts_waiting": waiting,
            "tapes": [
                {"media_id": tape.media_id, "barcode": tape.barcode, "mounts": tape.mounts,
                 "problem": tape.problem, "released": tape.released}
                for tape in work.tapes()
            ],
            "not_stored": [
                {"image": result.image_id, "outcome": result.outcome, "reason": result.reason}
                for result in work.results()
                if result.outcome in (Outcome.FAILED, Outcome.DAMAGED)
            ],
        }  # fmt: skip


def print_status(status: dict[str, Any]) -> None:
    """A work folder for people."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in status["images"].items())
    print(f"pool: {status['pool']}")
    print(f"images: {counts}; {console.size_text(status['bytes_stored'])} stored")
    print(f"in progress: {status['in_progress']}; ledger rows waiting: {status['facts_waiting']}")
    for tape in status["tapes"]:
        state = tape["problem"] or ("may be destroyed" if tape["released"] else "read")
        print(console.printable(f"tape {tape['barcode']}: {state}, {tape['mounts']} mounts"))
    for image in status["not_stored"]:
        print(console.printable(f"{image['outcome']}: {image['image']}: {image['reason']}"))


# --- verify -----------------------------------------------------------------------------------


@dataclass(slots=True)
class VerifiedImages:
    """What a check found. problems and unknown by image.

    uploads: unfinished ones in the whole pool, which cost money; None when nobody looked or may
    look.
    """

    depth: Depth
    checked: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    uploads: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As data."""
        return {
            "depth": self.depth,
            "checked": self.checked,
            "ok": self.checked - len(self.problems.keys() | self.unknown.keys()),
            "problems": self.problems,
            "unknown": self.unknown,
            "unfinished_uploads": self.uploads,
        }


def verify_images(
    pool: Pool, names: Sequence[str], depth: Depth, tick: Callable[[], None]
) -> VerifiedImages:
    """Check the named images, or all; each result is a fact."""
    found = VerifiedImages(depth)
    facts = []
    for manifest in _manifests(pool, names):
        result = pool.verify(manifest, depth)
        found.checked += 1
        key = f"{manifest.name} copy {manifest.copy}"
        if result.problems:
            found.problems[key] = list(result.problems)
        if result.unknown:
            found.unknown[key] = list(result.unknown)
        if not result.unknown:
            kind = Kind.DAMAGED if result.problems else Kind.VERIFIED
            reason = "; ".join(result.problems) or None
            detail: dict[str, object] = {"depth": depth}
            facts.append(image_fact(pool.context, manifest, kind, reason=reason, detail=detail))
        if len(facts) >= FACTS_AT_ONCE:
            pool.record(facts)
            facts = []
            pool.flush_due()
        tick()
    pool.record(facts)
    if not names:
        with contextlib.suppress(StoreError):  # a reader may not have the right to list them
            found.uploads = sum(1 for _ in pool.orphans())
    return found


def _manifests(pool: Pool, names: Sequence[str]) -> Iterator[Manifest]:
    if names:
        yield from (pool.stat(name) for name in names)
        return
    for name, copy in pool.images():
        manifest = pool.find(name, copy)
        if manifest is not None:  # else it was deleted meanwhile
            yield manifest


def print_verified(found: VerifiedImages) -> None:
    """A check for people."""
    bad = len(found.problems.keys() | found.unknown.keys())
    print(
        f"{found.checked} images checked ({found.depth}): {found.checked - bad} as they should be"
    )
    for what, images in (("wrong", found.problems), ("not known", found.unknown)):
        for image, reasons in images.items():
            print(console.printable(f"{what}: {image}: {'; '.join(reasons)}"))
    if found.uploads:
        print(
            f"{found.uploads} unfinished uploads lie in the pool; if no run is at work they can go:"
            " aws s3api list-multipart-uploads"
        )
