"""The journal's rows of images that are being written; all their SQL is here.

States of an attempt: ``writing`` -> ``committing``; then its rows go. States of an object:
``starting`` (an upload may exist that we do not know) -> ``uploading`` -> ``completing`` ->
``done``, or ``putting`` -> ``done`` for one that fits a single request.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from catalog.model import StorageClass
from connector.pool import names
from connector.pool.coding import Compression
from connector.pool.frames import FrameCode
from connector.pool.journal import Journal
from connector.pool.manifest import FragmentObject, fragment_from_json, fragment_to_json


class AttemptState(StrEnum):
    """How far an attempt is."""

    WRITING = "writing"
    COMMITTING = "committing"


class ObjectState(StrEnum):
    """How far one object of an attempt is."""

    STARTING = "starting"
    UPLOADING = "uploading"
    PUTTING = "putting"
    COMPLETING = "completing"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """What an attempt was begun with; a resumed one cuts its parts at the same places."""

    storage_class: StorageClass
    tags: tuple[tuple[str, str], ...]
    part_size: int
    fragment_size: int
    compression: Compression = Compression.NONE
    encrypted: bool = False
    frame_size: int = 0

    @property
    def code(self) -> FrameCode | None:
        """What is done to the bytes; None when they are stored as they are."""
        if self.compression is Compression.NONE and not self.encrypted:
            return None
        return FrameCode(
            compression=self.compression, encrypted=self.encrypted, frame_size=self.frame_size
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """An object as journaled. record is what is known of it once its last byte was seen."""

    number: int
    state: ObjectState
    upload_id: str | None
    offset: int
    start_state: bytes | None
    end_state: bytes | None
    record: FragmentObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRow:
    """A part's receipt, with the digests' states behind its last byte.

    size and crc64nvme are of what is stored. Of a coded part, plain and plain_crc64nvme are of the
    image's bytes in it, and last says whether its last frame is marked as the object's last.
    """

    number: int
    size: int
    etag: str
    crc64nvme: int
    image_state: bytes | None
    object_state: bytes | None
    plain: int | None = None
    plain_crc64nvme: int = 0
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt as journaled. name is the image's own, not the encoded one."""

    token: str
    name: str
    copy: int
    state: AttemptState
    request: WriteRequest
    manifest: bytes | None


class Attempts:
    """Reads and writes attempts in a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def begin(self, token: str, name: str, copy: int, request: WriteRequest) -> AttemptRow:
        """Journal a new attempt."""
        with self._journal.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, NULL)",
                (token, names.encode(name), copy, AttemptState.WRITING, _request_text(request)),
            )
        return AttemptRow(
            token=token,
            name=name,
            copy=copy,
            state=AttemptState.WRITING,
            request=request,
            manifest=None,
        )

    def find(self, name: str, copy: int) -> AttemptRow | None:
        """The attempt at this image and copy, if there is one."""
        with self._journal.transaction() as db:
            row = db.execute(
                "SELECT * FROM attempts WHERE name = ? AND copy = ?", (names.encode(name), copy)
            ).fetchone()
        return None if row is None else _attempt(row)

    def all(self) -> list[AttemptRow]:
        """Every attempt in the journal, in no particular order."""
        with self._journal.transaction() as db:
            rows = db.execute("SELECT * FROM attempts").fetchall()
        return [_attempt(row) for row in rows]

    def objects(self, token: str) -> list[ObjectRow]:
        """An attempt's objects in order."""
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT number, state, upload_id, offset, start_state, end_state, record"
                " FROM objects WHERE token = ? ORDER BY number",
                (token,),
            ).fetchall()
        return [_object(row) for row in rows]

    def parts(self, token: str, number: int) -> list[PartRow]:
        """The receipts of one object, in order."""
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT number, size, etag, crc64nvme, image_state, object_state,"
                " plain, plain_crc64nvme, last"
                " FROM parts LEFT JOIN coded_parts USING (token, object, number)"
                " WHERE token = ? AND object = ? ORDER BY number",
                (token, number),
            ).fetchall()
        return [
            PartRow(
                number=part,
                size=size,
                etag=etag,
                crc64nvme=int.from_bytes(crc, "big"),
                image_state=image_state,
                object_state=object_state,
                plain=plain,
                plain_crc64nvme=int.from_bytes(plain_crc or b"", "big"),
                last=bool(last),
            )
            for part, size, etag, crc, image_state, object_state, plain, plain_crc, last in rows
        ]

    def coded_parts(self, token: str, number: int) -> list[tuple[int, int]]:
        """Bytes of the image in each part of a coded object, and their CRC64NVME, in order.

        They are kept until the image is complete, when the receipts of the parts are gone.
        """
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT plain, plain_crc64nvme FROM coded_parts"
                " WHERE token = ? AND object = ? ORDER BY number",
                (token, number),
            ).fetchall()
        return [(plain, int.from_bytes(crc, "big")) for plain, crc in rows]

    def object_starting(
        self, token: str, number: int, *, offset: int, start_state: bytes | None
    ) -> None:
        """Intent: an upload for this object is about to be started. Forgets earlier parts."""
        with self._journal.transaction(durable=True) as db:
            for table in ("parts", "coded_parts"):
                db.execute(f"DELETE FROM {table} WHERE token = ? AND object = ?", (token, number))
            db.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, NULL, ?, ?, NULL, NULL)",
                (token, number, ObjectState.STARTING, offset, start_state),
            )

    def upload_started(self, token: str, number: int, upload_id: str) -> None:
        """Receipt: the object's upload."""
        with self._journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE objects SET state = ?, upload_id = ? WHERE token = ? AND number = ?",
                (ObjectState.UPLOADING, upload_id, token, number),
            )

    def part_confirmed(
        self, token: str, number: int, part: PartRow, *, durable: bool = False
    ) -> None:
        """Receipt of a part. Not forced to disk unless durable, which forces earlier ones too:
        a power cut costs the parts whose receipts it takes."""
        crc = part.crc64nvme.to_bytes(8, "big")
        states = (part.image_state, part.object_state)
        with self._journal.transaction(durable=durable) as db:
            db.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (token, number, part.number, part.size, part.etag, crc, *states),
            )
            if part.plain is not None:
                _add_coded(db, token, number, part)

    def object_ending(
        self,
        token: str,
        record: FragmentObject,
        state: ObjectState,
        end_state: bytes | None,
        *,
        coded: PartRow | None = None,
    ) -> None:
        """Intent: the object with this size and these digests is about to be made visible.

        coded: what is in a coded object that has no parts, because it fits one request.
        """
        with self._journal.transaction(durable=True) as db:
            if coded is not None:
                _add_coded(db, token, record.number - 1, coded)
            db.execute(
                "UPDATE objects SET state = ?, end_state = ?, record = ?"
                " WHERE token = ? AND number = ?",
                (state, end_state, _record_text(record), token, record.number - 1),
            )

    def object_done(self, token: str, record: FragmentObject) -> None:
        """Receipt: the object is visible; its parts are history."""
        number = record.number - 1
        with self._journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE objects SET state = ?, record = ? WHERE token = ? AND number = ?",
                (ObjectState.DONE, _record_text(record), token, number),
            )
            db.execute("DELETE FROM parts WHERE token = ? AND object = ?", (token, number))

    def committing(self, token: str, manifest: bytes) -> None:
        """Intent: this manifest is about to be put."""
        with self._journal.transaction(durable=True) as db:
            db.execute(
                "UPDATE attempts SET state = ?, manifest = ? WHERE token = ?",
                (AttemptState.COMMITTING, manifest, token),
            )

    def forget(self, token: str) -> None:
        """Drop an attempt that was cleaned away."""
        with self._journal.transaction(durable=True) as db:
            drop(db, token)


def drop(db: sqlite3.Connection, token: str) -> None:
    """Drop an attempt's rows, within the caller's transaction."""
    for table in ("parts", "coded_parts", "objects", "attempts"):
        db.execute(f"DELETE FROM {table} WHERE token = ?", (token,))


def _add_coded(db: sqlite3.Connection, token: str, number: int, part: PartRow) -> None:
    db.execute(
        "INSERT OR REPLACE INTO coded_parts VALUES (?, ?, ?, ?, ?, ?)",
        (
            token,
            number,
            part.number,
            part.plain,
            part.plain_crc64nvme.to_bytes(8, "big"),
            part.last,
        ),
    )


def _request_text(request: WriteRequest) -> str:
    return json.dumps(asdict(request))


def _record_text(record: FragmentObject) -> str:
    return json.dumps(fragment_to_json(record))


def _attempt(row: tuple[Any, ...]) -> AttemptRow:
    token, name, copy, state, text, manifest = row
    fields = json.loads(text)
    return AttemptRow(
        token=token,
        name=names.decode(name),
        copy=copy,
        state=AttemptState(state),
        request=WriteRequest(
            storage_class=StorageClass(fields["storage_class"]),
            tags=tuple((key, value) for key, value in fields["tags"]),
            part_size=fields["part_size"],
            fragment_size=fields["fragment_size"],
            compression=Compression(fields.get("compression", Compression.NONE)),
            encrypted=fields.get("encrypted", False),
            frame_size=fields.get("frame_size", 0),
        ),
        manifest=manifest,
    )


def _object(row: tuple[Any, ...]) -> ObjectRow:
    number, state, upload_id, offset, start_state, end_state, record = row
    return ObjectRow(
        number=number,
        state=ObjectState(state),
        upload_id=upload_id,
        offset=offset,
        start_state=start_state,
        end_state=end_state,
        record=None if record is None else fragment_from_json(json.loads(record)),
    )
