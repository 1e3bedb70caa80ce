"""The manifest: what a committed copy is made of, as JSON in the bucket.

Written last and create-only, it is the commit. Field by field: docs/format.md, "Manifest".
"""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.errors import CorruptObject, NameInvalid
from catalog.model import (
    LockMode,
    ScheduleType,
    StorageClass,
    StoredFragment,
    TapePlace,
    from_iso,
    iso,
)
from connector.pool import names
from connector.pool.coding import CIPHER, LARGEST_FRAME, Compression
from connector.pool.digest import crc64_text, crc64_value

FORMAT = "tapelift-image/1"
CODED_FORMAT = "tapelift-image/2"
"""Of images whose fragments are compressed or encrypted, so that a program that cannot decode them
says so instead of giving away what it finds."""
CEILING = 64 * 1024 * 1024
"""Largest manifest that is read, in bytes: an image of 5 TiB needs about 4 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentObject:
    """One object of a copy. number counts from 1; offset and size are bytes within the copy.

    part_crc64nvme: the checksum of each run of part_size bytes of the object (the last is
    shorter), so that any range can be verified. crc64nvme is the whole object's, confirmed by the
    store when store_checksum says CRC64NVME; with MD5 the store confirmed each part's MD5.

    Of a coded fragment all digests and checksums are of the object as it is stored, whose parts
    have sizes of their own: part_stored as they lie in the store, part_plain of what is in them.
    """

    number: int
    key: str
    version_id: str | None
    offset: int
    size: int
    sha256: str
    crc64nvme: int
    store_checksum: str
    etag: str
    storage_class: StorageClass
    part_size: int
    part_crc64nvme: tuple[int, ...]
    part_plain: tuple[int, ...] = ()
    part_stored: tuple[int, ...] = ()

    @property
    def coded(self) -> bool:
        """Whether the object holds frames instead of the image's bytes."""
        return bool(self.part_stored)

    @property
    def stored_size(self) -> int:
        """Bytes of the object in the store."""
        return sum(self.part_stored) if self.part_stored else self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedAs:
    """How an image's fragments are coded. key is the object that holds its key, if encrypted."""

    compression: Compression
    frame_size: int
    key: str | None

    @property
    def encrypted(self) -> bool:
        """Whether the image can be read only with its key."""
        return self.key is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an image came from. Times are UTC nanoseconds."""

    product: str | None = None
    client: str | None = None
    policy: str | None = None
    schedule: str | None = None
    schedule_type: ScheduleType | None = None
    backup_time: int | None = None
    copy_number: int | None = None
    places: tuple[TapePlace, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long an image is kept. expires_at is the product's; lock_until is Object Lock's."""

    expires_at: int | None = None
    expires_infinite: bool = False
    lock_mode: LockMode = LockMode.NONE
    lock_until: int | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """A run of an image that lies inside a multiplexed tape file, which is an image of its own.

    image and copy name that tape file in the pool; size is the run's bytes, if known.
    """

    image: str
    copy: int
    fragment_number: int
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A committed copy of an image.

    Either fragments hold its bytes, or within says in which tape files they are interleaved; then
    sha256 is None, for nobody has seen the image's bytes apart. blocks: the sizes of the tape's
    records as runs of (size, count), where they matter for writing the tape again. gaps: byte
    ranges (offset, size) that could not be read; an image that has any is damaged, never whole.
    """

    name: str
    copy: int
    token: str
    created_at: int
    writer: str
    size: int | None
    sha256: str | None
    fragments: tuple[FragmentObject, ...]
    origin: Origin
    retention: Retention
    within: tuple[Within, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    encryption: str = "none"
    compression: str = "none"
    coding: CodedAs | None = None

    @property
    def key(self) -> str:
        """The manifest's own key."""
        return names.manifest_key(self.name, self.copy)

    @property
    def stored_size(self) -> int:
        """Bytes of the fragments in the store: what is billed; 0 for an image in tape files."""
        return sum(part.stored_size for part in self.fragments)

    @property
    def storage_class(self) -> StorageClass | None:
        """The class of the image's objects; None when it has none of its own (``within``)."""
        return self.fragments[0].storage_class if self.fragments else None

    @property
    def stored_fragments(self) -> tuple[StoredFragment, ...]:
        """The fragments as the ledger names them."""
        return tuple(
            StoredFragment(
                key=part.key,
                version_id=part.version_id,
                size=part.stored_size,
                sha256=part.sha256,
                crc64nvme=crc64_text(part.crc64nvme),
            )
            for part in self.fragments
        )

    def to_json(self) -> bytes:
        """UTF-8 JSON, readable by people: one fact per line."""
        fields: dict[str, Any] = {
            "format": FORMAT if self.coding is None else CODED_FORMAT,
            "state": "damaged" if self.gaps else "complete",
            "name": _printable(self.name),
            "key_name": names.encode(self.name),
            "copy": self.copy,
            "token": self.token,
            "created_at": iso(self.created_at),
            "writer": self.writer,
            "size": self.size,
            "sha256": self.sha256,
            "fragments": [fragment_to_json(part) for part in self.fragments],
            "within": [_within_json(part) for part in self.within],
            "origin": _origin_json(self.origin),
            "retention": {
                "expires_at": iso(self.retention.expires_at),
                "expires_infinite": self.retention.expires_infinite,
                "lock_mode": self.retention.lock_mode,
                "lock_until": iso(self.retention.lock_until),
                "hold": self.retention.hold,
            },
            "blocks": self.blocks,
            "gaps": self.gaps,
            "encryption": self.encryption,
            "compression": self.compression,
        }
        if self.coding is not None:
            fields["coding"] = _coding_json(self.coding)
        return json.dumps(fields, ensure_ascii=False, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Manifest:
        """Read a manifest; unknown fields are ignored, so that later versions can add some.

        Raises:
            CorruptObject: this is not a manifest of a version that we know.
        """
        try:
            fields = json.loads(data)
            if fields["format"] not in (FORMAT, CODED_FORMAT):
                raise CorruptObject(
                    f"{where} has the format {fields['format']!r}, and this program reads"
                    f" {FORMAT} and {CODED_FORMAT}",
                    hint="use a newer Tapelift",
                )
            manifest = _from_fields(fields)
            _check(manifest)
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError, NameInvalid) as exc:
            raise CorruptObject(
                f"{where} is not a manifest ({type(exc).__name__}: {exc})",
                hint="compare it with its earlier version or with the ledger",
            ) from exc


def _printable(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return name


def fragment_to_json(part: FragmentObject) -> dict[str, Any]:
    """A fragment as the manifest writes it."""
    fields: dict[str, Any] = {
        "number": part.number,
        "key": part.key,
        "version_id": part.version_id,
        "offset": part.offset,
        "size": part.size,
        "sha256": part.sha256,
        "crc64nvme": crc64_text(part.crc64nvme),
        "store_checksum": part.store_checksum,
        "etag": part.etag,
        "storage_class": part.storage_class,
        "part_size": part.part_size,
        "part_crc64nvme": _words_text(part.part_crc64nvme),
    }
    if part.coded:
        fields["stored_size"] = part.stored_size
        fields["part_plain"] = _words_text(part.part_plain)
        fields["part_stored"] = _words_text(part.part_stored)
    return fields


def _words_text(values: tuple[int, ...]) -> str:
    return base64.b64encode(b"".join(value.to_bytes(8, "big") for value in values)).decode()


def _words(text: str) -> tuple[int, ...]:
    data = base64.b64decode(text, validate=True)
    if len(data) % 8:
        raise ValueError(f"a list of {len(data)} bytes, not a multiple of 8")
    return struct.unpack(f">{len(data) // 8}Q", data)


def _coding_json(coding: CodedAs) -> dict[str, Any]:
    return {
        "compression": coding.compression,
        "encryption": CIPHER if coding.encrypted else "none",
        "frame_size": coding.frame_size,
        "key": coding.key,
    }


def _coding(fields: Mapping[str, Any] | None) -> CodedAs | None:
    if fields is None:
        return None
    if fields["encryption"] != (CIPHER if fields["key"] is not None else "none"):
        raise ValueError(f"the encryption {fields['encryption']!r} is not known")
    return CodedAs(
        compression=Compression(fields["compression"]),
        frame_size=int(fields["frame_size"]),
        key=fields["key"],
    )


def _within_json(part: Within) -> dict[str, Any]:
    return {
        "image": _printable(part.image),
        "key_name": names.encode(part.image),
        "copy": part.copy,
        "fragment_number": part.fragment_number,
        "size": part.size,
    }


def _origin_json(origin: Origin) -> dict[str, Any]:
    fields = dataclasses.asdict(origin)
    fields["backup_time"] = iso(origin.backup_time)
    return fields


def _from_fields(fields: Mapping[str, Any]) -> Manifest:
    retention = fields["retention"]
    return Manifest(
        name=names.decode(fields["key_name"]),
        copy=int(fields["copy"]),
        token=str(fields["token"]),
        created_at=from_iso(fields["created_at"]),
        writer=str(fields["writer"]),
        size=fields["size"],
        sha256=fields["sha256"],
        fragments=tuple(fragment_from_json(part) for part in fields["fragments"]),
        within=tuple(
            Within(
                image=names.decode(part["key_name"]),
                copy=part["copy"],
                fragment_number=part["fragment_number"],
                size=part["size"],
            )
            for part in fields.get("within", ())
        ),
        origin=_origin(fields["origin"]),
        retention=Retention(
            expires_at=_time(retention["expires_at"]),
            expires_infinite=bool(retention["expires_infinite"]),
            lock_mode=LockMode(retention["lock_mode"]),
            lock_until=_time(retention["lock_until"]),
            hold=bool(retention["hold"]),
        ),
        blocks=tuple((int(size), int(count)) for size, count in fields.get("blocks", ())),
        gaps=tuple((int(offset), int(size)) for offset, size in fields.get("gaps", ())),
        encryption=fields.get("encryption", "none"),
        compression=fields.get("compression", "none"),
        coding=_coding(fields.get("coding")),
    )


def fragment_from_json(fields: Mapping[str, Any]) -> FragmentObject:
    """Read ``fragment_to_json``; ValueError, KeyError or TypeError when it is not one."""
    return FragmentObject(
        number=int(fields["number"]),
        key=str(fields["key"]),
        version_id=fields["version_id"],
        offset=int(fields["offset"]),
        size=int(fields["size"]),
        sha256=str(fields["sha256"]),
        crc64nvme=crc64_value(fields["crc64nvme"]),
        store_checksum=str(fields["store_checksum"]),
        etag=str(fields["etag"]),
        storage_class=StorageClass(fields["storage_class"]),
        part_size=int(fields["part_size"]),
        part_crc64nvme=_words(fields["part_crc64nvme"]),
        part_plain=_words(fields.get("part_plain", "")),
        part_stored=_words(fields.get("part_stored", "")),
    )


def _origin(fields: Mapping[str, Any]) -> Origin:
    known = {field.name for field in dataclasses.fields(Origin)}
    values = {key: value for key, value in fields.items() if key in known}
    kind = values.get("schedule_type")
    values["schedule_type"] = ScheduleType(kind) if kind is not None else None
    values["backup_time"] = _time(values.get("backup_time"))
    values["places"] = tuple(TapePlace(**place) for place in values.get("places", ()))
    values["problems"] = tuple(values.get("problems", ()))
    values["notes"] = tuple(values.get("notes", ()))
    return Origin(**values)


def _time(text: str | None) -> int | None:
    return None if text is None else from_iso(text)


def _check(manifest: Manifest) -> None:
    """The fragments must be the image, without gap or overlap; a reader relies on it."""
    offset = 0
    for number, part in enumerate(manifest.fragments, start=1):
        if (part.number, part.offset) != (number, offset) or part.part_size < 1:
            raise ValueError(f"fragment {part.number} does not follow fragment {number - 1}")
        if part.coded != (manifest.coding is not None):
            raise ValueError(f"fragment {part.number} is not coded as the image is")
        if part.coded:
            _check_coded(part, manifest.coding)
        elif len(part.part_crc64nvme) != -(-part.size // part.part_size):
            raise ValueError(f"fragment {part.number} has another number of part checksums")
        offset += part.size
    if manifest.fragments and offset != manifest.size:
        raise ValueError(f"the fragments have {offset} bytes and the image {manifest.size}")
    if bool(manifest.fragments) == bool(manifest.within):
        raise ValueError("an image has either fragments or a place within tape files")


def _check_coded(part: FragmentObject, coding: CodedAs | None) -> None:
    """Parts begin and end with frames, and frames are whole but for a fragment's last."""
    assert coding is not None
    if not 1 <= coding.frame_size <= LARGEST_FRAME:
        raise ValueError(f"frames of {coding.frame_size} bytes")
    if not len(part.part_crc64nvme) == len(part.part_plain) == len(part.part_stored):
        raise ValueError(f"fragment {part.number} has lists of its parts of several lengths")
    if sum(part.part_plain) != part.size or 0 in part.part_stored:
        raise ValueError(f"the parts of fragment {part.number} are not the fragment")
    if any(plain == 0 or plain % coding.frame_size for plain in part.part_plain[:-1]):
        raise ValueError(f"a part of fragment {part.number} ends within a frame")
