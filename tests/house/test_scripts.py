"""The scripts that people and machines call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path
    for folder in (ROOT / "scripts", ROOT / "scripts" / "bench", ROOT / ".ci")
    for path in folder.iterdir()
    if path.is_file() and not path.suffix
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(*command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts need, in a folder with a space in its name."""
    copy = tmp_path / "a checkout"
    copy.mkdir()
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.fixture
def installed(checkout: Path) -> Path:
    """The same, with an environment whose stamp says that it is complete."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = ensure(checkout, 'venv_state > "$venv/.installed"')
    assert done.returncode == 0, done.stderr
    return checkout


def ensure(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the library, where pip and venv only say that they were called."""
    library = checkout / "scripts" / "lib.sh"
    instead = 'pip_for() { echo "pip $*"; }; create_venv() { echo "venv $*" >&2; exit 9; }'
    return run("bash", "-euo", "pipefail", "-c", f'. "$1"; {instead}; {command}', "-", library)


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_a_script_can_be_run_and_says_how(script: Path) -> None:
    head = script.read_text().splitlines()[:12]
    assert head[0].startswith("#!")
    assert os.access(script, os.X_OK)
    assert any(line.startswith("#") and named(script) in line for line in head), "no usage text"


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_a_script_is_sound_shell(script: Path) -> None:
    done = run("bash", "-n", script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "script", [s for s in SCRIPTS if "usage_if_asked" in s.read_text()], ids=named
)
def test_a_script_that_is_asked_for_help_gives_it_and_does_nothing_else(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {named(script)}")
    assert "set -euo" not in done.stdout
    assert done.stderr == ""


def test_a_complete_environment_is_left_as_it_is(installed: Path) -> None:
    done = ensure(installed, "ensure_venv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("changed", ["requirements/dev.txt", "pyproject.toml"])
def test_a_changed_lock_is_installed_by_its_hashes(installed: Path, changed: str) -> None:
    with (installed / changed).open("a") as file:
        file.write("# changed\n")
    done = ensure(installed, "ensure_venv; ensure_venv")
    assert done.returncode == 0, done.stderr
    installs = [line for line in done.stderr.splitlines() if line.startswith("pip ")]
    assert len(installs) == 2  # the lock and the project, once
    assert "--require-hashes" in installs[0]
    assert "--no-deps" in installs[1]


def test_an_installation_that_failed_is_tried_again(installed: Path) -> None:
    with (installed / "requirements" / "dev.txt").open("a") as file:
        file.write("# changed\n")
    failed = ensure(installed, "pip_for() { return 1; }; ensure_venv")
    assert failed.returncode == 1
    again = ensure(installed, "ensure_venv")
    assert again.returncode == 0
    assert "--require-hashes" in again.stderr


def test_the_environment_of_a_checkout_that_was_moved_is_made_anew(installed: Path) -> None:
    moved = installed.rename(installed.parent / "moved")
    done = ensure(moved, "ensure_venv")
    assert done.returncode == 9
    assert f" {moved}/.venv" in done.stderr
    assert not (moved / ".venv" / "bin").exists()


def test_a_machine_without_a_usable_python_is_told_so(checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (old / name).write_text("#!/bin/sh\nexit 1\n")
        (old / name).chmod(0o755)
    done = run(checkout / "scripts" / "test", PATH=f"{old}:/usr/bin:/bin")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no Python 3.11 or later" in done.stderr
    assert not (checkout / ".venv").exists()
