"""A folder of tape files, and what can be wrong with one."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from migrate.errors import TapeError
from migrate.source import folder
from migrate.source.folder import FolderTape
from migrate.source.interface import BadBlock, Block, EndOfTape, Filemark
from tests.source.tapes import events, write


def test_files_are_cut_into_blocks_of_the_given_size(tmp_path: Path) -> None:
    write(tmp_path / "0", bytes(2500))
    with closing(FolderTape(tmp_path, "D", block_size=1024)) as tape:
        sizes = [len(e.data) for e in events(tape) if isinstance(e, Block)]
    assert sizes == [1024, 1024, 452]
    assert not tape.keeps_records


def test_hidden_files_folders_and_the_slot_link_are_no_tape_files(tmp_path: Path) -> None:
    write(tmp_path / "00000.label", b"label")
    write(tmp_path / "00001.file", b"file")
    write(tmp_path / ".state", b"hidden")
    (tmp_path / "00002.folder").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "00001.file")
    os.mkfifo(tmp_path / "pipe")
    with closing(FolderTape(tmp_path, "D")) as tape:
        assert events(tape) == [
            *(Block(b"label"), Filemark()),
            *(Block(b"file"), Filemark()),
            EndOfTape(),
        ]
        assert tape.ignored == ["00002.folder", "data", "pipe"]


def test_a_tape_file_that_is_a_link_is_read(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", b"bytes")
    (tmp_path / "tape").mkdir()
    (tmp_path / "tape/0").symlink_to(elsewhere)
    with closing(FolderTape(tmp_path / "tape", "D")) as tape:
        assert events(tape) == [Block(b"bytes"), Filemark(), EndOfTape()]


def test_a_file_that_vanishes_is_a_result_and_keeps_its_number(tmp_path: Path) -> None:
    for name in "012":
        write(tmp_path / name, name.encode() * 3000)
    with closing(FolderTape(tmp_path, "D")) as tape:
        (tmp_path / "1").unlink()
        found = events(tape)
    assert found[0] == Block(b"0" * 3000)
    assert isinstance(found[2], BadBlock)
    assert found[2].size == 3000
    assert "No such file" in found[2].reason
    assert found[3:] == [Filemark(), Block(b"2" * 3000), Filemark(), EndOfTape()]


def test_a_link_to_nowhere_is_a_tape_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "0").symlink_to(tmp_path / "gone")
    write(tmp_path / "1", b"one")
    with closing(FolderTape(tmp_path, "D")) as tape:
        found = events(tape)
    assert isinstance(found[0], BadBlock)
    assert found[0].size is None
    assert found[1:] == [Filemark(), Block(b"one"), Filemark(), EndOfTape()]


def test_a_file_that_becomes_shorter_is_a_result(tmp_path: Path) -> None:
    path = write(tmp_path / "0", bytes(5000))
    with closing(FolderTape(tmp_path, "D", block_size=1024)) as tape:
        tape.read()
        os.truncate(path, 2000)
        found = events(tape)
    assert isinstance(found[1], BadBlock)
    assert found[1].size == 3000
    assert found[2:] == [Filemark(), EndOfTape()]


def test_a_file_that_becomes_a_pipe_does_not_hang(tmp_path: Path) -> None:
    path = write(tmp_path / "0", bytes(10))
    with closing(FolderTape(tmp_path, "D")) as tape:
        path.unlink()
        os.mkfifo(path)
        found = events(tape)
    assert isinstance(found[0], BadBlock)
    assert found[0].size == 10
    assert found[1:] == [Filemark(), EndOfTape()]


@pytest.mark.parametrize("bad", [{1}, {0, 2}, {3}])
def test_an_unreadable_block_costs_no_more_than_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: set[int]
) -> None:
    write(tmp_path / "0", b"".join(bytes([n]) * 1024 for n in range(4)))
    real = os.pread

    def failing(handle: int, count: int, offset: int) -> bytes:
        if offset // 1024 in bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, count, offset)

    monkeypatch.setattr(os, "pread", failing)
    with closing(FolderTape(tmp_path, "D", block_size=1024)) as tape:
        found = events(tape)
    for number in range(4):
        event = found[number]
        if number in bad:
            assert isinstance(event, BadBlock)
            assert event.size == 1024
        else:
            assert event == Block(bytes([number]) * 1024)
    assert found[4:] == [Filemark(), EndOfTape()]


def test_a_dying_disk_is_given_up_after_a_few_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "0", bytes(1024 * 100))

    def failing(handle: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    with closing(FolderTape(tmp_path, "D", block_size=1024)) as tape:
        found = [event for event in events(tape) if isinstance(event, BadBlock)]
    assert len(found) == folder.ERRORS_IN_A_ROW
    assert sum(event.size or 0 for event in found) == 1024 * 100


def test_what_is_not_a_folder_is_a_tape_error(tmp_path: Path) -> None:
    with pytest.raises(TapeError):
        FolderTape(tmp_path / "none", "D")


@pytest.mark.parametrize("size", [0, -1, 1023, 16 * 1024 * 1024 + 1])
def test_an_impossible_block_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ConfigError, match="choose"):
        FolderTape(tmp_path, "D", block_size=size)
