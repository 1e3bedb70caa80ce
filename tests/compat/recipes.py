"""Recipes of docs/integrations, run as they stand: their blocks, a daemon, users, programs."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from connector.client import Client
from tests.connector.support import PROGRAM, WRAPPER, Running, serving

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"
DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")
LONGEST_S = 60.0
"""How long one recipe may take."""

Ended = subprocess.CompletedProcess[str]


def block(page: str, language: str, name: str) -> str:
    """The one block of a page that is named so behind its language."""
    text = (PAGES / page).read_text("utf-8")
    (found,) = re.findall(rf"^```{language} {name}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(found)


# --- programs and users ---------------------------------------------------------------------------


def folders_of_programs() -> list[str]:
    """Where programs are; Debian keeps PostgreSQL's own in a folder for each version."""
    found = sorted(DEBIAN_POSTGRESQL.glob("*/bin"), key=lambda path: float(path.parent.name))
    return [*map(str, found[-1:]), *os.environ["PATH"].split(":"), "/usr/sbin", "/sbin"]


def need(*programs: str) -> None:
    """Skip, and say why, where a program is not installed or users cannot be changed."""
    path = ":".join(folders_of_programs())
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("only root can be the users that the recipes are for")


def user_or_nobody(name: str) -> str:
    """A user of a package, or nobody where the package did not make it."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name).pw_name
    return "nobody"


def become(user: str) -> list[str]:
    """What makes a command run as another user, with its groups.

    Where Python or the checkout lie in a folder of root's own, the user may read past folders.
    """
    return _words(user) + ([] if _runs_python(user) else list(READS_EVERYTHING))


READS_EVERYTHING = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")


def _words(user: str) -> list[str]:
    group = str(pwd.getpwnam(user).pw_gid)
    return ["setpriv", "--reuid", user, "--regid", group, "--init-groups"]


@functools.cache
def _runs_python(user: str) -> bool:
    command = f"cd / && PYTHONPATH='{ROOT}' '{sys.executable}' -c 'import connector.cli'"
    done = subprocess.run(  # through a shell: the first program of setpriv still has root's rights
        [*_words(user), "bash", "-c", command], capture_output=True, timeout=LONGEST_S, check=False
    )
    return done.returncode == 0


# --- a host ---------------------------------------------------------------------------------------


class Host:
    """A host with a daemon that is installed as the page says; every user finds its programs."""

    def __init__(self, folder: Path, daemon: Running, socket: Path) -> None:
        self.folder = folder
        self.daemon = daemon
        self.socket = socket
        self.environ: dict[str, str] = {
            "PATH": ":".join([str(folder / "bin"), *folders_of_programs()]),
            "HOME": str(folder / "home"),
            "XDG_STATE_HOME": str(folder / "xdg"),
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
        }

    def make_folder(self, name: str, owner: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700)
        shutil.chown(path, owner)
        return path

    def install(self, name: str, text: str) -> None:
        """Put a script where programs are looked for."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(
        self, text: str, user: str | None = None, *, cwd: Path | None = None, **variables: object
    ) -> Ended:
        """Run a block of a page as a user; gives exit code and output."""
        said = {name: str(value) for name, value in variables.items()}
        return subprocess.run(
            [*(become(user) if user else []), "bash", "-c", text],
            env={**self.environ, **said}, cwd=cwd or self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LONGEST_S, check=False,
        )  # fmt: skip

    def do(
        self, text: str, user: str | None = None, *, cwd: Path | None = None, **variables: object
    ) -> str:
        """Run what must end with 0; gives its standard output."""
        done = self.run(text, user, cwd=cwd, **variables)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.daemon.log[-2000:]}"
        return done.stdout

    def images(self, prefix: str = "", pool: str = "main") -> list[tuple[str, str]]:
        """Names and states, whatever they are."""
        with Client(socket=self.socket) as client:
            return [(str(one.image), one.state) for one in client.images(pool, prefix, state="any")]


@contextlib.contextmanager
def host(page: str, where: S3Location, users: Mapping[str, str] | None = None) -> Iterator[Host]:
    """A host whose daemon has the page's configuration, with its paths and bucket put in.

    users: of the page, and who they are here.
    """
    with tempfile.TemporaryDirectory(prefix="tl", dir="/tmp") as name:
        folder = Path(name)  # short: the path of a socket has at most 107 bytes
        folder.chmod(0o755)
        socket = folder / "xdg" / "tapelift" / "connector" / "socket"
        socket.parent.mkdir(parents=True)
        for path in ("bin", "home"):
            (folder / path).mkdir()
        text = block(page, "toml", Path(page).stem)
        bucket = f'bucket = "{where.bucket}"\nendpoint_url = "{where.endpoint_url}"'
        for old, new in {
            "/run/tapeconnector/socket": str(socket),
            "/var/lib/tapeconnector": str(folder / "state"),
            'bucket = "backups"': bucket,
            **{f'"{theirs}"': f'"{ours}"' for theirs, ours in (users or {}).items()},
        }.items():
            assert old in text
            text = text.replace(old, new)
        with serving(folder, text) as daemon:
            found = Host(folder, daemon, socket)
            for program, command in (
                ("tapeconnector", PROGRAM), ("tapeconnector-dplcompat", WRAPPER),
            ):  # fmt: skip
                words = " ".join(f"'{word}'" for word in command)
                found.install(program, f'#!/bin/sh\nexec {words} "$@"\n')
            yield found
