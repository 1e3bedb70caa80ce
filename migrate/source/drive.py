"""Keeping a drive streaming: a thread reads ahead of the one that stores.

A drive that is fed by many tiny pauses stops, backs up and starts again each time; so there is a
queue between it and its consumer, bounded in bytes, with two marks. At the high mark the drive
stops, and it goes on only when the queue has emptied to the low one.

The consumer knows beforehand which tape files it wants, in ascending order. That list is given at
the start, and it is all the reader follows: it spaces to the next wanted file, reads it up to its
filemark, and goes on to the following one without waiting to be asked. It therefore streams
over many small files, and never touches a tape file that nobody wanted. The consumer takes the
files in the same order with ``stream_file``. A file that it leaves early, or passes over, is
not read on: what is queued of it is dropped, and the reader spaces to the next.

    with BufferedTape(source, high_bytes=GIB, low_bytes=GIB // 3) as tape:
        tape.start([1, 2, 5])
        for number in (1, 2, 5):
            for event in tape.stream_file(number):
                ...

From ``start`` to ``close`` the source belongs to the reader's thread: nobody else may touch it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from migrate.errors import TapeError
from migrate.source.interface import (
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    TapeEvent,
    TapeSource,
)

log = logging.getLogger(__name__)

BATCH_BYTES = 1024 * 1024
"""Events cross from thread to thread in batches of about so many bytes: one by one, the two
threads would spend their time handing the interpreter lock to each other."""

EVENT_COST = 256
"""What an event costs in memory beside its bytes, so that a tape of one-byte records cannot fill
the machine."""

WAIT_S = 3600.0
"""Longer than a drive tries to read one bad block (``st`` gives it 15 minutes by default), and than
a store may be away."""

CLOSE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a drive has done so far.

    bytes and records were read from the tape, queued_bytes of them were not yet taken. stops is
    how often the drive had to stop because the queue was full. file is the tape file that is
    being read, None before the first and after the last.
    """

    bytes: int = 0
    records: int = 0
    queued_bytes: int = 0
    stops: int = 0
    file: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one tape file, in order. cost is bytes of memory."""

    file: int
    events: list[TapeEvent]
    cost: int
    data_bytes: int


class BufferedTape:
    """Reads wanted tape files ahead of their consumer.

    Memory: at most high_bytes, and two batches (each BATCH_BYTES and one record): the one that is
    being read and the one that is being taken. One thread consumes.
    """

    def __init__(
        self, source: TapeSource, *, high_bytes: int, low_bytes: int, wait_s: float = WAIT_S
    ) -> None:
        """wait_s: how long the consumer waits for the drive, and the drive for the consumer,
        before that is an error."""
        if not 0 <= low_bytes < high_bytes:
            raise ValueError(f"low mark {low_bytes} must lie below high mark {high_bytes}")
        self._source = source
        self._high = high_bytes
        self._low = low_bytes
        self._wait_s = wait_s
        self._files: list[int] = []
        self._taken = -1  # the last tape file that stream_file was asked for
        self._left_behind = -1  # files up to here are no longer wanted
        self._thread: threading.Thread | None = None
        # all below is shared, and guarded by _changed
        self._changed = threading.Condition()
        self._queue: deque[Batch] = deque()
        self._queued = 0
        self._finished = False
        self._closing = False
        self._failure: BaseException | None = None
        self._progress = Progress()

    def start(self, files: Sequence[int]) -> None:
        """Begin to read ahead. files are tape file numbers, ascending; 0 is before the first mark.

        Raises:
            ValueError: they do not ascend, or the reader was started before.
        """
        if self._thread is not None:
            raise ValueError("the reader was started already")
        self._files = list(files)
        if any(b <= a for a, b in zip(self._files, self._files[1:], strict=False)):
            raise ValueError(f"tape files must ascend: {self._files}")
        name = f"reader of {self._source.barcode}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def progress(self) -> Progress:
        """A snapshot; any thread may ask."""
        with self._changed:
            queued = sum(batch.data_bytes for batch in self._queue)
            return replace(self._progress, queued_bytes=queued)

    def stream_file(self, number: int) -> Iterator[TapeEvent]:
        """The events of one wanted tape file, up to its filemark, which is not given.

        Where the medium ends first, EndOfTape is the last event. Files that lie before this one
        are given up, and so is what an earlier call left unread.

        Raises:
            ValueError: the file was not given to ``start``, or an earlier call asked for it.
            TapeError: the drive gave nothing for wait_s; or what the source raised, once
                everything that was read before it has been given.
        """
        if number not in self._files or number <= self._taken:
            raise ValueError(f"tape file {number} is not next in {self._files}")
        self._taken = number
        with self._changed:
            self._left_behind = number - 1
            self._changed.notify_all()
        return self._events(number)

    def close(self) -> None:
        """End the reader's thread; the source stays open. Closing twice does no harm.

        Raises:
            TapeError: the drive does not come back from a read within CLOSE_S.
        """
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._queued = 0
            self._changed.notify_all()
        if self._thread is None:
            return
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise TapeError(
                f"the drive of {self._source.barcode} does not come back from a read",
                hint="look at the drive; the process can be ended",
            )

    def __enter__(self) -> BufferedTape:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the consumer -----------------------------------------------------------------------

    def _events(self, number: int) -> Iterator[TapeEvent]:
        while self._taken == number:
            batch = self._take(number)
            for event in batch.events:
                if self._taken != number:
                    return
                if isinstance(event, Filemark):
                    return
                yield event
                if isinstance(event, EndOfTape):
                    return

    def _take(self, number: int) -> Batch:
        """The next batch of a file; batches of files before it are dropped."""
        deadline = time.monotonic() + self._wait_s
        with self._changed:
            while True:
                while self._queue:
                    batch = self._queue.popleft()
                    self._queued -= batch.cost
                    if self._queued <= self._low:
                        self._changed.notify_all()
                    if batch.file == number:
                        return batch
                if self._failure is not None:
                    raise self._failure
                if self._closing or self._finished:
                    raise TapeError(f"the reader of {self._source.barcode} has ended")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TapeError(
                        f"the drive of {self._source.barcode} gave nothing for {self._wait_s:g} s",
                        hint="look at the drive, then run again",
                    )
                self._changed.wait(left)

    # --- the reader's thread ----------------------------------------------------------------

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            for number in self._files:
                if self._gone(number):
                    continue
                self._read_file(number)
        except _ClosedError:
            pass
        except BaseException as exc:  # it belongs to the consumer, whatever it is
            failure = exc
        with self._changed:
            self._failure = failure
            self._finished = True
            self._progress = replace(self._progress, file=None)
            self._changed.notify_all()

    def _read_file(self, number: int) -> None:
        with self._changed:
            self._progress = replace(self._progress, file=number)
        if not self._go_to(number):
            end = self._source.read()
            why = f": {end.reason}" if isinstance(end, EndOfTape) and end.reason else ""
            reason = f"the tape ends before tape file {number}{why}"
            self._put(number, [EndOfTape(abrupt=True, reason=reason)])
            return
        batch: list[TapeEvent] = []
        size = 0
        try:
            while not self._gone(number):
                event = self._source.read()
                batch.append(event)
                size += _size(event) + EVENT_COST
                if isinstance(event, Filemark | EndOfTape):
                    return
                if size >= BATCH_BYTES:
                    full, batch, size = batch, [], 0
                    self._put(number, full)
        finally:  # after an error too: what was read before it is good
            if batch:
                self._put(number, batch)

    def _go_to(self, number: int) -> bool:
        """Stand at the beginning of a tape file. Only a label that was read before the start, from
        the file that is wanted first, makes this go back."""
        position = self._source.position
        if position.file > number or (position.file == number and position.block > 0):
            self._source.rewind()
        return self._source.space_files(number - self._source.position.file)

    def _gone(self, number: int) -> bool:
        """Whether the consumer no longer wants this file.

        Both are single words that only ever go one way; reading them without the lock at worst
        reads one event too many.
        """
        if self._closing:
            raise _ClosedError
        return number <= self._left_behind

    def _put(self, number: int, events: list[TapeEvent]) -> None:
        data_bytes = sum(map(_size, events))
        cost = data_bytes + EVENT_COST * len(events)
        records = sum(isinstance(event, Block | BadBlock) for event in events)
        with self._changed:
            self._queue.append(Batch(number, events, cost, data_bytes))
            self._queued += cost
            before = self._progress
            self._progress = replace(
                before, bytes=before.bytes + data_bytes, records=before.records + records
            )
            self._changed.notify_all()
            if self._queued >= self._high:
                self._progress = replace(self._progress, stops=self._progress.stops + 1)
                log.debug("%s: stopped at %d bytes", self._source.barcode, self._queued)
                self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Wait, with the lock held, until the queue has emptied to the low mark."""
        deadline = time.monotonic() + self._wait_s
        while self._queued > self._low and not self._closing:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TapeError(
                    f"nothing was taken from {self._source.barcode} for {self._wait_s:g} s",
                    hint="the store is too slow or away; run again when it is back",
                )
            self._changed.wait(left)


class _ClosedError(Exception):
    """The consumer has closed: the thread ends."""


def _size(event: TapeEvent) -> int:
    if isinstance(event, Block | BadBlock) and event.data is not None:
        return len(event.data)
    return 0
