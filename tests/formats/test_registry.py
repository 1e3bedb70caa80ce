"""Formats by name, tapes by their first block, plug-ins by their path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from migrate.formats.interface import Demultiplexer
from migrate.formats.nbu import NetBackup
from migrate.formats.opaque import OpaqueFile
from migrate.formats.registry import FORMATS, format_named, identify_tape, load_demultiplexer
from migrate.source.interface import BadBlock, Block
from tests.formats.collect import blocks, collect, only, want
from tests.plugins.synthmpx import SynthMpx
from tests.source.tapes import FIXTURES

SNIFF = json.loads((FIXTURES / "sniff/expected.json").read_text())["samples"]
INSTANCE = SynthMpx()
NOTHING = object()


@pytest.mark.parametrize("sample", SNIFF, ids=lambda each: each["file"])
def test_a_first_block_is_known_or_unknown_and_never_taken_for_another(
    sample: dict[str, str],
) -> None:
    label = identify_tape((FIXTURES / sample["file"]).read_bytes())
    product = sample["expect"].partition("/")[0]
    assert (label.format if label else None) == (product if product in FORMATS else None)


def test_formats_are_found_by_the_name_of_the_product() -> None:
    for name in FORMATS:
        assert format_named(name).name == name
    assert isinstance(format_named("netbackup", demultiplexer=INSTANCE), NetBackup)
    taken = only(
        format_named("netbackup", keeps_records=False).extract(blocks(bytes(1027)), [want(3)])
    )
    assert taken.data == bytes(3)
    with pytest.raises(ConfigError, match="known are netbackup, tar"):
        format_named("floppies")


@pytest.mark.parametrize("attribute", ["INSTANCE", "SynthMpx"])
def test_a_demultiplexer_is_loaded_as_an_object_or_a_class(attribute: str) -> None:
    loaded: Demultiplexer = load_demultiplexer(f"{__name__}:{attribute}")
    assert isinstance(loaded, SynthMpx)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "no_colon",
        ":attribute",
        "module:",
        "no.such.module:Demux",
        f"{__name__}:missing",
        f"{__name__}:NOTHING",
        "..relative:x",
        "tests.formats.test_registry:Raises",
    ],
)
def test_a_demultiplexer_that_cannot_be_loaded_is_a_matter_of_configuration(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_demultiplexer(spec)
    assert caught.value.hint


class Raises:
    """A plug-in that cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("licence missing")


def test_a_module_that_fails_while_it_is_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_demultiplexer.py").write_text("raise RuntimeError('licence missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="RuntimeError: licence missing"):
        load_demultiplexer("broken_demultiplexer:Demux")


# --- what is moved whole ----------------------------------------------------------------------


def test_an_unreadable_record_keeps_its_place_in_the_block_map() -> None:
    opaque = OpaqueFile()
    script = [Block(b"ab"), BadBlock("bad", None, 2), BadBlock("bad"), Block(b"abc")]
    taken = only(opaque.extract(iter(script), [want(None)]))
    assert opaque.block_map is not None
    assert opaque.block_map.runs == [(2, 2), (0, 1), (3, 1)]
    assert (opaque.block_map.records, opaque.block_map.size) == (4, 7)
    assert taken.runs[:2] == [2, -2]
    assert taken.done.problem


def test_without_record_boundaries_there_is_no_block_map() -> None:
    opaque = OpaqueFile(keeps_records=False)
    assert only(opaque.extract(blocks(b"ab"), [want(None)])).data == b"ab"
    assert opaque.block_map is None


def test_one_tape_file_is_one_object() -> None:
    wanted = [want(1, image="a_1690000100"), want(2, image="b_1690000100")]
    found = collect(OpaqueFile().extract(blocks(b"x"), wanted))
    assert all("not several" in taken.done.problem for taken in found.values())
