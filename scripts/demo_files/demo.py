"""The demo: the real commands, one after the other, on an S3 of its own. See scripts/demo."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import boto3
from s3 import embedded_s3, save
from tape import digests

HERE = Path(__file__).parent
BUCKET = "backups"
POOL = f"s3://{BUCKET}/pool"
IMAGE = "zeta_1690000400"
TIMEOUT_S = 60
LEDGER_DIGESTS = "SELECT image, sha256 FROM images WHERE sha256 IS NOT NULL"
READ_WITHOUT_US = f"""\
aws s3 cp --quiet {POOL}/images/{IMAGE}/1/manifest.json manifest.json
python3 -c 'import json; [print(f["key"]) for f in json.load(open("manifest.json"))["fragments"]]' |
while read -r key; do aws s3 cp --quiet "{POOL}/$key" -; done | sha256sum"""


class Demo:
    """Says what comes, and runs commands in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")

    def say(self, text: str) -> None:
        """A heading, or a remark."""
        before, after = self._bold if text.startswith("==") else ("", "")
        print(f"{before}{text}{after}", flush=True)

    def run(self, command: str) -> str:
        """Show a shell command, run it, show what it prints; fail when it fails."""
        print(f"{self._bold[0]}$ {command}{self._bold[1]}", flush=True)
        printed = self.ask(command, errors=subprocess.STDOUT)
        print(printed, flush=True)
        return printed

    def ask(self, command: str, *, errors: int | None = None) -> str:
        """Run a shell command and give what it prints; fail when it fails."""
        try:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            fail(f"no end after {TIMEOUT_S} s: {command}")
        if done.returncode:
            print(done.stdout)
            fail(f"exit code {done.returncode}: {command}")
        return done.stdout


def make_aws(folder: Path) -> None:
    """The aws command as a script of ours: its own does not start from a path with a space."""
    folder.mkdir()
    program = folder / "aws"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m awscli "$@"\n')
    program.chmod(0o755)


def use_only(url: str, folder: Path) -> None:
    """From now on this process and its children find our S3, and nobody's account or files."""
    make_aws(folder / "bin")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "PATH": os.pathsep.join(
            [str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        ),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
    }


def fail(why: str) -> NoReturn:
    """End the demo as failed."""
    sys.stdout.flush()
    sys.exit(f"demo: FAILED: {why}")


def tell(demo: Demo) -> None:
    """The story, from catalogue to restored image."""
    shutil.copy(HERE / "nbu.csv", demo.folder)
    shutil.copytree(HERE / "shelf", demo.folder / "shelf")

    demo.say("== 1. What does the old catalogue say?")
    demo.run("tapemigrate inventory --catalog nbu.csv")
    demo.say(
        "This report has no block addresses (the warning), so tapes are read by file numbers.\n"
    )

    demo.say("== 2. What would it take? Nothing is read from tape, and nothing is spent.")
    demo.run("tapemigrate plan --catalog nbu.csv --tapes shelf --class deep_archive")
    demo.say(
        "Small images on purpose: the minutes are an LTO-6 library's for mounting real tapes.\n"
    )

    demo.say("== 3. Migrate: labels checked, every tape once, every image verified in the store.")
    demo.run(
        "tapemigrate run --catalog nbu.csv --tapes shelf --class deep_archive \\\n"
        f"    --to {POOL} --workdir work --yes"
    )

    demo.say("== 4. Ask the ledger, a chain of Parquet files beside the images.")
    columns = "image, state, storage_class AS class, size_bytes AS bytes, tapes"
    demo.run(
        f'tapecatalog sql --ledger {POOL}/ledger \\\n    "SELECT {columns} FROM images ORDER BY 1"'
    )
    demo.say(
        "gamma, delta and eps are interleaved on tape, and how is not public: their tape file is\n"
        "an image of its own, moved whole, once. zeta spans both tapes: where is it now?\n"
    )
    demo.run(f"tapecatalog show {IMAGE} --ledger {POOL}/ledger")

    demo.say("== 5. Is it what was on tape? Digests from the tapes themselves, by other code.")
    from_tape = compare_all(demo)

    demo.say("== 6. Bring zeta back from Glacier. The price first; nothing is asked for yet.")
    demo.run(f"tapemigrate rehydrate {IMAGE} --from {POOL} --dry-run")
    demo.say("Here a recall is ready at once; Glacier takes hours, and --wait waits for it.")
    demo.run(
        f"tapemigrate rehydrate {IMAGE} --from {POOL} --out zeta.tar \\\n"
        "    --tier standard --max-cost 0.01 --wait"
    )
    demo.run("tar -tvf zeta.tar && sha256sum zeta.tar")
    compare(demo, from_tape[IMAGE])

    demo.say("== 7. And without Tapelift, with the aws command line and sha256sum:")
    if demo.run(READ_WITHOUT_US).split()[0] != from_tape[IMAGE]:
        fail("what aws reads is not what was on tape")

    demo.say("== 8. Does the pool still hold what it should? Is the ledger unaltered?")
    demo.run(f"tapemigrate verify --to {POOL}")
    demo.run(f"tapecatalog verify --ledger {POOL}/ledger")


def compare_all(demo: Demo) -> dict[str, str]:
    """The tapes' digests, after comparing them with the ledger's and with those we ship."""
    lines = (HERE / "expected.sha256").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    from_tape = digests(demo.folder / "shelf", demo.folder / "nbu.csv")
    query = f"tapecatalog sql {shlex.quote(LEDGER_DIGESTS)} --ledger {POOL}/ledger --json"
    ledger = {row["image"]: row["sha256"] for row in json.loads(demo.ask(query))}
    for name, digest in from_tape.items():
        same = digest == expected.get(name) == ledger.get(name)
        print(f"{name:<18} {digest}  {'tape = ledger' if same else 'DIFFERENT'}")
    if not from_tape == expected == ledger:
        fail("tape, ledger and the expected digests differ")
    print(flush=True)
    return from_tape


def compare(demo: Demo, from_tape: str) -> None:
    """The restored file must be the tape's image."""
    restored = hashlib.sha256((demo.folder / "zeta.tar").read_bytes()).hexdigest()
    if restored != from_tape:
        fail(f"zeta.tar has SHA-256 {restored}, the tapes have {from_tape}")
    demo.say(f"tape     {from_tape}\nrestored {restored}  the same\n")


def main() -> None:
    """Run the demo in a folder that goes away, unless it is to be kept."""
    parser = argparse.ArgumentParser(prog="scripts/demo", add_help=False)
    parser.add_argument("--keep", action="store_true")
    keep = parser.parse_args().keep
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tapelift-demo-"))
    try:
        with embedded_s3() as url:
            use_only(url, folder)
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            demo = Demo(folder)
            tell(demo)
            if keep:
                save(BUCKET, folder / "bucket")
        demo.say(f"== Done in {time.monotonic() - started:.0f} s: everything is as it was on tape.")
        print(what_next(folder if keep else None))
    finally:
        if not keep:
            shutil.rmtree(folder)


def what_next(folder: Path | None) -> str:
    """Where things lie, and what to try."""
    if folder is None:
        where = "Nothing is left of it; with --keep you can look at the objects and the ledger.\n"
    else:
        where = (
            f"It all lies in {folder}:\n"
            "    bucket/pool/images   the images: plain bytes, and a manifest.json each\n"
            "    bucket/pool/ledger   the ledger; tapecatalog, DuckDB and pandas read it:\n"
            f"        .venv/bin/tapecatalog ls --ledger {folder}/bucket/pool\n"
            "    work                 the run's journal; tapemigrate status --workdir work\n"
        )
    return where + 'Your own tapes: README.md, "Your first tape".'


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
