"""The inventory's tables, as lists of columns that the SQL is made from.

Staging tables (schema ``raw``) take rows as they come, without any index. The final tables are
written once, in order, by settle.py: images by id, copies and fragments by image and number, so
that reading all of them is three scans side by side and no lookup.
"""

from __future__ import annotations

from migrate.inventory.rows import CopyRow, FragmentRow, ImageRow

SCHEMA_VERSION = 1

IMAGE = ImageRow._fields
COPY = CopyRow._fields
FRAGMENT = FragmentRow._fields

_TYPES = {
    "image_id": "TEXT NOT NULL",
    "media_id": "TEXT NOT NULL",
    "copy_number": "INTEGER NOT NULL",
    "fragment_number": "INTEGER NOT NULL",
    "product": "TEXT",
    "client": "TEXT",
    "policy": "TEXT",
    "schedule": "TEXT",
    "schedule_type": "TEXT",
    "storage": "TEXT",
    "key_tag": "TEXT",
}


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}" {_TYPES.get(name, "INTEGER")}' for name in names)


def listed(names: tuple[str, ...], table: str = "") -> str:
    """Column names for SQL, each with its table's alias where there is one."""
    before = f"{table}." if table else ""
    return ", ".join(f'{before}"{name}"' for name in names)


STAGING = f"""
CREATE TABLE raw.image (raw_no INTEGER PRIMARY KEY, {_columns(IMAGE)}, source, line);
CREATE TABLE raw.copy (raw_no INTEGER, {_columns(COPY)}, source, line);
CREATE TABLE raw.fragment (raw_no INTEGER, {_columns(FRAGMENT)}, source, line);
"""

FINAL = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value);
CREATE TABLE source (source INTEGER PRIMARY KEY, path TEXT);
CREATE TABLE media (
    media_id TEXT PRIMARY KEY, barcode TEXT, label TEXT, density TEXT, assigned_at INTEGER,
    assigned_uncertainty INTEGER NOT NULL, expires INTEGER, frozen INTEGER NOT NULL,
    suspended INTEGER NOT NULL, listed INTEGER NOT NULL, place TEXT
) WITHOUT ROWID;
CREATE TABLE image (
    image_no INTEGER PRIMARY KEY, {_columns(IMAGE)}, source, line, UNIQUE (image_id)
);
CREATE TABLE copy (
    image_no INTEGER NOT NULL, {_columns(COPY)}, source, line,
    PRIMARY KEY (image_no, copy_number)
) WITHOUT ROWID;
CREATE TABLE fragment (
    image_no INTEGER NOT NULL, {_columns(FRAGMENT)}, source, line,
    PRIMARY KEY (image_no, copy_number, fragment_number)
) WITHOUT ROWID;
CREATE TABLE selected (
    image_no INTEGER NOT NULL, copy_number INTEGER NOT NULL, PRIMARY KEY (image_no, copy_number)
) WITHOUT ROWID;
"""

FRAGMENT_INDEX = """
CREATE INDEX fragment_by_place
ON fragment (media_id, tape_file_number, block_offset, image_no, copy_number, fragment_number,
             size_bytes)
"""
"""Built after the import; holds all that the totals of a tape need."""


def insert_raw(table: str, names: tuple[str, ...]) -> str:
    """INSERT into a staging table: number of the image, the columns, source, line."""
    marks = ", ".join("?" * (len(names) + 3))
    return f"INSERT INTO raw.{table} VALUES ({marks})"
