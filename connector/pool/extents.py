"""Which bytes of an image lie where: runs that one fragment holds, and holes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.errors import Unsupported
from catalog.model import StorageClass
from connector.pool.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of an image, in bytes. hole: it could not be read from tape and is filled with zeros.

    fragment counts from 1; storage_class is that of its object as written.
    """

    offset: int
    length: int
    hole: bool
    fragment: int
    storage_class: StorageClass


def extents(manifest: Manifest, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
    """Yield the extents of a range in order: together exactly the range, up to the image's end.

    An extent ends where its fragment or a hole ends. length None: to the end.

    Raises:
        Unsupported: the image lies within tape files; those have extents.
        ValueError: offset or length is negative.
    """
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"a range of {length} bytes at {offset}")
    if manifest.within:
        raise Unsupported(
            f"image {manifest.name!r} lies within tape files and has no bytes of its own",
            hint=f"ask for the map of {manifest.within[0].image!r}",
        )
    return _walk(manifest, offset, manifest.size or 0 if length is None else offset + length)


def _walk(manifest: Manifest, at: int, end: int) -> Iterator[Extent]:
    holes = _merged(manifest.gaps)
    starts = [start for start, _ in holes]
    parts = manifest.fragments
    first = max(0, bisect_right(parts, at, key=lambda part: part.offset) - 1)
    for part in parts[first:]:
        stop = min(end, part.offset + part.size)
        while at < stop:
            index = bisect_right(starts, at) - 1
            hole = index >= 0 and at < holes[index][1]
            if hole:
                edge = holes[index][1]
            else:
                edge = starts[index + 1] if index + 1 < len(starts) else stop
            length = min(stop, edge) - at
            yield Extent(
                offset=at,
                length=length,
                hole=hole,
                fragment=part.number,
                storage_class=part.storage_class,
            )
            at += length
        if at >= end:
            return


def _merged(gaps: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Gaps as (start, end), in order, those that touch or overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, size in sorted(gap for gap in gaps if gap[1] > 0):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], start + size))
        else:
            merged.append((start, start + size))
    return merged
