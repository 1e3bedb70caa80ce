"""NetBackup tapes: the recorded set, byte for byte, and every reason to refuse."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.formats.interface import Done, Extract, Label, Piece, Wanted
from migrate.formats.nbu import UNCONFIRMED, NetBackup
from migrate.formats.nbu_layout import BACKUP_ID, Identity, parse_media_header, whose
from migrate.formats.opaque import OpaqueFile
from migrate.source.drive import BufferedTape
from migrate.source.folder import FolderTape
from migrate.source.interface import BadBlock, Block, EndOfTape, Filemark, TapeEvent
from migrate.source.shelf import Shelf
from migrate.source.simh import SimhTape
from tests.formats.collect import Taken, blocks, collect, only, tape_file, want
from tests.plugins.synthmpx import SynthMpx
from tests.source.tapes import FIXTURES, events, write

EXPECTED = json.loads((FIXTURES / "nbu/expected.json").read_text())
IMAGES = {image["backup_id"]: image for image in EXPECTED["images"]}
MIB = 1024 * 1024

ID = "web_1690000100"
HEADER = f"fields\0backup_id={ID}\0".encode().ljust(1024, b"\0")
DATA = b"d" * 3000


def catalogue() -> dict[str, dict[int, list[Wanted]]]:
    """Wanted fragments by media id and tape file number."""
    tapes: dict[str, dict[int, list[Wanted]]] = defaultdict(lambda: defaultdict(list))
    with (FIXTURES / "nbu/nbu.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            wanted = Wanted(
                image_id=row["backup_id"],
                copy=int(row["copy"]),
                fragment_number=int(row["fragment"]),
                size=int(row["bytes"]),
            )
            tapes[row["media_id"]][int(row["file_num"])].append(wanted)
    return tapes


def digests(found: dict[Wanted, Taken]) -> dict[str, str]:
    """The SHA-256 of each image, its fragments joined in order; all must be whole."""
    images: dict[str, Any] = defaultdict(hashlib.sha256)
    for wanted in sorted(found, key=lambda each: (each.image_id, each.fragment_number)):
        assert found[wanted].done.problem == ""
        images[wanted.image_id].update(found[wanted].data)
    return {image: digest.hexdigest() for image, digest in images.items()}


def one(items: Sequence[TapeEvent], wanted: Wanted | None = None, **options: Any) -> Taken:
    return only(NetBackup(**options).extract(iter(items), [wanted or want(len(DATA))]))


# --- the recorded set -------------------------------------------------------------------------


def test_both_tapes_give_every_image_with_the_expected_digest() -> None:
    found: dict[Wanted, Taken] = {}
    for media, files in catalogue().items():
        with (
            closing(Shelf(FIXTURES / "nbu").mount(media)) as source,
            BufferedTape(source, high_bytes=MIB, low_bytes=MIB // 4) as tape,
        ):
            first = source.read()
            assert isinstance(first, Block)
            format_ = NetBackup(demultiplexer=SynthMpx())
            label = format_.identify(first.data)
            assert label == Label(format="netbackup", volume=media)
            tape.start(sorted(files))
            for number in sorted(files):
                found |= collect(format_.extract(tape.stream_file(number), files[number]))
    assert digests(found) == {name: image["sha256"] for name, image in IMAGES.items()}
    assert not any(taken.done.note for taken in found.values())


def test_the_set_as_a_folder_of_tape_files_gives_the_same_images(tmp_path: Path) -> None:
    found: dict[Wanted, Taken] = {}
    for media, files in catalogue().items():
        (tmp_path / media).mkdir()
        with closing(SimhTape(FIXTURES / f"nbu/{media}.tap", media)) as source:
            data, number = b"", 0
            for event in events(source):
                if isinstance(event, Block):
                    data += event.data
                elif isinstance(event, Filemark):
                    write(tmp_path / media / f"{number:03}", data)
                    data, number = b"", number + 1
        with closing(FolderTape(tmp_path / media, media)) as tape:
            first = tape.read()
            assert isinstance(first, Block)
            format_ = NetBackup(keeps_records=tape.keeps_records)
            assert format_.identify(first.data) == Label(format="netbackup", volume=media)
            for number in sorted(files):
                if len(files[number]) > 1:
                    continue
                tape.space_files(number - tape.position.file)
                found |= collect(format_.extract(tape_file(tape), files[number]))
    whole = {n: i["sha256"] for n, i in IMAGES.items() if not i["multiplexed"]}
    assert digests(found) == whole


def test_a_multiplexed_tape_file_is_moved_whole_with_a_map_that_rebuilds_it() -> None:
    with closing(SimhTape(FIXTURES / "nbu/NBU001.tap", "NBU001")) as source:
        source.space_files(5)
        original = [event.data for event in tape_file(source) if isinstance(event, Block)]
        source.rewind()
        source.space_files(5)
        opaque = OpaqueFile()
        taken = only(opaque.extract(tape_file(source), [want(None, image="NBU001/5")]))
    assert taken.done == Done(taken.done.wanted)
    assert opaque.block_map is not None
    assert opaque.block_map.runs == [(1024, 3), (65536, 11)]
    assert opaque.block_map.records == 14
    assert opaque.block_map.size == len(taken.data)
    replayed, at = [], 0
    for size, count in opaque.block_map.runs:
        for _ in range(count):
            replayed.append(taken.data[at : at + size])
            at += size
    assert replayed == original


def test_a_multiplexed_tape_file_without_a_demultiplexer_is_refused_image_by_image() -> None:
    wanted = catalogue()["NBU001"][5]
    found = collect(NetBackup().extract(blocks(HEADER, DATA), wanted))
    assert list(found) == wanted
    assert all("no demultiplexer" in taken.done.problem for taken in found.values())
    assert not any(taken.data for taken in found.values())


def test_a_multiplexed_block_that_is_missing_is_a_gap_of_its_image_alone() -> None:
    wanted = catalogue()["NBU001"][5]
    with closing(SimhTape(FIXTURES / "nbu/NBU001.tap", "NBU001")) as source:
        source.space_files(5)
        script = list(tape_file(source))
    script[4] = BadBlock("bad", None, 65536)  # gamma's first block
    found = collect(NetBackup(demultiplexer=SynthMpx()).extract(iter(script), wanted))
    by_name = {each.image_id.split("_")[0]: taken for each, taken in found.items()}
    assert [gap.size for gap in by_name["gamma"].gaps] == [65024]
    assert by_name["gamma"].done.problem
    for name in ("delta", "eps"):
        assert by_name[name].done.problem == ""


def fragments_of(data: bytes, path: Path) -> dict[Wanted, Taken]:
    """What a tape in this state gives of the fragments that are not multiplexed."""
    found: dict[Wanted, Taken] = {}
    files = {n: w for n, w in catalogue()["NBU001"].items() if len(w) == 1}
    with (
        closing(SimhTape(write(path, data), "NBU001")) as source,
        BufferedTape(source, high_bytes=MIB, low_bytes=0) as tape,
    ):
        tape.start(sorted(files))
        for number in sorted(files):
            found |= collect(NetBackup().extract(tape.stream_file(number), files[number]))
    return found


def test_a_tape_cut_anywhere_gives_whole_fragments_or_says_that_they_are_not(
    tmp_path: Path,
) -> None:
    data = (FIXTURES / "nbu/NBU001.tap").read_bytes()
    good = fragments_of(data, tmp_path / "good.tap")
    for cut in range(0, len(data), len(data) // 50):
        found = fragments_of(data[:cut], tmp_path / "cut.tap")
        assert set(found) == set(good)
        for wanted, taken in found.items():
            assert (taken.done.problem == "") == (taken.data == good[wanted].data)
            assert good[wanted].data.startswith(taken.data)


def test_a_flipped_length_anywhere_never_makes_a_wrong_fragment_look_whole(
    tmp_path: Path,
) -> None:
    data = (FIXTURES / "nbu/NBU001.tap").read_bytes()
    good = fragments_of(data, tmp_path / "good.tap")
    at, offsets = 0, []
    while (length := int.from_bytes(data[at : at + 4], "little")) != 0xFFFFFFFF:
        offsets.append(at)
        at += length + 8 if length else 4
    for offset in offsets:
        damaged = bytearray(data)
        damaged[offset + 1] ^= 0x14
        for wanted, taken in fragments_of(bytes(damaged), tmp_path / "bad.tap").items():
            if not taken.done.problem:
                assert taken.data == good[wanted].data


# --- the label --------------------------------------------------------------------------------


def test_a_media_header_names_its_tape() -> None:
    header = (FIXTURES / "sniff/nbu.mh").read_bytes()
    label = NetBackup().identify(header)
    assert label is not None
    assert label.volume == header[4:10].rstrip(b"\0").decode()


def test_what_is_not_a_media_header_is_no_label() -> None:
    header = (FIXTURES / "sniff/nbu.mh").read_bytes()
    for other in (b"", header[:1023], b"VOL2" + header[4:], header[:112] + b"x" + header[113:]):
        assert NetBackup().identify(other) is None
    assert NetBackup().identify((FIXTURES / "sniff/ansi.vol1").read_bytes()) is None


def test_a_media_id_that_is_not_text_never_equals_a_real_one() -> None:
    header = bytearray((FIXTURES / "sniff/nbu.mh").read_bytes())
    header[4:10] = b"A\xff\0\0\0\0"
    parsed = parse_media_header(bytes(header))
    assert parsed is not None
    assert parsed.media_id == "A\\xff"
    header[4:10] = bytes(6)
    label = NetBackup().identify(bytes(header))
    assert label is not None
    assert label.volume is None


# --- whose data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"web_1690000100",
        b"\0web_1690000100\0",
        b"id=web_1690000100\n",
        b"\xe5web_1690000100_C1_F1",
        b"intraweb_1690000100 web_1690000100",
    ],
)
def test_a_header_with_the_wanted_id_is_the_wanted_one(text: bytes) -> None:
    assert whose(text.ljust(1024, b"\0"), ID) == (Identity.WANTED, ID)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"id=db_1690000100\n", "db_1690000100"),
        (b"web_1690000101", "web_1690000101"),
        (b"intraweb_1690000100", "intraweb_1690000100"),
        (b"eweb_1690000100\0web_1690000999", "web_1690000999"),
        (b"db-1.example.org_1690000100_C1", "db-1.example.org_1690000100"),
    ],
)
def test_a_header_with_another_id_is_another_image(text: bytes, found: str) -> None:
    assert whose(text.ljust(1024, b"\0"), ID) == (Identity.OTHER, found)
    taken = one(list(blocks(text.ljust(1024, b"\0"), DATA)))
    assert taken.done.problem == f"another image lies here: {found}"
    assert taken.data == b""


@pytest.mark.parametrize(
    "text",
    [b"", b"web_169000010", b"x_12345678901", b"1690000100", b"eweb_1690000100", b"\xff" * 1024],
)
def test_a_header_without_any_id_is_taken_with_a_note(text: bytes) -> None:
    """Letters glued to the id may be the last bytes of a binary time that stands before it."""
    assert whose(text.ljust(1024, b"\0"), ID) == (Identity.SILENT, "")
    taken = one(list(blocks(text.ljust(1024, b"\0"), DATA)))
    assert (taken.data, taken.done.problem, taken.done.note) == (DATA, "", UNCONFIRMED)


def test_only_the_header_is_searched_and_not_the_data() -> None:
    assert whose(bytes(1024) + b"db_1690000100", ID) == (Identity.SILENT, "")


@given(st.binary(max_size=1100), st.text(max_size=20))
def test_any_header_gives_an_answer(header: bytes, image: str) -> None:
    identity, found = whose(header, image)
    assert (identity is Identity.OTHER) <= bool(BACKUP_ID.search(header))
    assert identity is not Identity.WANTED or found == image


# --- the first record -------------------------------------------------------------------------


@pytest.mark.parametrize("first", [HEADER + DATA, HEADER[:1000], b"d"])
def test_a_first_record_that_is_no_header_is_refused_where_records_are_kept(first: bytes) -> None:
    taken = one(list(blocks(first, DATA)))
    assert taken.done.problem == f"the first record is no backup header ({len(first)} bytes)"
    assert taken.data == b""


def test_a_header_that_is_glued_to_its_data_is_cut_off_where_records_are_not_kept() -> None:
    taken = one(list(blocks(HEADER + DATA[:500], DATA[500:])), keeps_records=False)
    assert (taken.data, taken.done.problem) == (DATA, "")
    items = NetBackup(keeps_records=False).extract(blocks(HEADER + DATA), [want(len(DATA))])
    piece = next(items)
    assert isinstance(piece, Piece)
    assert isinstance(piece.data, memoryview)
    assert "inside the backup header" in one(list(blocks(b"x")), keeps_records=False).done.problem


def test_a_header_that_cannot_be_read_costs_the_confirmation_and_not_the_image() -> None:
    for size in (1024, None):
        taken = one([BadBlock("bad", None, size), Block(DATA)])
        assert (taken.data, taken.done.problem) == (DATA, "")
        assert taken.done.note == f"{UNCONFIRMED}: bad"


def test_a_bad_header_that_still_names_another_image_is_refused() -> None:
    other = HEADER.replace(b"web", b"db1")
    taken = one([BadBlock("bad", other, 1024), Block(DATA)])
    assert taken.done.problem == "another image lies here: db1_1690000100"
    assert taken.data == b""


def test_an_unreadable_first_record_that_is_longer_than_a_header_is_refused() -> None:
    assert "no backup header" in one([BadBlock("bad", None, 65536), Block(DATA)]).done.problem


def test_an_unreadable_first_block_of_a_dump_loses_the_data_that_were_in_it() -> None:
    wanted = want(3000 + 1024)
    taken = one([BadBlock("bad", None, 2048), Block(DATA)], wanted, keeps_records=False)
    assert taken.runs == [-1024, 3000]
    assert taken.done.problem
    taken = one([BadBlock("bad", None, None), Block(DATA)], wanted, keeps_records=False)
    assert [gap.size for gap in taken.gaps] == [None]
    assert taken.data == b""


@pytest.mark.parametrize("script", [[], [EndOfTape()], [EndOfTape(True, "x")], [Filemark()]])
def test_an_empty_tape_file_is_a_problem(script: list[TapeEvent]) -> None:
    assert one(script).done.problem == "the tape file is empty"


def test_sizes_are_checked_as_everywhere() -> None:
    assert "only 3000 of 3001" in one(list(blocks(HEADER, DATA)), want(3001)).done.problem
    assert "1 more bytes" in one(list(blocks(HEADER, DATA)), want(2999)).done.problem
    assert one(list(blocks(HEADER, DATA)), want(None)).data == DATA


def test_nothing_wanted_is_nothing_read() -> None:
    assert list(NetBackup().extract(blocks(HEADER), [])) == []


events_ = st.lists(
    st.one_of(
        st.binary(max_size=30).map(Block),
        st.just(Block(HEADER)),
        st.just(Block(HEADER + DATA)),
        st.builds(BadBlock, st.just("bad"), st.none(), st.one_of(st.none(), st.integers(0, 3000))),
    ),
    max_size=6,
)


@given(
    script=events_,
    end=st.sampled_from([[], [EndOfTape()], [EndOfTape(True, "torn")]]),
    sizes=st.lists(st.one_of(st.none(), st.integers(0, 6000)), min_size=1, max_size=3),
    keeps=st.booleans(),
)
def test_every_wanted_fragment_gets_exactly_one_done_whatever_the_bytes_are(
    script: list[TapeEvent], end: list[TapeEvent], sizes: list[int | None], keeps: bool
) -> None:
    wanted = [want(size, image=f"web{n}_1690000100") for n, size in enumerate(sizes)]
    for demultiplexer in (None, SynthMpx()):
        format_ = NetBackup(keeps_records=keeps, demultiplexer=demultiplexer)
        items: Iterator[Extract] = format_.extract(iter([*script, *end]), wanted)
        found = collect(items)
        assert set(found) == set(wanted)
        assert all(len(taken.dones) == 1 for taken in found.values())
