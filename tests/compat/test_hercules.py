"""Our AWSTAPE and HET reader beside the tools of Hercules, on the same files.

``hetmap`` counts whole records; ``tapemap`` counts the pieces of a chained record and is asked only
about files without chains. ``hetget`` gives the bytes of a tape file, ``hetupd`` writes files anew.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from migrate.source.awstape import AwsTape
from migrate.source.interface import Block, Filemark
from tests.source.tapes import FIXTURES, aws, events, write

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("hetmap", "tapemap", "hetget", "hetupd")),
    reason="needs hetmap, tapemap, hetget and hetupd: apt-get install hercules",
)

CONTAINERS = FIXTURES / "containers"
FILES = ["mixed.aws", "AMP-01.chunked.aws", "AMP-01.zlib.het", "AMP-01.bz2.het"]

Summary = list[tuple[int, int]]  # of every tape file: records, bytes


def tool(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, timeout=60, check=True
    )
    return done.stdout.decode("latin-1")


def ours(path: Path) -> Summary:
    found: Summary = [(0, 0)]
    with closing(AwsTape(path, "HET001")) as tape:
        for event in events(tape)[:-1]:
            if isinstance(event, Filemark):
                found.append((0, 0))
            else:
                assert isinstance(event, Block)
                records, size = found[-1]
                found[-1] = (records + 1, size + len(event.data))
    assert found.pop() == (0, 0)
    return found


def hetmap(path: Path) -> Summary:
    """What hetmap prints of each tape file, without the summary at its end."""
    text = tool("hetmap", "-f", path).split("Summary")[0]
    numbers: Iterable[tuple[str, str]] = re.findall(
        r"Blocks +: (\d+)\n(?:.*\n){2}Uncompressed bytes +: (\d+)", text
    )
    return [(int(records), int(size)) for records, size in numbers]


def without_trailing_empties(found: Summary) -> Summary:
    while found and found[-1] == (0, 0):
        found = found[:-1]
    return found


@pytest.mark.parametrize("name", FILES)
def test_hetmap_counts_the_records_and_bytes_that_we_read(name: str) -> None:
    path = CONTAINERS / name
    assert without_trailing_empties(hetmap(path)) == without_trailing_empties(ours(path))


def test_tapemap_sees_the_records_that_we_read_of_a_file_without_chains() -> None:
    text = tool("tapemap", CONTAINERS / "mixed.aws")
    counts = [int(count) for count in re.findall(r"File \d+: Blocks=(\d+)", text)]
    assert counts == [records for records, _ in ours(CONTAINERS / "mixed.aws")]


@pytest.mark.parametrize("name", FILES)
def test_hetget_gives_the_bytes_that_we_read(name: str, tmp_path: Path) -> None:
    with closing(AwsTape(CONTAINERS / name, "HET001")) as tape:
        for number in (1, 2, 4):
            tape.rewind()
            tape.space_files(number - 1)
            data = b""
            while isinstance(event := tape.read(), Block):
                data += event.data
            out = tmp_path / f"{number}"
            tool("hetget", "-n", CONTAINERS / name, out, number, "U", 0, 65535)
            assert out.read_bytes() == data


@pytest.mark.parametrize("options", [["-z"], ["-b"], ["-s"], ["-d"], ["-z", "-r", "-c", "4096"]])
def test_what_hercules_writes_holds_the_same_records(options: list[str], tmp_path: Path) -> None:
    layout = [[b"L" * 80], [bytes(40_000), b"ab" * 30_000, b"x"], [bytes(range(256)) * 200]]
    source = write(tmp_path / "source.aws", aws([*layout, []]))
    target = tmp_path / "target.het"
    tool("hetupd", *options, source, target)
    with closing(AwsTape(source, "HET001")) as mine, closing(AwsTape(target, "HET001")) as theirs:
        assert events(theirs) == events(mine)
