"""The ledger's columns: facts to Parquet bytes, and back.

One table says every column once: its name, its type, what it means. A file is a pure function of
its facts, its number and the digest of the file before it, so the same commit always has the same
bytes. Files and chains are not known here; see ``ledger.py``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import CatalogError
from catalog.model import (
    Fact,
    Kind,
    LockMode,
    ScheduleType,
    StorageClass,
    StoredFragment,
    TapePlace,
)

FORMAT = "1"
MAX_ROWS = 1_000_000  # the views order facts by sequence * MAX_ROWS + row_index
FIRST_PREVIOUS = "0" * 64
_NS_PER_US = 1_000
_YEAR_1_NS = -62_135_596_800_000_000_000
_YEAR_10000_NS = 253_402_300_800_000_000_000

KEY_FORMAT = b"tapelift.format"
KEY_SEQUENCE = b"tapelift.sequence"
KEY_PREVIOUS = b"tapelift.previous_sha256"
KEY_ROWS = b"tapelift.rows"

TEXT = pa.string()
NUMBER = pa.int64()
FLAG = pa.bool_()
TIME = pa.timestamp("us", tz="UTC")


def _field(name: str, type_: pa.DataType, meaning: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable, {"description": meaning})


def _list(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", item))


PLACE = pa.struct(
    [
        _field("media_id", TEXT, "the tape, as the backup product names it"),
        _field("barcode", TEXT, "the tape's barcode, where known"),
        _field("fragment_number", NUMBER, "number of the tape fragment in its copy, from 1"),
        _field("tape_file", NUMBER, "filemarks before it, counted from the beginning of tape"),
        _field("block_offset", NUMBER, "logical block address of its first block"),
        _field("size_bytes", NUMBER, "image data in this place, in bytes"),
    ]
)

FRAGMENT = pa.struct(
    [
        _field("key", TEXT, "object key, relative to the pool's prefix"),
        _field("version_id", TEXT, "object version, in a versioned bucket"),
        _field("size_bytes", NUMBER, "size of the object, in bytes"),
        _field("sha256", TEXT, "SHA-256 of the object, lower-case hex"),
        _field("crc64nvme", TEXT, "CRC64NVME that the store confirmed, base64"),
    ]
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its Parquet field, and how the facts' attribute becomes an array and back.

    array takes the attribute's values of all facts at once: a commit of many thousand rows spends
    its time there.
    """

    field: pa.Field
    attribute: str
    array: Callable[[pa.Field, list[Any]], pa.Array]
    restore: Callable[[Any], Any]


_ENTRY_ATTRIBUTES = {"size_bytes": "size"}
"""Fields of PLACE and FRAGMENT that are named otherwise in the vocabulary."""


def _same(value: Any) -> Any:
    return value


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _array(field: pa.Field, cells: list[Any]) -> pa.Array:
    try:
        try:
            array = pa.array(cells, field.type)
        except UnicodeEncodeError:
            array = pa.array([_escaped(cell) for cell in cells], field.type)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError) as exc:
        raise CatalogError(f"column {field.name}: a value does not fit: {exc}") from exc
    if array.null_count and not field.nullable:
        raise CatalogError(f"column {field.name}: a value is missing")
    return array


def _escaped(cell: Any) -> Any:
    """The cell with bytes that are no UTF-8 (Python's lone surrogates) as ``\\udcXX``.

    Names in old catalogues may hold such bytes. A fact about them must not be refused: it would
    stay in its outbox for ever, and every later fact behind it.
    """
    if isinstance(cell, str):
        return cell.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(cell, (list, tuple)):
        return [_escaped(item) for item in cell]
    return cell


def _times(field: pa.Field, times: list[int | None]) -> pa.Array:
    known = [time for time in times if time is not None]
    for time in (min(known), max(known)) if known else ():
        if not _YEAR_1_NS <= time < _YEAR_10000_NS:
            raise CatalogError(f"time {time} ns is outside of the years 1 to 9999")
    return _array(field, [None if time is None else time // _NS_PER_US for time in times])


def _structs(field: pa.Field, lists: list[Sequence[Any]]) -> pa.Array:
    """An array of lists of structs, made child by child: no dictionary for every entry."""
    entries = [entry for entries in lists for entry in entries]
    ends = pa.array(accumulate(map(len, lists), initial=0), pa.int32(), size=len(lists) + 1)
    type_ = field.type.value_type
    children = [
        _array(child, list(map(attrgetter(_ENTRY_ATTRIBUTES.get(child.name, child.name)), entries)))
        for child in type_
    ]
    structs = pa.StructArray.from_arrays(children, fields=list(type_))
    return pa.ListArray.from_arrays(ends, structs, type=field.type)


def _place(row: Mapping[str, Any]) -> TapePlace:
    values = dict(row)
    return TapePlace(size=values.pop("size_bytes"), **values)


def _fragment(row: Mapping[str, Any]) -> StoredFragment:
    values = dict(row)
    return StoredFragment(size=values.pop("size_bytes"), **values)


def tapes_of(fact: Fact) -> dict[str, int | None]:
    """The cartridges a fact is about, in order of first use, and the image's bytes on each.

    A cartridge is named by its barcode, or by its media id where the barcode is not known. Bytes
    are None as soon as one place on that cartridge has no size.
    """
    if len(fact.places) == 1 and all(m == fact.places[0].media_id for m in fact.media):
        (place,) = fact.places  # as most images: the rules below come to the same, more slowly
        size = fact.size if place.size is None and fact.image is not None else place.size
        return {place.barcode or place.media_id: size}
    barcodes = {place.media_id: place.barcode for place in fact.places if place.barcode}
    tapes: dict[str, int | None] = {}
    for place in fact.places:
        tape = barcodes.get(place.media_id, place.media_id)
        before = tapes.get(tape, 0)
        tapes[tape] = None if before is None or place.size is None else before + place.size
    placed = {place.media_id for place in fact.places}
    others = [media_id for media_id in fact.media if media_id not in placed]
    if fact.barcode is not None and not tapes and len(others) <= 1:
        others = [fact.barcode]
    for tape in others:
        tapes.setdefault(tape, None)
    if fact.image is not None and len(tapes) == 1 and None in tapes.values():
        return dict.fromkeys(tapes, fact.size)
    return tapes


def _plain(
    name: str, type_: pa.DataType, meaning: str, attribute: str = "", *, nullable: bool = True
) -> Column:
    return Column(_field(name, type_, meaning, nullable=nullable), attribute or name, _array, _same)


def _time(name: str, meaning: str, *, nullable: bool = True) -> Column:
    return Column(
        _field(name, TIME, meaning, nullable=nullable),
        name,
        _times,
        _optional(lambda us: us * _NS_PER_US),
    )


def _word(name: str, words: Callable[[str], Any], meaning: str, *, nullable: bool = True) -> Column:
    return Column(
        _field(name, TEXT, meaning, nullable=nullable),
        name,
        _array,
        _optional(words),
    )


def _many(
    name: str,
    item: pa.DataType,
    meaning: str,
    array: Callable[[pa.Field, list[Any]], pa.Array] | None = None,
    from_row: Callable[[Any], Any] = _same,
) -> Column:
    return Column(
        _field(name, _list(item), meaning, nullable=False),
        name,
        array or _array,
        lambda rows: tuple(from_row(row) for row in rows or ()),
    )


COLUMNS: tuple[Column, ...] = (
    _plain("fact_id", TEXT, "unique for ever (UUID)", nullable=False),
    _word("kind", Kind, "what the fact says: stored, skipped, failed, damaged ...", nullable=False),
    _time("recorded_at", "when the fact was written down, by the writer's clock", nullable=False),
    _plain("actor", TEXT, "who caused it: a person, or the account of a service", nullable=False),
    _plain("writer", TEXT, "program and version that wrote the fact, and its host", nullable=False),
    _plain("run_id", TEXT, "the migration run it belongs to"),
    _plain("reason", TEXT, "why, in words"),
    _plain("image", TEXT, "the image's name in its backup product"),
    _plain("copy_number", NUMBER, "copy of the image, counted from 1", "copy"),
    _plain("product", TEXT, "backup product that wrote the image"),
    _plain("client", TEXT, "host that was backed up"),
    _plain("policy", TEXT, "policy or job definition"),
    _plain("schedule", TEXT, "schedule, as the product names it"),
    _word("schedule_type", ScheduleType, "kind of backup, one vocabulary for all products"),
    _time("backup_time", "when the backup was made"),
    _time("expires_at", "until when the image must be kept; null when infinite or unknown"),
    _plain("expires_infinite", FLAG, "true: the image is kept for ever"),
    _plain("size_bytes", NUMBER, "the image's bytes, without headers of the tape", "size"),
    _plain("sha256", TEXT, "SHA-256 of the whole image, lower-case hex"),
    _many("problems", TEXT, "findings about the image, as words"),
    _many("media", TEXT, "media ids of the tapes, in order"),
    _plain("barcode", TEXT, "the one cartridge that the fact is about"),
    _plain("drive", TEXT, "the drive that read the tape"),
    _many("places", PLACE, "where the image was on tape, in order", _structs, _place),
    _plain("pool", TEXT, "URI of the pool the image is in"),
    _plain("manifest_key", TEXT, "key of the image's manifest, relative to the pool's prefix"),
    _many("fragments", FRAGMENT, "the image's objects, in order", _structs, _fragment),
    _word("storage_class", StorageClass, "storage class of the objects, as S3 names it"),
    _word("lock_mode", LockMode, "Object Lock mode: NONE, GOVERNANCE, COMPLIANCE"),
    _time("lock_until", "until when Object Lock protects the objects"),
    _plain("hold", FLAG, "true: a legal hold is on"),
    _plain("detail", TEXT, "anything else, as a JSON object"),
)

SCHEMA = pa.schema(
    [
        _field(
            "sequence", NUMBER, "number of the commit, which is the file's name", nullable=False
        ),
        _field("row_index", NUMBER, "row within its commit, counted from 0", nullable=False),
        *(column.field for column in COLUMNS),
        _field(
            "tapes",
            _list(TEXT),
            "every cartridge of the fact once: its barcode, or media id where that is not known",
            nullable=False,
        ),
        _field(
            "tape_bytes",
            _list(NUMBER),
            "the image's bytes on each cartridge of tapes, same order; null where unknown",
            nullable=False,
        ),
    ]
)
"""The columns of a ledger file. The first two and the last two are not in ``Fact``."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a ledger file's footer says about its place in the chain."""

    sequence: int
    previous_sha256: str
    rows: int


def encode(facts: Sequence[Fact], *, sequence: int, previous_sha256: str) -> bytes:
    """The Parquet file of one commit.

    Times are cut to the microsecond; bytes in a text that are no UTF-8 become ``\\udcXX``. Raises
    CatalogError when a value does not fit its column, or when there are more than MAX_ROWS facts
    or none.
    """
    if not 1 <= len(facts) <= MAX_ROWS:
        raise CatalogError(
            f"{len(facts)} facts in one commit", hint=f"commit from 1 to {MAX_ROWS:,} at a time"
        )
    tapes = [tapes_of(fact) for fact in facts]
    arrays = [
        pa.array([sequence] * len(facts), NUMBER),
        pa.array(list(range(len(facts))), NUMBER),
        *(
            column.array(column.field, list(map(attrgetter(column.attribute), facts)))
            for column in COLUMNS
        ),
        _array(SCHEMA.field("tapes"), [list(sizes) for sizes in tapes]),
        _array(SCHEMA.field("tape_bytes"), [list(sizes.values()) for sizes in tapes]),
    ]
    footer = {
        KEY_FORMAT: FORMAT,
        KEY_SEQUENCE: str(sequence),
        KEY_PREVIOUS: previous_sha256,
        KEY_ROWS: str(len(facts)),
    }
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        writer.add_key_value_metadata(footer)
    return sink.getvalue()


def read_footer(data: bytes | memoryview) -> Footer:
    """The footer of a ledger file; CatalogError when the bytes are not one."""
    return footer_of(_open(data))


def footer_of(file: pq.ParquetFile) -> Footer:
    """The footer of an opened ledger file; CatalogError when it is not one of this format."""
    pairs: Mapping[bytes, bytes] = file.metadata.metadata or {}
    if KEY_FORMAT not in pairs:
        raise CatalogError("a Parquet file, but not of a ledger (no tapelift.format)")
    if pairs[KEY_FORMAT] != FORMAT.encode():
        raise CatalogError(
            f"ledger format {pairs[KEY_FORMAT].decode('utf-8', 'replace')}, known is {FORMAT}",
            hint="use a newer version of this program",
        )
    try:
        footer = Footer(
            sequence=int(pairs[KEY_SEQUENCE]),
            previous_sha256=pairs[KEY_PREVIOUS].decode("ascii"),
            rows=int(pairs[KEY_ROWS]),
        )
    except (KeyError, ValueError) as exc:
        raise CatalogError(f"the footer is not a ledger's: {exc}") from exc
    if file.metadata.num_rows != footer.rows:
        raise CatalogError(f"{file.metadata.num_rows} rows, its footer says {footer.rows}")
    return footer


def decode(data: bytes | memoryview) -> Iterator[Fact]:
    """Yield a ledger file's facts in order, in batches: memory stays below the file's own size.

    Raises CatalogError when the bytes are damaged, or hold words this version does not know.
    """
    file = _open(data)
    footer_of(file)
    columns = _present(file.schema_arrow)
    try:
        for batch in file.iter_batches(
            batch_size=10_000, columns=[column.field.name for column in columns]
        ):
            yield from _facts(batch, columns)
    except (pa.ArrowException, OSError) as exc:
        raise CatalogError(f"rows cannot be read: {exc}") from exc


def _present(schema: pa.Schema) -> list[Column]:
    """The columns that a file has: later versions add some, and never change or take away one."""
    for field in SCHEMA:
        if field.name not in schema.names:
            if not field.nullable:
                raise CatalogError(f"column {field.name} is missing")
        elif not pa.types.is_list(field.type) and schema.field(field.name).type != field.type:
            raise CatalogError(f"column {field.name} is of type {schema.field(field.name).type}")
    return [column for column in COLUMNS if column.field.name in schema.names]


def _facts(batch: pa.RecordBatch, columns: Sequence[Column]) -> Iterator[Fact]:
    values = [_restored(batch.column(column.field.name), column) for column in columns]
    names = [column.attribute for column in columns]
    for row in zip(*values, strict=True):
        yield Fact(**dict(zip(names, row, strict=True)))


def _restored(array: pa.Array, column: Column) -> list[Any]:
    if pa.types.is_timestamp(array.type):
        array = array.cast(NUMBER)
    try:
        return [column.restore(value) for value in array.to_pylist()]
    except (ValueError, TypeError, KeyError) as exc:  # also text that is not UTF-8
        raise CatalogError(
            f"column {column.field.name}: {exc}", hint="use a newer version of this program"
        ) from exc


def check_rows(data: bytes | memoryview) -> None:
    """Read every page of a ledger file against its checksum; CatalogError when one is damaged."""
    file = _open(data)
    try:
        for _ in file.iter_batches(batch_size=10_000):
            pass
    except (pa.ArrowException, OSError) as exc:
        raise CatalogError(f"rows cannot be read: {exc}") from exc


def _open(data: bytes | memoryview) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as exc:
        raise CatalogError(f"not a Parquet file: {exc}") from exc
