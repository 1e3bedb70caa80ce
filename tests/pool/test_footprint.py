"""What the byte path takes of the machine: its buffers' memory, and what it loads to begin with."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from connector.pool.buffers import part_buffer

MIB = 1024 * 1024
SIZE = 64 * MIB


def resident() -> int:
    """Bytes of this process that are in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_a_part_buffer_takes_memory_when_filled_and_gives_it_back_when_let_go() -> None:
    gc.collect()
    before = resident()
    buffer = part_buffer(SIZE)
    assert len(buffer) == SIZE
    assert resident() - before < SIZE // 4
    with memoryview(buffer) as view:
        view[:] = bytes([7]) * SIZE
    filled = resident()
    assert filled - before > SIZE * 3 // 4
    del buffer
    assert filled - resident() > SIZE * 3 // 4


def test_a_part_buffer_may_have_any_size() -> None:
    for size in (1, 4095, 4097, 5 * MIB + 1):
        with memoryview(part_buffer(size)) as view:
            assert view.nbytes == size
            view[-1] = 1
            assert view[-1] == 1


def test_opening_a_pool_loads_nothing_that_only_the_ledger_s_files_need() -> None:
    program = (
        "import json, sys\n"
        "import connector.pool, connector.store.s3\n"
        "from catalog.ledger import Ledger\n"
        "Ledger.open('/not/there/ledger')\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded.isdisjoint({"pyarrow", "duckdb", "numpy", "pandas", "moto", "typer"})
