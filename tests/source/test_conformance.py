"""Every source passes one suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.source.awstape import AwsTape
from migrate.source.drive_mount import Drive
from migrate.source.drive_tape import DriveTape
from migrate.source.folder import FolderTape
from migrate.source.simh import SimhTape
from tests.conformance.source import Layout, Make, SourceConformance
from tests.source.fake_st import FakeKernel, tape_of
from tests.source.tapes import END, GAP, MemoryTape, aws, items_of, tap, write


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
