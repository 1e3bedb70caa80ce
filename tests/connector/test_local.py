"""Commands of the daemon's own host: ``rebuild``, ``erase``, ``apply``, ``doctor``; on moto."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from connector.config import load
from connector.serve.service import Service
from connector.state_lock import lock_state
from tests.connector.support import answered, config_of, said
from tests.serve.support import Caller

Buckets = Callable[..., S3Location]
SMALL = "images_open = 1\nparts_in_flight = 1\n"


@pytest.fixture
def config(tmp_path: Path, moto_bucket: Buckets) -> Path:
    """A pool in a bucket, with client-side encryption; no daemon runs."""
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    path = tmp_path / "c.toml"
    pool = SMALL + 'encryption = "client"\nkey_file = "key"\nkey_id = "k"\n'
    path.write_text(config_of(tmp_path, {"main": moto_bucket(prefix="p")}, pool=pool))
    return path


def stored(config: Path, *names: str) -> None:
    service = Service(load(config))
    service.start()
    try:
        caller = Caller(service)
        for name in names:
            caller.put(name, name.encode())
        caller.session.end()
    finally:
        service.close()


def test_a_pool_is_rebuilt_from_its_bucket_alone(config: Path) -> None:
    stored(config, "one", "two")
    shutil.rmtree(load(config).state)
    words = ("rebuild", "--config", str(config))
    assert answered(*words) == {
        "main": {"images": 2, "damaged": 0, "foreign": 0, "orphans": 0, "uploads": 0}
    }
    code, out, _ = said(*words, "main")
    assert (code, out.splitlines()[1].split()[:2]) == (0, ["main", "2"])
    assert said(*words, "none")[0] == 2


def test_nothing_is_rebuilt_or_erased_while_a_daemon_runs(config: Path) -> None:
    with lock_state(load(config).state):
        for words in (("rebuild",), ("erase", "main/x", "--reason", "r", "--yes")):
            code, _, err = said(*words, "--config", str(config))
            assert (code, "uses the state folder" in err) == (2, True)


def test_an_image_is_erased_for_ever(config: Path) -> None:
    stored(config, "secret")
    words = ("erase", "main/secret", "--reason", "asked for", "--config", str(config))
    code, _, err = said(*words)
    assert (code, "--yes" in err) == (2, True)
    first = answered(*words, "--yes")
    assert (first["image"], first["already"]) == ("secret", False)
    assert answered(*words, "--yes")["already"] is True
    service = Service(load(config))
    service.start()
    try:
        with pytest.raises(Exception, match="erased"):
            Caller(service).get("secret")
    finally:
        service.close()


def test_lifecycle_rules_are_shown_and_then_written(tmp_path: Path, moto_bucket: Buckets) -> None:
    path = tmp_path / "c.toml"
    pool = SMALL + 'lifecycle = [{ days = 30, class = "glacier" }]\n'
    path.write_text(config_of(tmp_path, {"main": moto_bucket(prefix="p")}, pool=pool))
    words = ("apply", "--config", str(path))
    code, out, _ = said(*words, "--dry-run")
    assert code == 0
    assert "would change" in out
    assert "GLACIER" in out
    code, _, err = said(*words)
    assert (code, "--yes" in err) == (2, True)
    (done,) = answered(*words, "--yes")
    assert (done["changed"], done["applied"]) == (True, True)
    (done,) = answered(*words, "--yes")
    assert (done["changed"], done["applied"]) == (False, False)


def test_the_doctor_tells_findings_with_remedies(config: Path) -> None:
    code, out, err = said("doctor", "--config", str(config), "--json")
    found = json.loads(out)
    assert {one["check"] for one in found["findings"]}
    assert code == (3 if found["level"] == "error" else 0), err
    for one in found["findings"]:
        assert one["remedy"] or one["level"] == "ok", one


def test_a_host_without_a_configuration_is_told_where_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("connector.commands.local.SYSTEM_CONFIG", tmp_path / "none.toml")
    code, _, err = said("doctor")
    assert (code, "docs/configuration.md" in err) == (2, True)
