"""Which format a catalogue file has, by its content, and the import of many files at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from catalog.errors import ConfigError
from migrate.errors import InventoryError
from migrate.inventory import (
    bpimagelist,
    bpimagelist_json,
    bpimagelist_labelled,
    bpimmedia_labelled,
    media_lists,
    native,
    netbackup,
    netbackup_csv,
)
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
    "bpimagelist-L": bpimagelist_labelled.read,
    "bpimagelist-json": bpimagelist_json.read,
    "bpimmedia": bpimagelist.read_bpimmedia,
    "bpimmedia-L": bpimmedia_labelled.read,
    "bpmedialist-mlist": media_lists.read_mlist,
    "bpmedialist-l": media_lists.read_bpmedialist_l,
    "bpmedialist-L": media_lists.read_bpmedialist_labelled,
    "vmquery-b": media_lists.read_vmquery_b,
    "vmquery-w": media_lists.read_vmquery_w,
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
    whole = lines if head.endswith(("\n", "\r")) else lines[:-1] or lines
    filled = [line for line in whole[:_LOOK_WITHIN] if line.strip()]
    if (name := _records(filled[:1])) is not None:
        return name
    if find_header(lines[:HEADER_WITHIN]) is not None:
        return "csv"
    name = _records(filled[:HEADER_WITHIN]) or _labelled(filled) or _tape_list(filled)
    if name is None:
        raise fault(
            path, 1, f"no catalogue format fits; tried {', '.join(FORMATS)}", hint=_advice(lines)
        )
    return name


_LOOK_WITHIN = 60
"""Lines that are looked at; a form shows itself after a few, below words of whoever sent it."""


def _records(lines: Sequence[str]) -> str | None:
    """IMAGE and FRAG records: bpimmedia has the backup id as fourth token, bpimagelist as sixth."""
    for line in lines:
        tokens = bpimagelist.split(line)
        if tokens[:1] == ["IMAGE"] and len(tokens) > 1:
            ids = [netbackup.split_backup_id(tokens[at]) for at in (3, 5) if at < len(tokens)]
            return "bpimmedia" if ids[:1] != [None] and ids[1:] in ([], [None]) else "bpimagelist"
        if tokens[:1] in (["FRAG"], ["HISTO"]) and len(tokens) > 4:
            return "bpimagelist"
    return None


def _labelled(lines: Sequence[str]) -> str | None:
    """The forms for people: labels with colons, and the table of images on media."""
    if any(bpimmedia_labelled.looks_like(line) for line in lines):
        return "bpimmedia-L"
    labels = {"".join(line.partition(":")[0].lower().split()) for line in lines if ":" in line}
    return "bpimagelist-L" if {"backupid", "policy"} <= labels else None


def _tape_list(lines: Sequence[str]) -> str | None:
    first = "\n".join(lines[:HEADER_WITHIN]).lower()
    if "<------- status ------->" in first or ("vimages" in first and "on hold" in first):
        return "bpmedialist-mlist"
    if "media_id = " in first:
        return "bpmedialist-L"
    if "media id:" in first:
        return "vmquery"
    if any(media_lists.is_vmquery_w(line) for line in lines):
        return "vmquery-w"
    if "optical" in first and "robot" in first and "mount" in first:
        return "vmquery-b"
    if any(media_lists.is_bpmedialist_l(line) for line in lines[:HEADER_WITHIN]):
        return "bpmedialist-l"
    return None


def _which_json(path: str, start: str) -> str:
    if bpimagelist_json.looks_like(start):
        return "bpimagelist-json"
    if '"image_id"' in start or '"images"' in start or '"media_id"' in start:
        return "native"
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


def _advice(lines: Sequence[str]) -> str:
    text = "\n".join(lines[:20]).lower()
    if "backed up" in text and "expires" in text:
        return "this looks like bpimagelist -U, which has no backup ids; export bpimagelist -l"
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
