"""What every place for ledger files must do; a place joins with a fixture ``files``."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from catalog.errors import CommitConflict, ObjectNotFound
from catalog.files import LedgerFiles, name_of

FIRST, SECOND, THIRD = (name_of(number) for number in range(3))


class LedgerFilesConformance:
    def test_a_place_that_does_not_exist_yet_is_empty(self, files: LedgerFiles) -> None:
        assert list(files.names()) == []

    def test_a_file_reads_back_as_it_was_created(self, files: LedgerFiles) -> None:
        data = bytes(range(256)) * 500
        files.create(FIRST, data)
        assert files.read(FIRST) == data

    def test_a_file_may_be_empty(self, files: LedgerFiles) -> None:
        files.create(FIRST, b"")
        assert files.read(FIRST) == b""

    def test_a_folder_below_has_its_own_files_and_is_passed_over(self, files: LedgerFiles) -> None:
        below = files.below("_below")
        assert list(below.names()) == []
        below.create(FIRST, b"below")
        files.create(FIRST, b"above")
        assert list(below.names()) == list(files.names()) == [FIRST]
        assert (files.below("_below").read(FIRST), files.read(FIRST)) == (b"below", b"above")

    def test_a_file_that_is_not_there_is_not_found(self, files: LedgerFiles) -> None:
        files.create(FIRST, b"one")
        with pytest.raises(ObjectNotFound):
            files.read(SECOND)

    def test_names_come_in_order_of_their_numbers(self, files: LedgerFiles) -> None:
        for name in (THIRD, FIRST, SECOND):
            files.create(name, name.encode())
        assert list(files.names()) == [FIRST, SECOND, THIRD]

    def test_names_can_begin_behind_one(self, files: LedgerFiles) -> None:
        for name in (FIRST, SECOND, THIRD):
            files.create(name, name.encode())
        assert list(files.names(after=FIRST)) == [SECOND, THIRD]
        assert list(files.names(after=THIRD)) == []

    def test_a_second_create_with_other_bytes_is_a_conflict(self, files: LedgerFiles) -> None:
        files.create(FIRST, b"winner")
        with pytest.raises(CommitConflict):
            files.create(FIRST, b"loser")
        assert files.read(FIRST) == b"winner"
        assert list(files.names()) == [FIRST]

    def test_a_second_create_with_the_same_bytes_succeeds(self, files: LedgerFiles) -> None:
        files.create(FIRST, b"same")
        files.create(FIRST, b"same")
        assert files.read(FIRST) == b"same"
        assert list(files.names()) == [FIRST]

    def test_strange_names_are_listed_and_those_set_aside_are_not(
        self, files: LedgerFiles, intrude: Callable[[str], None]
    ) -> None:
        for name in ("notes.txt", "_keys", ".state", "_x.parquet", "sub/x.parquet", "_aside/x"):
            intrude(name)
        files.create(FIRST, b"one")
        assert sorted(files.names()) == [FIRST, "_x.parquet", "notes.txt", "sub/"]

    def test_of_many_writers_of_one_name_one_wins(self, files: LedgerFiles) -> None:
        barrier = threading.Barrier(8)
        won, lost = [], []

        def write(number: int) -> None:
            data = f"writer {number}".encode() * 1000
            barrier.wait()
            try:
                files.create(FIRST, data)
            except CommitConflict:
                lost.append(data)
            else:
                won.append(data)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == 1
        assert len(lost) == 7
        assert files.read(FIRST) == won[0]

    def test_the_uri_says_where_it_is(self, files: LedgerFiles, expected_uri: str) -> None:
        assert files.uri == expected_uri
