"""Every source passes one suite."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from migrate.source.awstape import AwsTape
from migrate.source.drive_mount import Drive
from migrate.source.drive_tape import DriveTape
from migrate.source.folder import FolderTape
from migrate.source.interface import Block, Filemark, TapeEvent, TapeSource
from migrate.source.simh import SimhTape
from tests.conformance.source import Layout, Make, SourceConformance
from tests.source.fake_st import FakeKernel, tape_of
from tests.source.tapes import END, FIXTURES, GAP, MemoryTape, aws, events, items_of, tap, write


class TestMemoryTape(SourceConformance):
    @pytest.fixture
    def make(self) -> Make:
        return MemoryTape.of


class TestSimhTape(SourceConformance):
    @pytest.fixture(params=["plain", "unpadded", "no end of medium", "gaps"])
    def make(self, request: pytest.FixtureRequest, tmp_path: Path) -> Make:
        def make(layout: Layout) -> SimhTape:
            items = items_of(layout)
            if request.param == "gaps":
                items = [each for item in items for each in (item, GAP, GAP)]
            if request.param != "no end of medium":
                items.append(END)
            data = tap(items, padded=request.param != "unpadded")
            return SimhTape(write(tmp_path / "TAP001.tap", data), "TAP001")

        return make


class TestAwsTape(SourceConformance):
    @pytest.fixture(params=[(65535, 0), (7, 0), (65535, 1), (9, 1), (65535, 2)], ids=str)
    def make(self, request: pytest.FixtureRequest, tmp_path: Path) -> Make:
        piece, method = request.param

        def make(layout: Layout) -> AwsTape:
            data = aws(layout, piece=piece, method=method)
            return AwsTape(write(tmp_path / "AWS001.aws", data), "AWS001")

        return make


class TestFolderTape(SourceConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        def make(layout: Layout) -> FolderTape:
            for number, records in enumerate(layout):
                write(tmp_path / f"{number:05}", b"".join(records))
            return FolderTape(tmp_path, "DIR001", block_size=1024)

        return make


class TestDriveTape(SourceConformance):
    @pytest.fixture
    def make(self) -> Make:
        def make(layout: Layout) -> DriveTape:
            return Drive(path="/dev/nst0", kernel=FakeKernel(tape_of(layout))).mount("DRV001")

        return make


def all_of(source: TapeSource) -> list[TapeEvent]:
    with closing(source):
        return events(source)


@pytest.mark.parametrize("name", ["NBU001", "NBU002"])
def test_every_source_that_keeps_records_gives_the_same_of_a_recorded_tape(
    name: str, tmp_path: Path
) -> None:
    want = all_of(SimhTape(FIXTURES / f"nbu/{name}.tap", name))
    layout: list[list[bytes]] = [[]]
    for event in want:
        if isinstance(event, Block):
            layout[-1].append(event.data)
        elif isinstance(event, Filemark):
            layout.append([])
    assert layout.pop() == []
    for piece, method in ((65535, 0), (4096, 0), (65535, 1), (4096, 2)):
        data = aws(layout, piece=piece, method=method)
        assert all_of(AwsTape(write(tmp_path / "tape.het", data), name)) == want
    drive = Drive(path="/dev/nst0", kernel=FakeKernel(tape_of(layout)))
    assert all_of(drive.mount(name)) == want
