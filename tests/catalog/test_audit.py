"""Tampering in every way that a chain without signatures can find, and the ways it cannot."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.audit import Verdict, verify
from catalog.errors import CatalogError
from catalog.files import FolderFiles, MemoryFiles, name_of
from catalog.ledger import Ledger
from catalog.s3 import S3Location
from catalog.s3_files import S3Files
from catalog.schema import encode
from tests.catalog.samples import fact, stored

COMMITS = 6
LAST = COMMITS - 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ledger = Ledger(FolderFiles(tmp_path))
    for number in range(COMMITS):
        ledger.append([stored(f"image{number}-{row}") for row in range(3)])
    return tmp_path


def judged(folder: Path) -> Verdict:
    return verify(FolderFiles(folder))


def replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def edited(data: bytes) -> bytes:
    """The file with one row's size changed, its footer kept, as a forger with a tool would."""
    file = pq.ParquetFile(io.BytesIO(data))
    table = file.read()
    sizes = pa.array([1, *table["size_bytes"].to_pylist()[1:]])
    table = table.set_column(table.column_names.index("size_bytes"), "size_bytes", sizes)
    pairs = {k: v for k, v in file.metadata.metadata.items() if k.startswith(b"tapelift.")}
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(pairs)
    return sink.getvalue()


def test_a_sound_ledger_is_sound(folder: Path) -> None:
    verdict = judged(folder)
    assert verdict.ok
    assert (verdict.files, verdict.rows) == (COMMITS, COMMITS * 3)
    assert verdict.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert verdict.head == Ledger(FolderFiles(folder)).head()
    assert "removed at its end" in verdict.cannot_see


def test_an_empty_ledger_is_sound(tmp_path: Path) -> None:
    verdict = judged(tmp_path)
    assert verdict.ok
    assert (verdict.files, verdict.head) == (0, None)


def test_a_ledger_in_s3_is_walked_without_a_cache(
    moto_bucket: Callable[..., S3Location], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = S3Files(moto_bucket(prefix="ledger"))
    Ledger(files).append([fact()])
    assert verify(files).ok
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(LAST))
def test_an_edited_row_is_found_by_the_file_behind_it(folder: Path, number: int) -> None:
    path = folder / name_of(number)
    replace(path, edited(path.read_bytes()))
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == name_of(number)
    assert "altered" in verdict.bad.why
    assert name_of(number + 1) in verdict.bad.why


@pytest.mark.parametrize("number", range(COMMITS))
def test_a_file_that_is_cut_or_overwritten_is_named(folder: Path, number: int) -> None:
    path = folder / name_of(number)
    data = path.read_bytes()
    for rubbish in (data[:-1], data[: len(data) // 2], b"", b"rubbish", data + b"x"):
        replace(path, rubbish)
        verdict = judged(folder)
        assert verdict.bad is not None
        assert verdict.bad.name == name_of(number)


@pytest.mark.parametrize("number", range(COMMITS))
def test_a_flipped_bit_in_a_page_is_found_also_in_the_last_file(folder: Path, number: int) -> None:
    path = folder / name_of(number)
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset - 5] ^= 1
    replace(path, bytes(data))
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == name_of(number)


@pytest.mark.parametrize("number", range(LAST))
def test_a_file_that_was_removed_before_the_last_is_missing(folder: Path, number: int) -> None:
    (folder / name_of(number)).unlink()
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == name_of(number)
    assert "missing" in verdict.bad.why
    assert verdict.files == number


@pytest.mark.parametrize(("one", "other"), [(0, 1), (2, 3), (1, 4), (0, LAST), (4, LAST)])
def test_files_that_were_swapped_are_found(folder: Path, one: int, other: int) -> None:
    first, second = folder / name_of(one), folder / name_of(other)
    spare = folder / ".spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == name_of(one)
    assert f"holds number {other}" in verdict.bad.why


def test_closing_a_gap_by_renaming_is_found(folder: Path) -> None:
    (folder / name_of(2)).unlink()
    for number in range(3, COMMITS):
        (folder / name_of(number)).rename(folder / name_of(number - 1))
    verdict = judged(folder)
    assert verdict.bad is not None
    assert (verdict.bad.name, "holds number 3" in verdict.bad.why) == (name_of(2), True)


def test_a_file_of_another_ledger_in_the_middle_is_found(folder: Path, tmp_path: Path) -> None:
    other = MemoryFiles()
    for _ in range(4):
        Ledger(other).append([fact()])
    replace(folder / name_of(3), other.read(name_of(3)))
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name in (name_of(2), name_of(3))
    assert name_of(3) in verdict.bad.why + verdict.bad.name


def test_a_first_file_that_follows_another_is_found(tmp_path: Path) -> None:
    data = encode([fact()], sequence=0, previous_sha256="a" * 64)
    (tmp_path / name_of(0)).write_bytes(data)
    verdict = judged(tmp_path)
    assert verdict.bad is not None
    assert "first file" in verdict.bad.why


@pytest.mark.parametrize(
    "name", ["extra.parquet", "0.parquet", "README.txt", "_x.parquet", "00000000000000000000.csv"]
)
def test_a_strange_name_is_found(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == name
    assert verdict.files == COMMITS


def test_a_folder_inside_is_found_for_readers_descend_into_it(folder: Path) -> None:
    (folder / "more").mkdir()
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == "more/"


def test_a_link_that_is_broken_is_worse_than_a_strange_name(folder: Path) -> None:
    (folder / "0.parquet").write_bytes(b"x")
    (folder / name_of(1)).unlink()
    verdict = judged(folder)
    assert verdict.bad is not None
    assert verdict.bad.name == name_of(1)


def test_what_a_writer_is_just_writing_is_no_fault(folder: Path) -> None:
    (folder / f".{name_of(COMMITS)}.0123.tmp").write_bytes(b"half")
    assert judged(folder).ok


def test_a_folder_that_cannot_be_listed_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CatalogError):
        judged(tmp_path / "file")


def test_a_removed_tail_is_not_seen_and_the_verdict_says_so(folder: Path) -> None:
    """The limit of a chain without an anchor: when this fails, the text must change too."""
    (folder / name_of(LAST)).unlink()
    verdict = judged(folder)
    assert verdict.ok
    assert "removed at its end" in verdict.cannot_see
    assert verdict.head is not None
    assert verdict.head.sequence == LAST - 1, "which shows to who noted the head before"


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    ledger = Ledger(FolderFiles(tmp_path))

    def peak() -> int:
        tracemalloc.start()
        assert judged(tmp_path).ok
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    for _ in range(5):
        ledger.append([stored(str(row)) for row in range(200)])
    few = peak()
    for _ in range(30):
        ledger.append([stored(str(row)) for row in range(200)])
    assert peak() < 2 * few
