"""The wrapper form that Bareos calls for every part of a volume: one short program run each.

    PROGRAM options | testconnection | list V | stat V P | upload V P | download V P | remove V P

Settings are variables of the environment (``OPTIONS``), data is on stdin and stdout. A part is the
image ``V/P``. An upload of a part that exists goes to the next copy number, and the older copies
are deleted when it is complete, so that a crash at any moment leaves a whole part: the highest
complete copy is the part. Bareos reads stderr together with stdout, so nothing is written to it
unless the call fails. Source: docs/cli.md, "Bareos".
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from catalog.console import printable
from catalog.errors import (
    ConfigError,
    ImageBusy,
    ImageExists,
    ImageHeld,
    ImageLocked,
    ImageNotFound,
    PoolDown,
    PoolError,
)
from connector.client import Client, Writer
from connector.commands.fetching import Wish, fetch
from connector.commands.options import Place
from connector.commands.sending import feed
from connector.commands.streams import given
from connector.wire.messages import ImageFacts, Name

TIMEOUT_S = 120.0
LONGEST_TIMEOUT_S = 86_400.0
TRIES = 5
"""How many copy numbers an upload tries while others take them."""
READABLE = ("complete", "spooled", "damaged")
"""States of a copy that is the part. A damaged one is listed, and its download fails."""
_PART = re.compile(r"[A-Za-z0-9]{1,128}")

OPTIONS: Mapping[str, str] = {
    "tapelift_pool": "the pool [main]",
    "tapelift_socket": "the daemon's socket [the user's, the host's]",
    "tapelift_tcp": "HOST:PORT of the daemon, instead of its socket",
    "tapelift_cafile": "with tapelift_tcp: who signed its certificate",
    "tapelift_token_file": "with tapelift_tcp: the file with the token",
    "tapelift_timeout": f"seconds a call, or a silence of the daemon, may take [{TIMEOUT_S:g}]",
}
"""Every setting, as ``options`` names it to Bareos."""


class TooLong(PoolError):
    """A call took longer than it may."""

    code = "timeout"
    retryable = True


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """One run. timeout_s bounds calls without data as a whole, others between two signs of life."""

    place: Place
    pool: str
    timeout_s: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Wrapper:
        """From the environment.

        Raises:
            ConfigError: the timeout is not a number of seconds.
        """
        said = {name: environ.get(name, "") for name in OPTIONS}

        def path(name: str) -> Path | None:
            return Path(said[name]) if said[name] else None

        timeout_s = _seconds(said["tapelift_timeout"])
        place = Place(
            socket=path("tapelift_socket"),
            tcp=said["tapelift_tcp"] or None,
            cafile=path("tapelift_cafile"),
            token_file=path("tapelift_token_file"),
            timeout_s=timeout_s,
        )
        return cls(place=place, pool=said["tapelift_pool"] or "main", timeout_s=timeout_s)

    # --- operations --------------------------------------------------------------------------

    def testconnection(self) -> None:
        """Whether the pool can be used.

        Raises:
            PoolDown: it cannot.
        """
        with self._bounded(), self.place.client() as client:
            props = client.pool_props(self.pool)
        if props.state != "up":
            raise PoolDown(f"pool {self.pool} is {props.state}: {props.why}")

    def list(self, volume: str) -> dict[str, int]:
        """The parts of a volume and their sizes; of one that is unknown, none."""
        start = _name(volume, "")
        sizes: dict[str, int] = {}
        with self._bounded(), self.place.client() as client:
            for facts in client.images(self.pool, start):
                part = facts.image[len(start) :]
                if _PART.fullmatch(part) and facts.state in READABLE:
                    sizes[part] = facts.size  # copies come in order: the highest is the part
        return sizes

    def stat(self, volume: str, part: str) -> int:
        """The size of a part.

        Raises:
            ImageNotFound: there is none.
        """
        with self._bounded(), self.place.client() as client:
            return self._newest(client, _name(volume, part)).size

    def upload(self, volume: str, part: str, descriptor: int) -> None:
        """Store what is read as the part; an older one of the name goes when this is complete."""
        name = _name(volume, part)
        with self.place.client() as client:
            with self._bounded():
                writer = self._begin(client, name)
            with writer:  # which closes it, or aborts it when anything goes wrong
                feed(client, writer, given(descriptor, "standard input"), _silent)
        # the part is stored by now: what is left of older ones is deleted with it another time
        with contextlib.suppress(PoolError), self._bounded(), self.place.client() as client:
            self._delete(client, name, below=writer.copy)

    def download(self, volume: str, part: str) -> None:
        """Write the part to standard output."""
        name = _name(volume, part)
        with self._bounded(), self.place.client() as client:
            number = self._newest(client, name).copy
        fetch(self.place.client, Wish(pool=self.pool, image=name, copy=number), _silent)

    def remove(self, volume: str, part: str) -> None:
        """Delete the part; one that is not there is removed already.

        Raises:
            ImageLocked, ImageHeld: it must be kept.
        """
        with self._bounded(), self.place.client() as client:
            self._delete(client, _name(volume, part), below=None)

    def _begin(self, client: Client, name: Name) -> Writer:
        """Begin the next copy of a part; before this nothing is read, so it can be tried again."""
        attempt = 0
        while True:
            attempt += 1
            number = max((facts.copy for facts in self._copies(client, name)), default=0) + 1
            try:
                return client.create(self.pool, name, copy=number)
            except (ImageExists, ImageBusy):
                if attempt == TRIES:
                    raise

    # --- copies ------------------------------------------------------------------------------

    def _copies(self, client: Client, name: Name) -> Iterator[ImageFacts]:
        """All copies of exactly this name, in any state, lowest first."""
        for facts in client.images(self.pool, name, state="any"):
            if facts.image != name:
                return  # names come in order, the shortest first
            yield facts

    def _newest(self, client: Client, name: Name) -> ImageFacts:
        found = [facts for facts in self._copies(client, name) if facts.state in READABLE]
        if not found:
            raise ImageNotFound(f"there is no part {name} in pool {self.pool}")
        return found[-1]

    def _delete(self, client: Client, name: Name, *, below: int | None) -> None:
        """Delete copies, the oldest first; below None is all, and what must stay is an error."""
        for facts in list(self._copies(client, name)):
            if below is not None and facts.copy >= below:
                return
            try:
                if facts.state == "incomplete":
                    client.discard(self.pool, name, copy=facts.copy)
                elif facts.state in READABLE:
                    client.delete(
                        self.pool, name, copy=facts.copy, reason="removed by the volume's owner"
                    )
            except ImageNotFound:
                continue
            except (ImageLocked, ImageHeld, ImageBusy):
                if below is None:
                    raise

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        """End what takes longer than the timeout, whatever it waits for."""

        def too_long(number: int, frame: object) -> NoReturn:
            raise TooLong(
                f"no end after {self.timeout_s:g} s", hint="see tapeconnector status, or raise"
                " tapelift_timeout",
            )  # fmt: skip

        before = signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _seconds(text: str) -> float:
    if not text:
        return TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise ConfigError(
            f"tapelift_timeout {text!r} is not a number of seconds", hint="use 1 to 86400"
        )
    return seconds


def _name(volume: str, part: str) -> Name:
    """The image of a part. A volume may hold slashes, a part may not: so the last one parts them.

    Raises:
        ConfigError: the volume is empty, or the part is not letters and digits.
    """
    if not volume or (part and not _PART.fullmatch(part)):
        raise ConfigError(
            f"{volume!r} {part!r} cannot be a volume and its part",
            hint="a part is 1 to 128 letters and digits",
        )
    return Name(os.fsencode(f"{volume}/{part}").decode("utf-8", "surrogateescape"))


def _silent(done: int) -> None:
    pass


# --- the program ----------------------------------------------------------------------------------

USAGE = "options | testconnection | list V | stat V P | upload V P | download V P | remove V P"
ARGUMENTS = {"options": 0, "testconnection": 0, "list": 1, "stat": 2, "upload": 2, "download": 2,
             "remove": 2}  # fmt: skip
"""How many words follow each operation."""


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what the words say; the exit code, 0 only when all of it was done."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # stderr is read as if it were the answer
    try:
        return _run(words, environ)
    finally:
        logging.disable(before)


def _run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    operation, *rest = words or [""]
    if operation in ("-h", "--help"):
        print(f"usage: PROGRAM {USAGE}\nsee docs/cli.md, Bareos")
        return 0
    if ARGUMENTS.get(operation) != len(rest):
        print(f"usage: PROGRAM {USAGE}", file=sys.stderr)
        return 2
    try:
        if operation == "options":
            print("\n".join(OPTIONS))
        else:
            _do(Wrapper.of(environ), operation, rest)
        sys.stdout.flush()
    except PoolError as exc:
        print(printable(f"error: {exc}"), file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return 0


def _do(wrapper: Wrapper, operation: str, rest: Sequence[str]) -> None:
    if operation == "testconnection":
        wrapper.testconnection()
    elif operation == "list":
        for part, size in wrapper.list(rest[0]).items():
            print(f"{part} {size}")
    elif operation == "stat":
        print(wrapper.stat(rest[0], rest[1]))
    elif operation == "upload":
        wrapper.upload(rest[0], rest[1], 0)
    elif operation == "download":
        wrapper.download(rest[0], rest[1])
    else:
        wrapper.remove(rest[0], rest[1])


def main() -> NoReturn:
    """Entry point of ``tapeconnector-dplcompat``: Bareos runs one file, and adds its own words."""
    sys.exit(run(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
