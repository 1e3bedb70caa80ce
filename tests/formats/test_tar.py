"""Plain tar: the recorded set bit for bit, and headers as GNU tar really writes them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.formats import tar_layout
from migrate.formats.interface import Label
from migrate.formats.tar import Tar
from migrate.formats.tar_layout import checksums, parse_header, pax_records, volume_label
from migrate.source.interface import BadBlock, Block
from migrate.source.simh import SimhTape
from tests.formats.collect import blocks, collect, only, tape_file, want
from tests.source.tapes import FIXTURES

SET = json.loads((FIXTURES / "gnutar/expected.json").read_text())
SNIFF = json.loads((FIXTURES / "sniff/expected.json").read_text())["samples"]

gnu_tar = pytest.mark.skipif(
    "GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout
    if shutil.which("tar")
    else True,
    reason="GNU TAR IS NOT INSTALLED: nothing here checks our headers against the real program",
)


@pytest.mark.parametrize(
    ("number", "volume"), list(enumerate(SET["volumes"], 1)), ids=lambda each: str(each)[:20]
)
def test_each_volume_of_the_recorded_set_is_moved_bit_for_bit(
    number: int, volume: dict[str, Any]
) -> None:
    for size in (volume["size"], None):
        with closing(SimhTape(FIXTURES / volume["tap"], "GMV")) as source:
            first = source.read()
            assert isinstance(first, Block)
            expected = Label(format="tar", volume=f"{SET['label']} Volume {number}", detail="gnu")
            assert Tar().identify(first.data) == expected
            source.rewind()
            taken = only(Tar().extract(tape_file(source), [want(size)]))
        assert (taken.done.problem, taken.done.note) == ("", "")
        assert hashlib.sha256(taken.data).hexdigest() == volume["sha256"]


@gnu_tar
def test_gnu_tar_restores_the_members_from_what_was_moved(tmp_path: Path) -> None:
    for number, volume in enumerate(SET["volumes"], 1):
        with closing(SimhTape(FIXTURES / volume["tap"], "GMV")) as source:
            taken = only(Tar().extract(tape_file(source), [want(None)]))
        (tmp_path / f"volume.{number}").write_bytes(taken.data)
    names = [f"--file=volume.{number}" for number in range(1, len(SET["volumes"]) + 1)]
    command = ["tar", "--extract", "--multi-volume", *names]
    subprocess.run(command, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL, timeout=60)
    for member in SET["files"]:
        data = (tmp_path / member["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == member["sha256"]


@pytest.mark.parametrize("sample", SNIFF, ids=lambda each: each["file"])
def test_recorded_first_blocks_are_told_apart(sample: dict[str, Any]) -> None:
    header = parse_header((FIXTURES / sample["file"]).read_bytes())
    assert (f"tar/{header.kind}" if header else None) == (
        sample["expect"] if sample["expect"].startswith("tar/") else None
    )


@gnu_tar
@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (kind, label)
        for kind in ("gnu", "oldgnu", "posix", "ustar", "v7")
        for label in ("Weekly 7", "Größe", None)
        if not (label and kind in ("ustar", "v7"))  # these know no volume label
    ],
)
def test_gnu_tars_own_headers_and_labels_are_read(
    tmp_path: Path, kind: str, label: str | None
) -> None:
    (tmp_path / "member").write_bytes(b"x" * 100)
    command = ["tar", f"--format={kind}", "--create", "--file=-", "member"]
    command += [f"--label={label}"] if label else []
    run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    found = Tar().identify(run.stdout)
    assert found is not None
    assert found.volume == label
    # without a label or an attribute that needs it, pax begins with an ordinary header
    kinds = {"oldgnu": {"gnu"}, "posix": {"pax"} if label else {"pax", "ustar"}}
    assert found.detail in kinds.get(kind, {kind})


def header_of(name: str = "member", *, size: int = 0) -> bytearray:
    info = tarfile.TarInfo(name)
    info.size = size
    return bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])


def test_the_signed_sum_of_old_systems_is_accepted() -> None:
    header = header_of("Größe")
    unsigned, signed = checksums(bytes(header))
    assert signed == unsigned - 256 * 4
    header[148:156] = b"%06o\0 " % signed
    assert parse_header(bytes(header)) is not None


@pytest.mark.parametrize("at", [0, 100, 156, 257, 511])
def test_a_header_with_a_changed_byte_is_none(at: int) -> None:
    header = header_of()
    header[at] ^= 0x41
    assert parse_header(bytes(header)) is None


def test_sizes_are_octal_or_base_256() -> None:
    for size in (0, 511, 8**11 - 1, 8**11, 10**15):
        parsed = parse_header(bytes(header_of(size=size)))
        assert parsed is not None
        assert parsed.size == size


def test_zeros_and_short_blocks_are_no_header() -> None:
    for block in (b"", bytes(512), bytes(header_of())[:511]):
        assert parse_header(block) is None
        assert Tar().identify(block) is None


def test_a_pax_label_that_lies_about_its_length_is_no_label() -> None:
    archive = io.BytesIO()
    with tarfile.open(
        fileobj=archive, mode="w", pax_headers={"GNU.volume.label": "REAL"}
    ) as writing:
        writing.addfile(tarfile.TarInfo("x"))
    block = archive.getvalue()
    assert volume_label(block) == "REAL"
    for lie in (
        b"99 GNU.volume.label=X\n",
        b"3 GNU.volume.label=X\n",
        b"x",
        b"-5 a=b\n",
        b"0 a=b\n",
    ):
        assert volume_label(block[:512] + lie.ljust(512, b"\0")) is None


@given(st.binary(max_size=300))
def test_any_pax_records_give_an_answer(data: bytes) -> None:
    assert len(pax_records(data)) <= tar_layout.MAX_PAX_RECORDS


@given(st.binary(max_size=1100), st.sampled_from([b"g", b"V", b"M", b"x", b"0"]))
def test_any_block_gives_an_answer(data: bytes, kind: bytes) -> None:
    Tar().identify(data)
    block = bytearray(data.ljust(512, b"\0"))
    block[156:157] = kind
    block[148:156] = b"%06o\0 " % checksums(bytes(block[:512]))[0]
    label = Tar().identify(bytes(block))
    assert label is not None


# --- extraction -------------------------------------------------------------------------------


def test_sizes_padding_and_damage_are_judged_as_everywhere() -> None:
    archive = bytes(header_of()) + b"\0" * 1024
    assert only(Tar().extract(blocks(archive), [want(len(archive))])).data == archive
    taken = only(Tar().extract(blocks(archive, b"x"), [want(len(archive))]))
    assert "1 more bytes" in taken.done.problem
    taken = only(Tar().extract(iter([Block(archive), BadBlock("bad", None, 512)]), [want(None)]))
    assert taken.runs == [len(archive), -512]
    assert taken.done.problem
    taken = only(Tar().extract(iter([BadBlock("bad", None, 512), Block(archive)]), [want(None)]))
    assert taken.runs == [-512, len(archive)]


def test_what_does_not_begin_with_a_header_is_moved_with_a_note() -> None:
    taken = only(Tar().extract(blocks(b"compressed, perhaps"), [want(None)]))
    assert taken.data == b"compressed, perhaps"
    assert (taken.done.problem, taken.done.note) == (
        "",
        "the tape file does not begin with a tar header",
    )


def test_several_images_in_one_archive_are_refused_and_none_is_nothing() -> None:
    wanted = [want(1, image="a_1690000100"), want(2, image="b_1690000100")]
    found = collect(Tar().extract(blocks(b"x"), wanted))
    assert all("not several" in taken.done.problem for taken in found.values())
    assert len(found) == 2
    assert list(Tar().extract(blocks(b"x"), [])) == []
    assert only(Tar().extract(blocks(), [want(1)])).done.problem
