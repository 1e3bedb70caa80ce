"""docs/ledger.md says what the code does: its tables, its statements, its script."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from catalog.anchor import Anchoring
from catalog.checkpoint import FORMAT, MAX_FILES, MAX_KEYS, Statement
from catalog.files import FolderFiles
from catalog.ledger import Ledger
from catalog.model import Kind
from catalog.query import VIEWS, Query
from catalog.schema import SCHEMA
from tests.catalog.keyring import MadeKey
from tests.catalog.samples import stored

DOC = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text("utf-8")


def type_name(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"list of {type_name(type_.value_type)}"
    if pa.types.is_struct(type_):
        return "struct"
    return {pa.string(): "string", pa.int64(): "int64", pa.bool_(): "boolean"}.get(
        type_, "timestamp (us, UTC)"
    )


def described(fields: list[pa.Field]) -> str:
    lines = ["| column | type | meaning |", "| --- | --- | --- |"]
    for field in fields:
        nullable = "" if field.nullable else ", never null"
        meaning = field.metadata[b"description"].decode()
        lines.append(f"| `{field.name}` | {type_name(field.type)}{nullable} | {meaning} |")
    return "\n".join(lines)


def athena_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"array<{athena_type(type_.value_type)}>"
    if pa.types.is_struct(type_):
        return f"struct<{','.join(f'{child.name}:{athena_type(child.type)}' for child in type_)}>"
    return {pa.string(): "string", pa.int64(): "bigint", pa.bool_(): "boolean"}.get(
        type_, "timestamp"
    )


def athena_columns() -> str:
    return ",\n".join(f"  {field.name} {athena_type(field.type)}" for field in SCHEMA)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)


def test_every_column_is_in_the_page_as_it_is_in_the_schema() -> None:
    assert described(list(SCHEMA)) in DOC
    for name in ("places", "fragments"):
        assert described(list(SCHEMA.field(name).type.value_type)) in DOC


def test_the_ddl_for_athena_has_the_schemas_columns() -> None:
    assert athena_columns() in DOC


def test_every_kind_is_explained() -> None:
    for kind in Kind:
        assert f"| `{kind.value}` |" in DOC


def test_every_column_of_the_views_is_named(tmp_path: Path) -> None:
    with Query(FolderFiles(tmp_path)) as query:
        for view in VIEWS:
            for column in query.ask(f"SELECT * FROM {view}").columns:
                assert f"`{column}`" in DOC


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    for name in "abc":
        writer = Ledger(FolderFiles(folder), Anchoring(signer=MadeKey(), every_commits=1))
        writer.append([stored(name)])
    assert writer.anchor() is not None, "readers must pass over checkpoints"
    shutil.copytree(Path(__file__).parents[2] / "catalog" / "sql", tmp_path / "catalog" / "sql")
    return folder


def test_every_field_of_a_checkpoint_is_explained() -> None:
    for field in dataclasses.fields(Statement):
        assert f"`{field.name}`" in DOC
    assert f"`{FORMAT}`" in DOC
    assert f"at most {MAX_FILES:,}" in DOC
    assert f"1 to {MAX_KEYS}" in DOC
    how = Anchoring(signer=MadeKey())
    assert f"when {how.every_commits} commits are not listed yet" in DOC
    assert how.every_seconds == 3600
    assert "the last checkpoint is an hour old" in DOC


def test_the_examples_for_other_readers_run_as_they_are_written(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ledger.parent)
    for text in blocks("python"):
        exec(compile(text, "docs/ledger.md", "exec"), {})
    (script,) = blocks("duckdb")
    with duckdb.connect() as plain:
        for statement in plain.extract_statements(_with_files_read(script)):
            answer = plain.execute(statement)
        assert answer.fetchall() == [("stored", 3)]


def _with_files_read(script: str) -> str:
    """The shell's ``.read FILE``, as the shell does it."""
    return re.sub(
        r"^\.read (\S+)$", lambda m: Path(m[1]).read_text("utf-8") + ";", script, flags=re.M
    )
