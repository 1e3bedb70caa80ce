"""Reading ahead of the consumer: order, bounds, errors, and an end that always comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import ContainerDamaged, TapeError
from migrate.source import drive
from migrate.source.drive import BufferedTape
from migrate.source.interface import (
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    TapeEvent,
    TapeSource,
)
from tests.source.tapes import Layout, MemoryTape

KIB = 1024
MIB = 1024 * KIB


def buffered(source: TapeSource, *, high: int = 8 * MIB, low: int = MIB) -> BufferedTape:
    return BufferedTape(source, high_bytes=high, low_bytes=low, wait_s=10)


def take(source: TapeSource, files: Sequence[int]) -> list[list[TapeEvent]]:
    with buffered(source) as tape:
        tape.start(files)
        return [list(tape.stream_file(number)) for number in files]


def until(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader of")]


class SlowTape(MemoryTape):
    """Blocks at a chosen event until it is let go, or raises there."""

    def __init__(self, script: Sequence[TapeEvent], *, stuck_at: int | None = None) -> None:
        super().__init__(script)
        self.stuck_at = stuck_at
        self.let_go = threading.Event()
        self.error: BaseException | None = None
        self.error_at = -1

    def read(self) -> TapeEvent:
        if self.at == self.error_at and self.error is not None:
            raise self.error
        if self.at == self.stuck_at:
            self.let_go.wait(20)
        return super().read()


TAPE: Layout = [[b"label"], [b"a1", b"a2"], [], [b"c1"], [b"d" * 70_000] * 40]


def test_wanted_files_come_in_order_and_the_others_do_not() -> None:
    found = take(MemoryTape.of(TAPE), [1, 2, 4])
    assert found == [[Block(b"a1"), Block(b"a2")], [], [Block(b"d" * 70_000)] * 40]


def test_reading_goes_on_over_filemarks_without_waiting_for_the_consumer() -> None:
    source = MemoryTape.of(TAPE)
    with buffered(source) as tape:
        tape.start([1, 3, 4])
        until(lambda: source.position.file == 5)
        assert tape.progress.records == 43
        assert tape.progress.queued_bytes == tape.progress.bytes == 6 + 40 * 70_000
        assert list(tape.stream_file(1)) == [Block(b"a1"), Block(b"a2")]


def test_nothing_is_read_behind_the_last_wanted_file() -> None:
    source = MemoryTape.of(TAPE)
    assert take(source, [1]) == [[Block(b"a1"), Block(b"a2")]]
    assert source.position.file == 2
    assert source.position.block == 0


def test_a_label_that_was_read_before_does_not_hide_the_first_file() -> None:
    source = MemoryTape.of(TAPE)
    source.read()
    assert take(source, [0, 1])[0] == [Block(b"label")]
    source.rewind()
    source.space_files(4)
    assert take(source, [1])[0] == [Block(b"a1"), Block(b"a2")]


def test_bad_blocks_and_the_end_of_the_tape_are_passed_on() -> None:
    end = EndOfTape(True, "cut")
    source = MemoryTape([Block(b"a"), BadBlock("bad", None, 7), Block(b"b"), end])
    assert take(source, [0, 3]) == [
        [Block(b"a"), BadBlock("bad", None, 7), Block(b"b"), end],
        [EndOfTape(True, "the tape ends before tape file 3: cut")],
    ]


def test_files_that_lie_behind_the_end_of_the_tape_end_abruptly_each() -> None:
    found = take(MemoryTape.of(TAPE), [4, 7, 9])
    assert [len(events) for events in found] == [40, 1, 1]
    assert found[1] == [EndOfTape(True, "the tape ends before tape file 7")]


def test_a_file_left_early_is_not_read_on() -> None:
    source = MemoryTape.of([[bytes(MIB)] * 100, [b"next"]])
    with buffered(source, high=4 * MIB, low=MIB) as tape:
        tape.start([0, 1])
        assert next(tape.stream_file(0)) == Block(bytes(MIB))
        assert list(tape.stream_file(1)) == [Block(b"next")]
        assert tape.progress.bytes < 20 * MIB


def test_files_that_are_passed_over_are_not_given() -> None:
    with buffered(MemoryTape.of(TAPE)) as tape:
        tape.start([1, 2, 3, 4])
        assert list(tape.stream_file(3)) == [Block(b"c1")]
        assert len(list(tape.stream_file(4))) == 40


def test_an_older_stream_gives_nothing_once_a_newer_one_is_asked_for() -> None:
    with buffered(MemoryTape.of(TAPE)) as tape:
        tape.start([1, 4])
        older = tape.stream_file(1)
        assert next(older) == Block(b"a1")
        newer = tape.stream_file(4)
        assert list(older) == []
        assert len(list(newer)) == 40


def test_a_file_that_was_not_announced_or_is_asked_for_twice_is_refused() -> None:
    with buffered(MemoryTape.of(TAPE)) as tape:
        tape.start([1, 3])
        list(tape.stream_file(1))
        for number in (1, 2, 0):
            with pytest.raises(ValueError, match="not next"):
                tape.stream_file(number)
        with pytest.raises(ValueError, match="already"):
            tape.start([3])


def test_files_must_ascend_and_marks_must_fit() -> None:
    for files in ([2, 1], [1, 1]):
        with buffered(MemoryTape.of(TAPE)) as tape, pytest.raises(ValueError, match="ascend"):
            tape.start(files)
    with pytest.raises(ValueError, match="low mark"):
        BufferedTape(MemoryTape.of(TAPE), high_bytes=10, low_bytes=10)


# --- the two marks ----------------------------------------------------------------------------


def test_the_drive_stops_at_the_high_mark_and_goes_on_at_the_low_one() -> None:
    source = MemoryTape.of([[bytes(MIB)] * 40])
    with buffered(source, high=10 * MIB, low=4 * MIB) as tape:
        tape.start([0])
        until(lambda: tape.progress.stops == 1)
        assert source.position.block == 10
        stream = tape.stream_file(0)
        for _ in range(6):
            next(stream)
        time.sleep(0.02)
        assert source.position.block == 10, "it went on above the low mark"
        next(stream)
        until(lambda: tape.progress.stops == 2)
        assert source.position.block == 17
        assert len(list(stream)) == 33
        assert tape.progress.stops <= 40 // 6 + 1


def test_a_tape_of_tiny_records_cannot_fill_the_memory() -> None:
    source = MemoryTape.of([[b"x"] * 200_000])
    with buffered(source, high=4 * MIB, low=MIB) as tape:
        tape.start([0])
        until(lambda: tape.progress.stops == 1)
        assert source.position.block <= 5 * MIB // drive.EVENT_COST
        assert len(list(tape.stream_file(0))) == 200_000


def test_progress_names_the_file_that_is_being_read() -> None:
    source = SlowTape(MemoryTape.of(TAPE).script, stuck_at=3)
    with buffered(source) as tape:
        assert tape.progress.file is None
        tape.start([1])
        until(lambda: tape.progress.file == 1)
        source.let_go.set()
        list(tape.stream_file(1))
        until(lambda: tape.progress.file is None)


# --- errors and ends --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [TapeError("drive gone"), ContainerDamaged("x"), ZeroDivisionError()]
)
def test_an_error_of_the_reader_comes_out_behind_what_was_read_before(
    error: BaseException,
) -> None:
    source = SlowTape(MemoryTape.of(TAPE).script)
    source.error, source.error_at = error, 7  # inside tape file 3
    with buffered(source) as tape:
        tape.start([1, 3, 4])
        until(lambda: not reader_threads() or tape.progress.file is None)
        assert list(tape.stream_file(1)) == [Block(b"a1"), Block(b"a2")]
        for number in (3, 4):
            with pytest.raises(type(error)):
                list(tape.stream_file(number))


def test_an_error_does_not_swallow_the_good_blocks_read_just_before_it() -> None:
    script = [Block(b"one"), Block(b"two"), Block(b"three"), Filemark()]
    source = SlowTape(script)
    source.error, source.error_at = TapeError("drive gone"), 2
    with buffered(source) as tape:
        tape.start([0])
        stream = tape.stream_file(0)
        assert [next(stream), next(stream)] == [Block(b"one"), Block(b"two")]
        with pytest.raises(TapeError, match="drive gone"):
            next(stream)


def test_a_drive_that_gives_nothing_is_an_error_after_the_deadline() -> None:
    source = SlowTape(MemoryTape.of(TAPE).script, stuck_at=0)
    tape = BufferedTape(source, high_bytes=MIB, low_bytes=0, wait_s=0.05)
    tape.start([0])
    with pytest.raises(TapeError, match="gave nothing for"):
        list(tape.stream_file(0))
    source.let_go.set()
    tape.close()


def test_a_consumer_that_takes_nothing_ends_the_reader_after_the_deadline() -> None:
    source = MemoryTape.of([[bytes(MIB)] * 8])
    with BufferedTape(source, high_bytes=2 * MIB, low_bytes=0, wait_s=0.05) as tape:
        tape.start([0])
        until(lambda: tape.progress.stops == 1 and tape.progress.file is None)
        stream = tape.stream_file(0)
        with pytest.raises(TapeError, match="nothing was taken"):
            list(stream)


def test_closing_ends_the_thread_while_it_waits_for_room_or_was_never_started() -> None:
    tape = buffered(MemoryTape.of([[bytes(MIB)] * 50]), high=2 * MIB, low=0)
    tape.start([0])
    until(lambda: tape.progress.stops == 1)
    tape.close()
    tape.close()
    assert tape._thread is not None
    assert not tape._thread.is_alive()
    with pytest.raises(TapeError, match="ended"):
        list(tape.stream_file(0))
    buffered(MemoryTape.of(TAPE)).close()


def test_a_drive_that_does_not_come_back_is_named_on_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drive, "CLOSE_S", 0.05)
    source = SlowTape(MemoryTape.of(TAPE).script, stuck_at=0)
    tape = buffered(source)
    tape.start([0])
    with pytest.raises(TapeError, match="does not come back"):
        tape.close()
    source.let_go.set()
    monkeypatch.setattr(drive, "CLOSE_S", 10)
    tape.close()


@settings(deadline=None)
@given(
    layout=st.lists(st.lists(st.binary(min_size=1, max_size=50), max_size=8), max_size=8),
    high=st.integers(300, 3000),
    data=st.data(),
)
def test_what_is_taken_is_what_lies_on_the_tape(
    layout: Layout, high: int, data: st.DataObject
) -> None:
    files = sorted(data.draw(st.sets(st.integers(0, 9), max_size=8)))
    with buffered(MemoryTape.of(layout), high=high, low=high // 3) as tape:
        tape.start(files)
        for number in files:
            found = list(tape.stream_file(number))
            if number < len(layout):
                assert found == [Block(record) for record in layout[number]]
            else:
                assert isinstance(found[0], EndOfTape)
