"""A cartridge in a drive behind st: records, marks, ends, damage, and drives that fail."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import TapeError
from migrate.source.drive_mount import Drive
from migrate.source.drive_tape import ERRORS_IN_A_ROW, FIRST_BUFFER, DriveTape
from migrate.source.interface import BadBlock, Block, EndOfTape, Filemark, Position
from tests.source.fake_st import MARK, Bad, FakeKernel, Item, error, tape_of
from tests.source.tapes import MemoryTape, events

LAYOUT = [[b"label"], [b"a" * 10, b"b" * 20, b"c" * 30], [], [b"last"]]
ADDRESS_OF_B = 3


class Clock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def drive_of(kernel: FakeKernel, ready_s: float = 30) -> Drive:
    clock = Clock()
    return Drive(path="/dev/nst0", kernel=kernel, ready_s=ready_s, clock=clock, sleep=clock.sleep)


def mount(
    items: Sequence[Item] | None = None, bad: dict[int, Bad] | None = None
) -> tuple[DriveTape, FakeKernel]:
    kernel = FakeKernel(list(tape_of(LAYOUT) if items is None else items), bad or {})
    return drive_of(kernel).mount("DRV001"), kernel


def script(*failures: tuple[str, int]) -> Callable[[str], None]:
    """Fail the next call of each name, in this order. Others pass."""
    left = list(failures)

    def before(name: str) -> None:
        if left and name.startswith(left[0][0]):
            raise error(left.pop(0)[1])

    return before


# --- records ----------------------------------------------------------------------------------


def test_a_record_longer_than_the_buffer_is_read_after_a_step_back() -> None:
    records = [b"s", b"x" * (FIRST_BUFFER + 1), b"y" * (5 * FIRST_BUFFER), b"z"]
    tape, kernel = mount([*records, MARK])
    assert events(tape) == [*map(Block, records), Filemark(), EndOfTape()]
    assert kernel.calls.count("op 4 1") == 1 + 2  # to 2 MiB; to 4 and to 8
    assert tape.position == Position(1, 0, 5)


def test_the_longest_record_that_a_drive_reads_is_read_and_a_longer_one_is_bad() -> None:
    longest = bytes((1 << 24) - 1)
    tape, _ = mount([longest, bytes(1 << 24), b"next", MARK])
    assert tape.read() == Block(longest)
    bad = tape.read()
    assert isinstance(bad, BadBlock)
    assert "longer than 16777215" in bad.reason
    assert tape.read() == Block(b"next")


def test_a_block_that_the_host_cannot_move_is_the_hosts_fault_and_no_damage() -> None:
    tape, kernel = mount([b"s", b"x" * (FIRST_BUFFER + 1), MARK])
    kernel.largest = FIRST_BUFFER
    tape.read()
    with pytest.raises(TapeError, match="cannot move blocks of this size") as caught:
        tape.read()
    assert "max_sg_segs" in caught.value.hint


def test_no_memory_in_the_kernel_is_not_taken_for_a_long_record() -> None:
    tape, kernel = mount()
    kernel.before = script(("read", errno.ENOMEM))
    with pytest.raises(TapeError, match="no memory"):
        tape.read()
    assert "op 4 1" not in kernel.calls


def test_a_fixed_block_size_is_given_up_before_the_first_read() -> None:
    kernel = FakeKernel(tape_of(LAYOUT), block_size=512)
    tape = drive_of(kernel).mount("DRV001")
    assert tape.read() == Block(b"label")
    assert kernel.block_size == 0


def test_a_tape_whose_last_mark_is_missing_ends_behind_its_last_record() -> None:
    tape, _ = mount([b"label", MARK, b"a", b"b"])
    assert events(tape) == [Block(b"label"), Filemark(), Block(b"a"), Block(b"b"), EndOfTape()]


def test_marks_in_a_row_are_not_the_end() -> None:
    items: list[Item] = [MARK, MARK, b"a", MARK, MARK, MARK, b"b", MARK, MARK]
    tape, _ = mount(items)
    assert events(tape)[:-1] == [Filemark() if item is MARK else Block(item) for item in items]


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.parametrize("spaceable", [True, False])
def test_an_unreadable_record_is_a_result_and_the_tape_goes_on(
    moves: bool, spaceable: bool
) -> None:
    tape, _ = mount(bad={ADDRESS_OF_B: Bad(moves=moves, spaceable=spaceable)})
    found = events(tape)
    assert found[3] == BadBlock("the drive cannot read block 3")
    want = events(MemoryTape.of(LAYOUT))
    assert [*found[:3], *found[4:]] == [*want[:3], *want[4:]]
    assert tape.position.address == len(tape_of(LAYOUT))


def test_a_record_that_reads_at_the_second_try_is_good() -> None:
    tape, _ = mount(bad={ADDRESS_OF_B: Bad(moves=False, heals=1)})
    assert events(tape) == events(MemoryTape.of(LAYOUT))


def test_an_unreadable_mark_is_still_a_mark() -> None:
    tape, _ = mount(bad={1: Bad(moves=False)})
    assert events(tape) == events(MemoryTape.of(LAYOUT))


def test_a_place_that_the_drive_does_not_pass_ends_the_tape_with_its_reason() -> None:
    stuck = Bad(moves=False, spaceable=False, locatable=False)
    tape, _ = mount(bad={ADDRESS_OF_B: stuck})
    *good, end = events(tape)
    assert good == events(MemoryTape.of(LAYOUT))[:3]
    assert isinstance(end, EndOfTape)
    assert end.abrupt
    assert "block 3" in end.reason
    assert tape.read() == end
    assert tape.position.address == ADDRESS_OF_B


@pytest.mark.parametrize("moves", [True, False])
def test_many_unreadable_records_end_in_giving_up_the_tape_file(moves: bool) -> None:
    count = 3 * ERRORS_IN_A_ROW
    items: list[Item] = [b"label", MARK, *[b"x"] * count, MARK, b"good", MARK]
    tape, kernel = mount(items, {2 + number: Bad(moves=moves) for number in range(count)})
    found = events(tape)
    bad = found[2 : 2 + ERRORS_IN_A_ROW]
    assert all(isinstance(event, BadBlock) for event in bad)
    assert found[2 + ERRORS_IN_A_ROW :] == [Filemark(), Block(b"good"), Filemark(), EndOfTape()]
    assert isinstance(bad[-1], BadBlock)
    assert "tape file 1 is given up" in bad[-1].reason
    assert kernel.calls.count("read") < 2 * ERRORS_IN_A_ROW + 12
    assert tape.position == Position(3, 0, len(items))


def test_after_giving_up_a_tape_file_spacing_and_position_are_right() -> None:
    count = ERRORS_IN_A_ROW + 4
    items: list[Item] = [*[b"x"] * count, MARK, b"good", MARK, b"more", MARK]
    tape, _ = mount(items, {number: Bad() for number in range(count)})
    for _ in range(ERRORS_IN_A_ROW):
        assert isinstance(tape.read(), BadBlock)
    assert tape.position == Position(0, count, count)
    assert tape.space_files(1)
    assert tape.position == Position(1, 0, count + 1)
    assert tape.read() == Block(b"good")


def test_unreadable_to_the_end_of_the_data_is_an_abrupt_end() -> None:
    items: list[Item] = [b"good", *[b"x"] * 20]
    tape, _ = mount(items, {number: Bad() for number in range(1, 21)})
    *found, end = events(tape)
    assert found[0] == Block(b"good")
    assert len(found) == 1 + ERRORS_IN_A_ROW
    assert isinstance(end, EndOfTape)
    assert "no filemark" in end.reason


def test_spacing_over_damage_reads_the_way_and_counts_right() -> None:
    tape, _ = mount(bad={ADDRESS_OF_B: Bad(spaceable=False)})
    assert tape.space_files(3)
    assert tape.position == Position(3, 0, 7)
    assert tape.read() == Block(b"last")


def test_spacing_that_neither_spaces_nor_reads_ends_the_tape() -> None:
    stuck = Bad(moves=False, spaceable=False, locatable=False)
    tape, _ = mount(bad={ADDRESS_OF_B: stuck})
    assert not tape.space_files(3)
    end = tape.read()
    assert isinstance(end, EndOfTape)
    assert end.abrupt
    assert "block 3" in end.reason


def test_locating_goes_back_to_a_place_that_was_seen() -> None:
    tape, _ = mount()
    tape.space_files(1)
    tape.read()
    place = tape.position
    events(tape)
    tape.locate(place)
    assert tape.position == place
    assert tape.read() == Block(b"b" * 20)
    assert tape.space_files(1)
    assert tape.position == Position(2, 0, 6)


# --- drives that fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOMEDIUM, "holds no tape"),
        (errno.ENXIO, "is not there"),
        (errno.ENODEV, "is gone"),
        (errno.EBUSY, "used by another"),
        (errno.ENOSPC, "No space left"),
    ],
)
@pytest.mark.parametrize("call", ["read", "op 1"])
def test_a_drive_that_fails_is_an_error_with_what_to_do_and_no_damage(
    number: int, why: str, call: str
) -> None:
    tape, kernel = mount()
    kernel.before = script((call, number))
    with pytest.raises(TapeError, match=why) as caught:
        tape.read() if call == "read" else tape.space_files(1)
    assert caught.value.hint


def test_a_drive_that_cannot_tell_where_it_is_after_an_error_is_not_read_on() -> None:
    tape, kernel = mount()
    kernel.before = script(("read", errno.EIO), ("address", errno.EIO))
    with pytest.raises(TapeError, match="asking for the position"):
        tape.read()


def test_a_tape_that_leaves_the_drive_while_it_is_read_is_an_error() -> None:
    tape, kernel = mount()
    tape.read()

    def before(name: str) -> None:
        kernel.ready = False

    kernel.before = before
    with pytest.raises(TapeError, match="no longer ready"):
        tape.read()


@pytest.mark.parametrize("error_first", [True, False])
def test_a_drive_that_was_reset_and_rewound_is_found_and_nothing_is_mixed(
    error_first: bool,
) -> None:
    tape, kernel = mount()
    tape.space_files(1)
    tape.read()
    kernel.at = 0
    if error_first:
        kernel.before = script(("read", errno.EIO))
    with pytest.raises(TapeError, match="another program"):
        events(tape)
    assert tape.position.file == 1


def test_a_count_of_files_that_is_not_the_drivers_is_an_error() -> None:
    tape, kernel = mount()
    kernel.file = 5
    with pytest.raises(TapeError, match="should stand before tape file 1"):
        tape.space_files(1)


# --- loading ----------------------------------------------------------------------------------


def test_mounting_waits_until_the_tape_is_ready() -> None:
    kernel = FakeKernel(None)
    opened: list[str] = []

    def before(name: str) -> None:
        opened.append(name)
        tries = opened.count("open")
        if name == "open" and tries == 2:
            raise error(errno.EBUSY)  # udev is looking
        if tries == 4:
            kernel.items, kernel.ready = tape_of(LAYOUT), False
        kernel.ready = tries >= 6

    kernel.before = before
    tape = drive_of(kernel).mount("DRV001")
    assert tape.read() == Block(b"label")
    assert kernel.handles == 1
    tape.close()
    assert kernel.handles == 0


@pytest.mark.parametrize(
    ("items", "why"), [(None, "holds no tape"), (tape_of(LAYOUT), "is not ready yet")]
)
def test_a_drive_that_does_not_get_ready_is_an_error_after_the_deadline(
    items: list[Item] | None, why: str
) -> None:
    kernel = FakeKernel(items, ready=False)
    drive = drive_of(kernel, ready_s=30)
    with pytest.raises(TapeError, match=why):
        drive.mount("DRV001")
    assert drive.clock() == pytest.approx(30, abs=2)
    assert kernel.handles == 0


def test_a_drive_that_is_in_use_for_good_is_named_so() -> None:
    kernel = FakeKernel(tape_of(LAYOUT), handles=1)
    with pytest.raises(TapeError, match="used by another program"):
        drive_of(kernel).mount("DRV001")


@pytest.mark.parametrize(
    ("numbers", "why"),
    [((9, 0), "rewinds when it is closed"), ((8, 128), "not a tape"), (None, "not a tape")],
)
def test_only_a_tape_device_that_does_not_rewind_is_accepted(
    numbers: tuple[int, int] | None, why: str
) -> None:
    kernel = FakeKernel(tape_of(LAYOUT), numbers=numbers)
    with pytest.raises(TapeError, match=why):
        drive_of(kernel).mount("DRV001")
    assert kernel.calls == []  # it was not even opened


def test_a_path_that_is_no_device_of_this_host_is_refused_by_the_real_kernel(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("dev")
    with pytest.raises(TapeError, match="does not exist"):
        Drive(path=str(folder / "nst0")).mount("DRV001")
    (folder / "nst1").write_bytes(b"tape?")
    with pytest.raises(TapeError, match="not a tape drive"):
        Drive(path=str(folder / "nst1")).mount("DRV001")


def test_a_mount_that_fails_leaves_the_device_closed() -> None:
    kernel = FakeKernel(tape_of(LAYOUT), before=script(("op 6", errno.EIO)))
    with pytest.raises(TapeError, match="rewinding"):
        drive_of(kernel).mount("DRV001")
    assert kernel.handles == 0


def test_unloading_gives_the_tape_back_and_an_empty_drive_stays_as_it_is() -> None:
    kernel = FakeKernel(tape_of(LAYOUT))
    drive = drive_of(kernel)
    drive.unload()
    assert kernel.items is None
    drive.unload()
    assert kernel.calls.count("op 7 1") == 1
    assert kernel.handles == 0


# --- a model ----------------------------------------------------------------------------------

layouts = st.lists(st.lists(st.binary(min_size=1, max_size=9), max_size=4), max_size=5)
moves = st.lists(
    st.one_of(st.just("read"), st.just("rewind"), st.integers(0, 4)), min_size=1, max_size=25
)


@settings(deadline=None)
@given(layout=layouts, steps=moves)
def test_any_mix_of_motions_gives_what_a_list_gives(
    layout: list[list[bytes]], steps: list[str | int]
) -> None:
    tape, _ = mount(tape_of(layout))
    model = MemoryTape.of(layout)
    for step in steps:
        if step == "rewind":
            tape.rewind()
            model.rewind()
        elif step == "read":
            assert tape.read() == model.read()
        else:
            assert tape.space_files(int(step)) == model.space_files(int(step))
        assert tape.position == model.position


@settings(deadline=None)
@given(layout=layouts, data=st.data())
def test_damage_anywhere_never_gives_a_wrong_record_or_a_wrong_file_number(
    layout: list[list[bytes]], data: st.DataObject
) -> None:
    """Each tape file's good records are a subsequence of what was written to it."""
    items = tape_of(layout)
    trouble = st.builds(
        Bad, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 1])
    )
    spots = [place for place, item in enumerate(items) if item is not MARK]
    bad = data.draw(st.dictionaries(st.sampled_from(spots), trouble) if spots else st.just({}))
    tape, _ = mount(items, bad)
    file = 0
    lost = 0
    left = iter(layout[0] if layout else [])
    for event in events(tape):
        if isinstance(event, Filemark):
            file += 1
            left = iter(layout[file] if file < len(layout) else [])
        elif isinstance(event, Block):
            assert any(event.data == record for record in left)
        else:
            lost += isinstance(event, BadBlock) or event.abrupt
    if file < len(layout) or lost < 1:
        assert lost or file == len(layout)
    if not bad:
        assert not lost
