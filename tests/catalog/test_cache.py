from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog import cache
from catalog.cache import local_paths
from catalog.errors import CatalogError
from catalog.files import FolderFiles, name_of
from catalog.ledger import Ledger
from catalog.query import Query
from catalog.s3 import S3Location, make_client
from catalog.s3_files import S3Files
from tests.catalog.samples import fact, stored


class Counting(S3Files):
    """Remembers which files were read from S3."""

    def __init__(self, location: S3Location) -> None:
        super().__init__(location)
        self.fetched: list[str] = []

    def read(self, name: str) -> bytes:
        self.fetched.append(name)
        return super().read(name)


@pytest.fixture
def location(moto_bucket: Callable[..., S3Location]) -> S3Location:
    return moto_bucket(prefix="pool/ledger")


@pytest.fixture
def files(location: S3Location) -> Counting:
    files = Counting(location)
    ledger = Ledger(files)
    ledger.append([stored("a")])
    ledger.append([stored("b")])
    files.fetched.clear()
    return files


def read_all(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def there(files: S3Files) -> list[bytes]:
    return [S3Files.read(files, name) for name in (name_of(0), name_of(1))]


def test_a_file_is_fetched_once_and_only_what_is_new_later(files: Counting, tmp_path: Path) -> None:
    assert read_all(local_paths(files, tmp_path)) == there(files)
    assert sorted(files.fetched) == [name_of(0), name_of(1)]
    files.fetched.clear()
    local_paths(files, tmp_path)
    assert files.fetched == []
    Ledger(files).append([stored("c")])
    files.fetched.clear()
    assert len(local_paths(files, tmp_path)) == 3
    assert files.fetched == [name_of(2)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_copy_is_fetched_again(files: Counting, tmp_path: Path) -> None:
    second = local_paths(files, tmp_path)[1]
    for damage in (cut, flip, Path.unlink):
        files.fetched.clear()
        damage(second)
        assert read_all(local_paths(files, tmp_path)) == there(files)
        assert files.fetched == [name_of(1)]


def test_a_copy_that_was_only_touched_is_still_good(files: Counting, tmp_path: Path) -> None:
    second = local_paths(files, tmp_path)[1]
    files.fetched.clear()
    os.utime(second, (0, 0))
    local_paths(files, tmp_path)
    assert files.fetched == []


def test_a_file_that_was_replaced_in_s3_is_fetched_again(files: Counting, tmp_path: Path) -> None:
    local_paths(files, tmp_path)
    forged = there(files)[0]
    make_client(files.location).put_object(
        Bucket=files.location.bucket, Key=files.location.key(name_of(1)), Body=forged
    )
    assert local_paths(files, tmp_path)[1].read_bytes() == forged


def test_a_file_that_is_gone_from_s3_is_gone_here(files: Counting, tmp_path: Path) -> None:
    local_paths(files, tmp_path)
    make_client(files.location).delete_object(
        Bucket=files.location.bucket, Key=files.location.key(name_of(1))
    )
    (only,) = local_paths(files, tmp_path)
    assert [path.name for path in only.parent.glob("*.parquet")] == [name_of(0)]


def test_an_index_that_is_damaged_is_made_anew(files: Counting, tmp_path: Path) -> None:
    first = local_paths(files, tmp_path)[0]
    for index in (b"", b"[]", b"{", b'{"x": {"size": 1}}', b"\xff"):
        (first.parent / "index.json").write_bytes(index)
        files.fetched.clear()
        assert read_all(local_paths(files, tmp_path)) == there(files)
        assert sorted(files.fetched) == [name_of(0), name_of(1)]


def test_the_same_name_at_another_endpoint_is_another_ledger(files: Counting) -> None:
    elsewhere = S3Location(files.location.bucket, files.location.prefix, "http://127.0.0.1:9")
    assert cache.cache_name(S3Files(elsewhere)) != cache.cache_name(files)


def test_a_cache_that_cannot_be_written_is_our_error(files: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CatalogError, match="XDG_CACHE_HOME"):
        local_paths(files, tmp_path / "file")


def test_a_folder_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Ledger(FolderFiles(tmp_path / "ledger")).append([fact()])
    assert local_paths(FolderFiles(tmp_path / "ledger")) == [tmp_path / "ledger" / name_of(0)]
    assert not (tmp_path / "cache").exists()


def test_a_ledger_in_s3_is_asked_through_the_cache(
    files: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        with Query(files) as query:
            rows = list(query.ask("SELECT image, state FROM images ORDER BY image").rows())
        assert rows == [("a", "stored"), ("b", "stored")]
    assert len(files.fetched) == 2
    assert (tmp_path / "tapelift" / "ledgers").is_dir()


def test_an_empty_prefix_in_s3_answers_with_empty_tables(
    location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Query(S3Files(location)) as query:
        assert list(query.ask("SELECT * FROM images").rows()) == []
