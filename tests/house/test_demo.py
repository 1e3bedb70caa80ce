"""The demo: its second opinion on the tapes, and the whole of it as a newcomer runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILES = ROOT / "scripts" / "demo_files"
TAPES = ROOT / "tests" / "fixtures" / "tapes" / "nbu"


@pytest.fixture(scope="module")
def tape() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_tape", FILES / "tape.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected() -> dict[str, str]:
    lines = (line.split() for line in (FILES / "expected.sha256").read_text().splitlines())
    return {name: digest for digest, name in lines}


def test_the_demo_reads_the_same_tapes_as_the_tests() -> None:
    for name in ("NBU001.tap", "NBU002.tap"):
        assert (FILES / "shelf" / name).read_bytes() == (TAPES / name).read_bytes()
    assert (FILES / "nbu.csv").read_bytes() == (TAPES / "nbu.csv").read_bytes()


def test_the_expected_digests_are_those_that_the_tapes_were_made_with() -> None:
    made = {
        image["backup_id"]: image["sha256"]
        for image in json.loads((TAPES / "expected.json").read_text())["images"]
        if not image["multiplexed"]
    }
    assert made.items() <= expected().items()


def test_the_second_opinion_comes_from_the_tapes(tape: ModuleType, tmp_path: Path) -> None:
    assert tape.digests(FILES / "shelf", FILES / "nbu.csv") == expected()
    spoilt = bytearray((FILES / "shelf" / "NBU002.tap").read_bytes())
    spoilt[1024 + 8 + 4 + 1024 + 8 + 100] ^= 1  # in zeta's second fragment
    (tmp_path / "NBU002.tap").write_bytes(spoilt)
    (tmp_path / "NBU001.tap").write_bytes((FILES / "shelf" / "NBU001.tap").read_bytes())
    found = tape.digests(tmp_path, FILES / "nbu.csv")
    assert {name for name in found if found[name] != expected()[name]} == {"zeta_1690000400"}


@pytest.mark.deep
def test_the_demo_succeeds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, FILES / "demo.py"],
        env=os.environ | {"HOME": str(home), "TMPDIR": str(temporary), "AWS_PROFILE": "nobody"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stderr == ""
    assert done.stdout.count(expected()["zeta_1690000400"]) >= 6
    assert list(home.iterdir()) == list(temporary.iterdir()) == []


@pytest.mark.deep
def test_the_demo_fails_when_what_is_on_tape_is_not_what_is_expected(tmp_path: Path) -> None:
    copy = tmp_path / "demo_files"
    copy.mkdir()
    for path in FILES.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            target = copy / path.relative_to(FILES)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    wrong = (copy / "expected.sha256").read_text().replace("109bc716", "00000000")
    (copy / "expected.sha256").write_text(wrong)
    done = subprocess.run(
        [sys.executable, copy / "demo.py"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout
    assert "demo: FAILED" in done.stderr
