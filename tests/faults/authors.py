"""Clients that write images while the world around them fails, and do as they are told.

Each goes on until its image is acknowledged, by the page of the protocol (docs/protocols.md): the
connection lost before ``close``: resume with the same token; after it: settle; what is retryable is
tried again. Half of them are the ``put`` command. What was promised is noted, to be compared later.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.errors import ImageComplete, ImageExists, JournalError, NoSpace, PoolError
from connector.client import Client, Writer, failure_in

MIB = 1024 * 1024
PART = 5 * MIB
FRAGMENT = 12 * MIB
SIZES = (0, 1, 4097, 300_000, PART - 1, PART, PART + 1, 2 * PART + 77, FRAGMENT, FRAGMENT + 9)
PIECE = 700_001
PATIENCE_S = 100.0
"""How long one image may take, whatever happens; above it a client hangs, which is a failure."""
PUT = (sys.executable, "-c", "import connector.cli; connector.cli.main()", "put", "--quiet")


@dataclass(frozen=True)
class Image:
    """What is to be written: the bytes follow from the name, and half of them compress."""

    name: str
    size: int

    def data(self) -> bytes:
        half = self.size // 2
        return random.Random(self.name).randbytes(half) + bytes(self.size - half)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data()).hexdigest()


@dataclass
class Promises:
    """What the clients were told.

    stored: SHA-256 of each image that was acknowledged. left: images that their clients left in the
    middle, with the token and how much was said to be durable. broken: promises that were not held.
    """

    stored: dict[str, str] = field(default_factory=dict)
    left: dict[str, tuple[str, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


@dataclass
class _Noted:
    """What a client was told of its image. begun: create was answered."""

    token: str
    begun: bool = False
    durable: int = 0


class Authors:
    """The clients of one daemon, each in a thread of its own. Use it as a context manager.

    most: images of each client; it ends earlier when ``finish`` is called. ways: what each does, by
    the names of WAYS.
    """

    def __init__(
        self,
        folder: Path,
        socket: Path,
        *,
        seed: object = 0,
        most: int = 40,
        pool: str = "main",
        sizes: Sequence[int] = SIZES,
        ways: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._socket = socket
        self._pool = pool
        self._seed = seed
        self._most = most
        self._sizes = sizes
        self._enough = threading.Event()
        self._mutex = threading.Lock()
        self.promises = Promises()
        self._threads = [
            threading.Thread(
                target=self._write, args=(number, WAYS[way]), name=f"{way} {number}", daemon=True
            )
            for number, way in enumerate(ways or WAYS)
        ]

    def __enter__(self) -> Authors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()

    def finish(self, *, at_once: bool = True) -> Promises:
        """Let each end the image that it is at, or all, and say what was promised."""
        if at_once:
            self._enough.set()
        ends = time.monotonic() + PATIENCE_S + 20
        for thread in self._threads:
            thread.join(max(0.1, ends - time.monotonic()))
            if thread.is_alive():
                self._break(f"{thread.name} hangs")
        return self.promises

    @property
    def at_work(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _write(self, number: int, way: Callable[[Authors, Image], None]) -> None:
        chance = random.Random(f"{self._seed} {number}")
        for turn in range(self._most):
            if turn and self._enough.is_set():
                return
            image = Image(f"a{number}-{turn}", chance.choice(self._sizes))
            try:
                way(self, image)
            except Exception as exc:
                said = f"{type(exc).__name__}: {exc}"
                self._break(f"{threading.current_thread().name}: {image}: {said}")

    def _break(self, what: str) -> None:
        with self._mutex:
            self.promises.broken.append(what)

    def _count(self, what: str) -> None:
        with self._mutex:
            self.promises.counts[what] += 1

    def _acknowledged(self, image: Image, sha256: str) -> None:
        self._count("acknowledged")
        with self._mutex:
            self.promises.stored[image.name] = sha256
            self.promises.bytes += image.size

    # --- with the library --------------------------------------------------------------------

    def frames(self, image: Image) -> None:
        """Send an image in frames."""
        data = image.data()

        def send(writer: Writer, noted: _Noted) -> None:
            for number, at in enumerate(range(writer.offset, len(data), PIECE), start=1):
                writer.write(data[at : at + PIECE])
                if number % 5 == 0:
                    noted.durable = writer.flush().durable

        self._go_on(image, data, send)

    def descriptor(self, image: Image) -> None:
        """Let the daemon read a file."""
        data, path = image.data(), self._folder / f"{image.name}.fd"
        path.write_bytes(data)

        def send(writer: Writer, noted: _Noted) -> None:
            with path.open("rb", buffering=0) as file:
                file.seek(writer.offset)
                while not writer.write_from(file.fileno()).eof:
                    pass

        self._go_on(image, data, send)
        path.unlink()

    def leaver(self, image: Image) -> None:
        """Write half of an image and leave it for good; of every other image, all of it."""
        if image.size % 2:
            self.frames(image)
            return
        data, noted = image.data()[: image.size // 2], _Noted(f"token-{image.name}")

        def leave(client: Client) -> bool:
            writer = self._begin(client, image, noted, data)
            writer.write(data[writer.offset :])
            noted.durable = writer.flush().durable
            return True

        self._persist(image, leave)
        self._count("left")
        with self._mutex:
            self.promises.left[image.name] = (noted.token, noted.durable)

    def _go_on(self, image: Image, data: bytes, send: Callable[[Writer, _Noted], None]) -> None:
        """Write an image, through whatever happens."""
        noted, sha256 = _Noted(f"token-{image.name}"), hashlib.sha256(data).hexdigest()

        def once(client: Client) -> bool:
            try:
                writer = self._begin(client, image, noted, data)
            except ImageComplete:  # close was done, and its answer lost
                self._count("settled")
                closed = client.settle(
                    self._pool, image.name, noted.token, size=image.size, sha256=sha256
                )
            else:
                send(writer, noted)
                closed = writer.close()
            assert closed.state in ("complete", "spooled"), closed
            assert (closed.offset, closed.sha256) == (image.size, sha256), closed
            return True

        self._persist(image, once)
        self._acknowledged(image, sha256)

    def _begin(self, client: Client, image: Image, noted: _Noted, data: bytes) -> Writer:
        """Create, or once that was answered, resume: it must know of the image then."""
        if noted.begun:
            self._count("resumed")
            writer = client.resume(
                self._pool, image.name, noted.token, digest_to=lambda n: hashlib.sha256(data[:n])
            )
        else:
            try:
                writer = client.create(self._pool, image.name, token=noted.token)
            except ImageExists as exc:
                raise AssertionError(f"create with the same token was refused: {exc}") from exc
            noted.begun = True
        assert writer.offset >= noted.durable, f"{writer.offset}, but {noted.durable} were durable"
        return writer

    def _persist(self, image: Image, once: Callable[[Client], bool]) -> None:
        """Do something over one connection after the other, until it is done."""
        ends, last = time.monotonic() + PATIENCE_S, "nothing"
        while time.monotonic() < ends:
            wait = 0.1
            try:
                with Client(socket=self._socket, timeout_s=60.0) as client:
                    once(client)
                return
            except PoolError as exc:
                if not exc.retryable and not isinstance(exc, NoSpace | JournalError):  # a full disk
                    raise
                last, failure = f"{type(exc).__name__}: {exc}", failure_in(exc)
                self._count(exc.code)
                wait = max(wait, failure.retry_after_s if failure else 0.0)
            time.sleep(min(wait, 2.0))
        raise AssertionError(f"not done in {PATIENCE_S} s; the last it was told: {last}")

    # --- with the command --------------------------------------------------------------------

    def put_file(self, image: Image, *more: str) -> None:
        """Let the command store a file."""
        path = self._folder / f"{image.name}.put"
        path.write_bytes(image.data())
        self._put(image, [str(path), *more])
        path.unlink()

    def put_file_in_frames(self, image: Image) -> None:
        self.put_file(image, "--no-descriptor")

    def put_pipe(self, image: Image, *more: str) -> None:
        """Pipe an image into the command; it is told to begin anew when it ends badly."""
        self._put(image, ["--replace", *more], piped=image.data())

    def put_pipe_in_frames(self, image: Image) -> None:
        self.put_pipe(image, "--no-descriptor")

    def _put(self, image: Image, words: list[str], piped: bytes | None = None) -> None:
        """Run the command until it says that the image is there."""
        command = [*PUT, "--socket", str(self._socket), f"{self._pool}/{image.name}", *words]
        given: dict[str, Any] = (
            {"input": piped} if piped is not None else {"stdin": subprocess.DEVNULL}
        )
        ends, said = time.monotonic() + PATIENCE_S, ""
        while time.monotonic() < ends:
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=PATIENCE_S, **given
            )
            if done.returncode == 0:
                break
            self._count("put again")
            before, said = said, done.stderr.decode()
            if before and "is in pool" in said:  # the close of an earlier run came through
                self._count("put settled")
                break
            assert done.returncode in (4, 5), f"{done.returncode}: {said}"
            assert "Traceback" not in said, said
            time.sleep(0.2)
        else:
            raise AssertionError(f"put did not end well in {PATIENCE_S} s: {said}")
        self._acknowledged(image, image.sha256)


WAYS: dict[str, Callable[[Authors, Image], None]] = {
    "frames": Authors.frames,
    "descriptor": Authors.descriptor,
    "more frames": Authors.frames,
    "leaver": Authors.leaver,
    "put": Authors.put_file,
    "put in frames": Authors.put_file_in_frames,
    "put of a pipe": Authors.put_pipe,
    "put of a pipe in frames": Authors.put_pipe_in_frames,
}
"""The eight clients."""
