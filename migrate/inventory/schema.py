"""The inventory's tables, as lists of columns that the SQL is made from.

Staging tables (schema ``raw``) take rows as they come, without any index. The final tables are
written once, in order, by settle.py: images by id, copies and fragments by image and number, so
that reading all of them is three scans side by side and no lookup.

What an image or a fragment has in common with many others (policy, schedule, block size, ...) is
its kind: written once, and named by number, so little is moved and sorted for each row. The views
``image`` and ``fragment`` (while importing ``raw_image`` and ``raw_fragment``) have all columns.
"""

from __future__ import annotations

from migrate.inventory.rows import CopyRow, FragmentRow, ImageRow

SCHEMA_VERSION = 2

IMAGE = ImageRow._fields
COPY = CopyRow._fields
FRAGMENT = FragmentRow._fields

IMAGE_OWN = ("image_id", "client", "backup_time", "expires", "size_bytes", "file_count")
IMAGE_KIND = tuple(name for name in IMAGE if name not in IMAGE_OWN)
FRAGMENT_OWN = (
    "copy_number", "fragment_number", "media_id", "tape_file_number", "block_offset",
    "size_bytes",
)  # fmt: skip
FRAGMENT_KIND = tuple(name for name in FRAGMENT if name not in FRAGMENT_OWN)

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


def _whole(table: str, number: str, columns: tuple[str, ...], kind: tuple[str, ...]) -> str:
    """A SELECT of all columns of an image or a fragment, in the order of the own table."""
    shown = ", ".join(f'{"k" if name in kind else "o"}."{name}"' for name in columns)
    name = table.rpartition(".")[2]
    return (
        f"SELECT {number}, {shown}, k.source, o.line FROM {table}_own o"
        f" CROSS JOIN main.{name}_kind k ON k.kind = o.kind"
    )


STAGING = f"""
CREATE TABLE raw.image_own (raw_no INTEGER PRIMARY KEY, {_columns(IMAGE_OWN)}, kind, line);
CREATE TABLE raw.copy (raw_no INTEGER, {_columns(COPY)}, source, line);
CREATE TABLE raw.fragment_own (raw_no INTEGER, {_columns(FRAGMENT_OWN)}, kind, line);
CREATE TABLE raw.place (raw_no INTEGER PRIMARY KEY, image_no INTEGER NOT NULL);
CREATE TEMP VIEW raw_image AS {_whole("raw.image", "o.raw_no", IMAGE, IMAGE_KIND)};
CREATE TEMP VIEW raw_copy AS SELECT rowid AS came, * FROM raw.copy;
CREATE TEMP VIEW raw_fragment AS
{_whole("raw.fragment", "o.rowid AS came, o.raw_no", FRAGMENT, FRAGMENT_KIND)};
"""

FINAL = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value);
CREATE TABLE source (source INTEGER PRIMARY KEY, path TEXT);
CREATE TABLE media (
    media_id TEXT PRIMARY KEY, barcode TEXT, label TEXT, density TEXT, assigned_at INTEGER,
    assigned_uncertainty INTEGER NOT NULL, expires INTEGER, frozen INTEGER NOT NULL,
    suspended INTEGER NOT NULL, listed INTEGER NOT NULL, place TEXT
) WITHOUT ROWID;
CREATE TABLE image_kind (kind INTEGER PRIMARY KEY, {_columns(IMAGE_KIND)}, source);
CREATE TABLE image_own (
    image_no INTEGER PRIMARY KEY, {_columns(IMAGE_OWN)}, kind, line, raw_no INTEGER,
    UNIQUE (image_id)
);
CREATE TABLE copy (
    image_no INTEGER NOT NULL, {_columns(COPY)}, source, line,
    PRIMARY KEY (image_no, copy_number)
) WITHOUT ROWID;
CREATE TABLE fragment_kind (kind INTEGER PRIMARY KEY, {_columns(FRAGMENT_KIND)}, source);
CREATE TABLE fragment_own (
    image_no INTEGER NOT NULL, {_columns(FRAGMENT_OWN)}, kind, line,
    PRIMARY KEY (image_no, copy_number, fragment_number)
) WITHOUT ROWID;
CREATE VIEW image AS {_whole("image", "o.image_no", IMAGE, IMAGE_KIND).replace("main.", "")};
CREATE VIEW fragment AS
{_whole("fragment", "o.image_no", FRAGMENT, FRAGMENT_KIND).replace("main.", "")};
CREATE TABLE selected (
    image_no INTEGER NOT NULL, copy_number INTEGER NOT NULL, PRIMARY KEY (image_no, copy_number)
) WITHOUT ROWID;
"""

FRAGMENT_INDEX = """
CREATE INDEX fragment_by_place
ON fragment_own (media_id, tape_file_number, block_offset, image_no, copy_number, fragment_number,
             size_bytes)
"""
"""Built after the import; holds all that the totals of a tape need."""
