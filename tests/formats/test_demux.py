"""A demultiplexer is code from outside: whatever it does, no image is called whole that is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from catalog.errors import PoolError
from migrate.errors import TapeError
from migrate.formats.demux import supervise
from migrate.formats.interface import Done, Extract, Gap, Piece, Wanted
from migrate.source.interface import TapeEvent
from tests.formats.collect import Taken, collect, want

ONE, TWO = want(3, image="one_1690000100"), want(None, image="two_1690000100")


class Scripted:
    """Gives what it is told to, then raises what it is told to."""

    def __init__(self, *items: Extract, error: Exception | None = None) -> None:
        self.items = items
        self.error = error

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        yield from self.items
        if self.error:
            raise self.error


def run(*items: Extract, error: Exception | None = None) -> dict[Wanted, Taken]:
    found = collect(supervise(Scripted(*items, error=error), iter([]), [ONE, TWO]))
    assert set(found) == {ONE, TWO}
    assert all(taken.done for taken in found.values())
    return found


def test_what_is_good_passes_with_its_notes() -> None:
    found = run(
        Piece(ONE, b"ab"), Piece(TWO, b"x"), Done(TWO, note="n"), Piece(ONE, b"c"), Done(ONE)
    )
    assert (found[ONE].data, found[ONE].done) == (b"abc", Done(ONE))
    assert (found[TWO].data, found[TWO].done) == (b"x", Done(TWO, note="n"))


def test_problems_of_the_plug_in_are_kept() -> None:
    assert run(Done(ONE, "bad"), Done(TWO))[ONE].done.problem == "bad"


def test_an_image_that_is_forgotten_is_not_whole() -> None:
    found = run(Piece(ONE, b"abc"), Done(ONE))
    assert found[ONE].done.problem == ""
    assert "did not end this image" in found[TWO].done.problem


@pytest.mark.parametrize("data", [b"ab", b"abcd"])
def test_a_size_that_is_not_the_catalogues_is_not_whole(data: bytes) -> None:
    assert f"gave {len(data)} of 3 bytes" in run(Piece(ONE, data), Done(ONE))[ONE].done.problem


def test_a_rounded_size_may_be_exceeded_by_less_than_a_kib() -> None:
    wanted = want(3, exact=False)
    for more, good in ((0, True), (1023, True), (1024, False)):
        plugin = Scripted(Piece(wanted, bytes(3 + more)), Done(wanted))
        found = collect(supervise(plugin, iter([]), [wanted]))
        assert (found[wanted].done.problem == "") is good


def test_an_image_with_a_gap_is_not_whole_even_when_the_plug_in_says_so() -> None:
    for gap in (Gap(ONE, 3, "bad"), Gap(ONE, None, "bad")):
        assert "could not be read" in run(gap, Done(ONE))[ONE].done.problem


def test_more_of_an_image_behind_its_end_makes_it_suspect_and_is_not_given() -> None:
    found = run(Piece(ONE, b"abc"), Done(ONE), Piece(ONE, b"d"), Done(TWO))
    assert found[ONE].data == b"abc"
    assert "after its end" in found[ONE].done.problem


def test_pieces_of_images_that_nobody_wanted_are_dropped() -> None:
    stranger = want(1, image="stranger_1690000100")
    assert stranger not in run(Piece(stranger, b"x"), Done(stranger), Done(TWO))


def test_a_plug_in_that_falls_over_makes_every_image_suspect() -> None:
    found = run(Piece(ONE, b"abc"), Done(ONE), error=ZeroDivisionError("by zero"))
    for taken in found.values():
        assert "the demultiplexer failed: ZeroDivisionError: by zero" in taken.done.problem


def test_an_error_of_the_source_passes_through() -> None:
    error: PoolError = TapeError("drive gone")
    with pytest.raises(TapeError, match="drive gone"):
        run(error=error)
