"""A daemon as its users have it: a process of its own, with its signals, on a real S3 server."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from catalog import console
from catalog.s3 import S3Location
from connector import cli
from connector.client import Client
from connector.serve.listener import Door
from connector.settings import PoolSettings, SocketSettings
from tests.serve.support import World

PROGRAM = (sys.executable, "-c", "import connector.cli; connector.cli.main()")
WRAPPER = (sys.executable, "-m", "connector.dplcompat")
READY_S = 30.0
END_S = 30.0


def config_of(
    folder: Path, pools: Mapping[str, S3Location], *, more: str = "", pool: str = ""
) -> str:
    """A configuration with small parts; more is appended, pool goes into every pool."""
    text = f'[socket]\npath = "{folder}/socket"\n[state]\ndir = "{folder}/state"\n'
    for name, where in pools.items():
        text += (
            f'[pools.{name}]\nbucket = "{where.bucket}"\nprefix = "{where.prefix}"\n'
            f'endpoint_url = "{where.endpoint_url}"\nclass = "standard"\npart_size = "5 MiB"\n'
            f"deadline_s = 20\n{pool}\n"
        )
    return text + more


class Running:
    """A daemon that was started. ``log`` is all that it said."""

    def __init__(self, folder: Path, *words: str, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / "manager"
        address.unlink(missing_ok=True)
        self._manager.bind(str(address))
        self._manager.settimeout(READY_S)
        self._log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", *words],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "NOTIFY_SOCKET": str(address), **(environ or {})},
        )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def told(self, what: str) -> dict[str, str]:
        """Wait until the service manager is told this; gives the whole message."""
        while True:
            try:
                message = self._manager.recv(65536).decode()
            except TimeoutError:
                raise AssertionError(f"never told {what}: {self.log}") from None
            said = dict(line.split("=", 1) for line in message.splitlines())
            if what in said:
                return said

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to end, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(END_S)
        self.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_S)
        self._log.close()
        self._manager.close()

    def client(self, **more: Any) -> Client:
        return Client(socket=self.socket, timeout_s=30.0, **more)


@contextlib.contextmanager
def serving(
    folder: Path, text: str, *words: str, environ: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """A daemon with this configuration, ready; ended at the end."""
    config = folder / "tapeconnector.toml"
    config.write_text(text)
    daemon = Running(folder, "--config", str(config), *words, environ=environ)
    try:
        daemon.told("READY")
        yield daemon
    finally:
        daemon.close()


def call(
    *words: str, data: bytes | None = None, program: tuple[str, ...] = PROGRAM, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process; gives its exit code, stdout and stderr."""
    stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    return subprocess.run(
        [*program, *words], capture_output=True, timeout=60, check=False, **{**stdin, **more}
    )


def said(*words: str) -> tuple[int, str, str]:
    """Run a command in this process, where no descriptor is passed: code, stdout, stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            console.run(cli.app, cli.NAME, codes=cli.CODES, args=words)
        except SystemExit as exc:
            code = int(exc.code or 0)
    return code, out.getvalue(), err.getvalue()


def answered(*words: str) -> Any:
    """What a command prints as JSON, in this process."""
    code, out, err = said(*words, "--json")
    assert code == 0, err
    return json.loads(out)


@contextlib.contextmanager
def answering(folder: Path, world: World, *pools: PoolSettings) -> Iterator[Path]:
    """A daemon's service behind a real socket, in this process, on memory stores; its path."""
    path = folder / "socket"
    service = world.service(*pools)
    settings = dataclasses.replace(service.settings, socket=SocketSettings(path=path))
    service.start()
    door = Door(settings, service)
    door.start()
    try:
        yield path
    finally:
        door.close()
        service.close()
