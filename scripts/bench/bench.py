"""Measures what it costs to move one object through a pipe: Tapelift beside its peers.

All programs use one loopback endpoint in one run, in turns (each round runs everybody once), and
the table holds medians. Processor seconds are user and system time of the program and the children
it waited for, from wait4; those of the endpoint and of the pipe's other end are not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace

from measure import Failed, Run, endpoint, measure, observed, stored_size
from peers import (
    BARE,
    FLOOR,
    HASHED,
    NO_PEERS,
    OURS,
    PASSED,
    SERVED,
    THROUGH,
    Competitor,
    Target,
    find,
)
from service import daemon

GIB = 1 << 30
WARM_UP = 4096
UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": GIB, "TIB": 1 << 40}


@dataclass
class Row:
    """One program at one size: the medians of its runs, the largest of its peaks."""

    name: str
    version: str
    size: int
    runs: list[Run] = field(default_factory=list)
    carried: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def cpu_per_gib(self) -> float:
        """Give processor seconds per GiB."""
        return statistics.median(run.cpu for run in self.runs) * GIB / self.size

    @property
    def gib_per_second(self) -> float:
        """Give GiB per second of wall time."""
        return self.size / GIB / statistics.median(run.wall for run in self.runs)

    @property
    def peak(self) -> int:
        """Give the largest resident size of any run, in bytes."""
        return max(run.peak for run in self.runs)


def parse_size(text: str) -> int:
    """Read "1GiB", "64 MiB" or a plain number of bytes."""
    number = text.strip().rstrip("BGIKMTbgikmt ")
    try:
        size = int(float(number) * UNITS[text.strip()[len(number) :].strip().upper()])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; write it like 1GiB") from None
    if size < 1:
        raise argparse.ArgumentTypeError("a size is at least one byte")
    return size


def compare(
    direction: str, sizes: list[int], rounds: int, programs: list[str], *, tls: bool
) -> list[Row]:
    """Run everybody at every size, in turns, and give the rows. Progress goes to stderr."""
    found, absent = find(programs)
    if direction == "put":
        found = [competitor for competitor in found if competitor.name != HASHED]
    for name in absent:
        print(f"{name} is not installed and is left out", file=sys.stderr)
    rows: list[Row] = []
    with ExitStack() as stack:
        target = stack.enter_context(endpoint(tls=tls))
        if any(competitor.name in SERVED for competitor in found):
            folder = target.scratch / "daemon"
            served = stack.enter_context(daemon(target.url, folder, target.environment()))
            target = replace(target, daemon=served)
        for competitor in found if rounds > 1 else ():
            warm_up(competitor, direction, target)
        for size in sizes:
            table = [(program, Row(program.name, program.version, size)) for program in found]
            rows += [row for _, row in table]
            prepared: set[str] = set()
            for turn in range(rounds):
                for competitor, row in table:
                    if row.error:
                        continue
                    what = f"{direction} {size / GIB:g} GiB, round {turn + 1} of {rounds}"
                    print(f"{what}: {row.name}", file=sys.stderr, flush=True)
                    try:
                        if direction == "get":
                            prepare(competitor, size, target, prepared)
                        run_once(competitor, direction, row, target)
                    except Failed as failure:
                        row.error = str(failure)
    return rows


def warm_up(competitor: Competitor, direction: str, target: Target) -> None:
    """Run a program once, uncounted, so that its files are read and its modules compiled."""
    print(f"warming up: {competitor.name}", file=sys.stderr, flush=True)
    with suppress(Failed):  # the row will tell
        measure(competitor, "prepare" if competitor.name not in SERVED else "put", WARM_UP, target)
        if direction == "get" and competitor.name not in SERVED:
            measure(competitor, "get", WARM_UP, target)


def prepare(competitor: Competitor, size: int, target: Target, prepared: set[str]) -> None:
    """Put what a program gets, once, if it reads nothing but what it wrote."""
    stores = {OURS: "pool", HASHED: "pool"} | dict.fromkeys(SERVED, "served")
    store = stores.get(competitor.name)
    if store is not None and store not in prepared:
        measure(competitor, "prepare", size, target)
        prepared.add(store)


def run_once(competitor: Competitor, direction: str, row: Row, target: Target) -> None:
    """Add one run to a row.

    Raises:
        Failed: the program did, or what it put is not what it was given.
    """
    observed(target)
    row.runs.append(measure(competitor, direction, row.size, target))
    row.carried = observed(target)
    if direction == "put" and row.name not in NO_PEERS:  # ours looks for itself
        there = stored_size(target, row.name)
        if there != row.size:
            raise Failed(f"{row.name} stored {there} bytes instead of {row.size}")


def ratio(row: Row, rows: list[Row]) -> float | None:
    """Give a program's processor time over that of the best peer at the same size."""
    peers = [
        peer.cpu_per_gib
        for peer in rows
        if peer.size == row.size and peer.name not in NO_PEERS and peer.runs and not peer.error
    ]
    return row.cpu_per_gib / min(peers) if peers and row.runs else None


def as_json(direction: str, rounds: int, rows: list[Row]) -> str:
    """Give the whole comparison as one object."""
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    return json.dumps(
        {
            "direction": direction,
            "rounds": rounds,
            "machine": machine,
            "rows": [
                asdict(row)
                | (
                    {
                        "cpu_seconds_per_gib": round(row.cpu_per_gib, 4),
                        "gib_per_second": round(row.gib_per_second, 4),
                        "peak_bytes": row.peak,
                        "ratio_to_best_peer": ratio(row, rows),
                    }
                    if row.runs and not row.error
                    else {}
                )
                for row in rows
            ],
        },
        indent=2,
    )


def as_table(direction: str, rounds: int, rows: list[Row]) -> str:
    """Give the comparison for people."""
    head = (
        f"{'size':>8}  {'program':<28} {'cpu s/GiB':>9} {'GiB/s':>7} {'peak MiB':>9} {'ratio':>6}"
    )
    lines = [
        f"{direction}: median of {rounds}; {platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; ratio: processor time over the best peer's",
        head,
    ]
    for row in rows:
        name = f"{row.name} {row.version}".strip()
        if row.error:
            lines.append(f"{row.size / GIB:>6g} G  {name:<28} failed: {row.error}")
            continue
        share = ratio(row, rows)
        shown = f"{share:>6.2f}" if share is not None and row.name != BARE else f"{'':>6}"
        lines.append(
            f"{row.size / GIB:>6g} G  {name:<28} {row.cpu_per_gib:>9.2f} {row.gib_per_second:>7.2f}"
            f" {row.peak / (1 << 20):>9.0f} {shown}"
        )
    lines += ["", "what the requests carried (bodies of 1 MiB and more, last round):"]
    for row in rows:
        if row.name != BARE:
            carried = ", ".join(f"{count} {what}" for what, count in sorted(row.carried.items()))
            lines.append(f"{row.size / GIB:>6g} G  {row.name:<28} {carried or 'nothing'}")
    return "\n".join(lines)


def main() -> int:
    """Parse, compare, print. Exit status 1 when a program failed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench/{put,get}", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("direction", choices=["put", "get"], help=argparse.SUPPRESS)
    parser.add_argument(
        "--size",
        type=parse_size,
        action="append",
        help="bytes to move, like 1GiB; repeat it to see whether memory stays flat (default: 1GiB)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="runs of each program (default: 3); before several, each runs once uncounted",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[OURS, HASHED, PASSED, THROUGH, "s5cmd", "rclone", "aws s3 cp", FLOOR, BARE],
        help="run only this program; repeatable",
    )
    parser.add_argument(
        "--tls",
        action="store_true",
        help="talk to the endpoint over TLS, as to AWS; wall times are then the endpoint's",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    sizes = options.size or [GIB]
    rows = compare(options.direction, sizes, options.rounds, options.only, tls=options.tls)
    show = as_json if options.json else as_table
    print(show(options.direction, options.rounds, rows))
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
