from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from catalog.errors import CatalogError, ConfigError
from catalog.files import FolderFiles, MemoryFiles, name_of
from catalog.ledger import Ledger
from catalog.model import Fact, Kind, LockMode, StorageClass
from catalog.query import VIEWS, Query, view_sql
from tests.catalog.samples import DAY, START, fact, place, stored

POOL = "s3://bucket/pool"


def ask(folder: Path, sql: str, *parameters: object) -> list[dict[str, Any]]:
    with Query(FolderFiles(folder)) as query:
        return list(query.ask(sql, parameters).dicts())


def image_after(folder: Path, *facts: Fact) -> dict[str, Any]:
    """The one image that the facts, each committed for itself, are about."""
    ledger = Ledger(FolderFiles(folder))
    for one in facts:
        ledger.append([one])
    (row,) = ask(folder, "SELECT * FROM images")
    return row


# --- facts ----------------------------------------------------------------------------------


def test_an_empty_ledger_answers_with_empty_tables(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not there"):
        for table in ("facts", *VIEWS):
            assert ask(folder, f"SELECT * FROM {table}") == []


def test_facts_are_the_rows_as_they_are(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append([stored("a"), stored("b")])
    rows = ask(tmp_path, "SELECT * FROM facts ORDER BY sequence, row_index")
    assert [(row["sequence"], row["row_index"], row["image"]) for row in rows] == [
        (0, 0, "a"),
        (0, 1, "b"),
    ]
    assert rows[0]["recorded_at"] == "2024-06-01T00:00:00Z"
    assert rows[0]["fragments"][0]["size_bytes"] == 1000


def test_times_do_not_depend_on_this_hosts_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    Ledger(FolderFiles(tmp_path)).append([stored("a")])
    (row,) = ask(tmp_path, "SELECT CAST(recorded_at AS VARCHAR) AS at FROM facts")
    assert row["at"].startswith("2024-06-01 00:00:00")


def test_parameters_stand_for_question_marks(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append([stored("a"), stored("b'; --")])
    sql = "SELECT image FROM facts WHERE image = ?"
    assert ask(tmp_path, sql, "b'; --") == [{"image": "b'; --"}]


def test_a_name_that_is_not_utf8_is_found_by_its_bytes(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append([fact(image="a\udcff")])
    assert len(ask(tmp_path, "SELECT * FROM images WHERE image = ?", "a\udcff")) == 1


def test_several_answers_may_be_open_at_once(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append([fact(image=str(number)) for number in range(100)])
    with Query(FolderFiles(tmp_path)) as query:
        first = query.ask("SELECT image FROM facts").rows()
        next(first)
        assert list(query.ask("SELECT COUNT(*) FROM facts").rows()) == [(100,)]
        assert len(list(first)) == 99


def test_a_query_sees_the_ledger_as_it_was_opened(tmp_path: Path) -> None:
    ledger = Ledger(FolderFiles(tmp_path))
    ledger.append([fact()])
    with Query(FolderFiles(tmp_path)) as query:
        ledger.append([fact()])
        assert list(query.ask("SELECT COUNT(*) FROM facts").rows()) == [(1,)]


def test_a_foreign_file_in_the_folder_is_not_read(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append([fact()])
    pd.DataFrame({"image": ["forged"]}).to_parquet(tmp_path / "forged.parquet")
    assert ask(tmp_path, "SELECT COUNT(*) AS n FROM facts") == [{"n": 1}]


def test_a_damaged_file_is_our_error(tmp_path: Path) -> None:
    (tmp_path / name_of(0)).write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(CatalogError, match="tapecatalog verify"):
        ask(tmp_path, "SELECT * FROM facts")


def test_a_ledger_in_memory_cannot_be_asked() -> None:
    with pytest.raises(CatalogError):
        Query(MemoryFiles())


def test_values_are_such_that_json_can_hold_them(tmp_path: Path) -> None:
    sql = (
        "SELECT SUM(x) AS s, 1.5 AS d, DATE '2024-01-02' AS day, INTERVAL 1 DAY AS i, "
        "1.0 / 0 AS inf, [1, NULL] AS l FROM (VALUES (1), (2)) AS t (x)"
    )
    assert ask(tmp_path, sql) == [
        {
            "s": 3,
            "d": 1.5,
            "day": "2024-01-02",
            "i": "MonthDayNano(months=0, days=1, nanoseconds=0)",
            "inf": "inf",
            "l": [1, None],
        }
    ]


# --- what a question may not do -------------------------------------------------------------


@pytest.fixture
def query(tmp_path: Path) -> Iterator[Query]:
    Ledger(FolderFiles(tmp_path / "ledger")).append([stored()])
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    with Query(FolderFiles(tmp_path / "ledger")) as opened:
        yield opened


@pytest.mark.parametrize(
    "sql",
    [
        "COPY facts TO '{here}/out.csv'",
        "COPY facts TO '{here}/ledger/00000000000000000001.parquet'",
        "SELECT * FROM query('COPY facts TO ''{here}/out.csv''')",
        "EXPLAIN ANALYZE COPY facts TO '{here}/out.csv'",
        "SELECT 1; COPY facts TO '{here}/out.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('{here}/secret.csv')",
        "SELECT * FROM read_csv('{here}/ledger/../secret.csv')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        "ATTACH '{here}/out.db' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW images",
        "EXPORT DATABASE '{here}/out'",
        "WITH x AS (SELECT 1) INSERT INTO facts SELECT * FROM x",
        "",
    ],
)
def test_a_question_can_neither_write_nor_read_elsewhere(
    query: Query, tmp_path: Path, sql: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError):
        list(query.ask(sql.format(here=tmp_path)).rows())
    assert sorted(tmp_path.rglob("*")) == before


def test_python_variables_are_no_tables(query: Query) -> None:
    frame = pd.DataFrame({"a": [1]})
    with pytest.raises(ConfigError):
        query.ask("SELECT * FROM frame")
    assert len(frame) == 1


@pytest.mark.parametrize("sql", ["DESCRIBE images", "SHOW TABLES", "FROM facts", "VALUES (1)"])
def test_other_forms_of_a_question_are_answered(query: Query, sql: str) -> None:
    assert list(query.ask(sql).rows())


def test_wrong_sql_is_said_in_one_line(query: Query) -> None:
    with pytest.raises(ConfigError, match="nonsense") as caught:
        query.ask("SELECT nonsense FROM facts")
    assert "\n" not in str(caught.value)


def test_an_error_in_the_middle_of_an_answer_is_ours(query: Query) -> None:
    with pytest.raises(ConfigError):
        list(query.ask("SELECT CAST(image AS INTEGER) FROM facts").rows())


def test_nothing_of_a_query_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with Query(FolderFiles(tmp_path / "ledger")) as opened:
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        list(opened.ask("SELECT 1").rows())
    assert list((tmp_path / "tmp").iterdir()) == []


# --- images ---------------------------------------------------------------------------------


def test_a_stored_image_has_its_state_in_one_row(tmp_path: Path) -> None:
    row = image_after(tmp_path, stored("a"))
    assert row["state"] == "stored"
    assert row["size_bytes"] == 1000
    assert row["storage_class"] == "DEEP_ARCHIVE"
    assert (row["lock_mode"], row["lock_until"]) == ("COMPLIANCE", "2025-07-06T00:00:00Z")
    assert row["hold"] is False
    assert row["tapes"] == ["A00001L8"]
    assert row["manifest_key"] == "images/a/1/manifest.json"
    assert row["stored_at"] == "2024-06-01T00:00:00Z"
    assert row["verified_at"] is None
    assert row["facts"] == 1


def test_what_was_stored_stays_stored_when_a_later_attempt_skips_or_fails(tmp_path: Path) -> None:
    row = image_after(
        tmp_path,
        stored("a"),
        fact(Kind.SKIPPED, "a", copy=1, pool=POOL, size=7, sha256="x", reason="stored already"),
        fact(Kind.FAILED, "a", copy=1, pool=POOL, reason="tape jammed", storage_class=None),
    )
    assert row["state"] == "stored"
    assert row["reason"] is None
    assert row["size_bytes"] == 1000
    assert row["sha256"] == stored("a").sha256
    assert row["tapes"] == ["A00001L8"]


def test_a_failed_image_that_is_stored_later_is_stored(tmp_path: Path) -> None:
    row = image_after(tmp_path, fact(Kind.FAILED, "a", pool=POOL, reason="no tape"), stored("a"))
    assert (row["state"], row["reason"]) == ("stored", None)


def test_order_is_that_of_commits_not_of_clocks(tmp_path: Path) -> None:
    row = image_after(
        tmp_path,
        fact(Kind.FAILED, "a", pool=POOL, reason="first", recorded_at=START + 9 * DAY),
        fact(Kind.FAILED, "a", pool=POOL, reason="second", recorded_at=START),
    )
    assert row["reason"] == "second"


def test_rows_of_one_commit_are_in_order(tmp_path: Path) -> None:
    ledger = Ledger(FolderFiles(tmp_path))
    reasons = [f"attempt {number}" for number in range(20)]
    ledger.append([fact(Kind.FAILED, "a", pool=POOL, reason=reason) for reason in reasons])
    assert ask(tmp_path, "SELECT reason FROM images") == [{"reason": "attempt 19"}]


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ([Kind.SKIPPED], "skipped"),
        ([Kind.FAILED], "failed"),
        ([Kind.SKIPPED, Kind.FAILED], "failed"),
        ([Kind.DAMAGED], "damaged"),
        ([Kind.DAMAGED, Kind.FAILED], "damaged"),
        ([Kind.DAMAGED, Kind.STORED], "stored"),
        ([Kind.STORED, Kind.DAMAGED], "damaged"),
        ([Kind.STORED, Kind.VERIFIED], "stored"),
        ([Kind.DAMAGED, Kind.VERIFIED], "damaged"),
        ([Kind.STORED, Kind.TIERED, Kind.RECALLED, Kind.RESTORED], "stored"),
        ([Kind.STORED, Kind.EXPIRED], "expired"),
        ([Kind.STORED, Kind.EXPIRED, Kind.STORED], "stored"),
        ([Kind.STORED, Kind.ERASED], "erased"),
        ([Kind.STORED, Kind.ERASED, Kind.VERIFIED], "erased"),
        ([Kind.STORED, Kind.ERASED, Kind.DELETED], "deleted"),
        ([Kind.STORED, Kind.DELETED], "deleted"),
        ([Kind.STORED, Kind.DELETED, Kind.STORED], "stored"),
        ([Kind.VERIFIED], "unknown"),
    ],
)
def test_the_state_follows_from_the_facts(tmp_path: Path, kinds: list[Kind], state: str) -> None:
    facts = [fact(kind, "a", copy=1, pool=POOL) for kind in kinds]
    assert image_after(tmp_path, *facts)["state"] == state


def test_holds_locks_classes_and_expiry_follow_their_facts(tmp_path: Path) -> None:
    about = {"copy": 1, "pool": POOL}
    until = START + 900 * DAY
    row = image_after(
        tmp_path,
        stored("a"),
        fact(Kind.HOLD_PLACED, "a", **about, reason="case 7"),
        fact(Kind.TIERED, "a", **about, storage_class=StorageClass.GLACIER),
        fact(Kind.RETENTION_EXTENDED, "a", **about, expires_at=until, lock_until=until),
        fact(Kind.VERIFIED, "a", **about, recorded_at=START + DAY),
    )
    assert row["state"] == "stored"
    assert row["hold"] is True
    assert row["storage_class"] == "GLACIER"
    assert row["lock_mode"] == "COMPLIANCE"
    assert row["lock_until"] == row["expires_at"] == "2026-11-18T00:00:00Z"
    assert row["verified_at"] == "2024-06-02T00:00:00Z"
    Ledger(FolderFiles(tmp_path)).append([fact(Kind.HOLD_RELEASED, "a", **about)])
    assert ask(tmp_path, "SELECT hold FROM images") == [{"hold": False}]


def test_infinite_retention_has_no_expiry(tmp_path: Path) -> None:
    row = image_after(
        tmp_path,
        stored("a"),
        fact(Kind.RETENTION_EXTENDED, "a", copy=1, pool=POOL, expires_infinite=True),
    )
    assert (row["expires_at"], row["expires_infinite"]) == (None, True)


def test_a_verification_before_the_last_store_does_not_count(tmp_path: Path) -> None:
    row = image_after(
        tmp_path,
        stored("a"),
        fact(Kind.VERIFIED, "a", copy=1, pool=POOL),
        fact(Kind.DAMAGED, "a", copy=1, pool=POOL),
        stored("a"),
    )
    assert row["verified_at"] is None


def test_copies_and_pools_are_kept_apart_and_no_copy_number_is_the_first(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append(
        [
            stored("a", copy=1),
            stored("a", copy=2),
            stored("a", copy=1, pool="s3://other/pool"),
            fact(Kind.FAILED, "a", pool=POOL),
            fact(Kind.TAPE_READ, None, barcode="A1"),
        ]
    )
    rows = ask(tmp_path, "SELECT pool, copy_number, facts FROM images ORDER BY 1, 2")
    assert [tuple(row.values()) for row in rows] == [
        (POOL, 1, 2),
        (POOL, 2, 1),
        ("s3://other/pool", 1, 1),
    ]


# --- tapes ----------------------------------------------------------------------------------


def test_tapes_count_their_images_and_their_own_bytes(tmp_path: Path) -> None:
    spanning = (place("A1", "A1L8", size=600), place("A2", "A2L8", size=400))
    Ledger(FolderFiles(tmp_path)).append(
        [
            stored("a", places=spanning, media=("A1", "A2")),
            stored("b", places=(place("A1", "A1L8", size=50),), media=("A1",), size=50),
            fact(Kind.DAMAGED, "c", pool=POOL, places=(place("A2", "A2L8"),)),
            fact(Kind.SKIPPED, "d", pool=POOL, barcode="A2L8", media=("A2",), size=5),
            fact(Kind.FAILED, "e", pool=POOL, media=("A3",)),
            fact(Kind.TAPE_READ, None, barcode="A1L8", recorded_at=START + DAY),
            fact(Kind.TAPE_READ, None, barcode="A1L8", recorded_at=START + 2 * DAY),
            fact(Kind.TAPE_READ, None, barcode="A9L8"),
            fact(Kind.TAPE_RELEASED, None, barcode="A1L8", recorded_at=START + 3 * DAY),
        ]
    )
    rows = {row.pop("barcode"): row for row in ask(tmp_path, "SELECT * FROM tapes")}
    assert rows["A1L8"] == {
        "images": 2,
        "images_stored": 2,
        "images_skipped": 0,
        "images_failed": 0,
        "images_damaged": 0,
        "images_expired": 0,
        "images_erased": 0,
        "images_deleted": 0,
        "size_bytes": 650,
        "stored_bytes": 650,
        "last_read_at": "2024-06-03T00:00:00Z",
        "released_at": "2024-06-04T00:00:00Z",
        "released": True,
    }
    counts = ("images", "images_stored", "images_skipped", "images_failed", "images_damaged")
    assert [rows["A2L8"][name] for name in counts] == [3, 1, 1, 0, 1]
    assert (rows["A2L8"]["size_bytes"], rows["A2L8"]["stored_bytes"]) == (405, 400)
    assert (rows["A3"]["images_failed"], rows["A3"]["size_bytes"]) == (1, None)
    assert (rows["A9L8"]["images"], rows["A9L8"]["released"]) == (0, False)
    assert set(rows) == {"A1L8", "A2L8", "A3", "A9L8"}


# --- without us -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_uses_no_words_that_only_duckdb_knows(name: str) -> None:
    text = re.sub(r"--.*", "", view_sql(name))
    assert text.lstrip().startswith(f"CREATE OR REPLACE VIEW {name} AS")
    for only_here in (
        "::", "QUALIFY", "EXCLUDE", "list_", "struct_", "arg_max", "any_value", "ILIKE",
        "read_parquet", "->", "[]", "GROUP BY ALL", "ORDER BY ALL", "USING", "{", ";",
        "epoch", "strftime", "TIMESTAMPTZ", "VARCHAR", "UBIGINT", "HUGEINT", '"', "%",
    ):  # fmt: skip
        assert only_here not in text


def test_the_views_run_in_a_plain_duckdb_over_a_glob(tmp_path: Path) -> None:
    Ledger(FolderFiles(tmp_path)).append([stored("a")])
    with duckdb.connect() as plain:
        plain.execute(f"CREATE VIEW facts AS SELECT * FROM '{tmp_path}/*.parquet'")
        for name in VIEWS:
            plain.execute(view_sql(name))
        assert plain.execute("SELECT state FROM images").fetchall() == [("stored",)]
        assert plain.execute("SELECT stored_bytes FROM tapes").fetchall() == [(1000,)]


def test_pandas_pyarrow_and_duckdb_read_the_folder_as_it_is(tmp_path: Path) -> None:
    ledger = Ledger(FolderFiles(tmp_path))
    ledger.append([stored("a"), fact(Kind.FAILED, "b")])
    ledger.append([stored("c", lock_mode=LockMode.NONE)])
    (tmp_path / f".{name_of(2)}.0123.tmp").write_bytes(b"a writer is at work")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = pd.read_parquet(tmp_path)
    assert sorted(frame["image"]) == ["a", "b", "c"]
    assert frame["size_bytes"].sum() == 2000
    assert str(frame["recorded_at"].dtype) == "datetime64[us, UTC]"
    assert pq.read_table(tmp_path)["image"].to_pylist() == ["a", "b", "c"]
    assert ds.dataset(tmp_path).count_rows() == 3
    with duckdb.connect() as plain:
        sql = f"SELECT image, fragments[1].key FROM '{tmp_path}/*.parquet' ORDER BY 1"
        assert plain.execute(sql).fetchall()[1:] == [
            ("b", None),
            ("c", "images/c/1/token-00000"),
        ]


def test_every_field_of_the_model_can_be_asked_for(tmp_path: Path) -> None:
    renamed = {"copy": "copy_number", "size": "size_bytes"}
    fields = [field.name for field in dataclasses.fields(Fact)]
    columns = ", ".join(renamed.get(name, name) for name in fields)
    assert ask(tmp_path, f"SELECT {columns} FROM facts") == []
