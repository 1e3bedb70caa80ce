"""Compressed and encrypted images: the same bytes come back, and whatever was altered is found."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError, CorruptObject, ImageDamaged, PoolError
from catalog.ledger import Ledger
from connector.pool import Pool, PoolConfig
from connector.pool.coding import ClientKey, Coding, Compression
from connector.pool.config import MAX_PARTS
from connector.pool.digest import crc64
from connector.pool.frames import HEAD, LAST, FrameCode, FrameCoder
from connector.pool.manifest import Manifest
from connector.pool.verify import Depth
from connector.store.memory import MemoryStore
from tests.pool.support import (
    FOREVER,
    NOTHING,
    open_pool,
    read_image,
    some_bytes,
    store_image,
    tiny_config,
    tiny_store,
)

KEY = ClientKey(id="k1", key=bytes(range(32)))
FRAME = 16

ZSTD = Coding(compression=Compression.ZSTD, frame_size=FRAME)
SEALED = Coding(client_key=KEY, frame_size=FRAME)
BOTH = Coding(compression=Compression.ZSTD, client_key=KEY, frame_size=FRAME)
CODINGS = pytest.mark.parametrize("coding", [ZSTD, SEALED, BOTH], ids=["zstd", "sealed", "both"])
SIZES = [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 320, 511, 512, 513, 1000]


def mixed_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes of which some compress well and some badly."""
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        run = rng.randrange(1, 90)
        out += rng.choice([bytes(run), rng.randbytes(run), b"tapelift " * (run // 9 + 1)])
    return bytes(out[:size])


def stored_bytes(store: MemoryStore, manifest: Manifest, number: int) -> bytes:
    """A fragment's object. number counts from 1."""
    part = manifest.fragments[number - 1]
    return store.read(part.key, ceiling=1 << 20, version_id=part.version_id)


# --- what is written comes back ---------------------------------------------------------------


@CODINGS
@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_any_size_comes_back(tmp_path: Path, coding: Coding, size: int) -> None:
    store, data = tiny_store(), mixed_bytes(size)
    with open_pool(store, tmp_path, coding=coding) as pool:
        manifest = store_image(pool, "a", data)
        assert (manifest.size, manifest.sha256) == (size, hashlib.sha256(data).hexdigest())
        assert read_image(pool, "a") == data
        assert all(pool.verify(manifest, depth).ok for depth in Depth)
    assert manifest.stored_size == sum(
        len(stored_bytes(store, manifest, part.number)) for part in manifest.fragments
    )
    for part in manifest.fragments:
        assert hashlib.sha256(stored_bytes(store, manifest, part.number)).hexdigest() == part.sha256
        assert crc64(stored_bytes(store, manifest, part.number)) == part.crc64nvme
    assert list(store.uploads("")) == []


@settings(max_examples=50, deadline=None)
@given(
    pieces=st.lists(
        st.binary(max_size=200)
        | st.integers(0, 900).map(bytes)
        | st.integers(0, 99).map(mixed_bytes),
        max_size=12,
    ),
    coding=st.sampled_from([ZSTD, SEALED, BOTH]),
    frame=st.integers(1, 40),
    part=st.integers(1, 90),
    parts=st.integers(1, 5),
    cuts=st.sets(st.integers(0, 11)),
)
def test_however_a_stream_arrives_and_is_cut_the_image_is_its_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[bytes],
    coding: Coding,
    frame: int,
    part: int,
    parts: int,
    cuts: set[int],
) -> None:
    config = tiny_config(part, part * parts)
    coding = replace(coding, frame_size=frame)
    folder = tmp_path_factory.mktemp("pool")
    with open_pool(tiny_store(), folder, config=config, coding=coding) as pool:
        writer = pool.write_image("a", 1)
        for at, piece in enumerate(pieces):
            writer.write(piece)
            if at in cuts:
                writer.cut()
        data = b"".join(pieces)
        assert writer.offset == len(data)
        manifest = writer.close(origin=NOTHING, retention=FOREVER)
        assert manifest.sha256 == hashlib.sha256(data).hexdigest()
        again = Manifest.from_json(manifest.to_json(), where="here")
        assert (again.fragments, again.coding) == (manifest.fragments, manifest.coding)
        assert read_image(pool, "a") == data
        reader = pool.open_image(manifest)
        rng = random.Random(len(data))
        for _ in range(5):
            low = rng.randrange(len(data) + 2)
            size = rng.randrange(100)
            assert reader.read(low, size) == data[low : low + size]
            streamed = b"".join(bytes(view) for view in reader.stream(low, size))
            assert streamed == data[low : low + size]
        assert pool.verify(manifest, Depth.FULL).ok


@CODINGS
def test_parts_keep_the_store_s_limits_whatever_the_data_is_like(
    tmp_path: Path, coding: Coding
) -> None:
    store = MemoryStore(smallest_part=64)  # refuses a short part that is not the last
    config = tiny_config(64, 100_000)
    for data in (bytes(50_000), some_bytes(20_000), mixed_bytes(30_000)):
        with open_pool(store, tmp_path, config=config, coding=coding) as pool:
            name = f"{data[:4]!r}"
            manifest = store_image(pool, name, data)
            assert read_image(pool, name) == data
            assert len(manifest.fragments[0].part_stored) > 3


def test_what_compresses_takes_less_room(tmp_path: Path) -> None:
    data = b"the same words again and again " * 1000
    coding = Coding(compression=Compression.ZSTD, frame_size=4096)
    config = tiny_config(8192, 16384)
    with open_pool(tiny_store(), tmp_path, config=config, coding=coding) as pool:
        manifest = store_image(pool, "a", data)
        assert manifest.stored_size < manifest.size // 20
        assert read_image(pool, "a") == data


def test_a_pool_without_coding_writes_the_manifest_that_it_always_wrote(tmp_path: Path) -> None:
    with open_pool(tiny_store(), tmp_path, coding=Coding()) as pool:
        text = store_image(pool, "a", some_bytes(600)).to_json()
    assert b'"format": "tapelift-image/1"' in text
    for field in (b"coding", b"part_plain", b"part_stored", b"stored_size"):
        assert field not in text


def test_every_image_is_read_as_it_was_written_whatever_the_pool_does_now(tmp_path: Path) -> None:
    store, data = tiny_store(), mixed_bytes(700)
    codings = {"plain": Coding(), "zstd": ZSTD, "sealed": SEALED, "both": BOTH}
    for name, coding in codings.items():
        with open_pool(store, tmp_path, coding=coding) as pool:
            store_image(pool, name, data)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        for name in codings:
            assert read_image(pool, name) == data


def test_the_ledger_names_stored_sizes_and_the_image_s_own(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path / "ledger"))
    with open_pool(tiny_store(), tmp_path, ledger=ledger, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(100))
        pool.flush()
    (fact,) = ledger.facts()
    assert fact.size == 100
    assert sum(part.size for part in fact.fragments) == manifest.stored_size > 100


# --- standard tools ---------------------------------------------------------------------------


def test_the_zstd_command_reads_each_fragment_by_itself(tmp_path: Path) -> None:
    store, data = tiny_store(), mixed_bytes(900)
    with open_pool(store, tmp_path, coding=ZSTD) as pool:
        manifest = store_image(pool, "a", data)
        empty = store_image(pool, "empty", b"")
    for part in manifest.fragments:
        plain = data[part.offset : part.offset + part.size]
        assert unzstd(stored_bytes(store, manifest, part.number)) == plain
    assert unzstd(stored_bytes(store, empty, 1)) == b""


def unzstd(data: bytes) -> bytes:
    """What ``zstd -dc`` makes of an object; the library where there is no such command."""
    try:
        done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True)
        return done.stdout
    except FileNotFoundError:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        return reader.read()


@pytest.mark.parametrize("coding", [SEALED, BOTH], ids=["sealed", "both"])
@pytest.mark.parametrize("size", [0, 256, 900])
def test_the_program_of_the_format_s_page_decrypts_an_image(
    tmp_path: Path, coding: Coding, size: int
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    store, data = tiny_store(), mixed_bytes(size)
    with open_pool(store, tmp_path, coding=coding) as pool:
        manifest = store_image(pool, "a", data)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for part in manifest.fragments:
        name = part.key.rpartition("/")[2]
        (stranger / name).write_bytes(stored_bytes(store, manifest, part.number))
    assert manifest.coding is not None
    (stranger / "key.json").write_bytes(store.read(str(manifest.coding.key), ceiling=10_000))
    (stranger / "manifest.json").write_bytes(store.read(manifest.key, ceiling=100_000))
    (stranger / "master.hex").write_text(KEY.key.hex())
    (stranger / "decrypt.py").write_text(program)
    words = [sys.executable, "-I", "decrypt.py"]
    done = subprocess.run(words, cwd=stranger, capture_output=True, check=True)
    plain = done.stdout if coding is SEALED else unzstd(done.stdout)
    assert plain == data


# --- what was altered is found ----------------------------------------------------------------


def forge(store: MemoryStore, manifest: Manifest, number: int, data: bytes) -> Manifest:
    """Put other bytes under a fragment's key, and make the manifest's checksums agree."""
    part = manifest.fragments[number - 1]
    stored = store.put(part.key, data)
    starts = [sum(part.part_stored[:at]) for at in range(len(part.part_stored))]
    pieces = [data[at : at + size] for at, size in zip(starts, part.part_stored, strict=True)]
    forged = replace(
        part,
        version_id=stored.version_id,
        sha256=hashlib.sha256(data).hexdigest(),
        crc64nvme=crc64(data),
        part_crc64nvme=tuple(map(crc64, pieces)),
    )
    fragments = list(manifest.fragments)
    fragments[number - 1] = forged
    return replace(manifest, fragments=tuple(fragments))


def whole(pool: Pool, manifest: Manifest) -> bytes:
    return b"".join(bytes(view) for view in pool.open_image(manifest).stream())


@CODINGS
@settings(max_examples=15, deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_bit_that_is_flipped_is_found_by_the_part_s_checksum(
    tmp_path_factory: pytest.TempPathFactory, coding: Coding, at: int, bit: int
) -> None:
    store, data = tiny_store(), mixed_bytes(700)
    with open_pool(store, tmp_path_factory.mktemp("p"), coding=coding) as pool:
        manifest = store_image(pool, "a", data)
        broken = bytearray(stored_bytes(store, manifest, 2))
        broken[at % len(broken)] ^= 1 << bit
        store.put(manifest.fragments[1].key, bytes(broken))
        with pytest.raises(ImageDamaged, match="do not match their checksum"):
            whole(pool, manifest)
        assert not pool.verify(manifest, Depth.CHECKSUM).ok
        assert not pool.verify(manifest, Depth.FULL).ok


@settings(max_examples=25, deadline=None)
@given(coding=st.sampled_from([SEALED, BOTH]), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_who_alters_checksums_too_cannot_alter_an_encrypted_image(
    tmp_path_factory: pytest.TempPathFactory, coding: Coding, at: int, bit: int
) -> None:
    store, data = tiny_store(), mixed_bytes(700)
    with open_pool(store, tmp_path_factory.mktemp("p"), coding=coding) as pool:
        manifest = store_image(pool, "a", data)
        broken = bytearray(stored_bytes(store, manifest, 2))
        broken[at % len(broken)] ^= 1 << bit
        forged = forge(store, manifest, 2, bytes(broken))
        with pytest.raises(ImageDamaged, match="from byte"):
            whole(pool, forged)
        assert not pool.verify(forged, Depth.FULL).ok


@settings(max_examples=25, deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_an_altered_zstd_frame_gives_the_image_or_damage_and_never_another_image(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    store, data = tiny_store(), mixed_bytes(700)
    with open_pool(store, tmp_path_factory.mktemp("p"), coding=ZSTD) as pool:
        manifest = store_image(pool, "a", data)
        broken = bytearray(stored_bytes(store, manifest, 2))
        broken[at % len(broken)] ^= 1 << bit
        forged = forge(store, manifest, 2, bytes(broken))
        with contextlib.suppress(ImageDamaged):
            assert whole(pool, forged) == data


def test_frames_that_change_places_are_found(tmp_path: Path) -> None:
    store, data = tiny_store(), some_bytes(256)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", data)
        stored = stored_bytes(store, manifest, 1)
        size = FRAME + 32
        swapped = stored[size : 2 * size] + stored[:size] + stored[2 * size :]
        with pytest.raises(ImageDamaged, match="from byte 0"):
            whole(pool, forge(store, manifest, 1, swapped))


def test_fragments_that_change_places_and_images_that_change_bytes_are_found(
    tmp_path: Path,
) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        one = store_image(pool, "a", some_bytes(512, seed=1))
        two = store_image(pool, "b", some_bytes(512, seed=2))
        other_fragment = forge(store, one, 1, stored_bytes(store, one, 2))
        with pytest.raises(ImageDamaged):
            whole(pool, other_fragment)
        other_image = forge(store, one, 2, stored_bytes(store, two, 2))
        with pytest.raises(ImageDamaged):
            whole(pool, other_image)


def test_a_fragment_that_ends_early_is_found_though_manifest_and_object_agree(
    tmp_path: Path,
) -> None:
    store, data = tiny_store(), some_bytes(256)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", data)
        part = manifest.fragments[0]
        kept = sum(part.part_stored[:-1])
        plain = sum(part.part_plain[:-1])
        stored = store.put(part.key, stored_bytes(store, manifest, 1)[:kept])
        short = replace(
            part,
            version_id=stored.version_id,
            size=plain,
            part_plain=part.part_plain[:-1],
            part_stored=part.part_stored[:-1],
            part_crc64nvme=part.part_crc64nvme[:-1],
        )
        forged = replace(manifest, size=plain, fragments=(short,))
        Manifest.from_json(forged.to_json(), where="here")  # nothing in it says so
        with pytest.raises(ImageDamaged):
            whole(pool, forged)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=120), coding=st.sampled_from([ZSTD, SEALED]))
def test_any_bytes_taken_for_a_part_end_in_our_error_or_in_whole_frames(
    data: bytes, coding: Coding
) -> None:
    code = FrameCode(
        compression=coding.compression, encrypted=coding.client_key is not None, frame_size=FRAME
    )
    coder = FrameCoder(code, token="t", key=KEY.key if code.encrypted else None)
    try:
        frames = coder.split(memoryview(data))
        for low, high in frames:
            coder.open(memoryview(data)[low:high], fragment=1, frame=0, last=True, size=7)
    except CorruptObject:
        return
    assert b"".join(data[low:high] for low, high in frames) == data


# --- nonces -----------------------------------------------------------------------------------


def nonces(stored: bytes) -> list[tuple[bytes, bytes]]:
    """Nonce and sealed bytes of every frame."""
    found, at = [], 0
    while at < len(stored):
        nonce, word = HEAD.unpack_from(stored, at)
        end = at + HEAD.size + (word & ~LAST)
        found.append((nonce, stored[at:end]))
        at = end
    return found


@settings(max_examples=25, deadline=None)
@given(
    first=st.binary(max_size=120),
    second=st.binary(max_size=120),
    coding=st.sampled_from([SEALED, BOTH]),
)
def test_a_nonce_comes_again_only_with_the_very_same_bytes(
    first: bytes, second: bytes, coding: Coding
) -> None:
    """Two writers of one attempt, as before and after a crash: one key, any two streams."""
    code = FrameCode(compression=coding.compression, encrypted=True, frame_size=FRAME)
    coder = FrameCoder(code, token="t", key=KEY.key)
    seen: dict[bytes, bytes] = {}
    for stream in (first, second):
        for last in (False, True):
            digest = hashlib.sha256()
            for frame, at in enumerate(range(0, len(stream), FRAME)):
                chunk = stream[at : at + FRAME]
                digest.update(chunk)
                out = memoryview(bytearray(code.bound(FRAME)))
                size = coder.seal_into(
                    memoryview(chunk),
                    out,
                    fragment=1,
                    frame=frame,
                    last=last,
                    witness=digest.digest(),
                )
                ((nonce, sealed),) = nonces(bytes(out[:size]))
                assert seen.setdefault(nonce, sealed) == sealed


def test_no_two_frames_of_an_image_share_a_nonce_and_no_two_images_a_key(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        images = [store_image(pool, name, bytes(1000)) for name in ("a", "b")]
    found = [
        nonce
        for manifest in images
        for part in manifest.fragments
        for nonce, _ in nonces(stored_bytes(store, manifest, part.number))
    ]
    assert len(found) == len(set(found)) == 2 * 63


# --- keys -------------------------------------------------------------------------------------


def test_without_the_master_key_an_encrypted_image_is_refused_and_the_key_named(
    tmp_path: Path,
) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        manifest = store_image(pool, "a", some_bytes(300))
    for coding in (Coding(), Coding(client_key=ClientKey(id="k2", key=bytes(32)))):
        with open_pool(store, tmp_path, coding=coding) as pool:
            with pytest.raises(ConfigError, match="master key 'k1'"):
                pool.open_image(manifest)
            assert pool.verify(manifest, Depth.CHECKSUM).ok
            found = pool.verify(manifest, Depth.FULL)
            assert not found.problems
            assert "'k1'" in found.unknown[0]
    wrong = Coding(client_key=ClientKey(id="k1", key=bytes(32)))
    with (
        open_pool(store, tmp_path, coding=wrong) as pool,
        pytest.raises(ConfigError, match="'k1' that was given does not open"),
    ):
        pool.open_image(manifest)


def test_a_begun_image_cannot_go_on_without_its_key_and_is_not_lost(tmp_path: Path) -> None:
    store, data = tiny_store(), some_bytes(600)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        writer = pool.write_image("a", 1)
        writer.write(data[:400])
        writer.suspend()
    with open_pool(store, tmp_path) as pool, pytest.raises(ConfigError, match="'k1'"):
        pool.write_image("a", 1)
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        writer = pool.write_image("a", 1)
        assert writer.offset == 400
        writer.write(data[400:])
        writer.close(origin=NOTHING, retention=FOREVER)
        assert read_image(pool, "a") == data


def test_an_aborted_encrypted_image_leaves_no_key(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        writer = pool.write_image("a", 1)
        writer.write(some_bytes(600))
        assert len(list(store.scan("keys/"))) == 1
        pool.abort(writer)
    assert [one.key for one in store.scan("")] == ["pool.json"]
    assert list(store.uploads("")) == []


@pytest.mark.parametrize(
    "settings_of",
    [{"id": "", "key": bytes(32)}, {"id": "a\n", "key": bytes(32)}, {"id": "a", "key": b"short"}],
)
def test_a_master_key_that_is_none_is_refused(settings_of: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ClientKey(**settings_of)


def test_no_key_is_ever_printed_or_stored_in_the_clear(tmp_path: Path) -> None:
    store = tiny_store()
    with open_pool(store, tmp_path, coding=SEALED) as pool:
        store_image(pool, "a", some_bytes(100))
        assert KEY.key.hex() not in repr(pool.context)
    assert "key=" not in repr(KEY)
    for stored in store.scan(""):
        assert KEY.key not in store.read(stored.key, ceiling=1 << 20)


def test_fragments_that_coding_would_make_too_large_are_refused(tmp_path: Path) -> None:
    part = 5 * 2**20
    config = PoolConfig(part_size=part, fragment_size=part * MAX_PARTS)
    with (
        pytest.raises(ConfigError, match="1 % smaller"),
        open_pool(tiny_store(), tmp_path, config=config, coding=Coding(client_key=KEY)),
    ):
        pass


def test_memory_stays_within_the_formula(tmp_path: Path) -> None:
    config = tiny_config(64, 256, images_open=1, parts_in_flight=2)
    with open_pool(tiny_store(), tmp_path, config=config, coding=BOTH) as pool:
        for data in (some_bytes(5000), bytes(5000), mixed_bytes(5000)):
            store_image(pool, f"{data[:9]!r}", data)
        arena = pool.context.coded_arena
        taken = [arena.take() for _ in range(config.parts_in_flight + 2)]
        with pytest.raises(PoolError, match="images_open"):
            arena.take()
        assert len(taken) == 4
