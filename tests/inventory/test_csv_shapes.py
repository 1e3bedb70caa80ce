"""CSV catalogues as scripts, reporting tools and spreadsheets make them, good and bad."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from catalog.model import ScheduleType, from_iso
from migrate.errors import InventoryError
from migrate.inventory import ImportOptions, ImportReport
from migrate.model import Image, Problem, Storage
from tests.inventory.support import NETBACKUP, codes, images_of, load

A = "alpha_1690000100"
HEAD = "Backup ID,Media ID,Fragment,File Number"


def write(folder: Path, *lines: str, end: str = "\n", name: str = "c.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + end, encoding="utf-8", newline="")
    return path


def read_one(folder: Path, *lines: str, timezone: str | None = None) -> tuple[Image, ImportReport]:
    path = write(folder, *lines)
    options = ImportOptions(timezone=timezone)
    _, report = load(path, options=options)
    images = images_of(path, options=options)
    assert len(images) == 1
    return next(iter(images.values())), report


def test_a_backup_id_and_a_media_id_are_enough(tmp_path: Path) -> None:
    image, report = read_one(tmp_path, "backup_id;MEDIA-ID", f"{A};NBU001")
    assert (image.client, image.product) == ("alpha", "netbackup")
    assert image.backup_time == from_iso("2023-07-22T04:28:20Z")
    assert image.expires_at is None
    assert image.copies[0].fragments[0].media_id == "NBU001"
    assert image.copies[0].fragments[0].tape_file_number is None
    assert image.problems == ()
    assert codes(report) == set()


def test_a_missing_header_names_what_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path, "client,policy,media id", "a,b,c")
    with pytest.raises(InventoryError, match=r"c\.csv:1: no catalogue format fits; tried .*csv"):
        load(path)
    with pytest.raises(InventoryError, match="no header with a backup id and a media id"):
        load(path, options=ImportOptions(format="csv"))


def test_a_header_below_the_twentieth_line_is_not_looked_for(tmp_path: Path) -> None:
    rows = (HEAD, f"{A},NBU001,1,1")
    assert images_of(write(tmp_path, *["title"] * 19, *rows))
    with pytest.raises(InventoryError, match="no catalogue format fits"):
        load(write(tmp_path, *["title"] * 20, *rows))


def test_glued_exports_may_repeat_the_header_and_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},NBU001,1,1", HEAD, f"{A},NBU001,1,1")
    inventory, report = load(path)
    assert inventory.counts().fragments == 1
    assert report.sources[0].ignored == {"header repeated": 1}


def test_rows_that_contradict_each_other_are_an_error_naming_both(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},NBU001,1,1", "b_1690000200,NBU001,1,2", f"{A},NBU001,1,7")
    inventory, report = load(path)
    (finding,) = report.findings
    assert finding.code == "rows_conflict"
    assert finding.place == f"{path}:2 and {path}:4"
    assert "alpha_1690000100 copy 1 fragment 1: tape_file_number 1 or 7" in finding.message
    images = images_of(path)
    assert Problem.CONFLICT in images[A].problems
    assert images[A].copies[0].fragments[0].tape_file_number == 1
    assert images["b_1690000200"].problems == ()
    assert inventory.counts().images == 2


def test_rows_of_two_files_that_contradict_each_other_are_named_with_their_files(
    tmp_path: Path,
) -> None:
    first = write(tmp_path, HEAD, f"{A},NBU001,1,1", name="one.csv")
    second = write(tmp_path, HEAD, f"{A},NBU002,1,1", name="two.csv")
    _, report = load(first, second)
    assert [one.place for one in report.findings] == [f"{first}:2 and {second}:2"]
    assert "media_id NBU001 or NBU002" in report.findings[0].message


def test_a_file_that_knows_more_completes_one_that_knows_less(tmp_path: Path) -> None:
    poor = write(tmp_path, HEAD, f"{A},NBU001,1,", name="poor.csv")
    rich = write(
        tmp_path,
        "Policy,Offset,Backup ID,Media ID,Fragment,File Number,Expiration (UTC)",
        f"files,12,{A},NBU001,1,5,2030-01-01",
        name="rich.csv",
    )
    for order in ((poor, rich), (rich, poor)):
        inventory, report = load(*order)
        assert codes(report) == set()
        (image,) = inventory.images()
        assert image.policy == "files"
        assert image.expires_at == from_iso("2030-01-01T00:00:00Z")
        fragment = image.copies[0].fragments[0]
        assert (fragment.tape_file_number, fragment.block_offset) == (5, 12)


def test_the_later_expiry_of_two_exports_is_kept_and_reported(tmp_path: Path) -> None:
    head = "Backup ID,Media ID,Fragment,Expiration (UTC)"
    path = write(tmp_path, head, f"{A},NBU001,1,2030-01-01", f"{A},NBU001,1,2031-01-01")
    _, report = load(path)
    assert codes(report) == {"rows_differ"}
    image = images_of(path)[A]
    assert image.expires_at == from_iso("2031-01-01T00:00:00Z")
    assert image.problems == ()


def test_an_export_that_knows_the_backup_ended_wins_over_one_taken_before(tmp_path: Path) -> None:
    head = "Backup ID,Media ID,Fragment,Expiration,Files"
    for rows in (("0,0", "1893456000,7"), ("1893456000,7", "0,0")):
        path = write(tmp_path, head, *(f"{A},NBU001,1,{row}" for row in rows))
        image = images_of(path)[A]
        assert image.problems == ()
        assert image.file_count == 7


@pytest.mark.parametrize("cell", ["1.54664E+09", "1,54664E+09", "2E+5"])
def test_backup_ids_that_a_spreadsheet_turned_into_numbers_are_reported(
    tmp_path: Path, cell: str
) -> None:
    path = write(tmp_path, HEAD, f'"{cell}",NBU001,1,1', f"{A},NBU001,1,2")
    _, report = load(path)
    assert report.findings[0].place == f"{path}:2"
    assert report.sources[0].ignored == {"backup id turned into a number by a spreadsheet": 1}


def test_media_ids_damaged_by_a_spreadsheet_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},1.01E+08,1,1", "b_1690000200,101,1,1")
    inventory, report = load(path)
    assert report.sources[0].ignored == {"media id turned into a number by a spreadsheet": 1}
    assert "media_id_short" in codes(report)
    assert [image.image_id for image in inventory.images()] == ["b_1690000200"]


@pytest.mark.parametrize("footer", ["Total rows: 1", "Total", ",,,", "Total,1", "(1 row)", ""])
@pytest.mark.parametrize("end", ["\n", ""])
def test_footers_are_left_out_without_a_warning(tmp_path: Path, footer: str, end: str) -> None:
    path = write(tmp_path, HEAD, f"{A},NBU001,1,1", footer, end=end)
    inventory, report = load(path)
    assert inventory.counts().images == 1
    assert {finding.severity.value for finding in report.findings} <= {"note"}


@pytest.mark.parametrize("cut", [1, 2, 5, 12, 25, 29])
def test_a_file_that_ends_within_a_record_is_refused_with_its_line(
    tmp_path: Path, cut: int
) -> None:
    row = "fs01.example.com_1546635613,NBU001,1,1,x"
    path = write(tmp_path, f"{HEAD},Key", row, row[: 9 + cut], end="")
    with pytest.raises(InventoryError, match=r"c\.csv:3: the file ends within a record.*cut off"):
        load(path)


def test_an_id_that_is_no_backup_id_costs_the_row_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, "alpha_16900,NBU001,1,1", f"{A},NBU001,1,1")
    inventory, report = load(path)
    assert [image.image_id for image in inventory.images()] == [A]
    assert report.findings[0].place == f"{path}:2"
    assert report.findings[0].severity == "warning"


def test_a_file_that_ends_within_quotation_marks_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},NBU001,1,1", f'{A},"NBU0', "x", end="")
    with pytest.raises(InventoryError, match=r"c\.csv:3: the file ends within a quoted cell"):
        load(path)


def test_a_quotation_mark_that_never_closes_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f'{A},"NBU001,1,1', *[f"{A},NBU001,1,1"] * 20_000)
    with pytest.raises(InventoryError, match=r"c\.csv:2: a quoted cell begins here"):
        load(path)


def test_a_row_with_wrong_quotation_marks_is_reported_and_the_next_is_read(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, HEAD, f'{A},"NB"U001,1,1', "b_1690000200,NBU001,1,1")
    inventory, report = load(path)
    assert [image.image_id for image in inventory.images()] == ["b_1690000200"]
    assert report.findings[0].place == f"{path}:2"
    assert report.findings[0].severity == "warning"


def test_a_row_with_too_many_cells_is_not_read_into_shifted_columns(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},x,NBU001,1,1", "b_1690000200,NBU001,1,1,,")
    inventory, report = load(path)
    assert [image.image_id for image in inventory.images()] == ["b_1690000200"]
    assert "more_cells" in codes(report)


def test_numbers_may_have_separators_and_unreadable_ones_are_unknown_and_reported(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path,
        "Backup ID;Media ID;Fragment;Kilobytes;Files;Offset",
        f"{A};NBU001;1;1,234,567;1.234;2",
        "b_1690000200;NBU001;1;12.0;many;9",
        "c_1690000200;NBU001;1;99999999999999999999;-5;1 000",
    )
    _, report = load(path)
    images = images_of(path)
    assert (images[A].size_bytes, images[A].file_count) == (1_234_567 * 1024, 1234)
    other = images["b_1690000200"]
    assert (other.size_bytes, other.file_count) == (12 * 1024, None)
    third = images["c_1690000200"]
    assert (third.size_bytes, third.file_count) == (None, None)
    assert third.copies[0].fragments[0].block_offset == 1000
    assert report.counts == {"bad_value": 2}


def test_a_fragment_number_that_cannot_be_read_costs_the_row_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},NBU001,first,1", f"{A},NBU001,TIR,2", f"{A},NBU001,1,1")
    inventory, report = load(path)
    (image,) = inventory.images()
    assert [one.fragment_number for one in image.copies[0].fragments] == [1, -1]
    assert report.sources[0].ignored == {"fragment number cannot be read": 1}
    assert report.findings[0].severity == "warning"


@pytest.mark.parametrize(
    ("word", "value"),
    [("Y", True), ("nein", False), ("Ja", True), ("0", False), ("", None), ("*NULL*", None)],
)
def test_yes_and_no_come_in_several_languages(
    tmp_path: Path, word: str, value: bool | None
) -> None:
    image, _ = read_one(tmp_path, "Backup ID,Media ID,Encrypted", f"{A},NBU001,{word}")
    assert image.encrypted is value


def test_nothing_is_written_in_many_ways(tmp_path: Path) -> None:
    head = "Backup ID,Media ID,Client,Policy,Expiration,Files,Offset,Schedule Type"
    image, report = read_one(tmp_path, head, f"{A},NBU001,*NULL*,N/A,-,,none,*NULL*")
    assert (image.client, image.policy, image.expires_at) == ("alpha", None, None)
    assert (image.file_count, image.schedule_type) == (None, None)
    assert codes(report) == set()


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Full Backup", ScheduleType.FULL),
        ("Cumulative Incremental", ScheduleType.CUMUL_INCR),
        ("Differential-Incremental", ScheduleType.DIFF_INCR),
        ("UBAK", ScheduleType.USER_BACKUP),
        ("3", ScheduleType.USER_ARCHIVE),
        ("5", ScheduleType.TLOG),
        ("Synthetic", ScheduleType.OTHER),
    ],
)
def test_schedule_types_come_as_words_and_as_numbers(
    tmp_path: Path, word: str, kind: ScheduleType
) -> None:
    image, _ = read_one(tmp_path, "Backup ID,Media ID,Schedule Type", f"{A},NBU001,{word}")
    assert image.schedule_type is kind


def test_sizes_in_kib_without_remainder_are_not_exact(tmp_path: Path) -> None:
    image, _ = read_one(tmp_path, f"{HEAD},Fragment KB", f"{A},NBU001,1,1,100")
    fragment = image.copies[0].fragments[0]
    assert (fragment.size_bytes, fragment.size_is_exact) == (102_400, False)
    image, _ = read_one(tmp_path, f"{HEAD},Fragment KB,Remainder", f"{A},NBU001,1,1,100,7")
    fragment = image.copies[0].fragments[0]
    assert (fragment.size_bytes, fragment.size_is_exact) == (102_407, True)


def test_an_exact_size_and_its_kib_are_no_conflict(tmp_path: Path) -> None:
    kib = write(tmp_path, f"{HEAD},Fragment KB", f"{A},NBU001,1,1,100", name="kib.csv")
    exact = write(tmp_path, f"{HEAD},Bytes", f"{A},NBU001,1,1,103423", name="exact.csv")
    for order in ((kib, exact), (exact, kib)):
        inventory, report = load(*order)
        (image,) = inventory.images()
        fragment = image.copies[0].fragments[0]
        assert (fragment.size_bytes, fragment.size_is_exact) == (103_423, True)
        assert codes(report) == set()


def test_a_size_column_belongs_to_the_image_where_rows_are_no_fragments(tmp_path: Path) -> None:
    image, _ = read_one(tmp_path, "Backup ID,Media ID,Size (KB)", f"{A},NBU001,100")
    assert image.size_bytes == 102_400
    assert image.copies[0].fragments[0].size_bytes is None


def test_a_list_of_media_gives_a_fragment_each_in_its_order(tmp_path: Path) -> None:
    image, _ = read_one(tmp_path, "Backup ID,Media IDs", f'{A},"NBU002, NBU001;NBU003"')
    media = [one.media_id for one in image.copies[0].fragments]
    assert media == ["NBU002", "NBU001", "NBU003"]


def test_disk_copies_are_told_by_their_id_when_no_column_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"{A},@aaaab,1,1", "b_1690000200,/dsu one/x,1,")
    for image in images_of(path).values():
        assert image.copies[0].storage is Storage.DISK
        assert image.copies[0].fragments[0].tape_file_number is None
        assert image.problems == (Problem.NO_TAPE_COPY,)


def test_a_row_names_its_product_and_its_hold(tmp_path: Path) -> None:
    image, _ = read_one(
        tmp_path, "Image ID,Volume,Format,Hold,Tape File", "home-2019,T00001,TAR,yes,0"
    )
    assert (image.image_id, image.product, image.hold) == ("home-2019", "tar", True)
    assert image.copies[0].fragments[0].tape_file_number == 0


def test_extra_and_reordered_columns_change_nothing(tmp_path: Path) -> None:
    with (NETBACKUP / "nbu.csv").open(newline="", encoding="utf-8") as stream:
        rows = [["x", *reversed(row)] for row in csv.reader(stream)]
    path = tmp_path / "r.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)
    ours, theirs = images_of(path), images_of(NETBACKUP / "nbu.csv")
    assert [str(image).replace(str(path), "") for image in ours.values()] == [
        str(image).replace(str(NETBACKUP / "nbu.csv"), "") for image in theirs.values()
    ]
