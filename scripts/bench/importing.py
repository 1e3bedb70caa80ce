"""What it costs to import a CSV catalogue, beside the csv module reading it and doing nothing.

Each program runs in a process of its own, so that its peak memory is its own. Rounds alternate
and the best of each program counts: other work on the machine only ever makes one slower.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = (
    "Backup ID,Client,Policy,Policy Type,Schedule,Schedule Type,Backup Time (UTC),Expiration (UTC),"
    "Retention Level,Kilobytes,Files,Compressed,Encrypted,Copies,Primary Copy,Copy,"
    "Copy Expiration (UTC),Fragment,Fragment KB,Remainder,Storage,Media ID,Barcode,Density,"
    "File Number,Block Size,Offset,MPX,Media Server,Media Date (UTC),Keyword"
)
TAPES = 4000
KEPT_S = 365 * 86_400

READ = """
import csv, sys
with open(sys.argv[1], encoding="utf-8", newline="") as stream:
    rows = sum(1 for _ in csv.reader(stream)) - 1
"""
IMPORT = """
import sys
from pathlib import Path
from migrate.inventory import Inventory, read_catalogs
with Inventory.create(Path(sys.argv[2])) as inventory:
    rows = read_catalogs([Path(sys.argv[1])], inventory).rows_read
"""
MEASURE = """
import json, time
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
wall = time.perf_counter() - began
print(json.dumps({"rows": rows, "wall": wall, "cpu": time.process_time() - spent,
                  "peak_mib": int(status["VmHWM"].split()[0]) / 1024}))
"""
BEGIN = "import time\nbegan, spent = time.perf_counter(), time.process_time()\n"
PROGRAMS = {"csv module": READ, "tapelift": IMPORT}


def generate(path: Path, rows: int) -> None:
    """Write rows of many clients and tapes; every third image lies on two tapes."""
    with path.open("w", encoding="utf-8") as out:
        out.write(f"{HEADER}\n")
        made = image = 0
        while made < rows:
            image += 1
            # A stride mixes the ids, so that sorting has work to do.
            epoch = 1_400_000_000 + image * 7_919 % 200_000_003
            client = f"host{image % 997:04d}.example.com"
            spans = image % 3 == 0
            expires = text(epoch + KEPT_S)
            head = (
                f"{client}_{epoch},{client},policy{image % 50},Standard,Weekly_Full,Full Backup,"
                f"{text(epoch)},{expires},8,{1048576 * (1 + spans)},{image % 90_000},N,N,1,1,1,"
                f"{expires}"
            )
            for number in range(1, 3 if spans else 2):
                tape = (image + number) % TAPES
                file = image // TAPES + 1
                out.write(
                    f"{head},{number},1048576,{image % 1024},Tape,T{tape:05d},NBT{tape:05d}L6,"
                    f"hcart2,{file},262144,{(file - 1) * 4099 + 2},0,server{image % 4},"
                    f"{text(1_300_000_000 + tape * 10_000)},\n"
                )
                made += 1


def text(epoch: int) -> str:
    """A time as the reports print it."""
    return dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def run(program: str, folder: Path) -> dict[str, float]:
    """One program, once, over the file in the folder."""
    target = folder / "inventory.db"
    target.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program + MEASURE, folder / "catalog.csv", target],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Generate, run, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench/catalog")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tapelift-bench-") as scratch:
        folder = Path(scratch)
        generate(folder / "catalog.csv", options.rows)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
        for _ in range(options.rounds):
            for name, program in PROGRAMS.items():
                runs[name].append(run(program, folder))
    best = {name: min(found, key=lambda one: one["wall"]) for name, found in runs.items()}
    if options.json:
        print(json.dumps(best))
        return
    print(f"{'':12} {'rows':>11} {'rows/s':>9} {'cpu s':>8} {'peak MiB':>9}")
    for name, one in best.items():
        rows, rate = one["rows"], one["rows"] / one["wall"]
        print(f"{name:12} {rows:>11.0f} {rate:>9.0f} {one['cpu']:>8.1f} {one['peak_mib']:>9.0f}")


if __name__ == "__main__":
    main()
