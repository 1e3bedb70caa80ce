"""What a size is worth: every rule, and that no byte is ever cut that is not a zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.formats.interface import Piece
from migrate.formats.take import Take, feed
from migrate.source.interface import BadBlock, Block, EndOfTape, TapeEvent
from tests.formats.collect import Taken, blocks, only, want

A, B = b"a" * 4096, b"b" * 1000
ZEROS = bytes(500)


def take(events: list[TapeEvent], size: int | None, *, exact: bool = True) -> Taken:
    return only(feed(Take(want(size, exact=exact)), iter(events)))


def test_exactly_the_size_is_whole() -> None:
    taken = take([Block(A), Block(B)], 5096)
    assert taken.data == A + B
    assert (taken.done.problem, taken.done.note) == ("", "")


def test_without_a_size_everything_up_to_the_filemark_is_taken() -> None:
    taken = take([Block(A), Block(B)], None)
    assert taken.data == A + B
    assert (taken.done.problem, taken.done.note) == ("", "")


def test_pieces_do_not_copy_the_block() -> None:
    block = bytes(4096)
    pieces = [p for p in feed(Take(want(4000)), blocks(block)) if isinstance(p, Piece)]
    assert isinstance(pieces[0].data, memoryview)
    assert pieces[0].data.obj is block


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ([], "before the filemark"),
        ([EndOfTape()], "before the end of the tape"),
        ([EndOfTape(True, "torn")], "before the end of the tape (torn)"),
    ],
)
def test_too_few_bytes_are_a_problem_that_names_both_sizes(
    end: list[TapeEvent], words: str
) -> None:
    for exact in (True, False):
        taken = take([Block(A), *end], 5000, exact=exact)
        assert taken.data == A
        assert taken.done.problem == f"only 4096 of 5000 bytes lie {words}"


def test_zeros_at_the_end_of_the_last_block_are_padding() -> None:
    taken = take([Block(A), Block(B + ZEROS)], 5096)
    assert taken.data == A + B
    assert taken.done.problem == ""
    assert taken.done.note == "500 bytes of zero padding were cut"


def test_a_last_block_of_nothing_but_zeros_is_padding() -> None:
    taken = take([Block(A), Block(ZEROS)], 4096)
    assert (taken.data, taken.done.problem) == (A, "")


@pytest.mark.parametrize(
    ("tail", "more"),
    [
        ([B + ZEROS, ZEROS], 1000),  # zeros, but not in the last block only
        ([B + ZEROS[1:] + b"x"], 500),  # not only zeros
        ([B + b"x" + ZEROS[1:]], 500),
        ([B, A], 4096),
    ],
)
def test_any_other_surplus_is_a_problem_that_counts_it(tail: list[bytes], more: int) -> None:
    taken = take([Block(A), *map(Block, tail)], 5096)
    assert taken.data == A + B
    assert taken.done.problem == f"tape file holds {more} more bytes than the catalogue says"


def test_under_a_kib_more_than_a_rounded_size_is_all_taken_zeros_too() -> None:
    for tail in (b"t" * 1023, bytes(1023), b"t"):
        taken = take([Block(A + tail)], 4096, exact=False)
        assert taken.data == A + tail
        assert taken.done.problem == ""
        assert "rounded" in taken.done.note
    taken = take([Block(A + b"t" * 500), Block(b"u" * 523)], 4096, exact=False)
    assert (taken.data[4096:], taken.done.problem) == (b"t" * 500 + b"u" * 523, "")


def test_a_kib_or_more_than_a_rounded_size_is_as_for_an_exact_one() -> None:
    taken = take([Block(A + b"t" * 1024)], 4096, exact=False)
    assert taken.done.problem == "tape file holds 1024 more bytes than the catalogue says"
    taken = take([Block(A + b"t" * 500), Block(b"u" * 524)], 4096, exact=False)
    assert taken.done.problem == "tape file holds 1024 more bytes than the catalogue says"
    taken = take([Block(A + bytes(1024))], 4096, exact=False)
    assert (taken.data, taken.done.problem) == (A, "")


# --- records that cannot be read --------------------------------------------------------------


def test_an_unreadable_record_is_a_gap_of_its_size_and_the_rest_is_taken() -> None:
    taken = take([Block(A), BadBlock("bad", b"x" * 4096, 4096), Block(B)], 9192)
    assert taken.runs == [4096, -4096, 1000]
    assert taken.gaps[0].reason == "bad"
    assert taken.done.problem == "1 records (4096 bytes) could not be read"


def test_a_gap_ends_where_the_fragment_ends() -> None:
    taken = take([Block(A), BadBlock("bad", None, 4096)], 5000)
    assert taken.runs == [4096, -904]
    assert "could not be read" in taken.done.problem
    assert "behind the last byte" in taken.done.problem


def test_behind_a_record_of_unknown_length_nothing_is_placed() -> None:
    taken = take([Block(A), BadBlock("bad"), Block(A), BadBlock("x", None, 9)], 9192)
    assert taken.data == A
    assert [gap.size for gap in taken.gaps] == [None]
    assert "4096 bytes lie before it, 4105 behind it cannot be placed" in taken.done.problem


def test_a_last_record_of_unknown_length_is_as_long_as_what_is_missing() -> None:
    taken = take([Block(A), BadBlock("bad")], 5000)
    assert taken.runs == [4096, -904]
    assert taken.done.problem
    for size, exact in ((None, True), (5000, False)):
        assert [gap.size for gap in take([BadBlock("bad")], size, exact=exact).gaps] == [None]


def test_an_unreadable_record_behind_the_last_byte_is_a_problem_without_a_gap() -> None:
    for size in (None, 512):
        taken = take([Block(A), BadBlock("bad", None, size)], 4096)
        assert (taken.data, taken.gaps) == (A, [])
        assert "behind the last byte" in taken.done.problem


# --- a tape that ends -------------------------------------------------------------------------


def test_a_tape_that_ends_behind_the_last_byte_is_whole() -> None:
    assert take([Block(A), EndOfTape()], 4096).done.note == ""
    done = take([Block(A), EndOfTape(True, "torn")], 4096).done
    assert (done.problem, done.note) == ("", "the tape ends abruptly behind the last byte: torn")


def test_without_a_size_a_torn_tape_is_a_problem_and_a_missing_filemark_a_note() -> None:
    assert take([Block(A), EndOfTape(True, "torn")], None).done.problem
    done = take([Block(A), EndOfTape()], None).done
    assert (done.problem, done.note) == ("", "the tape ends without a filemark")


# --- the law ----------------------------------------------------------------------------------

records = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40).map(Block),
        st.integers(1, 1500).map(lambda size: Block(bytes(size))),
        st.one_of(st.none(), st.integers(1, 40)).map(lambda size: BadBlock("bad", None, size)),
    ),
    max_size=12,
)


@given(
    events=records,
    size=st.one_of(st.none(), st.integers(0, 4000)),
    exact=st.booleans(),
    end=st.sampled_from([[], [EndOfTape()], [EndOfTape(True, "torn")]]),
)
def test_whole_means_every_byte_and_only_zeros_are_ever_cut(
    events: list[TapeEvent], size: int | None, exact: bool, end: list[TapeEvent]
) -> None:
    taken = take([*events, *end], size, exact=exact)
    good = b"".join(e.data for e in events if isinstance(e, Block))
    known = [abs(run) for run in taken.runs]
    if size is not None:
        assert sum(known) <= size + (0 if exact else 1023)
    if taken.gaps:
        assert taken.done.problem
    if taken.done.problem:
        return
    assert not any(isinstance(e, BadBlock) for e in events)
    assert good.startswith(taken.data)
    assert not good[len(taken.data) :].strip(b"\0")
    if size is None:
        assert taken.data == good
    else:
        assert size <= len(taken.data) <= size + (0 if exact else 1023)


@given(events=records, total=st.integers(0, 60_000))
def test_pieces_and_gaps_lie_where_the_bytes_were(events: list[TapeEvent], total: int) -> None:
    taken = take(events, total)
    expected, offset = [], 0
    for event in events:
        size = len(event.data) if isinstance(event, Block) else event.size  # type: ignore[union-attr]
        if size is None or offset == total:
            break
        size = min(size, total - offset)
        expected.append(size if isinstance(event, Block) else -size)
        offset += size
    assert taken.runs[: len(expected)] == expected
