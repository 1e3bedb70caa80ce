from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog import files as files_module
from catalog.errors import (
    CatalogError,
    CommitConflict,
    CommitUnknown,
    ConfigError,
    StoreUnusable,
    TransientStoreError,
)
from catalog.files import FolderFiles, LedgerFiles, MemoryFiles, name_of, open_files, sequence_of
from catalog.retry import Retrying
from catalog.s3 import S3Limits, S3Location, make_client
from catalog.s3_files import S3Files
from tests.catalog.lossy import Lossy
from tests.conformance.ledger_files import FIRST, SECOND, LedgerFilesConformance
from tests.support import servers


class TestMemoryFiles(LedgerFilesConformance):
    @pytest.fixture
    def files(self) -> LedgerFiles:
        return MemoryFiles()

    @pytest.fixture
    def expected_uri(self) -> str:
        return "memory:"

    @pytest.fixture
    def intrude(self, files: MemoryFiles) -> Callable[[str], None]:
        def put(name: str) -> None:
            folder, slash, _ = name.partition("/")
            files.create(folder + slash, b"strange")

        return put


class TestFolderFiles(LedgerFilesConformance):
    @pytest.fixture
    def files(self, tmp_path: Path) -> LedgerFiles:
        return FolderFiles(tmp_path / "deep" / "ledger")

    @pytest.fixture
    def expected_uri(self, tmp_path: Path) -> str:
        return str(tmp_path / "deep" / "ledger")

    @pytest.fixture
    def intrude(self, tmp_path: Path) -> Callable[[str], None]:
        def put(name: str) -> None:
            path = tmp_path / "deep" / "ledger" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"strange")

        return put


class S3Conformance(LedgerFilesConformance):
    @pytest.fixture
    def files(self, location: S3Location) -> LedgerFiles:
        return S3Files(location)

    @pytest.fixture
    def expected_uri(self, location: S3Location) -> str:
        return f"s3://{location.bucket}/{location.prefix}"

    @pytest.fixture
    def intrude(self, location: S3Location) -> Callable[[str], None]:
        client = make_client(location)

        def put(name: str) -> None:
            client.put_object(Bucket=location.bucket, Key=location.key(name), Body=b"strange")

        return put


class TestS3Files(S3Conformance):
    @pytest.fixture
    def location(self, moto_bucket: Callable[..., S3Location]) -> S3Location:
        return moto_bucket(prefix="pool/ledger")


@pytest.mark.rgw
class TestS3FilesOnRgw(S3Conformance):
    @pytest.fixture
    def location(self, rgw_endpoint: str) -> S3Location:
        return servers.new_bucket(rgw_endpoint, object_lock=False, prefix="pool/ledger")


# --- names and URIs -------------------------------------------------------------------------


def test_the_first_name_is_twenty_zeros() -> None:
    assert name_of(0) == "00000000000000000000.parquet"
    assert sequence_of(name_of(0)) == 0
    assert sequence_of(name_of(2**63 - 1)) == 2**63 - 1


@pytest.mark.parametrize(
    "name",
    [
        "1.parquet",
        "00000000000000000000.parquet.bak",
        "0000000000000000000a.parquet",
        "99999999999999999999.parquet",
        "x00000000000000000000.parquet",
        "00000000000000000000.PARQUET",
    ],
)
def test_a_strange_name_has_no_number(name: str) -> None:
    assert sequence_of(name) is None


def test_a_uri_names_a_folder_or_a_prefix(tmp_path: Path) -> None:
    assert isinstance(open_files(str(tmp_path)), FolderFiles)
    assert open_files(f"file://{tmp_path}").uri == str(tmp_path)
    assert isinstance(open_files("s3://bucket/ledger", "http://127.0.0.1:1"), S3Files)


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "s3://", "http://host/x"])
def test_another_uri_is_a_configuration_error(uri: str) -> None:
    with pytest.raises(ConfigError):
        open_files(uri)


# --- the folder -----------------------------------------------------------------------------


def test_a_writer_that_is_killed_leaves_no_ledger_file(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from catalog.files import FolderFiles;"
        "os.link = lambda *a: os.kill(os.getpid(), 9);"
        f"FolderFiles(Path({str(tmp_path)!r})).create({FIRST!r}, b'x' * 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1, "the hidden file that it was writing"
    assert list(tmp_path.glob("*.parquet")) == []
    folder = FolderFiles(tmp_path)
    assert list(folder.names()) == []
    folder.create(FIRST, b"next")
    assert list(folder.names()) == [FIRST]


def test_what_a_killed_writer_left_is_swept_after_a_day(tmp_path: Path) -> None:
    old, fresh = tmp_path / f".{FIRST}.aa.tmp", tmp_path / f".{FIRST}.bb.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    FolderFiles(tmp_path).create(FIRST, b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, FIRST]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CatalogError, match="free some space"):
        FolderFiles(tmp_path).create(FIRST, b"one")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_file_in_a_folder_is_read_only(tmp_path: Path) -> None:
    FolderFiles(tmp_path).create(FIRST, b"one")
    assert (tmp_path / FIRST).stat().st_mode & 0o222 == 0


def test_a_folder_that_is_a_file_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("not a folder")
    folder = FolderFiles(tmp_path / "ledger")
    with pytest.raises(CatalogError):
        list(folder.names())
    with pytest.raises(CatalogError):
        folder.create(FIRST, b"one")


def test_a_file_that_is_too_large_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 10)
    (tmp_path / FIRST).write_bytes(b"x" * 11)
    with pytest.raises(CatalogError, match="at most 10"):
        FolderFiles(tmp_path).read(FIRST)


# --- S3: answers that are lost --------------------------------------------------------------


@pytest.fixture
def location(moto_bucket: Callable[..., S3Location]) -> S3Location:
    return moto_bucket(prefix="pool/ledger")


def through(lossy: Lossy, location: S3Location, *, deadline_s: float = 30) -> S3Files:
    seen = S3Location(location.bucket, location.prefix, lossy.url)
    limits = S3Limits(read_timeout_s=5, deadline_s=deadline_s)
    return S3Files(seen, limits, Retrying(deadline_s=deadline_s, first_wait_s=0.01))


def test_a_lost_answer_is_settled_by_reading_back(location: S3Location) -> None:
    with Lossy(str(location.endpoint_url), "drop answer") as lossy:
        through(lossy, location).create(FIRST, b"mine")
        assert lossy.played
    assert S3Files(location).read(FIRST) == b"mine"


def test_a_request_that_was_never_served_is_sent_again(location: S3Location) -> None:
    with Lossy(str(location.endpoint_url), "drop request", "answer 503") as lossy:
        through(lossy, location).create(FIRST, b"mine")
        assert lossy.played
    assert S3Files(location).read(FIRST) == b"mine"


def test_somebody_elses_file_behind_a_lost_answer_is_a_conflict(location: S3Location) -> None:
    S3Files(location).create(FIRST, b"theirs")
    with Lossy(str(location.endpoint_url), "drop answer") as lossy:
        with pytest.raises(CommitConflict):
            through(lossy, location).create(FIRST, b"mine")
        assert lossy.played
    assert S3Files(location).read(FIRST) == b"theirs"


def test_an_outcome_that_cannot_be_settled_is_unknown_and_can_be_settled_later(
    location: S3Location,
) -> None:
    with Lossy(str(location.endpoint_url), "drop answer", forever="drop request") as lossy:
        with pytest.raises(CommitUnknown):
            through(lossy, location, deadline_s=0.5).create(FIRST, b"mine")
        assert lossy.played
    S3Files(location).create(FIRST, b"mine")
    assert S3Files(location).read(FIRST) == b"mine"


def test_a_read_that_breaks_off_is_repeated(location: S3Location) -> None:
    S3Files(location).create(FIRST, b"x" * 100_000)
    with Lossy(str(location.endpoint_url), "cut answer", "answer 503") as lossy:
        assert through(lossy, location).read(FIRST) == b"x" * 100_000
        assert lossy.played


def test_a_store_that_stays_away_ends_within_its_deadline(location: S3Location) -> None:
    with Lossy(str(location.endpoint_url), forever="answer 503") as lossy:
        begun = time.monotonic()
        with pytest.raises(TransientStoreError, match="given up"):
            list(through(lossy, location, deadline_s=0.5).names())
        assert time.monotonic() - begun < 5


def test_a_bucket_that_does_not_exist_is_said_so(moto_endpoint: str) -> None:
    files = S3Files(S3Location("no-such-bucket-here", "ledger", moto_endpoint))
    with pytest.raises(StoreUnusable, match="NoSuchBucket"):
        list(files.names())
    with pytest.raises(StoreUnusable, match="NoSuchBucket"):
        files.create(FIRST, b"one")


def test_a_listing_of_several_pages_is_complete(
    location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = S3Files(location)
    for number in range(5):
        files.create(name_of(number), b"x")

    def two_at_a_time(params: dict[str, object], **_: object) -> None:
        params["MaxKeys"] = 2

    files._client.meta.events.register("provide-client-params.s3.ListObjectsV2", two_at_a_time)
    assert list(files.names()) == [name_of(number) for number in range(5)]
    assert list(files.names(after=SECOND)) == [name_of(number) for number in range(2, 5)]
