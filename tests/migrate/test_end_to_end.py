"""The main job as a user does it: catalogue and tapes in, proved images in S3 and a ledger out."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog.s3 import S3Location
from migrate.source.interface import Block
from migrate.source.simh import SimhTape
from tests.migrate.support import (
    GNUTAR,
    INSIDE_MPX,
    MPX_FILE,
    NBU,
    SYNTHMPX,
    Bucket,
    Ended,
    TapeSet,
    expected_nbu,
    expected_tar,
    run_words,
    spanning_set,
    tapemigrate,
    tar_catalog,
)
from tests.source.tapes import events
from tests.support.servers import new_bucket

MakeBucket = Callable[..., S3Location]


@pytest.fixture(params=["moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def make_bucket(request: pytest.FixtureRequest) -> MakeBucket:
    endpoint: str = request.getfixturevalue(f"{request.param}_endpoint")

    def make(**settings: Any) -> S3Location:
        return new_bucket(endpoint, **settings)

    return make


def migrated(catalog: Path, tapes: Path, to: S3Location, workdir: Path, *more: str) -> Ended:
    ended = tapemigrate(*run_words(catalog, tapes, to, workdir, *more))
    assert ended.code == 0, ended
    return ended


def mpx_records() -> bytes:
    """Tape file 5 of the first tape, its records joined, straight from the tape."""
    source = SimhTape(NBU / "NBU001.tap", "NBU001")
    source.space_files(5)
    records: list[bytes] = []
    while isinstance(event := source.read(), Block):
        records.append(event.data)
    source.close()
    return b"".join(records)


def test_the_netbackup_set_ends_in_the_bucket_byte_for_byte(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(make_bucket(prefix="backups/pool"))
    ended = migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    expected = {name: sha for name, sha in expected_nbu().items() if name not in INSIDE_MPX}
    found = bucket.sha256s()
    whole = mpx_records()
    assert found.pop(MPX_FILE) == hashlib.sha256(whole).hexdigest()
    assert found == expected
    for name in INSIDE_MPX:
        manifest = bucket.manifest(name)
        assert (manifest["fragments"], manifest["sha256"]) == ([], None)
        assert [part["image"] for part in manifest["within"]] == [MPX_FILE]
    blocks = bucket.manifest(MPX_FILE)["blocks"]
    assert blocks == [[1024, 3], [65_536, 11]]
    assert bucket.orphans() == bucket.uploads() == []
    result = ended.json
    assert result["images"] == {"stored": 7, "skipped": 0, "damaged": 0, "failed": 0}
    assert result["bytes_stored"] == sum(len(bucket.image(name)) for name in [*expected, MPX_FILE])
    assert result["tapes"] == {"mounted": 2, "unusable": [], "released": ["NBU001", "NBU002"]}
    assert result["workdir"] == str(tmp_path / "work")


def test_with_a_demultiplexer_every_image_has_its_own_bytes(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(make_bucket())
    migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work", "--demultiplexer", SYNTHMPX)
    assert bucket.sha256s() == expected_nbu()
    assert bucket.orphans() == bucket.uploads() == []


def test_the_tar_set_ends_in_the_bucket_byte_for_byte(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(make_bucket(prefix="tar"))
    catalog = tar_catalog(tmp_path / "tar.json")
    ended = migrated(catalog, GNUTAR, bucket.location, tmp_path / "work")
    assert bucket.sha256s() == expected_tar()
    assert ended.json["tapes"]["released"] == ["gmv.1", "gmv.2", "gmv.3"]


def test_the_installed_command_does_it_in_a_process_of_its_own(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(moto_bucket())
    command = Path(sys.executable).with_name("tapemigrate")
    words = run_words(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    ended = subprocess.run(
        [command, *words], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["images"]["stored"] == 7
    assert "NBU001 mounted (1 of 2)" in ended.stderr
    assert "\r" not in ended.stderr, "bars are for terminals"
    assert bucket.manifest("beta_1690000200")["sha256"] == expected_nbu()["beta_1690000200"]


def test_manifests_say_where_each_image_was_on_tape(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(moto_bucket())
    migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    origin = bucket.manifest("zeta_1690000400")["origin"]
    assert {key: origin[key] for key in ("product", "client", "policy", "schedule")} == {
        "product": "netbackup", "client": "zeta", "policy": "span", "schedule": "full",
    }  # fmt: skip
    assert origin["backup_time"] == "2023-07-22T04:33:20Z"
    places = [
        (place["media_id"], place["fragment_number"], place["tape_file"], place["size"])
        for place in origin["places"]
    ]
    assert places == [("NBU001", 1, 6, 327_680), ("NBU002", 2, 1, 174_080)]


def test_every_outcome_is_one_ledger_row_and_tapes_are_released_once(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(moto_bucket())
    migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    images = [*expected_nbu(), MPX_FILE]
    expected = {(kind, name): 1 for kind in ("stored", "verified") for name in images}
    expected |= {(k, t): 1 for k in ("tape_read", "tape_released") for t in ("NBU001", "NBU002")}
    assert bucket.kinds() == expected
    facts = {fact.image: fact for fact in bucket.facts() if fact.kind == "stored"}
    for name, digest in expected_nbu().items():
        if name not in INSIDE_MPX:
            assert facts[name].sha256 == digest
    released = [f for f in bucket.facts() if f.kind == "tape_released"]
    last_verified = max(i for i, f in enumerate(bucket.facts()) if f.kind == "verified")
    assert all(bucket.facts().index(fact) > last_verified for fact in released)


def test_the_same_command_again_does_nothing(moto_bucket: MakeBucket, tmp_path: Path) -> None:
    bucket = Bucket(moto_bucket())
    first = migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    keys, facts = bucket.keys(), bucket.facts()
    second = migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    assert (bucket.keys(), bucket.facts()) == (keys, facts)
    assert "mounted" not in second.err
    assert second.json["images"] == first.json["images"]
    assert second.json["tapes"] == first.json["tapes"]


def test_a_lost_work_folder_costs_a_second_look_and_no_second_copy(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(moto_bucket())
    migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    keys = bucket.keys("images/")
    again = migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "another")
    assert again.json["images"]["stored"] == 7
    assert bucket.keys("images/") == keys
    assert [key for key, count in bucket.kinds().items() if key[0] == "stored" and count > 1] == []


@pytest.mark.parametrize("drives", [2, pytest.param(3, marks=pytest.mark.deep)])
def test_several_drives_at_once_give_the_same_bucket(
    moto_bucket: MakeBucket, tmp_path: Path, drives: int
) -> None:
    tapes = spanning_set(big=300_000)
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket())
    migrated(catalog, shelf, bucket.location, tmp_path / "work", "--drives", str(drives), "--quiet")
    assert bucket.sha256s() == tapes.sha256s()
    assert bucket.orphans() == bucket.uploads() == []
    assert {key[1] for key in bucket.kinds() if key[0] == "tape_released"} == set(tapes.tapes)


def test_images_of_many_parts_and_fragments_come_back_whole(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set()
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket())
    migrated(
        catalog, shelf, bucket.location, tmp_path / "work", "--part-mib", "5",
        "--fragment-mib", "7",
    )  # fmt: skip
    assert bucket.sha256s() == tapes.sha256s()
    sizes = [part["size"] for part in bucket.manifest("huge_1700000002")["fragments"]]
    assert max(sizes) <= 7 * 1024 * 1024
    assert len(sizes) == 6, "a tape's end and 7 MiB both end a fragment"


# --- locks and classes ------------------------------------------------------------------------


def locked_set() -> TapeSet:
    tapes = spanning_set(big=50_000)
    tapes.facts = {
        "first_1700000001": {"expires_at": "2038-01-01T00:00:00Z"},
        "huge_1700000002": {"expires_infinite": True},
        "tiny_1700000003": {"expires_at": "2020-01-01T00:00:00Z"},
        "wide_1700000004": {"expires_at": "2020-01-01T00:00:00Z", "hold": True},
    }
    return tapes


@pytest.mark.parametrize("mode", ["compliance", pytest.param("governance", marks=pytest.mark.deep)])
def test_images_are_locked_until_they_expire_and_held_ones_are_held(
    moto_bucket: MakeBucket, tmp_path: Path, mode: str
) -> None:
    catalog, shelf = locked_set().write(tmp_path)
    bucket = Bucket(moto_bucket(object_lock=True))
    ended = migrated(
        catalog, shelf, bucket.location, tmp_path / "work", "--lock", mode,
        "--lock-infinite-days", "400",
    )  # fmt: skip
    assert ended.json["images"] == {"stored": 4, "skipped": 1, "damaged": 0, "failed": 0}

    def locks(name: str) -> set[tuple[Any, Any, Any]]:
        manifest = bucket.manifest(name)
        folder = f"images/{manifest['key_name']}/1/manifest.json"
        heads = [bucket.head(part["key"], part["version_id"]) for part in manifest["fragments"]]
        return {
            (
                head.get("ObjectLockMode"),
                str(head.get("ObjectLockRetainUntilDate", ""))[:10],
                head.get("ObjectLockLegalHoldStatus"),
            )
            for head in [*heads, bucket.head(folder)]
        }

    assert locks("first_1700000001") == {(mode.upper(), "2038-01-01", None)}
    (infinite,) = locks("huge_1700000002")
    assert infinite[0] == mode.upper()
    created = bucket.manifest("huge_1700000002")["created_at"][:10]
    assert infinite[1] == days_after(created, 400)
    assert locks("wide_1700000004") == {(None, "", "ON")}
    assert "tiny_1700000003" not in bucket.names()
    skipped = [fact for fact in bucket.facts() if fact.kind == "skipped"]
    assert [(fact.image, fact.reason) for fact in skipped] == [("tiny_1700000003", "expired")]
    assert ended.json["tapes"]["released"] == ["TAPE01", "TAPE02", "TAPE03"]


def days_after(day: str, days: int) -> str:
    return str(dt.date.fromisoformat(day) + dt.timedelta(days=days))


def test_a_lock_that_the_bucket_cannot_keep_is_refused_before_a_tape_moves(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(moto_bucket())
    words = run_words(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    ended = tapemigrate(*words, "--lock", "compliance")
    assert ended.code == 4
    assert "no Object Lock" in ended.err
    assert "mounted" not in ended.err
    assert bucket.keys("images/") == []


def test_auto_takes_a_class_for_each_image_from_how_long_it_is_kept(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set(big=3_000_000)
    tapes.facts = {
        "huge_1700000002": {"expires_infinite": True},
        "large_1700000005": {"expires_at": "2024-01-20T00:00:00Z"},
    }
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket())
    migrated(
        catalog, shelf, bucket.location, tmp_path / "work", "--class", "auto",
        "--as-of", "2024-01-10", "--expected-restores", "0",
    )  # fmt: skip

    def classes(name: str) -> set[str]:
        parts = bucket.manifest(name)["fragments"]
        said = {part["storage_class"] for part in parts}
        real = {bucket.head(part["key"]).get("StorageClass", "STANDARD") for part in parts}
        assert said == real
        return said

    assert classes("huge_1700000002") == {"DEEP_ARCHIVE"}
    assert classes("large_1700000005") == {"STANDARD"}
    manifest = "images/huge_1700000002/1/manifest.json"
    assert "StorageClass" not in bucket.head(manifest), "a manifest is readable at once"


def test_a_cold_class_is_written_and_its_manifests_stay_readable(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(make_bucket())
    migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work", "--class", "deep_archive")
    part = bucket.manifest("beta_1690000200")["fragments"][0]
    assert part["storage_class"] == bucket.head(part["key"])["StorageClass"] == "DEEP_ARCHIVE"


# --- other sources, other ledgers -----------------------------------------------------------------


def test_a_folder_of_tape_files_is_a_cartridge_too(moto_bucket: MakeBucket, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    for media in ("NBU001", "NBU002"):
        folder = shelf / media
        folder.mkdir(parents=True)
        source, number, data = SimhTape(NBU / f"{media}.tap", media), 0, b""
        for event in events(source):
            if isinstance(event, Block):
                data += event.data
            elif data:
                (folder / f"{number:05d}").write_bytes(data)
                number, data = number + 1, b""
        source.close()
    bucket = Bucket(moto_bucket())
    migrated(NBU / "nbu.csv", shelf, bucket.location, tmp_path / "work")
    found = bucket.sha256s()
    assert found.pop(MPX_FILE) == hashlib.sha256(mpx_records()).hexdigest()
    assert found == {n: sha for n, sha in expected_nbu().items() if n not in INSIDE_MPX}
    assert bucket.manifest(MPX_FILE)["blocks"] == [], "a folder does not know the records"


def test_the_ledger_may_lie_in_a_folder_of_its_own(moto_bucket: MakeBucket, tmp_path: Path) -> None:
    bucket = Bucket(moto_bucket())
    ledger = tmp_path / "ledger"
    ended = migrated(
        NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work", "--ledger", str(ledger)
    )
    assert ended.json["ledger"] == str(ledger)
    assert bucket.keys("ledger/") == []
    assert len([f for f in bucket.facts(str(ledger)) if f.kind == "stored"]) == 8


def test_another_copy_is_taken_when_it_needs_fewer_mounts(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set(big=20_000)
    catalog, shelf = tapes.write(tmp_path)
    value = json.loads(catalog.read_text())
    lone = next(i for i in value["images"] if i["image_id"] == "large_1700000005")
    lone["copies"].insert(
        0, {"copy_number": 2, "fragments": [{"media_id": "FARAWAY", "tape_file_number": 1}]}
    )
    lone["copies"][1]["copy_number"] = 1
    catalog.write_text(json.dumps(value))
    bucket = Bucket(moto_bucket())
    ended = migrated(catalog, shelf, bucket.location, tmp_path / "work")
    assert bucket.sha256s() == tapes.sha256s()
    assert bucket.manifest("large_1700000005")["origin"]["copy_number"] == 1
    assert ended.json["tapes"]["mounted"] == 3


def test_no_credentials_reach_the_work_folder_or_the_bucket(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = Bucket(moto_bucket())
    ended = migrated(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in ended.err + ended.out
    for path in (tmp_path / "work").iterdir():
        assert secret.encode() not in path.read_bytes(), path
    for key in bucket.keys(""):
        assert secret.encode() not in bucket.get(key), key
