"""AWSTAPE and HET: recorded files, chains, compression, and every kind of damage."""

from __future__ import annotations

import bz2
import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from catalog.errors import FormatError
from migrate.errors import TapeError
from migrate.source.awstape import AwsTape
from migrate.source.interface import (
    MAX_BLOCK,
    BadBlock,
    Block,
    EndOfTape,
    Filemark,
    Position,
    TapeEvent,
)
from tests.source.tapes import FIXTURES, aws, aws_header, events, write

RECORDED = [
    each
    for each in json.loads((FIXTURES / "containers/expected.json").read_text())["containers"]
    if not each["file"].endswith(".tap")
]
LAYOUT = [[b"label" * 10], [b"x" * 100, b"y" * 100, b"z" * 50], [b"last"]]
WHOLE = 0xA0
MARK = 0x40

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

Mount = Callable[[bytes], AwsTape]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    opened: list[AwsTape] = []

    def mount(data: bytes) -> AwsTape:
        opened.append(AwsTape(write(tmp_path / f"{len(opened)}.aws", data), "AWS001"))
        return opened[-1]

    yield mount
    for tape in opened:
        tape.close()


def read_all(data: bytes, tmp_path: Path) -> list[TapeEvent]:
    with closing(AwsTape(write(tmp_path / "t.aws", data), "AWS001")) as tape:
        return events(tape, limit=100_000)


def expected(layout: list[list[bytes]]) -> list[TapeEvent]:
    found: list[TapeEvent] = []
    for records in layout:
        found += [*map(Block, records), Filemark()]
    return [*found, EndOfTape()]


# --- recorded files ---------------------------------------------------------------------------


@pytest.mark.parametrize("want", RECORDED, ids=lambda each: each["file"])
def test_recorded_files_hold_the_expected_records(want: dict[str, Any]) -> None:
    with closing(AwsTape(FIXTURES / want["file"], "REC001")) as tape:
        for file in want["tape_files"]:
            digest, sizes = hashlib.sha256(), []
            while isinstance(event := tape.read(), Block):
                digest.update(event.data)
                sizes.append(len(event.data))
            assert event == Filemark()
            assert (len(sizes), sum(sizes)) == (file["records"], file["bytes"])
            assert digest.hexdigest() == file["sha256"]
        rest = events(tape)
        assert rest[:-1] == [Filemark()] * (want["tape_marks"] - len(want["tape_files"]))
        assert rest[-1] == EndOfTape()


# --- records that lie in several pieces, and compressed ones ----------------------------------


def test_a_record_of_the_largest_size_lies_in_a_chain_of_pieces(mount: Mount) -> None:
    record = bytes(range(256)) * (MAX_BLOCK // 256)
    tape = mount(aws([[record]]))
    assert tape.read() == Block(record)
    assert tape.read() == Filemark()


def test_a_record_above_the_ceiling_is_bad_and_the_tape_goes_on(mount: Mount) -> None:
    tape = mount(aws([[b"a", b"b" * (MAX_BLOCK + 1), b"c"]]))
    tape.read()
    bad = tape.read()
    assert isinstance(bad, BadBlock)
    assert bad.data is None
    assert "longer than" in bad.reason
    assert tape.read() == Block(b"c")


@pytest.mark.parametrize("method", [1, 2])
def test_a_compressed_record_that_expands_beyond_the_ceiling_takes_no_memory(
    mount: Mount, method: int
) -> None:
    huge = bytes(3 * MAX_BLOCK)
    data = aws([[huge], [b"next"]], method=method)
    del huge
    tape = mount(data)
    tracemalloc.start()
    bad = tape.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(bad, BadBlock)
    assert "longer than" in bad.reason
    assert peak < 2.5 * MAX_BLOCK
    assert [tape.read(), tape.read()] == [Filemark(), Block(b"next")]


def one(data: bytes, flags: int, more_flags: int = 0) -> bytes:
    """A record of one piece, a mark behind it."""
    return aws_header(len(data), 0, flags, more_flags) + data + aws_header(0, len(data), MARK)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (one(b"no zlib at all", WHOLE | 1), "decompress"),
        (one(b"no bzip2 at all", WHOLE | 2), "decompress"),
        (one(zlib.compress(b"a" * 99)[:-3], WHOLE | 1), "end too early"),
        (one(bz2.compress(b"a" * 99)[:-3], WHOLE | 2), "end too early"),
        (one(zlib.compress(b"a" * 99) + b"!", WHOLE | 1), "1 bytes follow"),
        (one(zlib.compress(b"a" * 99)[:-1] + b"!", WHOLE | 1), "decompress"),
        (one(zlib.compress(b""), WHOLE | 1), "holds nothing"),
        (one(b"whatever", WHOLE | 3), "not known"),
        (one(b"whatever", WHOLE, 0x80), "not known"),
    ],
    ids=range(9),
)
def test_a_record_that_cannot_be_decompressed_is_bad_and_the_tape_goes_on(
    mount: Mount, data: bytes, why: str
) -> None:
    bad, mark, end = events(mount(data))
    assert isinstance(bad, BadBlock)
    assert why in bad.reason
    assert (mark, end) == (Filemark(), EndOfTape())


def test_pieces_that_are_compressed_in_different_ways_are_a_bad_record(mount: Mount) -> None:
    data = aws_header(3, 0, 0x81) + b"abc" + aws_header(3, 3, 0x22) + b"def"
    bad, *_ = events(mount(data + aws_header(0, 3, MARK)))
    assert isinstance(bad, BadBlock)
    assert "different ways" in bad.reason


# --- damage -----------------------------------------------------------------------------------


def test_a_blank_file_is_a_blank_tape(mount: Mount) -> None:
    assert events(mount(b"")) == [EndOfTape()]


def test_a_wrong_previous_length_costs_one_record_when_the_chain_goes_on(mount: Mount) -> None:
    data = bytearray(aws(LAYOUT))
    second = (6 + 50) + 6 + (6 + 100)  # offset of the header of the record of y
    data[second + 2] ^= 1
    found = events(mount(bytes(data)))
    assert isinstance(found[2], BadBlock)
    assert found[2].data == b"x" * 100
    assert "100 bytes long, and the header there says 101" in found[2].reason
    assert found[3:] == expected(LAYOUT)[3:]


def test_a_length_that_hides_the_records_behind_it_costs_one_and_no_filemark(mount: Mount) -> None:
    """The first record's length becomes that of all up to the record of z: a mark is hidden."""
    data = bytearray(aws(LAYOUT))
    data[0:2] = (50 + 6 + 106 + 106).to_bytes(2, "little")
    found = events(mount(bytes(data)))
    assert isinstance(found[0], BadBlock)
    assert found[0].data is None
    assert found[1:] == expected(LAYOUT)[1:]


def test_a_length_that_hides_the_end_of_the_file_is_found(mount: Mount) -> None:
    """Nothing follows it that could disagree; the marks inside it do."""
    data = bytearray(aws([[b"x" * 100], []]))
    data[0:2] = (100 + 12).to_bytes(2, "little")
    bad, *rest = events(mount(bytes(data)))
    assert isinstance(bad, BadBlock)
    assert bad.data is None
    assert rest == [Filemark(), Filemark(), EndOfTape()]


def test_a_length_behind_which_nothing_frames_ends_the_tape_without_its_data(mount: Mount) -> None:
    data = bytearray(aws(LAYOUT))
    data[0] ^= 1
    bad, end = events(mount(bytes(data)))
    assert isinstance(bad, BadBlock)
    assert bad.data is None
    assert isinstance(end, EndOfTape)
    assert end.abrupt
    assert "framing is lost" in end.reason


def test_a_mark_that_names_a_piece_before_it_tells_of_a_missing_record(mount: Mount) -> None:
    data = aws([[b"a"]]) + aws_header(0, 33, MARK) + aws_header(0, 0, MARK)
    found = events(mount(data))
    assert found[:2] == [Block(b"a"), Filemark()]
    assert isinstance(found[2], BadBlock)
    assert "33 bytes" in found[2].reason
    assert found[3:] == [Filemark(), Filemark(), EndOfTape()]


def test_a_piece_of_a_file_whose_beginning_is_missing_begins_with_a_bad_record(
    mount: Mount,
) -> None:
    data = aws(LAYOUT)[6 + 50 + 6 + 106 :]
    found = events(mount(data))
    assert isinstance(found[0], BadBlock)
    assert found[0].data == b"y" * 100
    assert found[1:] == expected(LAYOUT)[4:]


@pytest.mark.parametrize(
    ("data", "data_left"),
    [
        (aws_header(2, 0, 0x80) + b"ab" + aws_header(2, 2, WHOLE) + b"cd", b"ab"),
        (aws_header(2, 0, 0x80) + b"ab" + aws_header(0, 2, MARK), b"ab"),
        (aws_header(2, 0, 0x20) + b"ab" + aws_header(0, 2, MARK), b"ab"),
        (aws_header(2, 0, 0x80) + b"ab" + aws_header(2, 2, 0) + b"cd", b"abcd"),
    ],
    ids=["another record begins", "a mark comes", "no beginning", "the file ends"],
)
def test_a_chain_without_its_beginning_or_end_is_a_bad_record(
    mount: Mount, data: bytes, data_left: bytes
) -> None:
    bad = mount(data).read()
    assert isinstance(bad, BadBlock)
    assert bad.data == data_left


def places_behind_records_and_marks(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        flags = data[at + 4]
        at += 6 + int.from_bytes(data[at : at + 2], "little")
        if flags & (0x20 | MARK):
            yield at


def test_a_file_that_ends_anywhere_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    data = aws(LAYOUT, piece=60)
    whole = expected(LAYOUT)
    ends = set()
    for size in range(len(data)):
        found = read_all(data[:size], tmp_path)
        good = [event for event in found if isinstance(event, Block | Filemark)]
        assert good == whole[: len(good)]
        last = found[-1]
        assert isinstance(last, EndOfTape)
        bad = [event for event in found if isinstance(event, BadBlock)]
        assert len(bad) <= 1
        if not last.abrupt:
            ends.add(size)
            assert not bad
    assert ends == {0, *places_behind_records_and_marks(data)} - {len(data)}


def test_a_hole_of_zeros_is_not_an_endless_tape(tmp_path: Path) -> None:
    path = write(tmp_path / "hole.aws", aws(LAYOUT))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with closing(AwsTape(path, "AWS001")) as tape:
        found = events(tape)
    assert found[:-1] == expected(LAYOUT)[:-1]
    assert isinstance(found[-1], EndOfTape)
    assert found[-1].abrupt


def test_what_cannot_be_opened_is_a_tape_error(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="No such file"):
        AwsTape(tmp_path / "none.aws", "AWS001")
    with pytest.raises(TapeError, match="Is a directory"):
        AwsTape(tmp_path, "AWS001")


# --- properties -------------------------------------------------------------------------------

layouts = st.lists(st.lists(st.binary(min_size=1, max_size=300), max_size=6), max_size=5)


@quick
@given(layout=layouts, piece=st.integers(1, 400), method=st.sampled_from([0, 1, 2]))
def test_whatever_is_written_is_read_back(
    tmp_path: Path, layout: list[list[bytes]], piece: int, method: int
) -> None:
    assert read_all(aws(layout, piece=piece, method=method), tmp_path) == expected(layout)


@quick
@given(
    data=st.one_of(
        st.binary(max_size=400),
        st.lists(
            st.builds(
                lambda length, before, flags, data: aws_header(length, before, flags) + data,
                st.integers(0, 9),
                st.integers(0, 9),
                st.sampled_from([0xA0, 0x80, 0x20, 0, 0x40, 0xA1, 0xA2, 0xFF]),
                st.binary(max_size=9),
            ),
            max_size=12,
        ).map(b"".join),
    )
)
@example(data=aws_header(3, 0, 0xA0) + b"abc" + aws_header(0, 4, 0x40))
def test_any_bytes_give_events_or_our_error(tmp_path: Path, data: bytes) -> None:
    try:
        found = read_all(data, tmp_path)
    except (TapeError, FormatError):
        return
    assert len(found) <= len(data) + 2
    marks = sum(isinstance(event, Filemark) for event in found)
    path = write(tmp_path / "t.aws", data)
    with closing(AwsTape(path, "AWS001")) as read, closing(AwsTape(path, "AWS001")) as spaced:
        assert spaced.space_files(marks)
        while read.position.file < marks:
            read.read()
        assert spaced.position == read.position
        assert not spaced.space_files(1)


@quick
@given(layout=layouts, data=st.data())
def test_one_changed_byte_of_a_header_never_changes_a_record_silently(
    tmp_path: Path, layout: list[list[bytes]], data: st.DataObject
) -> None:
    whole = bytearray(aws([*layout, []]))
    headers, at = [], 0
    while at < len(whole):
        headers.append(at)
        at += 6 + int.from_bytes(whole[at : at + 2], "little")
    place = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 5))
    whole[place] ^= data.draw(st.integers(1, 255))
    found = read_all(bytes(whole), tmp_path)
    want = expected([*layout, []])
    last = found[-1]
    assert isinstance(last, EndOfTape)
    if found != want:
        assert last.abrupt or any(isinstance(event, BadBlock) for event in found)
    file = 0
    records: dict[int, list[bytes]] = {}
    for event in found:
        if isinstance(event, Filemark):
            file += 1
        elif isinstance(event, Block):
            records.setdefault(file, []).append(event.data)
    for file, good in records.items():
        left = iter([*layout, []][file])
        assert all(any(record == each for each in left) for record in good)


def test_the_position_is_that_of_the_record_that_comes_next(mount: Mount) -> None:
    tape = mount(aws(LAYOUT, piece=20))
    tape.read()
    tape.read()
    tape.read()
    assert tape.position == Position(1, 1, 3)
