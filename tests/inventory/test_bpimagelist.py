"""``bpimagelist -l`` by position: token counts, quotes, oddities, and files that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.errors import InventoryError
from migrate.inventory.bpimagelist import split
from migrate.model import Problem, Storage
from tests.inventory.support import NETBACKUP, codes, expected, images_of, load, model

LINES = (NETBACKUP / "bpimagelist_l.txt").read_text("utf-8").splitlines()
IMAGE, HISTO, FRAG = LINES[:3]


def write(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


def with_token(line: str, position: int, value: str) -> str:
    tokens = line.split(" ")
    tokens[position - 1] = value
    return " ".join(tokens)


@pytest.mark.parametrize("image_count", [50, 54, 55, 58, 62, 67])
@pytest.mark.parametrize("frag_count", [26, 27, 28, 31, 36])
def test_every_token_count_gives_the_same_image(
    tmp_path: Path, image_count: int, frag_count: int
) -> None:
    image = (IMAGE.split() + ["0"] * 10)[:image_count]
    frag = (FRAG.split() + ["0"] * 10)[:frag_count]
    path = write(tmp_path, " ".join(image), HISTO, " ".join(frag))
    _, report = load(path)
    assert codes(report) == set()
    want = next(one for one in expected("nbu_expected.json") if one["image_id"] == image[5])
    assert model(path) == [want]


def test_an_unknown_token_count_is_noted_and_the_known_positions_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, f"{IMAGE} 1 2", HISTO, f"{FRAG} 1 2 3 4 5 6")
    _, report = load(path)
    assert codes(report) == {"image_tokens_64", "frag_tokens_37"}
    assert model(path)[0]["file_count"] == 85790


def test_a_token_in_quotes_is_one_token_and_a_stray_quote_is_a_character() -> None:
    assert split('FRAG "/dsu one/x" 2 "" a"b c"d') == ["FRAG", "/dsu one/x", "2", "", "ab cd"]
    assert split('IMAGE 5" disk') == ["IMAGE", '5"', "disk"]


def test_a_fragment_below_one_is_kept_and_never_data(tmp_path: Path) -> None:
    tir = with_token(with_token(FRAG, 3, "-1"), 17, "1999999999")
    path = write(tmp_path, IMAGE, HISTO, FRAG, tir)
    _, report = load(path)
    assert codes(report) == set()
    (image,) = images_of(path).values()
    assert [one.fragment_number for one in image.copies[0].fragments] == [1, -1]
    assert Problem.MISSING_FRAGMENT not in image.problems


def test_a_copy_of_which_only_restore_information_is_left_misses_its_data(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGE, HISTO, with_token(FRAG, 3, "-1"))
    (image,) = images_of(path).values()
    assert Problem.MISSING_FRAGMENT in image.problems


def test_a_missing_last_fragment_shows_in_the_claimed_number_and_in_the_size(
    tmp_path: Path,
) -> None:
    claimed = with_token(IMAGE, 22, "2")
    (image,) = images_of(write(tmp_path, claimed, HISTO, FRAG)).values()
    assert Problem.MISSING_FRAGMENT in image.problems
    bigger = with_token(IMAGE, 19, str(47185920 + 10_000))
    (image,) = images_of(write(tmp_path, bigger, HISTO, FRAG)).values()
    assert Problem.MISSING_FRAGMENT in image.problems
    slack = with_token(IMAGE, 19, str(47185920 + 1_000))
    (image,) = images_of(write(tmp_path, slack, HISTO, FRAG)).values()
    assert Problem.MISSING_FRAGMENT not in image.problems


def test_hold_key_tag_and_media_date_are_kept(tmp_path: Path) -> None:
    frag = with_token(with_token(FRAG, 28, "7f3c"), 31, "1")
    path = write(tmp_path, with_token(IMAGE, 61, "1"), HISTO, frag)
    (image,) = images_of(path).values()
    assert image.hold
    assert image.copies[0].hold
    fragment = image.copies[0].fragments[0]
    assert (fragment.key_tag, fragment.media_assigned_at) == ("7f3c", 1546027200 * 10**9)
    assert Problem.EXPIRED in image.problems


def test_an_image_without_fragments_is_reported_as_having_no_tape_copy(tmp_path: Path) -> None:
    (image,) = images_of(write(tmp_path, IMAGE, HISTO)).values()
    assert image.copies == ()
    assert {Problem.NO_TAPE_COPY, Problem.COPY_COUNT_MISMATCH} <= set(image.problems)


def test_counters_pass_32_bits(tmp_path: Path) -> None:
    path = write(tmp_path, with_token(IMAGE, 19, "5368709120"), HISTO, FRAG)
    (image,) = images_of(path).values()
    assert image.size_bytes == 5 * 2**40


def test_a_disk_path_with_blanks_is_a_disk_copy() -> None:
    image = images_of(NETBACKUP / "bpimagelist_l.txt")["vm01.example.com_1686603600"]
    assert image.copies[0].storage is Storage.DISK
    assert image.copies[0].fragments[0].media_id == "/dsu one/vm01_C1_F1"


def test_repeated_images_are_one_and_contradictions_name_both_lines(tmp_path: Path) -> None:
    moved = with_token(FRAG, 8, "9")
    path = write(tmp_path, IMAGE, HISTO, FRAG, IMAGE, HISTO, FRAG, IMAGE, HISTO, moved)
    inventory, report = load(path)
    assert inventory.counts().images == 1
    assert [finding.place for finding in report.findings] == [f"{path}:3 and {path}:9"]
    assert Problem.CONFLICT in next(inventory.images()).problems


def test_records_that_cannot_be_used_are_reported_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        FRAG,
        "IMAGE short",
        FRAG,
        "hello",
        IMAGE,
        HISTO,
        "FRAG 1 1",
        with_token(FRAG, 2, "x"),
    )
    inventory, report = load(path)
    assert inventory.counts().fragments == 0
    places = [finding.place.rpartition(":")[2] for finding in report.findings]
    assert places == ["1", "2", "3", "4", "7", "8", "8"]


@pytest.mark.parametrize("cut", [1, 40, 120])
def test_a_list_that_ends_within_a_record_is_refused_with_its_line(
    tmp_path: Path, cut: int
) -> None:
    path = write(tmp_path, IMAGE, HISTO, FRAG, IMAGE, HISTO, FRAG[:-cut], end="")
    with pytest.raises(InventoryError, match=r"list\.txt:6: the file ends within a record"):
        load(path)
    path = write(tmp_path, IMAGE, HISTO, FRAG, IMAGE[:-cut], end="")
    with pytest.raises(InventoryError, match=r"list\.txt:4: the file ends within a record"):
        load(path)


def test_a_whole_last_line_without_a_line_end_is_fine(tmp_path: Path) -> None:
    assert len(images_of(write(tmp_path, IMAGE, HISTO, FRAG, end=""))) == 1
