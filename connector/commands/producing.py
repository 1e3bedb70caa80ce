"""The program that makes an image's bytes: run by ``put --run``, and asked how it ended.

A pipe tells that its writer is gone and not why: what a dump wrote before it died looks like a
shorter dump. So the program is a child of ours, and its image is completed only after it has ended
as it should. It is begun after the daemon took the image, so that nothing runs for nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Collection, Sequence

from catalog.errors import ConfigError, PoolError

END_S = 600.0
"""How long a program may live on after it closed its output."""
STOP_S = 5.0
"""How long it may take to end when it is told to, before it is killed."""


class ProducerFailed(PoolError):
    """The program did not end as it should, so what it wrote was not stored."""

    code = "program"


class Producer:
    """A program, and the pipe that it writes into. ``descriptor`` is where to read.

    words: the program and its arguments. accepted: with which exit codes its output counts.
    """

    def __init__(self, words: Sequence[str], accepted: Collection[int] = (0,)) -> None:
        self.words = tuple(words)
        self._accepted = frozenset(accepted)
        self.descriptor, self._write_end = os.pipe2(os.O_CLOEXEC)
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return os.path.basename(self.words[0])  # noqa: PTH119

    @property
    def started(self) -> bool:
        """Whether it was begun: then its output cannot be had again without running it again."""
        return self._process is not None

    def start(self) -> None:
        """Run it.

        Raises:
            ConfigError: there is no such program, or it cannot be run.
        """
        try:
            self._process = subprocess.Popen(self.words, stdout=self._write_end)
        except OSError as exc:
            raise ConfigError(
                f"cannot run {self.words[0]}: {exc.strerror}", hint="check what follows --"
            ) from exc
        finally:
            os.close(self._write_end)  # so that its end is the end of the pipe

    def finish(self, size: int) -> None:
        """Wait for its end, after the end of its output of size bytes.

        Raises:
            ProducerFailed: its exit code is not one that counts, it does not end, or it wrote
                nothing at all.
        """
        assert self._process is not None
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise self._failed(f"closed its output and did not end within {END_S:g} s") from None
        if code < 0:
            raise self._failed(f"was killed by {signal.Signals(-code).name}")
        if code not in self._accepted:
            raise self._failed(f"ended with exit code {code}")
        if size == 0:
            raise self._failed("wrote nothing")

    def stop(self) -> None:
        """End it, if it still runs. What it started itself meets a closed pipe."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _failed(self, what: str) -> ProducerFailed:
        return ProducerFailed(
            f"{self} {what}, so nothing was stored",
            hint="mend what it says, and run the same command again",
        )
