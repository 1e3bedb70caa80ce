"""Questions to the ledger, in SQL, by DuckDB.

A folder is read as it is. Files in S3 are brought into a local cache first (``cache.py``): DuckDB
itself never fetches anything, neither data nor extensions. Whoever asks can read the ledger and
nothing else: one SELECT at a time, no other files, no writing.

Tables: ``facts`` (the rows as they are), ``images`` and ``tapes`` (their state now), the last two
by the text in ``catalog/sql``, which also runs in Athena and Trino.
"""

from __future__ import annotations

import datetime as dt
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from catalog.cache import local_paths
from catalog.errors import CatalogError, ConfigError
from catalog.files import LedgerFiles
from catalog.schema import SCHEMA

VIEWS = ("images", "tapes")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ALLOWED = (duckdb.StatementType.SELECT,)


def view_sql(name: str) -> str:
    """The text of one of VIEWS, to run in another engine over its own ``facts``."""
    return resources.files("catalog").joinpath("sql", f"{name}.sql").read_text("utf-8")


class Query:
    """A ledger as it was when this was opened, to be asked. Use it in a ``with``.

    Commits that come later are not seen: all questions are answered from the same files.
    """

    def __init__(self, files: LedgerFiles) -> None:
        self._spill = Path(tempfile.mkdtemp(prefix="tapelift-sql-"))
        try:
            self._connection = _connect(local_paths(files), self._spill)
        except duckdb.Error as exc:
            self._remove_spill()
            raise CatalogError(
                f"the ledger {files.uri} cannot be read: {_first_line(exc)}",
                hint=f"run: tapecatalog verify --ledger {files.uri}",
            ) from exc
        except BaseException:
            self._remove_spill()
            raise

    def __enter__(self) -> Query:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free what it holds; idempotent."""
        self._connection.close()
        self._remove_spill()

    def _remove_spill(self) -> None:
        shutil.rmtree(self._spill, ignore_errors=True)

    def ask(self, sql: str, parameters: Sequence[object] = ()) -> Answer:
        """Answer one SELECT; ``?`` in it stands for the parameters, in order.

        Raises ConfigError when it is not one SELECT, or wrong SQL.
        """
        try:
            statements = self._connection.extract_statements(_as_written(sql))
            if len(statements) != 1 or statements[0].type not in _ALLOWED:
                raise ConfigError("not one SELECT", hint="a ledger is only ever read")
            # A cursor of its own: several answers may be open at once.
            cursor = self._connection.cursor()
            values = [_as_written(v) if isinstance(v, str) else v for v in parameters]
            relation = cursor.sql(statements[0].query, params=values or None)
            return Answer(cursor, relation.to_arrow_reader(10_000))
        except duckdb.Error as exc:
            raise _refused(exc) from exc


class Answer:
    """Rows of an answer, which are read once, in batches."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> None:
        self._cursor = cursor  # the reader does not keep it alive
        self._reader = reader

    @property
    def schema(self) -> pa.Schema:
        """Names and Arrow types of the columns."""
        return self._reader.schema

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._reader.schema.names)

    def table(self) -> pa.Table:
        """All rows as an Arrow table."""
        try:
            return self._reader.read_all()
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            raise _refused(exc) from exc

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows as Python values; times are ISO 8601 text in UTC."""
        batches = iter(self._reader)
        while True:
            try:
                batch = next(batches, None)
            except (duckdb.Error, pa.ArrowException, OSError) as exc:
                raise _refused(exc) from exc
            if batch is None:
                return
            yield from zip(*(_values(column) for column in batch.columns), strict=True)

    def dicts(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries by column name."""
        for row in self.rows():
            yield dict(zip(self.columns, row, strict=True))


def _connect(paths: Sequence[Path], spill: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": str(spill),
        },
    )
    try:
        _set_up(connection, paths)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> None:
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    if paths:
        files = connection.read_parquet([str(path) for path in paths], union_by_name=True)
        files.create_view("facts")
    else:
        connection.register("no_facts", SCHEMA.empty_table())
        connection.execute("CREATE TABLE facts AS SELECT * FROM no_facts")
        connection.unregister("no_facts")
    for name in VIEWS:
        connection.execute(view_sql(name))
    folders = sorted({str(path.parent) for path in paths})
    connection.execute("SET allowed_directories = $1", [folders])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _as_written(text: str) -> str:
    """Text as the ledger writes it: bytes of a command line that are no UTF-8, escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _refused(exc: Exception) -> ConfigError:
    return ConfigError(
        f"the question cannot be answered: {_first_line(exc)}",
        hint="tables are facts, images, tapes; columns are in docs/ledger.md",
    )


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0]


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        us = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return [_iso(value) for value in us.to_pylist()]
    return [_plain(value) for value in column.to_pylist()]


def _iso(us: int | None) -> str | None:
    if us is None:
        return None
    try:
        moment = _EPOCH + dt.timedelta(microseconds=us)
    except OverflowError:
        return f"{us} us since 1970"
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _plain(value: Any) -> Any:
    """What JSON can hold; decimals (sums of integers are such) that are whole become integers."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    try:
        whole = int(value)
    except (TypeError, ValueError):
        return str(value)
    return whole if whole == value else float(value)
