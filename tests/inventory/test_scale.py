"""A large catalogue imports, validates and is planned from in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from migrate.inventory import Inventory, read_catalogs, validated

path, work = Path(sys.argv[1]), Path(sys.argv[2])
with Inventory.create(work) as inventory:
    report = read_catalogs([path], inventory)
    images = sum(1 for _ in validated(inventory, 0))
    placed = sum(1 for total in inventory.media_totals()
                 for _ in inventory.fragments_on(total.media_id))
# not ru_maxrss: that begins with the size of the process that started this one
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(report.rows_read, images, placed, int(status["VmHWM"].split()[0]) // 1024)
"""


def generate(path: Path, rows: int) -> None:
    """Rows of many clients and tapes, every third image spanning two tapes."""
    head = (
        "Backup ID,Client,Policy,Expiration,Copy,Fragment,Fragment KB,Media ID,File Number,Offset"
    )
    with path.open("w", encoding="utf-8") as out:
        out.write(f"{head}\n")
        made = image = 0
        while made < rows:
            image += 1
            # A stride mixes the ids, so that sorting has work to do.
            epoch = 1_500_000_000 + image * 7_919 % 200_000_003
            client = f"host{image % 997:04d}.example.com"
            for number in range(1, 3 if image % 3 == 0 else 2):
                tape = (image + number) % 4000
                out.write(
                    f"{client}_{epoch},{client},policy{image % 50},{epoch + 86_400},1,{number},"
                    f"1048576,T{tape:05d},{image % 900 + 1},{image % 900 * 4099 + 2}\n"
                )
                made += 1


def measure(folder: Path, rows: int) -> tuple[int, int, int, int]:
    path = folder / f"{rows}.csv"
    generate(path, rows)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(folder / f"{rows}.db")],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    taken, images, placed, peak = (int(word) for word in done.stdout.split())
    return taken, images, placed, peak


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    taken, images, placed, small = measure(tmp_path, 400_000)
    assert taken == placed >= 400_000
    assert images > 200_000
    _, _, _, large = measure(tmp_path, 1_200_000)
    assert large < 160  # MiB
    assert large < small + 40  # the caches may not have been full at first
