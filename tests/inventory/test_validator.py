"""The validator on images made by hand: each problem where it belongs, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migrate.inventory import KnownMedia, copy_problems, validate
from migrate.inventory.validator import SIZE_SLACK, image_problems
from migrate.model import Copy, Fragment, Image, Media, Problem, Storage

NOW = 1_000_000
ANY = KnownMedia({})


def fragment(number: int = 1, media_id: str = "T1", size: int | None = 100) -> Fragment:
    return Fragment(fragment_number=number, media_id=media_id, size_bytes=size)


def copy(number: int = 1, *fragments: Fragment, expires_at: int | None = None) -> Copy:
    return Copy(
        copy_number=number,
        storage=Storage.TAPE,
        primary=number == 1,
        expires_at=expires_at,
        fragments=fragments or (fragment(),),
    )


GOOD = Image(image_id="a", product="tar", expires_at=NOW + 1, file_count=1, copies=(copy(),))


def problems(image: Image, media: KnownMedia = ANY) -> list[str]:
    return [str(one) for one in image_problems(image, media, NOW)]


def test_a_good_image_has_no_problem() -> None:
    assert problems(GOOD) == []
    assert copy_problems(GOOD, GOOD.copies[0], ANY, NOW) == ()


def test_an_image_expires_at_its_very_second_and_an_infinite_one_never() -> None:
    assert problems(replace(GOOD, expires_at=NOW)) == ["expired"]
    assert problems(replace(GOOD, expires_at=None, expires_infinite=True)) == []
    assert problems(replace(GOOD, expires_at=None)) == []


def test_a_held_image_that_expired_still_says_so() -> None:
    assert problems(replace(GOOD, expires_at=1, hold=True)) == ["expired"]


def test_incomplete_is_what_the_catalogue_says_or_no_expiry_and_no_files() -> None:
    assert problems(replace(GOOD, expires_at=None, unfinished=True)) == ["incomplete"]
    assert problems(replace(GOOD, expires_at=None, file_count=0)) == ["incomplete"]
    assert problems(replace(GOOD, file_count=0)) == []
    assert problems(replace(GOOD, expires_at=None, file_count=None)) == []


@pytest.mark.parametrize(
    "numbers", [(2,), (1, 3), (2, 3), (), (-1,), (0, 2)], ids=lambda numbers: str(numbers)
)
def test_a_gap_in_the_fragments_is_found(numbers: tuple[int, ...]) -> None:
    holes = Copy(
        copy_number=1,
        storage=Storage.TAPE,
        fragments=tuple(fragment(number) for number in numbers),
    )
    assert Problem.MISSING_FRAGMENT in image_problems(replace(GOOD, copies=(holes,)), ANY, NOW)
    assert Problem.MISSING_FRAGMENT in copy_problems(GOOD, holes, ANY, NOW)


def test_fragments_below_one_are_no_gap() -> None:
    image = replace(GOOD, copies=(copy(1, fragment(1), fragment(2), fragment(-1)),))
    assert problems(image) == []


def test_fragments_that_fall_short_of_the_image_are_missing_something() -> None:
    size = 10 * SIZE_SLACK
    short = copy(1, fragment(size=size - SIZE_SLACK - 1))
    assert problems(replace(GOOD, size_bytes=size, copies=(short,))) == ["missing_fragment"]
    near = copy(1, fragment(size=size - SIZE_SLACK))
    assert problems(replace(GOOD, size_bytes=size, copies=(near,))) == []
    unknown = copy(1, fragment(size=None))
    assert problems(replace(GOOD, size_bytes=size, copies=(unknown,))) == []


def test_the_claimed_fragments_bind_the_primary_copy_only() -> None:
    two = replace(GOOD, expected_fragments=2)
    assert problems(two) == ["missing_fragment"]
    second = replace(GOOD.copies[0], primary=False)
    assert problems(replace(two, copies=(second,))) == []
    with_restore_information = copy(1, fragment(1), fragment(-1))
    assert problems(replace(two, copies=(with_restore_information,))) == []


def test_copies_that_are_fewer_than_claimed_are_reported() -> None:
    assert problems(replace(GOOD, expected_copies=2)) == ["copy_count_mismatch"]
    assert problems(replace(GOOD, expected_copies=1)) == []


def test_an_image_on_disk_only_has_no_tape_copy_and_its_disk_is_no_unknown_tape() -> None:
    disk = replace(GOOD.copies[0], storage=Storage.DISK)
    known = KnownMedia({}, frozenset({"T9"}))
    assert problems(replace(GOOD, copies=(disk,)), known) == ["no_tape_copy"]


def test_a_tape_that_no_list_names_is_unknown_and_without_a_list_none_is() -> None:
    assert problems(GOOD, KnownMedia({}, frozenset({"T9"}))) == ["unknown_media"]
    assert problems(GOOD, KnownMedia({}, frozenset({"T1"}))) == []
    assert problems(GOOD, KnownMedia({}, None)) == []


@pytest.mark.parametrize(
    ("assigned", "uncertainty", "remembered", "reused"),
    [
        (500, 0, 400, True),
        (400, 0, 400, False),
        (300, 0, 400, False),
        (500, 100, 400, False),
        (501, 100, 400, True),
        (None, 0, 400, False),
        (500, 0, None, False),
    ],
)
def test_a_tape_assigned_later_than_its_fragment_remembers_was_overwritten(
    assigned: int | None, uncertainty: int, remembered: int | None, reused: bool
) -> None:
    tape = Media(media_id="T1", assigned_at=assigned, assigned_uncertainty=uncertainty)
    image = replace(GOOD, copies=(copy(1, replace(fragment(), media_assigned_at=remembered)),))
    found = problems(image, KnownMedia({"T1": tape}))
    assert found == (["media_reused"] if reused else [])


def test_one_bad_copy_does_not_speak_against_the_good_one_beside_it() -> None:
    bad, good = copy(1, fragment(2)), copy(2, fragment(1))
    image = replace(GOOD, copies=(bad, good))
    assert problems(image) == ["missing_fragment"]
    assert copy_problems(image, bad, ANY, NOW) == (Problem.MISSING_FRAGMENT,)
    assert copy_problems(image, good, ANY, NOW) == ()


def test_a_copy_expires_by_its_own_date_or_else_with_its_image() -> None:
    gone = replace(GOOD.copies[0], expires_at=NOW)
    assert copy_problems(GOOD, gone, ANY, NOW) == (Problem.EXPIRED,)
    due = replace(GOOD, expires_at=NOW)
    assert copy_problems(due, GOOD.copies[0], ANY, NOW) == (Problem.EXPIRED,)
    later = replace(GOOD.copies[0], expires_at=NOW + 1)
    assert copy_problems(due, later, ANY, NOW) == ()


def test_problems_come_in_alphabetical_order_and_a_conflict_stays() -> None:
    image = replace(
        GOOD, expires_at=1, expected_copies=3, problems=(Problem.CONFLICT,),
        copies=(copy(1, fragment(2)),),
    )  # fmt: skip
    (found,) = validate([image], KnownMedia({}, frozenset({"T9"})), NOW)
    assert list(found.problems) == sorted(found.problems)
    assert list(found.problems) == [
        "conflict", "copy_count_mismatch", "expired", "missing_fragment", "unknown_media",
    ]  # fmt: skip
