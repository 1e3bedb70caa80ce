"""Local times, zones, day and month order: the backup id settles what the text does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import ConfigError
from catalog.model import iso
from migrate.errors import InventoryError
from migrate.inventory import ImportOptions
from migrate.inventory.netbackup import ticks_to_seconds
from tests.inventory.support import codes, images_of, load

# 1546635613 is 2019-01-04 21:00:13 UTC
ID = "fs01_1546635613"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def expiry(
    folder: Path, started: str, expires: str, *, timezone: str | None = None, unit: str = ""
) -> tuple[str | None, set[str]]:
    path = write(
        folder,
        f"Backup ID;Media ID;Backup Time{unit};Expiration{unit}",
        f"{ID};NBU001;{started};{expires}",
    )
    options = ImportOptions(timezone=timezone)
    _, report = load(path, options=options)
    image = images_of(path, options=options)[ID]
    assert image.backup_time == 1546635613 * 10**9
    return ("never" if image.expires_infinite else iso(image.expires_at)), codes(report)


@pytest.mark.parametrize(
    ("started", "expires"),
    [
        ("2019-01-04 21:00:13", "2020-01-04 21:00:13"),
        ("2019-01-04T21:00:13", "2020-01-04T21:00:13"),
        ("01/04/2019 21:00:13", "01/04/2020 21:00:13"),
        ("01/04/2019 09:00:13 PM", "01/04/2020 09:00:13 PM"),
        ("1/4/2019 9:00:13 pm", "1/4/2020 9:00:13 p.m."),
        ("04.01.2019 21:00:13", "04.01.2020 21:00:13"),
        ("04/01/2019 21:00:13", "04/01/2020 21:00:13"),
        ("1546635613", "1578171613"),
        ("137659284130000000", "137974644130000000"),
        ("Fri 04 Jan 2019 09:00:13 PM UTC (1546635613)", "whenever (1578171613)"),
    ],
)
def test_times_are_read_in_every_shape(tmp_path: Path, started: str, expires: str) -> None:
    found, _ = expiry(tmp_path, started, expires, unit=" (UTC)")
    assert found == "2020-01-04T21:00:13Z"


def test_the_database_ticks_count_from_1582() -> None:
    assert ticks_to_seconds(137659284130000000) == 1546635613


def test_a_stated_zone_decides(tmp_path: Path) -> None:
    found, kinds = expiry(
        tmp_path, "2019-01-04 22:00:13", "2020-07-04 22:00:13", timezone="Europe/Berlin"
    )
    assert found == "2020-07-04T20:00:13Z"
    assert kinds == set()


def test_the_hour_that_occurs_twice_is_read_as_its_second_pass(tmp_path: Path) -> None:
    found, _ = expiry(
        tmp_path, "2019-01-04 22:00:13", "2020-10-25 02:30:00", timezone="Europe/Berlin"
    )
    assert found == "2020-10-25T01:30:00Z"


def test_without_a_zone_the_backup_id_gives_the_offset_and_a_warning(tmp_path: Path) -> None:
    found, kinds = expiry(tmp_path, "2019-01-05 06:00", "2020-01-05 06:00")
    assert found == "2020-01-04T21:00:00Z"
    assert kinds == {"zone_derived"}


@pytest.mark.parametrize(
    ("started", "expires"),
    [("05/01/2019 06:00", "03/02/2020 06:00"), ("01/05/2019 06:00", "02/03/2020 06:00")],
)
def test_the_backup_id_settles_the_order_of_day_and_month(
    tmp_path: Path, started: str, expires: str
) -> None:
    found, kinds = expiry(tmp_path, started, expires)
    assert found == "2020-02-02T21:00:00Z"
    assert "date_order_assumed" not in kinds


def test_an_order_of_day_and_month_that_nothing_settles_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path, "Backup ID,Media ID,Expiration (UTC)", f"{ID},NBU001,03/02/2020")
    _, report = load(path)
    assert codes(report) == {"date_order_assumed"}
    assert iso(images_of(path)[ID].expires_at) == "2020-03-02T00:00:00Z"


def test_a_local_time_whose_zone_nothing_tells_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "Backup ID,Media ID,Expiration", f"{ID},NBU001,2020-01-05 06:00")
    with pytest.raises(InventoryError, match=r"t\.csv:2: .*zone is not known; .*--timezone"):
        load(path)


def test_a_zone_that_contradicts_the_backup_ids_is_reported(tmp_path: Path) -> None:
    _, kinds = expiry(
        tmp_path, "2019-01-05 06:00:13", "2020-01-05 06:00:13", timezone="Europe/Berlin"
    )
    assert kinds == {"backup_time_mismatch"}


@pytest.mark.parametrize(
    "never", ["INFINITY", "infinite", "Never", "2147483647", "32535212400", "143667764470000000"]
)
def test_infinity_has_many_spellings(tmp_path: Path, never: str) -> None:
    assert expiry(tmp_path, "1546635613", never)[0] == "never"


def test_an_expiry_beyond_what_64_bits_hold_is_never(tmp_path: Path) -> None:
    assert expiry(tmp_path, "1546635613", "20000000000")[0] == "never"


@pytest.mark.parametrize(
    "text", ["soon", "2020-13-45", "99/99/2020", "2020-01-05 xx", "31.02.2020"]
)
def test_an_expiry_that_is_no_time_is_unknown_and_reported(tmp_path: Path, text: str) -> None:
    found, kinds = expiry(tmp_path, "1546635613", text)
    assert found is None
    assert "bad_value" in kinds


def test_an_expiry_of_zero_is_a_backup_that_never_ended(tmp_path: Path) -> None:
    path = write(tmp_path, "Backup ID,Media ID,Expiration", f"{ID},NBU001,0")
    assert images_of(path)[ID].problems == ("incomplete",)
    path = write(tmp_path, "Backup ID,Media ID,Copy,Expiration", f"{ID},NBU001,1,0")
    assert images_of(path)[ID].problems == ("incomplete",)


def test_an_unknown_zone_or_encoding_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"--timezone 'Mars/Olympus'.*IANA"):
        ImportOptions(timezone="Mars/Olympus")
    for name in ("klingon", "rot13", "base64", ""):
        with pytest.raises(ConfigError, match="--encoding"):
            ImportOptions(encoding=name)
