"""What is passed over when a source begins again is compared with what is safe."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ImageDamaged
from connector.pool.coding import ClientKey, Coding, Compression
from connector.pool.digest import crc64
from connector.pool.skip import SafePart, Skipper
from tests.pool.support import FOREVER, NOTHING, open_pool, read_image, some_bytes, tiny_store

KEY = ClientKey(id="k", key=bytes(32))
CODINGS = {
    "plain": Coding(),
    "zstd": Coding(compression=Compression.ZSTD, frame_size=16),
    "sealed": Coding(client_key=KEY, frame_size=16),
}


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    start=st.integers(0, 150),
    pieces=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    flip=st.integers(0, 400),
)
def test_a_byte_that_differs_is_found_wherever_a_whole_part_is_passed_over(
    sizes: list[int], start: int, pieces: list[int], flip: int
) -> None:
    data = some_bytes(600)
    parts, end = [], 0
    for size in sizes:
        parts.append(SafePart(end, size, crc64(data[end : end + size])))
        end += size
    source = bytearray(data)
    source[flip] ^= 1
    compared = any(part.offset >= start and part.offset <= flip < part.end for part in parts)
    for told, bad in ((data, False), (bytes(source), compared)):
        skipper = Skipper("a", parts, start=start, end=end)
        assert skipper.left == max(0, end - start)
        at, given_back = start, b""
        try:
            for size in itertools.cycle(pieces):
                if at >= len(told):
                    break
                given_back += bytes(skipper.feed(told[at : at + size]))
                at += size
        except ImageDamaged:
            assert bad
            continue
        assert not bad
        assert given_back == told[max(end, start) :]


@pytest.mark.parametrize("coding", list(CODINGS))
@pytest.mark.parametrize("cut", [None, 300])
def test_a_resumed_image_takes_only_the_source_that_it_was_begun_from(
    tmp_path: Path, coding: str, cut: int | None
) -> None:
    store, data = tiny_store(), some_bytes(4000)
    with open_pool(store, tmp_path, coding=CODINGS[coding]) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:cut])
        if cut is not None:
            writer.cut()
            writer.write(data[cut:3000])
        safe = writer.durable()
        writer.release()
    assert safe > 2000
    for at in (0, 150, 299, 310, safe - 1):
        other = bytearray(data)
        other[at] ^= 1
        with open_pool(store, tmp_path, coding=CODINGS[coding]) as pool:
            writer = pool.write_image("a", 1)
            assert writer.offset == safe
            with pytest.raises(ImageDamaged, match=r"bytes \d+ to \d+ of the source"):
                writer.skipper(0).feed(bytes(other))
            writer.release()
    with open_pool(store, tmp_path, coding=CODINGS[coding]) as pool:
        writer = pool.write_image("a", 1)
        skipper = writer.skipper(0)
        for low in range(0, len(data), 70):
            writer.write(skipper.feed(data[low : low + 70]))
        assert skipper.left == 0
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data


def test_nothing_is_waited_for_where_nothing_is_passed_over(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(300))
        skipper = writer.skipper(writer.offset)
        assert skipper.left == 0
        assert bytes(skipper.feed(b"new")) == b"new"
        pool.abort(writer)
