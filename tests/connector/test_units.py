"""The units of systemd: what systemd itself says of them, and that daemon and units agree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from connector import places

UNITS = Path(__file__).parents[2] / "scripts" / "systemd"


def settings(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#[")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units() -> None:
    units = [str(path) for path in sorted(UNITS.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "tapeconnector" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_units_name_what_the_clients_look_for() -> None:
    socket, service = settings("tapeconnector.socket"), settings("tapeconnector.service")
    assert socket["ListenStream"] == str(places.SYSTEM_SOCKET)
    assert service["ExecStart"].endswith(f"tapeconnector serve --config {places.SYSTEM_CONFIG}")
    assert service["Type"] == "notify"


def test_a_wrong_configuration_is_not_tried_again() -> None:
    assert settings("tapeconnector.service")["RestartPreventExitStatus"] == "2"
