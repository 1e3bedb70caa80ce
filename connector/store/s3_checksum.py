"""Checksum headers of a body that is sent, and whether the store's answer confirms them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from awscrt import checksums

from catalog.errors import CorruptObject
from connector.store.body import crc64nvme, crc_from_text, crc_to_text, md5_of
from connector.store.interface import Part, PartChecksum
from connector.store.s3_facts import bare_etag


@dataclass(frozen=True, slots=True)
class Seal:
    """What a body must still be when it has arrived. md5 is set only where nothing better is."""

    crc64nvme: int
    md5: bytes | None

    def headers(self) -> dict[str, str]:
        """Parameters of PutObject and UploadPart by which the store checks the body."""
        if self.md5 is None:
            return {"ChecksumCRC64NVME": crc_to_text(self.crc64nvme)}
        return {"ContentMD5": base64.b64encode(self.md5).decode("ascii")}

    def confirm(self, answer: Mapping[str, Any], what: str) -> None:
        """Raise CorruptObject unless the answer says that the store has these bytes.

        With MD5 the store has compared the header itself (``probe`` made sure that it does); the
        ETag says it once more, where encryption does not make it something else.
        """
        if self.md5 is None:
            told = crc_from_text(answer.get("ChecksumCRC64NVME"))
            if told != self.crc64nvme:
                raise CorruptObject(f"{what}: the store confirms {told}, sent {self.crc64nvme}")
        elif not opaque_etag(answer) and bare_etag(answer.get("ETag")) != self.md5.hex():
            raise CorruptObject(
                f"{what}: the store has ETag {answer.get('ETag')}, sent MD5 {self.md5.hex()}"
            )


def seal(view: memoryview, kind: PartChecksum, crc: int) -> Seal:
    """Prepare to send a body whose CRC-64/NVME is crc.

    Where the store compares MD5 only, crc is compared here: else nobody would notice a buffer
    that changed since crc was computed. Raises CorruptObject.
    """
    if kind is PartChecksum.CRC64NVME:
        return Seal(crc, None)
    if crc64nvme(view) != crc:
        raise CorruptObject("the body does not have its checksum; it changed before it was sent")
    return Seal(crc, md5_of(view))


def opaque_etag(answer: Mapping[str, Any]) -> bool:
    """Whether encryption keeps the ETag from being an MD5. Source: S3 API, Object, ``ETag``."""
    encryption = answer.get("ServerSideEncryption")
    return encryption not in (None, "AES256") or bool(answer.get("SSECustomerAlgorithm"))


def joined_crc(parts: Sequence[Part]) -> int | None:
    """CRC-64/NVME of all parts together, from their own; None when one is not known."""
    joined = 0
    for part in parts:
        if part.crc64nvme is None:
            return None
        joined = int(checksums.combine_crc64nvme(joined, part.crc64nvme, part.size))
    return joined


def upload_etag(parts: Sequence[Part]) -> str | None:
    """The ETag of the object made from these parts, where their ETags are MD5s; else None.

    Source: S3 user guide, "Checking object integrity": MD5 of the parts' MD5s, dash, their number.
    """
    try:
        digests = [bytes.fromhex(part.etag) for part in parts]
    except ValueError:
        return None
    if any(len(digest) != 16 for digest in digests):
        return None
    return f"{md5_of(memoryview(b''.join(digests))).hex()}-{len(digests)}"
