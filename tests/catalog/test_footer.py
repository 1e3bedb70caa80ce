"""The fast way to a footer comes to what the Parquet library says, or asks it."""

from __future__ import annotations

import contextlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import footer
from catalog.errors import CatalogError
from catalog.footer import place_of
from catalog.schema import FIRST_PREVIOUS, Footer, encode, read_footer
from tests.catalog.samples import any_fact, fact, stored

PAIRS = {
    "tapelift.format": "1",
    "tapelift.sequence": "7",
    "tapelift.previous_sha256": "a" * 64,
    "tapelift.rows": "1",
}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the library was asked for."""
    asked: list[bytes] = []

    def ask(data: bytes) -> Footer:
        asked.append(data)
        return read_footer(data)

    monkeypatch.setattr(footer, "read_footer", ask)
    return asked


@pytest.mark.parametrize("sequence", [0, 9, 10, 12345, 2**63 - 1])
def test_our_own_files_are_read_without_the_library(library: list[bytes], sequence: int) -> None:
    data = encode([stored(), fact()], sequence=sequence, previous_sha256="0123456789abcdef" * 4)
    assert place_of(data) == Footer(sequence, "0123456789abcdef" * 4, 2)
    assert library == []


@given(facts=st.lists(any_fact, min_size=1, max_size=3), sequence=st.integers(0, 2**63 - 1))
def test_whatever_is_in_the_rows_both_say_the_same(facts: list, sequence: int) -> None:  # type: ignore[type-arg]
    data = encode(facts, sequence=sequence, previous_sha256=FIRST_PREVIOUS)
    assert place_of(data) == read_footer(data)


def test_words_of_the_footer_in_a_row_do_not_mislead(library: list[bytes]) -> None:
    words = " ".join(f"{key} {value}" for key, value in PAIRS.items())
    data = encode([fact(reason=words)], sequence=3, previous_sha256=FIRST_PREVIOUS)
    assert place_of(data) == Footer(3, FIRST_PREVIOUS, 1)
    assert library == [data], "the statistics hold the words, so the library decides"


def other_file(pairs: dict[str, str], store_schema: bool = True) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"x": [1]})
    with pq.ParquetWriter(sink, table.schema, store_schema=store_schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(pairs)
    return sink.getvalue()


def test_a_file_without_the_writers_schema_is_read_too(library: list[bytes]) -> None:
    assert place_of(other_file(PAIRS, store_schema=False)) == Footer(7, "a" * 64, 1)
    assert library == []


@pytest.mark.parametrize(
    "pairs",
    [
        dict(reversed(PAIRS.items())),
        PAIRS | {"more": "x"},
        {"tapelift.other": "x", **PAIRS},
        PAIRS | {"tapelift.sequence": "007"},
    ],
)
def test_an_unusual_footer_is_left_to_the_library(
    library: list[bytes], pairs: dict[str, str]
) -> None:
    data = other_file(pairs)
    assert place_of(data) == Footer(7, "a" * 64, 1)
    assert library == [data]


@pytest.mark.parametrize(
    "pairs", [{}, {**PAIRS, "tapelift.format": "2"}, {**PAIRS, "tapelift.rows": "x"}]
)
def test_a_file_that_is_no_ledgers_is_refused(pairs: dict[str, str]) -> None:
    with pytest.raises(CatalogError):
        place_of(other_file(pairs))


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(data: bytes) -> None:
    for rubbish in (data, b"PAR1" + data + len(data).to_bytes(4, "little") + b"PAR1"):
        with pytest.raises(CatalogError):
            place_of(rubbish)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_no_crash(at: int, bit: int) -> None:
    data = bytearray(_SAMPLE)
    data[at % len(data)] ^= 1 << bit
    with contextlib.suppress(CatalogError):
        assert place_of(bytes(data)).previous_sha256.isascii()


_SAMPLE = encode([stored()], sequence=5, previous_sha256="b" * 64)
