"""An image is read back with the aws command line and sha256sum, and nothing of ours.

The shell lines are those of docs/format.md; what they need, ``aws`` and ``sha256sum``, is all that
a stranger has in twenty years.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from tests.migrate.support import (
    NBU,
    Bucket,
    expected_nbu,
    run_words,
    spanning_set,
    tapemigrate,
)

MakeBucket = Callable[..., S3Location]
PAGE = Path(__file__).parents[2] / "docs" / "format.md"

pytestmark = pytest.mark.skipif(
    shutil.which("sha256sum") is None or shutil.which("bash") is None,
    reason="needs bash and sha256sum",
)


def recipe() -> str:
    """The shell lines of docs/format.md, word for word."""
    found = re.search(
        r"## Reading an image without Tapelift\n+```sh\n(.*?)```", PAGE.read_text(), re.S
    )
    assert found, "docs/format.md has no recipe any more"
    return found[1]


def read_back(bucket: Bucket, name: str, folder: Path) -> str:
    """Follow the recipe in an empty folder; gives what sha256sum prints."""
    tools = folder / "bin"
    tools.mkdir(parents=True)
    aws = tools / "aws"
    endpoint = bucket.location.endpoint_url
    aws.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m awscli --endpoint-url {endpoint} "$@"\n')
    aws.chmod(0o755)
    lines = recipe().replace("BUCKET/PREFIX", f"{bucket.location.bucket}/{bucket.location.prefix}")
    lines = lines.replace("images/NAME/", f"images/{name}/")
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "AWS_PAGER": "",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[0]


def test_an_image_is_read_back_by_the_recipe_alone(moto_bucket: MakeBucket, tmp_path: Path) -> None:
    bucket = Bucket(moto_bucket(prefix="backups/pool"))
    words = run_words(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work", "--quiet")
    assert tapemigrate(*words).code == 0
    name = "zeta_1690000400"
    digest = read_back(bucket, name, tmp_path / "stranger")
    assert digest == expected_nbu()[name] == bucket.manifest(name)["sha256"]


@pytest.mark.deep
def test_an_image_of_many_parts_and_fragments_is_read_back_too(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set()
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket(prefix="pool"))
    words = run_words(catalog, shelf, bucket.location, tmp_path / "work", "--quiet")
    assert tapemigrate(*words, "--part-mib", "5", "--fragment-mib", "7").code == 0
    digest = read_back(bucket, "huge_1700000002", tmp_path / "stranger")
    assert digest == tapes.sha256s()["huge_1700000002"]
