"""Extents together are exactly the range that was asked for."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import Unsupported
from catalog.model import StorageClass
from connector.pool import Manifest
from connector.pool.extents import Extent, extents
from connector.pool.manifest import FragmentObject, Origin, Retention, Within
from tests.pool.support import open_pool, some_bytes, store_image, tiny_store


def image(sizes: list[int], gaps: list[tuple[int, int]]) -> Manifest:
    fragments: list[FragmentObject] = []
    for number, size in enumerate(sizes, start=1):
        fragments.append(
            FragmentObject(
                number=number,
                key=f"k{number}",
                version_id=None,
                offset=sum(sizes[: number - 1]),
                size=size,
                sha256="",
                crc64nvme=0,
                store_checksum="",
                etag="",
                storage_class=StorageClass.GLACIER if number % 2 else StorageClass.STANDARD,
                part_size=1 << 30,
                part_crc64nvme=(),
            )
        )
    return Manifest(
        name="a",
        copy=1,
        token="t",
        created_at=0,
        writer="",
        size=sum(sizes),
        sha256=None,
        fragments=tuple(fragments),
        origin=Origin(),
        retention=Retention(),
        gaps=tuple(gaps),
    )


def test_an_extent_ends_where_its_fragment_or_a_hole_ends() -> None:
    found = [
        (one.offset, one.length, one.hole, one.fragment)
        for one in extents(image([100, 50, 100], [(90, 20), (200, 10)]), 10, 215)
    ]
    assert found == [
        (10, 80, False, 1),
        (90, 10, True, 1),
        (100, 10, True, 2),
        (110, 40, False, 2),
        (150, 50, False, 3),
        (200, 10, True, 3),
        (210, 15, False, 3),
    ]


def test_the_class_is_that_of_the_fragment() -> None:
    found = list(extents(image([10, 10], [])))
    assert [one.storage_class for one in found] == [StorageClass.GLACIER, StorageClass.STANDARD]


@pytest.mark.parametrize(("offset", "length"), [(250, 5), (10**15, None), (7, 0), (250, None)])
def test_nothing_lies_beyond_the_end_or_in_nothing(offset: int, length: int | None) -> None:
    assert list(extents(image([100, 50, 100], []), offset, length)) == []
    assert list(extents(image([0], []), offset, length)) == []


def test_a_negative_range_is_a_mistake_at_once() -> None:
    with pytest.raises(ValueError, match="range"):
        extents(image([10], []), -1)
    with pytest.raises(ValueError, match="range"):
        extents(image([10], []), 0, -1)


def test_an_image_within_tape_files_has_no_extents() -> None:
    part = Within(image="tape-file", copy=1, fragment_number=1, size=None)
    with pytest.raises(Unsupported, match="tape-file"):
        extents(dataclasses.replace(image([1], []), fragments=(), within=(part,)))


def test_a_stored_image_is_mapped_by_its_manifest(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        manifest = store_image(pool, "a", some_bytes(600))
        assert [(one.offset, one.length) for one in extents(manifest)] == [
            (0, 256),
            (256, 256),
            (512, 88),
        ]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    gaps=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), max_size=6),
    offset=st.integers(0, 260),
    length=st.none() | st.integers(0, 260),
)
def test_extents_tile_the_range_and_say_of_each_byte_whether_it_is_a_hole(
    sizes: list[int], gaps: list[tuple[int, int]], offset: int, length: int | None
) -> None:
    manifest = image(sizes, gaps)
    end = sum(sizes) if length is None else min(sum(sizes), offset + length)
    found: list[Extent] = list(extents(manifest, offset, length))
    at = offset
    for one in found:
        assert one.offset == at
        assert one.length > 0
        at += one.length
        part = manifest.fragments[one.fragment - 1]
        assert part.offset <= one.offset
        assert at <= part.offset + part.size
        for byte in range(one.offset, at):
            assert one.hole == any(start <= byte < start + size for start, size in gaps)
    assert at == max(offset, end)
    for one, following in itertools.pairwise(found):
        assert (one.hole, one.fragment) != (following.hole, following.fragment)
