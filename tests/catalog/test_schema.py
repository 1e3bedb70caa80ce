from __future__ import annotations

import dataclasses
import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import CatalogError
from catalog.model import Fact, Kind
from catalog.schema import (
    COLUMNS,
    FIRST_PREVIOUS,
    SCHEMA,
    check_rows,
    decode,
    encode,
    read_footer,
    tapes_of,
)
from tests.catalog.samples import START, any_fact, fact, place, stored

digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(st.lists(any_fact, min_size=1, max_size=5), st.integers(0, 2**63 - 1), digests)
def test_what_is_written_reads_back_and_gives_the_same_bytes_again(
    facts: list[Fact], sequence: int, previous: str
) -> None:
    data = encode(facts, sequence=sequence, previous_sha256=previous)
    assert list(decode(data)) == facts
    footer = read_footer(data)
    assert (footer.sequence, footer.previous_sha256, footer.rows) == (
        sequence,
        previous,
        len(facts),
    )
    assert encode(list(decode(data)), sequence=sequence, previous_sha256=previous) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_our_error(data: bytes) -> None:
    with pytest.raises(CatalogError):
        list(decode(data))
    with pytest.raises(CatalogError):
        read_footer(data)


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.deep)])
def test_every_single_changed_byte_is_harmless_or_our_error(step: int) -> None:
    data = encode([stored(), stored("b")], sequence=0, previous_sha256=FIRST_PREVIOUS)
    for position in range(0, len(data), step):
        changed = bytearray(data)
        changed[position] ^= 0x55
        try:
            check_rows(bytes(changed))
            list(decode(bytes(changed)))
        except CatalogError:
            pass


def test_a_changed_page_is_found_by_its_checksum() -> None:
    facts = [stored(f"image{number}") for number in range(50)]
    data = encode(facts, sequence=0, previous_sha256=FIRST_PREVIOUS)
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(2)
    changed = bytearray(data)
    changed[column.data_page_offset - 5] ^= 1
    with pytest.raises(CatalogError, match="checksum"):
        check_rows(bytes(changed))


def test_every_field_of_a_fact_has_a_column() -> None:
    assert {column.attribute for column in COLUMNS} == {
        field.name for field in dataclasses.fields(Fact)
    }


def test_every_column_is_described_and_typed_for_athena_and_trino() -> None:
    def leaves(field: pa.Field) -> list[pa.DataType]:
        if pa.types.is_list(field.type):
            return leaves(field.type.value_field)
        if pa.types.is_struct(field.type):
            return [leaf for child in field.type for leaf in leaves(child)]
        return [field.type]

    for field in SCHEMA:
        assert field.metadata[b"description"]
        assert field.name == field.name.lower()
        for leaf in leaves(field):
            assert leaf in (pa.string(), pa.int64(), pa.bool_(), pa.timestamp("us", tz="UTC"))


def test_the_descriptions_are_in_the_file() -> None:
    data = encode([fact()], sequence=0, previous_sha256=FIRST_PREVIOUS)
    field = pq.read_schema(io.BytesIO(data)).field("lock_until")
    assert field.metadata[b"description"].startswith(b"until when Object Lock")


def test_times_are_kept_to_the_microsecond() -> None:
    data = encode([fact(recorded_at=START + 1_999)], sequence=0, previous_sha256=FIRST_PREVIOUS)
    assert next(decode(data)).recorded_at == START + 1_000


def test_rows_are_numbered_within_their_commit() -> None:
    data = encode([fact(), fact(), fact()], sequence=7, previous_sha256=FIRST_PREVIOUS)
    table = pq.read_table(io.BytesIO(data))
    assert table["sequence"].to_pylist() == [7, 7, 7]
    assert table["row_index"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"recorded_at": 2**80},
        {"expires_at": -(2**70)},
        {"size": 2**63},
        {"actor": None},
        {"size": "ten"},
        {"places": (place("A1", size=2**64),)},
    ],
)
def test_a_value_that_does_not_fit_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CatalogError):
        encode([fact(**wrong)], sequence=0, previous_sha256=FIRST_PREVIOUS)


def test_a_name_that_is_not_utf8_is_written_with_its_bytes_escaped() -> None:
    named = fact(
        image="a\udcff", media=("b\udc80", "fine"), places=(place("c\udcff"),), reason="\u65e5"
    )
    data = encode([named, fact()], sequence=0, previous_sha256=FIRST_PREVIOUS)
    read, _ = decode(data)
    assert (read.image, read.media) == ("a\\udcff", ("b\\udc80", "fine"))
    assert (read.places[0].media_id, read.reason) == ("c\\udcff", "\u65e5")


def test_no_facts_are_no_commit() -> None:
    with pytest.raises(CatalogError):
        encode([], sequence=0, previous_sha256=FIRST_PREVIOUS)


def rewritten(data: bytes, change: dict[str, pa.Array] | None = None, **footer: str) -> bytes:
    """The same table with other columns or another footer, as other software would write it."""
    file = pq.ParquetFile(io.BytesIO(data))
    table = file.read()
    for name, array in (change or {}).items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, array)
        else:
            table = table.append_column(name, array)
    pairs = {
        k.decode(): v.decode()
        for k, v in file.metadata.metadata.items()
        if k.startswith(b"tapelift.")
    } | {f"tapelift.{name}": value for name, value in footer.items()}
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(pairs)
    return sink.getvalue()


ONE = encode([stored()], sequence=3, previous_sha256=FIRST_PREVIOUS)


@pytest.mark.parametrize(
    "footer",
    [{"sequence": "x"}, {"rows": "2"}, {"format": "2"}, {"rows": ""}],
)
def test_a_footer_that_cannot_be_true_is_refused(footer: dict[str, str]) -> None:
    with pytest.raises(CatalogError):
        list(decode(rewritten(ONE, **footer)))


def test_a_column_that_a_newer_version_added_is_passed_over() -> None:
    newer = rewritten(ONE, {"colour": pa.array(["blue"])})
    assert list(decode(newer)) == list(decode(ONE))


def test_a_word_of_a_newer_version_is_refused_with_advice() -> None:
    newer = rewritten(ONE, {"kind": pa.array(["teleported"])})
    with pytest.raises(CatalogError, match="newer version"):
        list(decode(newer))


def test_a_parquet_file_of_somebody_else_is_no_ledger_file() -> None:
    sink = io.BytesIO()
    pd.DataFrame({"a": [1]}).to_parquet(sink)
    with pytest.raises(CatalogError, match="not of a ledger"):
        read_footer(sink.getvalue())


@pytest.mark.parametrize(
    ("values", "tapes"),
    [
        ({}, {}),
        ({"barcode": "A1L8", "media": ("A1",)}, {"A1L8": None}),
        ({"barcode": "A1L8", "media": ("A1",), "size": 7}, {"A1L8": 7}),
        ({"media": ("A1", "A2"), "size": 7}, {"A1": None, "A2": None}),
        ({"barcode": "A1L8", "media": ("A1", "A2")}, {"A1": None, "A2": None}),
        ({"places": (place("A1", "A1L8", size=3), place("A1", size=4))}, {"A1L8": 7}),
        (
            {"places": (place("A1", "A1L8", size=3), place("A2", size=4)), "media": ("A1", "A2")},
            {"A1L8": 3, "A2": 4},
        ),
        (
            {"places": (place("A1", size=3), place("A1"), place("A2", size=4))},
            {"A1": None, "A2": 4},
        ),
        ({"places": (place("A1", size=3),), "media": ("A1", "A2")}, {"A1": 3, "A2": None}),
    ],
)
def test_the_tapes_of_a_fact_are_named_once_with_their_bytes(
    values: dict[str, object], tapes: dict[str, int | None]
) -> None:
    found = tapes_of(fact(**values))
    assert found == tapes
    assert list(found) == list(tapes)


def test_bytes_of_a_fact_about_a_tape_are_not_an_images() -> None:
    assert tapes_of(fact(Kind.TAPE_READ, None, barcode="A1L8", size=9)) == {"A1L8": None}
