"""Secrets from files: read once, never shown, and only from files that not everybody reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from connector.config_table import Wrong

KEY_BYTES = 32
SHORTEST_TOKEN = 16
LONGEST_TOKEN = 1024


def read_key(path: Path) -> bytes:
    """A key of exactly 32 bytes.

    Raises:
        Wrong: the file cannot be read, everybody reads it, or it holds something else.
    """
    data = _read(path, KEY_BYTES + 1)
    if len(data) != KEY_BYTES:
        held = f"{len(data)} bytes" if len(data) <= KEY_BYTES else f"more than {KEY_BYTES} bytes"
        raise Wrong(f"{path} holds {held}", f"make one of {KEY_BYTES}: {making(path)}")
    return data


def read_token(path: Path) -> str:
    """A token: one line of printable ASCII.

    Raises:
        Wrong: the file cannot be read, everybody reads it, or it holds something else.
    """
    text = _read(path, LONGEST_TOKEN + 2).removesuffix(b"\n").decode("ascii", "replace")
    fits = SHORTEST_TOKEN <= len(text) <= LONGEST_TOKEN
    if not fits or not text.isascii() or not text.isprintable() or " " in text:
        raise Wrong(
            f"{path} does not hold one word of {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters",
            f"make one: (umask 077; openssl rand -hex 32 > {path})",
        )
    return text


def check_private(path: Path) -> None:
    """Raises Wrong when the file cannot be read, or everybody on this host can read it."""
    _read(path, 1)


def making(path: Path) -> str:
    """The command that makes a key file."""
    return f"(umask 077; head -c {KEY_BYTES} /dev/urandom > {path})"


def _read(path: Path, most: int) -> bytes:
    try:
        # a pipe must not make us wait for somebody to write into it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:  # noqa: PTH123
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Wrong(f"{path} is not a file", "give a file that holds the secret")
            if about.st_mode & stat.S_IRWXO:
                raise Wrong(f"{path} is open to every user of this host", f"chmod o= {path}")
            return stream.read(most)
    except OSError as exc:
        raise Wrong(
            f"{path} cannot be read: {exc.strerror}", "check the path and its rights"
        ) from exc
