"""The daemon as a process of its own, which dies on purpose at a moment that the test names.

``python -m tests.faults.mortal KIND AT SKEW WORD...`` is ``tapeconnector WORD...`` which kills
itself with SIGKILL at its AT-th event of a kind: ``journal`` (before and after each transaction and
each fsync of a spooled file), ``s3`` (before a request leaves, and after its answer came), or
``clock`` (AT is then seconds). Its wall clock is SKEW seconds off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import PoolError
from connector.client import Client
from tests.faults.dying import Fate, watch

READY_S = 40.0
LONGEST_LIFE_S = 5.0
"""A life whose moment never comes ends so long after it began to listen."""


@dataclass(frozen=True)
class Moment:
    """When a daemon dies."""

    kind: str
    at: float


class Daemon:
    """``tapeconnector serve`` on one configuration, as often as it is started."""

    def __init__(self, folder: Path, text: str, *, state: Path | None = None) -> None:
        self.folder = folder
        self.state = state or folder / "state"
        self.skew_s = 0
        self.socket = folder / "socket"
        self.config = folder / "tapeconnector.toml"
        self.config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def start(self, moment: Moment | None = None, *words: str) -> None:
        """Begin a life; it may end at a moment."""
        assert self._process is None
        kind, at = (moment.kind, moment.at) if moment else ("never", 0)
        fate = (kind, str(at), str(self.skew_s))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.faults.mortal", *fate),
                    *("serve", "--config", str(self.config), *words),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    def live(self, moment: Moment, while_: Callable[[], bool]) -> bool:
        """One life, as long as there is work for it; whether it ended at its moment."""
        self.start(moment)
        assert self._process is not None
        ends, listening = time.monotonic() + READY_S, False
        while (code := self._process.poll()) is None and while_() and time.monotonic() < ends:
            if not listening and self._is_listening():
                listening, ends = True, time.monotonic() + LONGEST_LIFE_S
            time.sleep(0.02)
        self.kill()
        assert code in (None, -signal.SIGKILL), f"it ended by itself: {code}\n{self.log[-4000:]}"
        return code is not None

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.socket))
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self, within_s: float = 60.0) -> int:
        """Tell it to end in order; gives its exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(within_s)
        finally:
            self.kill()

    def client(self, timeout_s: float = 60.0) -> Client:
        return Client(socket=self.socket, timeout_s=timeout_s)

    def ready(self, *, up: bool = True) -> None:
        """Wait until it answers, and its pools are up."""
        ends = time.monotonic() + READY_S
        while True:
            try:
                with self.client() as client:
                    states = {client.pool_props(name).state for name in client.pools()}
                if not up or states == {"up"}:
                    return
            except PoolError:
                assert self._process is not None
                assert self._process.poll() is None, self.log[-4000:]
            assert time.monotonic() < ends, f"it is not ready: {self.log[-4000:]}"
            time.sleep(0.05)


# --- in the mortal process --------------------------------------------------------------------


def main() -> None:
    """Be the daemon, and meet one's fate."""
    kind, at, skew_s = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    if skew_s:
        _set_clock(skew_s)
    from connector import cli

    sys.argv = [cli.NAME, *sys.argv[4:]]
    if kind == "clock":
        killer = threading.Timer(at, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    elif kind != "never":
        fate = Fate(int(at))
        watch(fate, journal=kind == "journal", s3=kind == "s3")
        if kind == "journal":
            _watch_files(fate)
    cli.main()


def _set_clock(skew_s: int) -> None:
    """Before anything that keeps the clock is imported."""
    wall, wall_ns = time.time, time.time_ns
    time.time = lambda: wall() + skew_s
    time.time_ns = lambda: wall_ns() + skew_s * 10**9


def _watch_files(fate: Fate) -> None:
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fate.event()
        fsync(descriptor)
        fate.event()

    os.fsync = watched


if __name__ == "__main__":
    main()
