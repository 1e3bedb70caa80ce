"""What a person sees of a running migration: per drive and in all, bytes, rate, time left.

On a terminal these are bars; elsewhere plain lines, one every few seconds, so that a log stays
readable. Everything goes to stderr. Drives report from their threads.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from catalog.console import size_text

PLAIN_EVERY_S = 10.0


@dataclass(slots=True)
class DriveState:
    """What one drive is doing. total is bytes planned for it, done bytes taken so far."""

    total: int
    done: int = 0
    tape: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened so far, over all drives."""

    stored: int = 0
    damaged: int = 0
    failed: int = 0
    tapes: int = 0


@dataclass(slots=True)
class _Screen:
    bars: list[tqdm[Any]] = field(default_factory=list)
    last_plain: float = 0.0


class Progress:
    """Shows a run. Every method may be called from any drive's thread.

    tapes is how many mounts are planned. stream is stderr, unless a test looks. quiet shows nothing
    but counts all the same.
    """

    def __init__(
        self,
        totals: list[int],
        tapes: int,
        *,
        stream: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._mutex = threading.Lock()
        self._drives = [DriveState(total) for total in totals]
        self._tapes = tapes
        self.tally = Tally()
        self._started = clock()
        self._screen = _Screen(last_plain=self._started)
        self._quiet = quiet
        self._bars = self._stream.isatty() and not quiet
        if self._bars:
            self._open_bars(totals)

    def mounted(self, drive: int, barcode: str) -> None:
        """A drive has a tape."""
        with self._mutex:
            self._drives[drive].tape = barcode
            self.tally.tapes += 1
            self._refresh(drive)
        self.line(f"drive {drive}: {barcode} mounted ({self.tally.tapes} of {self._tapes})")

    def moved(self, drive: int, size: int) -> None:
        """A drive has taken size more bytes."""
        with self._mutex:
            self._drives[drive].done += size
            self._refresh(drive, size)

    def counted(self, outcome: str) -> None:
        """An image has ended as stored, damaged or failed."""
        with self._mutex:
            setattr(self.tally, outcome, getattr(self.tally, outcome) + 1)

    def line(self, text: str) -> None:
        """A line of its own, above the bars where there are any."""
        if self._quiet:
            return
        if self._bars:
            tqdm.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._screen.bars:
            bar.close()

    def summary(self) -> str:
        """One plain line: done, total, rate, time left, counts."""
        done = sum(drive.done for drive in self._drives)
        total = sum(drive.total for drive in self._drives)
        seconds = max(self._clock() - self._started, 1e-3)
        rate = done / seconds
        left = duration((total - done) / rate) if rate and total > done else "-"
        tally = self.tally
        return (
            f"{self._drive_texts()}all: {size_text(done)} of {size_text(total)},"
            f" {size_text(int(rate))}/s, {left} left; images: {tally.stored} stored,"
            f" {tally.damaged} damaged, {tally.failed} failed"
        )

    def _drive_texts(self) -> str:
        """Each drive's tape and share, when there are several."""
        if len(self._drives) < 2:
            return ""
        return "".join(
            f"drive {number}: {drive.tape or 'no tape'},"
            f" {size_text(drive.done)} of {size_text(drive.total)}; "
            for number, drive in enumerate(self._drives)
        )

    def _open_bars(self, totals: list[int]) -> None:
        def bar(position: int, total: int, name: str) -> tqdm[Any]:
            return tqdm(
                total=total,
                desc=name,
                position=position,
                unit="B",
                unit_scale=True,
                unit_divisor=1000,
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
            )

        for number, total in enumerate(totals):
            self._screen.bars.append(bar(number, total, f"drive {number}"))
        if len(totals) > 1:
            self._screen.bars.append(bar(len(totals), sum(totals), "all"))

    def _refresh(self, drive: int, size: int = 0) -> None:
        """Under the mutex: move the bars, or print a plain line when it is time."""
        if self._bars:
            bar = self._screen.bars[drive]
            bar.set_description_str(f"drive {drive} {self._drives[drive].tape}", refresh=False)
            bar.update(size)
            if len(self._drives) > 1:
                self._screen.bars[-1].update(size)
            return
        now = self._clock()
        if not self._quiet and now - self._screen.last_plain >= PLAIN_EVERY_S:
            self._screen.last_plain = now
            print(self.summary(), file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 10 s``, ``12 s``."""
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"
