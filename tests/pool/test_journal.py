"""The journal."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.errors import JournalError
from connector.pool.journal import Journal


def test_a_second_process_is_refused_and_told_why(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path)
    code = (
        "import sys; from pathlib import Path\n"
        "from catalog.errors import JournalError\n"
        "from connector.pool.journal import Journal\n"
        "try: Journal(Path(sys.argv[1]))\n"
        "except JournalError as exc: print(exc); sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 7
    assert "another process" in done.stdout
    journal.close()
    Journal(path).close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")

    def fail_inside() -> None:
        with journal.transaction() as db:
            db.execute("INSERT INTO settings VALUES ('a', '1')")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_inside()
    assert journal.setting("a") is None
    journal.close()


def test_a_transaction_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from connector.pool.journal import Journal\n"
        "j = Journal(Path(sys.argv[1])); j.remember('a', '1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], timeout=30)
    journal = Journal(path)
    assert journal.setting("a") == "1"
    journal.close()


def test_a_journal_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    Journal(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JournalError, match="newer"):
        Journal(path)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(JournalError, match=str(path)):
        Journal(path)


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="work folder"):
        Journal(tmp_path / "file" / "j.sqlite")


def test_a_failed_open_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(JournalError):
        Journal(path)
    path.unlink()
    Journal(path).close()
