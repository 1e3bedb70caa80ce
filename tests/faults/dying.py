"""The command in processes that die on purpose, at a moment that the test names.

``python -m tests.faults.dying`` imports everything once, then forks for each order: the child runs
``tapemigrate`` and kills itself with SIGKILL at its n-th *event*. An event is the moment before or
after a journal transaction, and the moment before an S3 request leaves or after its answer came:
so every step of writing, committing, locking and telling the ledger has kills right around it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_RUN_S = 100


@dataclass(frozen=True)
class Death:
    """How a process ended: killed, or by itself with a code. events is how many it had."""

    killed: bool
    code: int
    events: int
    out: str
    err: str


class Mortals:
    """Runs the command in mortal processes. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Mortals:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.dying"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LONGEST_RUN_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(
        self, words: list[str], *, at_event: int | None = None, after_s: float | None = None
    ) -> Death:
        """Run the command; it dies at an event, or after a time, or not at all."""
        out, err, count = (self._folder / name for name in ("out", "err", "events"))
        count.unlink(missing_ok=True)
        order = {
            "words": words, "at_event": at_event, "after_s": after_s,
            "out": str(out), "err": str(err), "count": str(count),
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        killed = os.WIFSIGNALED(status)
        if killed:
            assert os.WTERMSIG(status) == signal.SIGKILL, err.read_text()
        return Death(
            killed=killed,
            code=-1 if killed else os.WEXITSTATUS(status),
            events=int(count.read_text()) if count.exists() else 0,
            out=out.read_text(),
            err=err.read_text(),
        )


# --- in the mortal process --------------------------------------------------------------------


class Fate:
    """Counts events and ends the process at one of them."""

    def __init__(self, at_event: int | None) -> None:
        self._at = at_event
        self._counter = itertools.count(1)  # its next() is one step for all threads
        self.seen = 0

    def event(self) -> None:
        number = next(self._counter)
        self.seen = max(self.seen, number)
        if number == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # no step more until the signal arrives


def watch(fate: Fate, *, journal: bool = True, s3: bool = True) -> None:
    """Put events around journal transactions, and around S3 requests."""
    from botocore.httpsession import URLLib3Session

    from connector.pool.journal import Journal

    transaction, send = Journal.transaction, URLLib3Session.send

    @contextlib.contextmanager
    def watched(self: Journal, *, durable: bool = False) -> Iterator[Any]:
        fate.event()
        with transaction(self, durable=durable) as db:
            yield db
        fate.event()

    def watched_send(self: URLLib3Session, request: Any) -> Any:
        fate.event()
        answer = send(self, request)
        fate.event()
        return answer

    if journal:
        Journal.transaction = watched  # type: ignore[method-assign]
    if s3:
        URLLib3Session.send = watched_send  # type: ignore[method-assign]


def live(order: dict[str, Any]) -> None:
    """Be the command."""
    from migrate import cli

    signal.alarm(LONGEST_RUN_S)  # whatever hangs ends, and the test says so
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        with open(order[name], "wb") as file:  # noqa: PTH123
            os.dup2(file.fileno(), stream.fileno())
    fate = Fate(order["at_event"])
    watch(fate)
    if order["after_s"] is not None:
        killer = threading.Timer(order["after_s"], os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    sys.argv = ["tapemigrate", *order["words"]]
    code: Any = None
    try:
        cli.main()
    except SystemExit as exc:
        code = exc.code
    Path(order["count"]).write_text(str(fate.seen))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))  # taking an interpreter down takes longer than the migration


def main() -> None:
    """Take orders, one a line, until there are no more."""
    import pandas  # pyarrow takes it with the first table
    import pyarrow.parquet

    from catalog.s3 import S3Location, make_client
    from migrate import cli

    assert pandas
    assert pyarrow.parquet
    assert cli.NAME
    make_client(S3Location("any", "", "http://127.0.0.1:9"))  # S3's model, once for all forks
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            live(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()
