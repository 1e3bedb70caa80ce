"""SIMH tapes: the recorded ones, every variant of the framing, and every kind of damage."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from catalog.errors import FormatError
from migrate.errors import ContainerDamaged, TapeError
from migrate.source import simh
from migrate.source.interface import (
    MAX_BLOCK,
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    Position,
    TapeEvent,
)
from migrate.source.simh import SimhTape
from tests.source.tapes import (
    END,
    FIXTURES,
    GAP,
    MARK,
    Bad,
    Item,
    Raw,
    events,
    items_of,
    tap,
    word,
    write,
)

MIXED = [
    each
    for each in json.loads((FIXTURES / "containers/expected.json").read_text())["containers"]
    if each["file"].endswith(".tap")
]
NBU = json.loads((FIXTURES / "nbu/expected.json").read_text())["tapes"]


@pytest.fixture
def mount(tmp_path: Path) -> Any:
    opened: list[SimhTape] = []

    def mount(data: bytes) -> SimhTape:
        opened.append(SimhTape(write(tmp_path / f"{len(opened)}.tap", data), "TAP001"))
        return opened[-1]

    yield mount
    for tape in opened:
        tape.close()


def read_all(data: bytes, tmp_path: Path) -> list[TapeEvent]:
    with closing(SimhTape(write(tmp_path / "t.tap", data), "TAP001")) as tape:
        return events(tape)


# --- recorded tapes ---------------------------------------------------------------------------


@pytest.mark.parametrize("expected", MIXED, ids=lambda each: each["file"])
def test_recorded_containers_hold_the_expected_records(expected: dict[str, Any]) -> None:
    tape = SimhTape(FIXTURES / expected["file"], "MIXED")
    for want in expected["tape_files"]:
        digest, sizes = hashlib.sha256(), []
        while isinstance(event := tape.read(), Block):
            digest.update(event.data)
            sizes.append(len(event.data))
        assert event == Filemark()
        assert (len(sizes), sum(sizes)) == (want["records"], want["bytes"])
        assert (min(sizes, default=0), max(sizes, default=0)) == (want["min"], want["max"])
        assert digest.hexdigest() == want["sha256"]
    assert tape.read() == EndOfTape()
    assert tape.position.address == expected["records"] + expected["tape_marks"]
    tape.close()


@pytest.mark.parametrize("expected", NBU, ids=lambda each: each["media_id"])
def test_recorded_netbackup_tapes_have_the_expected_layout(expected: dict[str, Any]) -> None:
    tape = SimhTape(FIXTURES / expected["file"], expected["media_id"])
    layout = [len(e.data) if isinstance(e, Block) else "TM" for e in events(tape)[:-1]]
    assert layout == expected["layout"]
    tape.close()


# --- the framing ------------------------------------------------------------------------------


def test_a_blank_file_is_a_blank_tape(mount: Any) -> None:
    assert mount(b"").read() == EndOfTape()


def test_nothing_behind_the_end_of_the_medium_counts(mount: Any) -> None:
    tape = mount(tap([b"aa", MARK, END, b"bb", MARK]))
    assert events(tape) == [Block(b"aa"), Filemark(), EndOfTape()]


def test_data_behind_two_filemarks_are_read_on(mount: Any) -> None:
    tape = mount(tap([b"aa", MARK, MARK, b"bb"]))
    assert events(tape) == [Block(b"aa"), Filemark(), Filemark(), Block(b"bb"), EndOfTape()]


def test_the_first_odd_record_decides_the_padding_of_the_whole_file(mount: Any) -> None:
    odd = [b"xy", b"odd", b"ee", b"o", MARK, b"odder"]
    expected = [Filemark() if item is MARK else Block(bytes(item)) for item in odd if item]  # type: ignore[arg-type]
    for padded in (True, False):
        assert events(mount(tap(odd, padded=padded)))[:-1] == expected  # type: ignore[arg-type]


def test_a_file_may_end_without_the_pad_behind_it_in_the_e11_variant(mount: Any) -> None:
    assert events(mount(tap([b"odd"], padded=False))) == [Block(b"odd"), EndOfTape()]


def test_a_padding_that_changes_within_a_file_is_damage(mount: Any) -> None:
    found = events(mount(tap([b"odd", b"ee"]) + tap([b"odd", b"ee", END], padded=False)))
    assert found[:2] == [Block(b"odd"), Block(b"ee")]
    assert isinstance(found[2], EndOfTape)
    assert found[2].abrupt


def test_gaps_and_a_half_gap_before_them_are_skipped(mount: Any) -> None:
    half = Raw(b"\xff\xff" + GAP.data * 3)  # what a gap looks like from its middle
    tape = mount(tap([b"aa", GAP, GAP, b"bb", half, MARK, GAP]))
    assert events(tape) == [Block(b"aa"), Block(b"bb"), Filemark(), EndOfTape()]
    assert half.data[:4] == word(simh.HALF_GAP)


def test_a_gap_of_many_megabytes_is_skipped_quickly(mount: Any) -> None:
    tape = mount(tap([b"aa", Raw(GAP.data * 8_000_001), b"bb"]))
    assert events(tape) == [Block(b"aa"), Block(b"bb"), EndOfTape()]


def test_private_records_and_markers_are_no_tape_data(mount: Any) -> None:
    record = word(0x90000003) + b"abc\0" + word(0x90000003)
    tape = mount(tap([b"aa", Raw(record), Raw(word(0xE0000001)), b"bb", MARK]))
    assert events(tape) == [Block(b"aa"), Block(b"bb"), Filemark(), EndOfTape()]
    assert tape.skipped == 2
    assert tape.position == Position(1, 0, 3)


def test_an_unknown_marker_is_skipped_when_the_framing_goes_on_behind_it(mount: Any) -> None:
    tape = mount(tap([b"aa", Raw(word(0xFF001234)), b"bb"]))
    assert events(tape) == [Block(b"aa"), Block(b"bb"), EndOfTape()]
    tape = mount(tap([b"aa", Raw(word(0xFF001234) + b"rubbish!"), b"bb"]))
    assert events(tape)[1] == EndOfTape(True, events(tape)[-1].reason)  # type: ignore[union-attr]


def test_a_record_of_a_reserved_class_is_a_result(mount: Any) -> None:
    record = word(0x30000004) + b"abcd" + word(0x30000004)
    found = events(mount(tap([b"aa", Raw(record), b"bb"])))
    assert found[0] == Block(b"aa")
    assert found[1] == BadBlock("the record at offset 10 is of the reserved class 3", None, 4)
    assert found[2:] == [Block(b"bb"), EndOfTape()]


def test_the_largest_record_is_read_whole(mount: Any) -> None:
    assert len(mount(tap([bytes(MAX_BLOCK)])).read().data) == MAX_BLOCK


# --- damage -----------------------------------------------------------------------------------


def test_a_record_marked_as_bad_gives_what_was_read_of_it(mount: Any) -> None:
    found = events(mount(tap([b"aa", Bad(b"bad"), Bad(b""), b"bb"])))
    reason = "the record at offset {} is marked as read with an error"
    assert found == [
        Block(b"aa"),
        BadBlock(reason.format(10), b"bad", 3),
        BadBlock(reason.format(22), None, None),
        Block(b"bb"),
        EndOfTape(),
    ]


@pytest.mark.parametrize("padded", [True, False])
def test_a_wrong_second_length_costs_one_record_when_the_framing_goes_on(
    mount: Any, padded: bool
) -> None:
    for data in (b"good", b"odd"):
        pad = b"\0" if padded and len(data) % 2 else b""
        broken = Raw(word(len(data)) + data + pad + word(77))
        found = events(mount(tap([b"aa", b"o", broken, b"bbbb", MARK], padded=padded)))
        assert found[:2] == [Block(b"aa"), Block(b"o")]
        assert isinstance(found[2], BadBlock)
        assert (found[2].data, found[2].size) == (data, len(data))
        assert found[3:] == [Block(b"bbbb"), Filemark(), EndOfTape()]


def test_a_wrong_first_length_ends_the_tape_rather_than_inventing_filemarks(mount: Any) -> None:
    """The length points into zeros, which look like filemarks: their number must not count."""
    record = bytearray(tap([bytes(4096)]))
    record[:4] = word(1000)
    found = events(mount(tap([b"aa", Raw(bytes(record)), b"bb", MARK, END])))
    assert found[0] == Block(b"aa")
    assert isinstance(found[1], EndOfTape)
    assert found[1].abrupt
    assert "offset 10" in found[1].reason


@pytest.mark.parametrize("value", [0x0F000000, 0x8F000000, 0x20000004, 0xA0000004, MAX_BLOCK + 1])
def test_a_length_that_no_drive_writes_ends_the_tape(mount: Any, value: int) -> None:
    found = events(mount(tap([b"aa", Raw(word(value) + b"abcdefgh"), b"bb"])))
    assert found[0] == Block(b"aa")
    assert isinstance(found[1], EndOfTape)
    assert found[1].abrupt


@pytest.mark.parametrize("padded", [True, False])
def test_a_file_that_ends_inside_a_record_gives_what_is_there(mount: Any, padded: bool) -> None:
    whole = tap([b"first", b"0123456789abcde"], padded=padded)
    begin = len(tap([b"first"], padded=padded))
    for cut in range(begin + 4, len(whole)):
        found = events(mount(whole[:cut]))
        assert found[0] == Block(b"first")
        assert isinstance(found[1], BadBlock)
        good = whole[begin + 4 : cut][:15]
        assert (found[1].data or b"", found[1].size) == (good, 15)
        assert isinstance(found[2], EndOfTape)
        assert found[2].abrupt


def test_a_file_that_ends_inside_a_length_ends_abruptly(mount: Any) -> None:
    for cut in (1, 2, 3):
        found = events(mount(tap([b"aa", MARK]) + b"\x01\0\0"[:cut]))
        assert found[:2] == [Block(b"aa"), Filemark()]
        assert found[2] == EndOfTape(True, f"the file ends {cut} bytes into a length, at offset 14")


def test_a_hole_of_zeros_is_not_an_endless_tape(tmp_path: Path) -> None:
    path = write(tmp_path / "sparse.tap", tap([b"aa", MARK]))
    os.truncate(path, 1 << 40)
    tape = SimhTape(path, "TAP001")
    assert not tape.space_files(1 << 40)
    end = tape.read()
    assert isinstance(end, EndOfTape)
    assert end.abrupt
    assert "filemarks" in end.reason
    tape.close()


def test_big_endian_lengths_are_named_as_such(tmp_path: Path) -> None:
    for size in (80, 1024, 65536, 513):
        data = struct.pack(">I", size) + b"x" * (size + size % 2) + struct.pack(">I", size)
        path = write(tmp_path / "big.tap", bytes(4) + data)
        with pytest.raises(ContainerDamaged, match="big-endian") as caught:
            SimhTape(path, "TAP001")
        assert caught.value.offset == 4


def test_a_file_that_is_no_tape_at_all_ends_at_once(mount: Any) -> None:
    end = mount(b"backup_id,client,policy\n").read()
    assert isinstance(end, EndOfTape)
    assert end.abrupt


def test_what_cannot_be_opened_is_a_tape_error_and_a_pipe_does_not_hang(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="cannot open"):
        SimhTape(tmp_path / "none.tap", "X")
    with pytest.raises(TapeError):
        SimhTape(tmp_path, "X")
    os.mkfifo(tmp_path / "pipe.tap")
    with pytest.raises(TapeError, match="not a file"):
        SimhTape(tmp_path / "pipe.tap", "X")


# --- spacing ----------------------------------------------------------------------------------


def test_spacing_reads_lengths_and_not_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [bytes(256 * 1024)] * 64
    path = write(tmp_path / "t.tap", tap(items_of([records, [b"next"]])))
    read = 0
    real = os.pread

    def counted(handle: int, count: int, offset: int) -> bytes:
        nonlocal read
        data = real(handle, count, offset)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    tape = SimhTape(path, "TAP001")
    assert tape.space_files(1)
    assert read < path.stat().st_size // 20
    assert tape.position == Position(1, 0, 65)
    assert tape.read() == Block(b"next")
    tape.close()


def test_spacing_over_a_bad_record_counts_it_and_over_lost_framing_fails(mount: Any) -> None:
    tape = mount(tap([b"aa", Bad(b"bad"), MARK, b"bb", Raw(b"\xff\xff\xff\x0f" * 4), MARK]))
    assert tape.space_files(1)
    assert tape.position == Position(1, 0, 3)
    assert not tape.space_files(1)
    end = tape.read()
    assert isinstance(end, EndOfTape)
    assert end.abrupt


def test_reading_in_large_requests_does_not_read_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.tap", tap([bytes(600_000)] * 12))
    read = 0
    real = os.pread

    def counted(handle: int, count: int, offset: int) -> bytes:
        nonlocal read
        data = real(handle, count, offset)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    tape = SimhTape(path, "TAP001")
    events(tape)
    tape.close()
    assert read < path.stat().st_size * 1.3


# --- properties -------------------------------------------------------------------------------

records = st.binary(min_size=1, max_size=300)
tapes = st.lists(
    st.one_of(records, st.just(MARK), st.just(GAP), st.builds(Bad, records)), max_size=30
)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@relaxed
@given(items=tapes, padded=st.booleans(), end=st.booleans())
def test_whatever_is_written_is_read_back(
    tmp_path: Path, items: list[Item], padded: bool, end: bool
) -> None:
    expected: list[object] = []
    for item in items:
        if item is MARK:
            expected.append(Filemark())
        elif isinstance(item, bytes):
            expected.append(Block(item))
        elif isinstance(item, Bad):
            expected.append(("bad", item.data))
    found = [
        ("bad", event.data) if isinstance(event, BadBlock) else event
        for event in read_all(tap([*items, *([END] if end else [])], padded=padded), tmp_path)
    ]
    assert found == [*expected, EndOfTape()]


@relaxed
@given(items=tapes, padded=st.booleans(), data=st.data())
def test_spacing_lands_where_reading_lands(
    tmp_path: Path, items: list[Item], padded: bool, data: st.DataObject
) -> None:
    path = write(tmp_path / "t.tap", tap(items, padded=padded))
    marks = data.draw(st.integers(0, items.count(MARK) + 1))
    with closing(SimhTape(path, "A")) as reading, closing(SimhTape(path, "B")) as spacing:
        while reading.position.file < marks and not isinstance(reading.read(), EndOfTape):
            pass
        assert spacing.space_files(marks) == (marks <= items.count(MARK))
        assert spacing.position == reading.position
        assert events(spacing) == events(reading)


words = st.one_of(
    st.integers(0, 40).map(word),
    st.sampled_from([0xFFFFFFFE, 0xFFFEFFFF, 0xFFFFFFFF, 0x80000004, 0x90000002, 0xE0000000]).map(
        word
    ),
    st.binary(max_size=12),
)


@relaxed
@given(data=st.one_of(st.binary(max_size=400), st.lists(words, max_size=60).map(b"".join)))
@example(data=word(MAX_BLOCK))
@example(data=b"\xff\xff\xfe\xff" * 9)
def test_any_bytes_give_events_or_our_error(tmp_path: Path, data: bytes) -> None:
    try:
        found = read_all(data, tmp_path)
    except FormatError:
        return
    given_back = sum(len(e.data) for e in found if isinstance(e, Block))
    assert given_back + 4 * sum(isinstance(e, Block | Filemark) for e in found) <= len(data)


@relaxed
@given(items=tapes.filter(len), padded=st.booleans(), at=st.integers(0), value=st.integers(0, 255))
def test_one_changed_byte_never_changes_a_good_record_silently(
    tmp_path: Path, items: list[Item], padded: bool, at: int, value: int
) -> None:
    """Behind a damaged length no record may be made up: what comes is a record that was written
    (but for the one whose data the byte was in), or the tape says that it is damaged."""
    good = tap([*items, END], padded=padded)
    damaged = bytearray(good)
    damaged[at % len(good)] = value
    written = {item for item in items if isinstance(item, bytes)}
    try:
        found = read_all(bytes(damaged), tmp_path)
    except FormatError:
        return
    invented = [e for e in found if isinstance(e, Block) and e.data not in written]
    assert len(invented) <= 1 or any(
        isinstance(e, BadBlock) or (isinstance(e, EndOfTape) and e.abrupt) for e in found
    )


def test_a_length_that_lies_takes_no_memory(tmp_path: Path) -> None:
    data = b"".join(word(MAX_BLOCK - 2 * n) for n in range(1000))
    path = write(tmp_path / "t.tap", data)
    tracemalloc.start()
    tape = SimhTape(path, "TAP001")
    events(tape)
    tape.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
