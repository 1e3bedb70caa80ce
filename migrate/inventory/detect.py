"""Which format a catalogue file has, by its content, and the import of many files at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from catalog.errors import ConfigError
from migrate.errors import InventoryError
from migrate.inventory import bpimagelist, media_lists, native, netbackup_csv
from migrate.inventory.csv_header import HEADER_WITHIN, find_header
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import ImportReport, Notes, Severity, SourceReport
from migrate.inventory.rows import MediaRow, Row
from migrate.inventory.store import Inventory
from migrate.inventory.text import Lines, decode_head, fault, opened, sample, sniff_encoding

Reader = Callable[[Lines, ImportOptions, Notes], Iterator[Row | MediaRow] | Iterator[MediaRow]]

FORMATS: dict[str, Reader] = {
    "native": native.read,
    "bpimagelist": bpimagelist.read,
    "bpmedialist-mlist": media_lists.read_mlist,
    "bpmedialist-l": media_lists.read_bpmedialist_l,
    "bpmedialist-L": media_lists.read_bpmedialist_labelled,
    "vmquery-b": media_lists.read_vmquery_b,
    "vmquery": media_lists.read_vmquery,
    "csv": netbackup_csv.read,
}
"""Every format ``--catalog`` reads, by the name that ``--format`` takes."""


def detect_format(path: str, head: str) -> str:
    """Name a file's format by its first characters.

    Raises:
        InventoryError: none fits; says what was tried, and what to do where it is known.
    """
    start = head.lstrip("\ufeff \t\r\n")
    if start[:1] in ("{", "["):
        return _which_json(path, start)
    lines = head.splitlines()
    tokens = bpimagelist.split(next((line for line in lines if line.strip()), ""))
    if tokens[:1] == ["IMAGE"]:
        return _which_image_records(path, tokens)
    if tokens[:1] == ["FRAG"] or tokens[:1] == ["HISTO"]:
        return "bpimagelist"
    if find_header(lines[:HEADER_WITHIN]) is not None:
        return "csv"
    first = "\n".join(lines[:12]).lower()
    if "<------- status ------->" in first or ("vimages" in first and "on hold" in first):
        return "bpmedialist-mlist"
    if "media_id = " in first:
        return "bpmedialist-L"
    if "media id:" in first:
        return "vmquery"
    if "optical" in first and "robot" in first and "mount" in first:
        return "vmquery-b"
    if media_lists.is_bpmedialist_l(next((line for line in lines if line.strip()), "")):
        return "bpmedialist-l"
    raise fault(
        path, 1, f"no catalogue format fits; tried {', '.join(FORMATS)}", hint=_advice(lines)
    )


def _which_json(path: str, start: str) -> str:
    if '"image_id"' in start or '"images"' in start or '"media_id"' in start:
        return "native"
    if '"backupid"' in start or '"frags"' in start:
        raise fault(
            path, 1, "this is bpimagelist -json, which is not read", hint="export bpimagelist -l"
        )
    try:
        json.loads(start)
    except (ValueError, RecursionError):
        return "native"  # it says what is wrong, and on which line
    raise fault(
        path,
        1,
        "a JSON document without images and media",
        hint="give an object with 'images', as tapemigrate inventory --json prints it",
    )


def _which_image_records(path: str, tokens: Sequence[str]) -> str:
    """bpimmedia -l has the backup id as its fourth token, bpimagelist -l as its sixth."""
    if 12 <= len(tokens) <= 20 and "_" in tokens[3] and tokens[3].startswith(tokens[1]):
        raise fault(
            path, 1, "this is bpimmedia -l, which is not read", hint="export bpimagelist -l"
        )
    return "bpimagelist"


def _advice(lines: Sequence[str]) -> str:
    text = "\n".join(lines[:20]).lower()
    if "backup id:" in text and "client:" in text:
        return "this looks like bpimagelist -L; export bpimagelist -l"
    if "backed up" in text and "expires" in text:
        return "this looks like bpimagelist -U, which has no backup ids; export bpimagelist -l"
    if "backup-id" in text:
        return "this looks like bpimmedia -L; export bpimagelist -l"
    return "a CSV needs a header with a backup id and a media id; --format states the format"


def read_catalogs(
    paths: Sequence[Path], inventory: Inventory, options: ImportOptions | None = None
) -> ImportReport:
    """Import catalogue files into an inventory and settle it.

    Bad records become findings of the report. Rows that contradict each other do too, and their
    image gets the problem ``conflict``.

    Raises:
        InventoryError: a file cannot be understood at all, or is cut off; names file and line.
        ConfigError: options.format is none of FORMATS, or there is no path.
    """
    options = options or ImportOptions()
    if not paths:
        raise ConfigError("no catalogue is given", hint="name one with --catalog PATH")
    if options.format is not None and options.format not in FORMATS:
        raise ConfigError(
            f"--format {options.format!r} is not known", hint=f"use one of {', '.join(FORMATS)}"
        )
    report = ImportReport()
    for path in paths:
        _read_one(path, inventory, options, report)
    inventory.settle(report)
    return report


def _read_one(
    path: Path, inventory: Inventory, options: ImportOptions, report: ImportReport
) -> None:
    head = sample(path)
    encoding = sniff_encoding(path, head, options.encoding)
    name = options.format or detect_format(str(path), decode_head(head, encoding))
    source = SourceReport(str(path), name, encoding)
    report.sources.append(source)
    notes = Notes(report, source)
    try:
        with opened(path, encoding) as stream:
            lines = Lines(stream, str(path), encoding)
            source.rows = inventory.add(str(path), FORMATS[name](lines, options, notes), report)
            if source.rows == 0:
                report.add(Severity.WARNING, "no_rows", str(path), "no record was taken")
    except RecursionError as exc:  # a hostile nesting that a parser of the library ran into
        raise InventoryError(f"{path}: nested too deeply to be read") from exc
