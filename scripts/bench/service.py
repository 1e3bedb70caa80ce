"""A tapeconnector daemon before the benchmark's endpoint, and what it has used so far.

Its start is not counted, for a daemon starts once; what it uses while a client runs is added to
the client's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60.0
STOP_SECONDS = 60.0

CONNECTOR = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {json.dumps(str(HERE))}); import installed;"
    " sys.meta_path.insert(0, installed.AsInstalled()); from connector.cli import main; main()",
)
"""The first words of tapeconnector's command line."""


@dataclass(frozen=True)
class Daemon:
    """A running daemon with one pool, main."""

    pid: int
    socket: Path

    @property
    def cpu(self) -> float:
        """Give the processor seconds that it has used: user and system, all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def peak(self) -> int:
        """Give its largest resident size, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel does not tell the peak")


@contextmanager
def daemon(url: str, folder: Path, environment: dict[str, str]) -> Iterator[Daemon]:
    """Serve a pool on the endpoint from a folder of its own, with the defaults, until the end."""
    folder.mkdir(mode=0o700)
    socket, config = folder / "socket", folder / "daemon.toml"
    config.write_text(
        f"[socket]\npath = {json.dumps(str(socket))}\n[state]\ndir = {json.dumps(str(folder))}\n"
        f'[pools.main]\nbucket = "bench"\nprefix = "served"\nendpoint_url = "{url}"\n'
    )
    config.chmod(0o600)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*CONNECTOR, "serve", "--config", str(config)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_up(process, socket, environment, folder / "log")
            yield Daemon(process.pid, socket)
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(
    process: subprocess.Popen[bytes], socket: Path, environment: dict[str, str], log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    ask = [*CONNECTOR, "pools", "--socket", str(socket), "--json"]
    while time.monotonic() < deadline and process.poll() is None:
        asked = subprocess.run(ask, env=environment, capture_output=True, timeout=30, check=False)
        if asked.returncode == 0 and b'"up"' in asked.stdout:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the daemon did not start: {log.read_text()[-2000:]}")
