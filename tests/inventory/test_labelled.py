"""``bpimagelist -L`` and ``bpimmedia -L``: oddities, and files that are broken."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from catalog.model import NANOSECONDS
from migrate.errors import InventoryError
from migrate.inventory import ImportOptions, Severity
from migrate.model import Problem, Storage
from tests.inventory.support import NETBACKUP, as_json, codes, images_of, load, model

LABELLED = (NETBACKUP / "bpimagelist_L.txt").read_text("utf-8")
ONE = LABELLED[: LABELLED.index("\nClient:", 1) + 1]
TABLE = (NETBACKUP / "bpimmedia_L.txt").read_text("utf-8").splitlines()
UTC = ImportOptions(timezone="UTC")
FIRST_ID = "fs01.example.com_1546635613"


def write(folder: Path, text: str) -> Path:
    path = folder / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


# --- bpimagelist -L -------------------------------------------------------------------------------


def test_labels_are_matched_without_case_and_unknown_ones_are_passed_over(tmp_path: Path) -> None:
    text = ONE.replace("Backup ID:", "BACKUP  id :").replace(" MPX:", " Brand New: 7\n MPX:")
    plain, respelled = tmp_path / "plain", tmp_path / "respelled"
    plain.write_text(ONE, encoding="utf-8")
    respelled.write_text(text, encoding="utf-8")
    inventory, report = load(respelled)
    assert codes(report) == set()
    assert as_json(inventory) == model(plain)
    assert as_json(inventory)[0]["copies"][0]["fragments"][0]["tape_file_number"] == 1


def test_an_infinite_expiry_is_read_with_and_without_its_epoch(tmp_path: Path) -> None:
    for words in ("INFINITY", "INFINITY (2147483647)", "INFINITY (32535212400)"):
        lines = [
            f"{line.partition(':')[0]}: {words}" if "Expiration Time" in line else line
            for line in ONE.splitlines()
        ]
        (image,) = images_of(write(tmp_path, "\n".join(lines) + "\n")).values()
        assert image.expires_infinite
        assert image.copies[0].expires_infinite


def test_a_date_without_its_epoch_is_unknown_and_reported(tmp_path: Path) -> None:
    text = ONE.replace(" (1578171613)", "")
    inventory, report = load(write(tmp_path, text))
    assert report.counts == {"bad_value": 2}
    (image,) = inventory.images()
    assert image.expires_at is None
    assert not image.unfinished


def test_words_for_fragments_that_are_not_data_keep_them_from_being_data(tmp_path: Path) -> None:
    fragment = ONE[ONE.index(" Fragment:") :].rstrip("\n") + "\n"
    text = ONE.rstrip("\n") + "\n" + fragment.replace("Fragment:         1", "Fragment:  TIR")
    (image,) = images_of(write(tmp_path, text)).values()
    assert [one.fragment_number for one in image.copies[0].fragments] == [1, -1]


def test_a_fragment_without_its_image_or_its_media_id_is_reported_with_its_line(
    tmp_path: Path,
) -> None:
    fragment = ONE[ONE.index("Copy number:") :]
    path = write(tmp_path, fragment + ONE.replace("\n ID:  ", "\n XID:  "))
    inventory, report = load(path, options=ImportOptions(format="bpimagelist-L"))
    assert inventory.counts().fragments == 0
    assert [one.place.rpartition(":")[2] for one in report.findings] == ["2", "58"]


@pytest.mark.parametrize("lost", [1, 20, 200])
def test_labelled_records_cut_off_within_a_line_are_refused(tmp_path: Path, lost: int) -> None:
    text = LABELLED.rstrip("\n")
    with pytest.raises(InventoryError, match=r"list\.txt:\d+: the file ends within a line"):
        load(write(tmp_path, text[: len(text) - lost]))


def test_labelled_records_cut_off_between_lines_are_refused(tmp_path: Path) -> None:
    lines = LABELLED.rstrip("\n").splitlines(keepends=True)
    for lost in (1, 5, 20, 30, 50):
        with pytest.raises(InventoryError, match="the file ends within a record"):
            load(write(tmp_path, "".join(lines[: len(lines) - lost])))


def test_words_above_a_labelled_list_are_ignored_with_a_note(tmp_path: Path) -> None:
    inventory, report = load(write(tmp_path, f"$ bpimagelist -L\nas asked on Monday\n\n{ONE}"))
    assert inventory.counts().images == 1
    assert report.sources[0].ignored == {"no label": 2}


# --- bpimmedia -L ---------------------------------------------------------------------------------


def table(*lines: str) -> str:
    return "\n".join((*TABLE[:3], *lines)) + "\n"


def test_a_table_of_local_times_needs_a_zone(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"L\.txt:4: .*local time.*--timezone"):
        load(NETBACKUP / "bpimmedia_L.txt")
    forever = [line.replace("21:00 01/04/2020", "INFINITY        ") for line in TABLE[3:5]]
    (image,) = images_of(write(tmp_path, table(*forever))).values()
    assert image.expires_infinite


def test_the_zone_decides_what_the_times_of_the_table_mean(tmp_path: Path) -> None:
    path = write(tmp_path, table(*TABLE[3:5]))
    (utc,) = images_of(path, options=UTC).values()
    (local,) = images_of(path, options=ImportOptions(timezone="America/New_York")).values()
    assert utc.expires_at is not None
    assert local.expires_at == utc.expires_at + 5 * 3600 * NANOSECONDS


def test_the_first_date_that_tells_settles_the_order_for_the_whole_table(tmp_path: Path) -> None:
    day_first = [line.replace("01/04/2020", "04/01/2020") for line in TABLE[3:5]]
    later = [line.replace("01/05/2020", "31/01/2020") for line in TABLE[5:7]]
    images = images_of(write(tmp_path, table(*day_first, *later)), options=UTC)
    assert images[FIRST_ID].expires_at == 1578171600 * NANOSECONDS


@pytest.mark.parametrize("spelled", ["01/04/2020 21:00", "01/04/2020 09:00 PM", "2020-01-04 21:00"])
def test_dates_of_the_table_may_be_spelled_otherwise(tmp_path: Path, spelled: str) -> None:
    lines = [line.replace("21:00 01/04/2020", spelled) for line in TABLE[3:5]]
    (image,) = images_of(write(tmp_path, table(*lines)), options=UTC).values()
    assert image.expires_at == 1578171600 * NANOSECONDS
    assert image.copies[0].expires_at == image.expires_at


def test_a_disk_path_with_blanks_stays_whole_in_the_table() -> None:
    image = images_of(NETBACKUP / "bpimmedia_L.txt", options=UTC)["vm01.example.com_1686603600"]
    assert image.copies[0].storage is Storage.DISK
    assert image.copies[0].fragments[0].media_id == "/dsu one/vm01_C1_F1"


def test_a_backup_that_never_ended_is_incomplete_in_the_table() -> None:
    image = images_of(NETBACKUP / "bpimmedia_L.txt", options=UTC)["fs02.example.com_1686517200"]
    assert Problem.INCOMPLETE in image.problems


def test_lines_of_the_table_that_cannot_be_read_are_reported_with_their_lines(
    tmp_path: Path,
) -> None:
    broken = TABLE[5].replace(" N N R ", " N ? R ")
    inventory, report = load(write(tmp_path, table(TABLE[4], broken, TABLE[6])), options=UTC)
    assert inventory.counts().images == 0
    places = [one.place.rpartition(":")[2] for one in report.findings if one.code != "no_rows"]
    assert places == ["4", "5", "6"]
    assert {one.severity for one in report.findings} == {Severity.WARNING}


def test_a_table_that_ends_within_a_line_is_refused(tmp_path: Path) -> None:
    text = table(*TABLE[3:])
    for lost in (1, 2, 9, 70):
        with pytest.raises(InventoryError, match="the file ends within a line"):
            load(write(tmp_path, text[: len(text) - lost]), options=UTC)


def test_long_lines_of_blanks_and_words_are_looked_at_in_linear_time(tmp_path: Path) -> None:
    words = (" " * 100_000, "a " * 100_000, "1 1 " * 50_000, " 1 TIR 1 RMed " + "a  " * 60_000)
    ends = ("x", "N 21:00", "FULL 8 1 N N R 1 x")
    lines = [f"{one}{end}" for one, end in itertools.product(words, ends)]
    began = time.process_time()
    _, report = load(write(tmp_path, table(*lines, *TABLE[3:5])), options=UTC)
    assert time.process_time() - began < 5
    assert report.sources[0].ignored == {"neither an image nor a fragment": len(lines)}
