"""One daemon to a state folder: the lock that keeps a second one out."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import ConfigError

LOCK = "daemon.lock"


@contextlib.contextmanager
def lock_state(state: Path) -> Iterator[None]:
    """Hold the folder until left; it is created, for this user alone, if it is not there.

    Raises:
        ConfigError: the folder cannot be used, or another process holds it.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(
            f"the state folder {state} cannot be used: {exc.strerror}",
            hint="check [state] dir and who may write there",
        ) from exc
    try:
        _take(descriptor, state)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, state: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise ConfigError(
            f"{who} uses the state folder {state}: a daemon, or tapeconnector rebuild",
            hint="stop it first, or give this one a folder of its own",
        ) from exc
