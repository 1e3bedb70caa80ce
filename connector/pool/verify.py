"""Does the store still hold what the manifest says? To three depths, with the evidence.

``head``: every object is there, with its size, version and lock. ``checksum``: the store's own
full-object checksum equals ours. ``full``: every byte is read, decoded where it is coded, and
hashed, as it is stored and as the image's. A finding is a result, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from catalog.errors import (
    ConfigError,
    CorruptObject,
    ImageArchived,
    ImageDamaged,
    ImageErased,
    ObjectNotFound,
)
from catalog.model import NANOSECONDS
from connector.pool.context import PoolContext
from connector.pool.digest import Sha256
from connector.pool.manifest import FragmentObject, Manifest
from connector.pool.reader import ImageReader


class Depth(StrEnum):
    """How deep to look, and so what it costs: HEADs only, or a read of every byte."""

    HEAD = "head"
    CHECKSUM = "checksum"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. problems is empty when all is well; unknown says what could not be told."""

    depth: Depth
    problems: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Everything was looked at, and it is right."""
        return not self.problems and not self.unknown


def verify(context: PoolContext, manifest: Manifest, depth: Depth) -> Verification:
    """Compare one image with its manifest.

    An image that lies within tape files is verified by verifying those.
    """
    problems: list[str] = []
    unknown: list[str] = []
    for fragment in manifest.fragments:
        _verify_head(context, manifest, fragment, depth, problems, unknown)
    if depth is Depth.FULL and not problems:
        _verify_bytes(context, manifest, problems, unknown)
    return Verification(depth=depth, problems=tuple(problems), unknown=tuple(unknown))


def _verify_head(
    context: PoolContext,
    manifest: Manifest,
    fragment: FragmentObject,
    depth: Depth,
    problems: list[str],
    unknown: list[str],
) -> None:
    try:
        stored = context.store.stat(fragment.key, version_id=fragment.version_id)
    except ObjectNotFound:
        problems.append(f"{fragment.key} is not there")
        return
    if stored.size != fragment.stored_size:
        problems.append(f"{fragment.key} has {stored.size} bytes, not {fragment.stored_size}")
    until = manifest.retention.lock_until
    ended = until is None or until <= context.clock()
    if not ended and (stored.lock_until or 0) // NANOSECONDS < (until or 0) // NANOSECONDS:
        problems.append(f"{fragment.key} is locked for less than the manifest says")
    if manifest.retention.hold and not stored.hold:
        problems.append(f"{fragment.key} has lost its legal hold")
    if depth is not Depth.CHECKSUM:
        return
    if stored.crc64nvme is not None:
        if stored.crc64nvme != fragment.crc64nvme:
            problems.append(f"{fragment.key} has another CRC64NVME than the manifest")
    elif stored.etag != fragment.etag:
        problems.append(f"{fragment.key} has another ETag than the manifest")


def _verify_bytes(
    context: PoolContext, manifest: Manifest, problems: list[str], unknown: list[str]
) -> None:
    whole = Sha256()
    own = [Sha256() for _ in manifest.fragments]

    def tap(fragment: FragmentObject, stored: memoryview) -> None:
        own[fragment.number - 1].update(stored)

    try:
        for view in ImageReader(context, manifest).stream(tap=tap):
            whole.update(view)
    except (ImageArchived, ImageErased, ConfigError) as exc:
        unknown.append(f"cannot be read now: {exc.message}")
        return
    except (ImageDamaged, CorruptObject) as exc:
        problems.append(exc.message)
        return
    for fragment, digest in zip(manifest.fragments, own, strict=True):
        if digest.hexdigest() != fragment.sha256:
            problems.append(f"{fragment.key} hashes to {digest.hexdigest()}, not {fragment.sha256}")
    if manifest.fragments and whole.hexdigest() != manifest.sha256:
        problems.append(f"the image hashes to {whole.hexdigest()}, not {manifest.sha256}")
