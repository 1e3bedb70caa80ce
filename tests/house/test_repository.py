"""What holds for every file of the project."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("catalog", "connector", "migrate")
ELSEWHERE = {
    "a folder of one machine": re.compile(rb"(?<![\w.])/(work|root)/"),
    "a folder beside the checkout": re.compile(rb"\.\./shared\b"),
    "a package index": re.compile(rb"\b(pypi\.org|pythonhosted\.org|npmjs\.(org|com)|debian\.org)"),
}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    listed = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("what", ELSEWHERE)
def test_no_file_names_a_place_outside_the_project(tracked: list[Path], what: str) -> None:
    assert len(tracked) > 20
    found = []
    for path in tracked:
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue  # a recorded tape or catalogue names whatever its machine had
        found += [
            f"{path.relative_to(ROOT)}: {data[match.start() : match.start() + 60]!r}"
            for match in ELSEWHERE[what].finditer(data)
        ]
    assert found == []


def test_every_package_says_that_it_is_typed() -> None:
    missing = [name for name in PACKAGES if not (ROOT / name / "py.typed").is_file()]
    assert missing == []


def test_every_folder_of_modules_is_a_package() -> None:
    # A folder without __init__.py imports from the checkout, but is left out of the wheel.
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
