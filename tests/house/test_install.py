"""The lock files, and an installation that has nothing but what they say a user needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
RUN = ROOT / "requirements" / "run.txt"
DEV = ROOT / "requirements" / "dev.txt"

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

blocked = set(sys.argv[1].split(","))

class OnlyLocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not in requirements/run.txt", name=name)

sys.meta_path.insert(0, OnlyLocked())
for package in ("catalog", "connector", "migrate"):
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
        print(found.name)
"""


def locked(path: Path) -> dict[str, dict[str, set[str]]]:
    """Versions and their hashes by package; several versions where Pythons differ."""
    found: dict[str, dict[str, set[str]]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n?", "", path.read_text())):
        head = re.match(r"([a-z0-9][a-z0-9.-]*)==([^\s;]+)", entry)
        assert head is not None, f"not a pinned package: {entry!r}"
        hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry))
        found.setdefault(head[1], {})[head[2]] = hashes
    return found


def declared() -> tuple[list[Requirement], list[Requirement]]:
    """What pyproject.toml asks for: to run, and in all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run = [Requirement(text) for text in project["project"]["dependencies"]]
    groups = [
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    return run, run + [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize("path", [RUN, DEV], ids=lambda path: path.name)
def test_a_lock_file_names_no_place_to_download_from(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    options = re.findall(r"(?m)^\s*(--?[a-z-]+)", text)
    assert set(options) == {"--hash"}


@pytest.mark.parametrize("path", [RUN, DEV], ids=lambda path: path.name)
def test_every_locked_package_has_hashes(path: Path) -> None:
    packages = locked(path)
    assert len(packages) > 10
    assert [name for name, found in packages.items() if not all(found.values())] == []


def test_the_locks_satisfy_what_the_project_declares() -> None:
    run, everything = declared()
    for path, requirements in ((RUN, run), (DEV, everything)):
        packages = locked(path)
        for requirement in requirements:
            versions = packages.get(canonicalize_name(requirement.name), {})
            assert versions, f"{requirement} is not in {path.name}; run scripts/lock"
            wrong = [v for v in versions if not requirement.specifier.contains(v)]
            assert not wrong, f"{path.name} has {wrong} for {requirement}; run scripts/lock"


def test_both_locks_name_the_same_versions_and_hashes() -> None:
    dev = locked(DEV)
    different = {name for name, found in locked(RUN).items() if dev.get(name) != found}
    assert different == set()


def test_every_module_imports_without_the_development_tools() -> None:
    kept = {*locked(RUN), "tapelift", "setuptools", "pip"}
    blocked = [
        module
        for module, distributions in metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & kept
    ]
    assert {"pytest", "moto", "hypothesis"} <= set(blocked)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING, ",".join(blocked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "connector.store.interface" in done.stdout.split()
