"""What every source of a tape promises. A source joins by giving ``make``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.errors import TapeError
from migrate.source.interface import Block, EndOfTape, Filemark, Position, TapeEvent, TapeSource

Layout = list[list[bytes]]
Make = Callable[[Layout], TapeSource]

# blocks of 1024 bytes with a short last one: a layout that a source without records keeps too
LABEL = [b"L" * 1024]
LONG = [b"a" * 1024, b"b" * 1024, b"c" * 100]
EMPTY: list[bytes] = []
SHORT = [b"d" * 7]
TAPE: Layout = [LABEL, LONG, EMPTY, SHORT]
ADDRESSES = [0, 2, 6, 7]  # of the tape files' first blocks, where a mark counts as a block


class SourceConformance:
    """Tests of migrate.source.interface.TapeSource."""

    def test_blocks_and_filemarks_come_in_the_order_of_the_tape(self, make: Make) -> None:
        source = make(TAPE)
        expected: list[TapeEvent] = []
        for records in TAPE:
            expected += [*map(Block, records), Filemark()]
        assert [source.read() for _ in expected] == expected
        assert source.read() == EndOfTape()
        source.close()

    def test_the_end_of_the_tape_stays_the_end(self, make: Make) -> None:
        source = make([SHORT])
        ends = [source.read() for _ in range(5)][2:]
        assert ends == [EndOfTape()] * 3
        source.close()

    def test_a_tape_without_anything_is_at_its_end(self, make: Make) -> None:
        source = make([])
        assert source.position == Position()
        assert source.read() == EndOfTape()
        assert not source.space_files(1)
        source.close()

    def test_the_position_counts_marks_blocks_and_addresses(self, make: Make) -> None:
        source = make(TAPE)
        address = 0
        for number, records in enumerate(TAPE):
            for block in range(len(records) + 1):
                assert source.position == Position(number, block, address)
                source.read()
                address += 1
        assert source.position == Position(len(TAPE), 0, address)
        source.close()

    @pytest.mark.parametrize("file", range(len(TAPE)))
    def test_spacing_lands_on_the_first_block_of_a_tape_file(self, make: Make, file: int) -> None:
        source = make(TAPE)
        assert source.space_files(file)
        assert source.position == Position(file, 0, ADDRESSES[file])
        expected = Block(TAPE[file][0]) if TAPE[file] else Filemark()
        assert source.read() == expected
        source.close()

    def test_spacing_from_inside_a_tape_file_skips_only_what_is_left_of_it(
        self, make: Make
    ) -> None:
        source = make(TAPE)
        source.space_files(1)
        source.read()
        assert source.space_files(1)
        assert source.position == Position(2, 0, ADDRESSES[2])
        assert source.read() == Filemark()
        assert source.read() == Block(SHORT[0])
        source.close()

    def test_spacing_by_none_does_not_move(self, make: Make) -> None:
        source = make(TAPE)
        source.space_files(1)
        source.read()
        before = source.position
        assert source.space_files(0)
        assert source.position == before
        source.close()

    def test_spacing_behind_the_last_filemark_succeeds_and_further_fails(self, make: Make) -> None:
        source = make(TAPE)
        assert source.space_files(len(TAPE))
        assert source.read() == EndOfTape()
        source.rewind()
        assert not source.space_files(len(TAPE) + 1)
        assert source.read() == EndOfTape()
        source.close()

    def test_rewinding_begins_the_tape_again(self, make: Make) -> None:
        source = make(TAPE)
        while not isinstance(source.read(), EndOfTape):
            pass
        source.rewind()
        assert source.position == Position()
        assert source.read() == Block(LABEL[0])
        source.close()

    def test_closing_twice_does_no_harm_and_reading_after_it_is_refused(self, make: Make) -> None:
        source = make(TAPE)
        source.read()
        source.close()
        source.close()
        with pytest.raises(TapeError):
            source.read()
        with pytest.raises(TapeError):
            source.space_files(1)

    def test_a_source_says_its_barcode_and_whether_it_keeps_records(self, make: Make) -> None:
        source = make(TAPE)
        assert source.barcode
        assert source.keeps_records in (True, False)
        source.close()
