"""Runs one program between the endpoint and a pipe, and says what it cost.

Processor seconds are user and system time of the program and of the children it waited for, from
wait4; those of the endpoint and of the pipe's other end are not in them.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

from peers import BARE, SERVED, Competitor, Target

FEED = (sys.executable, str(Path(__file__).parent / "feed.py"))
SLOWEST = 10 << 20
"""Bytes per second under which a program is taken for stuck."""
GRACE_SECONDS = 60.0


class Failed(Exception):
    """A program ended badly or moved the wrong number of bytes; its last words follow."""


@dataclass
class Run:
    """One program, once: processor seconds, wall seconds, peak resident bytes."""

    cpu: float
    wall: float
    peak: int


@contextmanager
def endpoint(*, tls: bool) -> Iterator[Target]:
    """Start the endpoint in its own process; it ends with this one."""
    with tempfile.TemporaryDirectory(prefix="tapelift-bench-") as scratch:
        command = [sys.executable, str(Path(__file__).parent / "endpoint.py")]
        if tls:
            command += ["tls", scratch]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield Target(process.stdout.readline().decode().strip(), Path(scratch))
            finally:
                process.stdin.close()
                process.wait(timeout=10)


def ask(target: Target, path: str, method: str = "GET") -> HTTPResponse:
    """Ask the endpoint something about itself. It is this program's own: no need to trust it."""
    request = urllib.request.Request(target.url + path, method=method)
    context = ssl._create_unverified_context()
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=30, context=context)
    return answer


def observed(target: Target) -> dict[str, int]:
    """Ask what the requests since the last question carried."""
    with ask(target, "/-/observed") as answer:
        return dict(json.load(answer))


def stored_size(target: Target, name: str) -> int:
    """Ask how large the object is that a program put."""
    with ask(target, f"/bench/{name.split()[0]}", "HEAD") as answer:
        return int(answer.headers["Content-Length"])


def measure(competitor: Competitor, direction: str, size: int, target: Target) -> Run:
    """Run one program between the endpoint and a pipe whose other end is not counted.

    Raises:
        Failed: it ended with an error, took too long, or gave the wrong number of bytes.
    """
    if competitor.name == BARE:
        return _timed(competitor, direction, size, target)
    if competitor.name in SERVED and target.daemon is not None:
        before = target.daemon.cpu
        run = _through_pipe(competitor, direction, size, target)
        used = target.daemon.cpu - before
        return Run(run.cpu + used, run.wall, run.peak + target.daemon.peak)
    return _through_pipe(competitor, direction, size, target)


def _through_pipe(competitor: Competitor, direction: str, size: int, target: Target) -> Run:
    far, near = os.pipe()
    if direction != "get":
        feeder = subprocess.Popen([*FEED, "source", str(size)], stdout=near)
        os.close(near)
        ends = {"stdin": far}
        mine = far
    else:
        feeder = subprocess.Popen([*FEED, "sink"], stdin=far, stdout=subprocess.PIPE)
        os.close(far)
        ends = {"stdout": near}
        mine = near
    try:
        run = _timed(competitor, direction, size, target, **ends)
    finally:
        os.close(mine)  # or the far end would never see the end
        moved = _finish(feeder)
    if direction == "get" and moved != size:
        raise Failed(f"{competitor.name} gave {moved} bytes instead of {size}")
    return run


def _timed(
    competitor: Competitor,
    direction: str,
    size: int,
    target: Target,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Run:
    command = competitor.command(direction, size, target)
    with tempfile.TemporaryFile() as words:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            env=target.environment(),
            cwd=target.scratch,
            stdin=stdin,
            stdout=stdout,
            stderr=words,
        )
        allowed = GRACE_SECONDS + size / SLOWEST
        deadline = threading.Timer(allowed, process.send_signal, [signal.SIGKILL])
        deadline.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:
            deadline.cancel()
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words.seek(0)
            said = words.read()[-2000:].decode(errors="replace").strip()
            raise Failed(f"{competitor.name} ended with {process.returncode}: {said}")
    return Run(used.ru_utime + used.ru_stime, wall, used.ru_maxrss * 1024)


def _finish(feeder: subprocess.Popen[bytes]) -> int:
    """Wait for the pipe's far end; give the bytes it counted, if it counts."""
    try:
        output, _ = feeder.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        feeder.kill()
        output, _ = feeder.communicate()
    return int(output or 0)
