"""The manifest: what a committed copy is made of, as JSON in the bucket.

Written last and create-only, it is the commit. Field by field: docs/format.md, "Manifest".
"""

from __future__ import annotations

import base64
import dataclasses
import json
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
from connector.pool.digest import crc64_text, crc64_value

FORMAT = "tapelift-image/1"
CEILING = 64 * 1024 * 1024
"""Largest manifest that is read, in bytes: an image of 5 TiB needs about 4 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentObject:
    """One object of a copy. number counts from 1; offset and size are bytes within the copy.

    part_crc64nvme: the checksum of each run of part_size bytes of the object (the last is
    shorter), so that any range can be verified. crc64nvme is the whole object's, confirmed by the
    store when store_checksum says CRC64NVME; with MD5 the store confirmed each part's MD5.
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

    @property
    def key(self) -> str:
        """The manifest's own key."""
        return names.manifest_key(self.name, self.copy)

    @property
    def stored_size(self) -> int:
        """Bytes of the fragments in the store: what is billed; 0 for an image in tape files."""
        return sum(part.size for part in self.fragments)

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
                size=part.size,
                sha256=part.sha256,
                crc64nvme=crc64_text(part.crc64nvme),
            )
            for part in self.fragments
        )

    def to_json(self) -> bytes:
        """UTF-8 JSON, readable by people: one fact per line."""
        fields = {
            "format": FORMAT,
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
        return json.dumps(fields, ensure_ascii=False, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Manifest:
        """Read a manifest; unknown fields are ignored, so that later versions can add some.

        Raises:
            CorruptObject: this is not a manifest of a version that we know.
        """
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise CorruptObject(
                    f"{where} has the format {fields['format']!r}, and this program reads {FORMAT}",
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
    crcs = b"".join(crc.to_bytes(8, "big") for crc in part.part_crc64nvme)
    return {
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
        "part_crc64nvme": base64.b64encode(crcs).decode(),
    }


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
    )


def fragment_from_json(fields: Mapping[str, Any]) -> FragmentObject:
    """Read ``fragment_to_json``; ValueError, KeyError or TypeError when it is not one."""
    crcs = base64.b64decode(fields["part_crc64nvme"], validate=True)
    if len(crcs) % 8:
        raise ValueError(f"part_crc64nvme has {len(crcs)} bytes, not a multiple of 8")
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
        part_crc64nvme=tuple(
            int.from_bytes(crcs[at : at + 8], "big") for at in range(0, len(crcs), 8)
        ),
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
        if len(part.part_crc64nvme) != -(-part.size // part.part_size):
            raise ValueError(f"fragment {part.number} has another number of part checksums")
        offset += part.size
    if manifest.fragments and offset != manifest.size:
        raise ValueError(f"the fragments have {offset} bytes and the image {manifest.size}")
    if bool(manifest.fragments) == bool(manifest.within):
        raise ValueError("an image has either fragments or a place within tape files")
