from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from catalog import cli
from catalog.files import FolderFiles, name_of
from catalog.keys import FileKey
from catalog.ledger import Ledger
from catalog.model import Kind
from catalog.s3 import S3Location, make_client
from catalog.s3_files import S3Files
from tests.catalog.keyring import key_file, public_file
from tests.catalog.samples import DAY, START, fact, place, stored

POOL = "s3://bucket/pool"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    monkeypatch.setattr(cli.console, "set_up_logging", lambda verbose: None)

    def call(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tapecatalog", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, out, err)

    return call


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    folder = tmp_path / "pool" / "ledger"
    Ledger(FolderFiles(folder)).append(
        [
            stored("db1_100", client="db1", policy="oracle", backup_time=START - 3 * DAY),
            stored(
                "web1_100",
                client="web1",
                policy="files",
                backup_time=START - 2 * DAY,
                media=("A1", "A2"),
                places=(place("A1", "A1L8", size=600), place("A2", "A2L8", size=400)),
            ),
            fact(Kind.FAILED, "db2_100", client="db2", policy="oracle", reason="tape jammed"),
        ]
    )
    Ledger(FolderFiles(folder)).append(
        [fact(Kind.HOLD_PLACED, "web1_100", pool=POOL, copy=1, actor="counsel", reason="case 7")]
    )
    return str(folder)


Run = Callable[..., Done]


# --- ls -------------------------------------------------------------------------------------


def test_ls_lists_images_oldest_first(run: Run, ledger: str) -> None:
    done = run("ls", "--ledger", ledger)
    assert done.code == 0
    head, *lines = done.out.splitlines()
    assert head.split()[:4] == ["IMAGE", "COPY", "STATE", "CLIENT"]
    assert [line.split()[0] for line in lines] == ["db1_100", "web1_100", "db2_100"]
    assert "1.00 kB" in lines[0]
    assert lines[1].split()[-2:] == ["yes", "A1L8,A2L8"]


@pytest.mark.parametrize(
    ("words", "images"),
    [
        (["--client", "db1"], ["db1_100"]),
        (["--client", "db*"], ["db1_100", "db2_100"]),
        (["--policy", "oracle", "--state", "failed"], ["db2_100"]),
        (["--kind", "stored"], ["db1_100", "web1_100"]),
        (["--limit", "1"], ["db1_100"]),
        (["--limit", "0"], ["db1_100", "web1_100", "db2_100"]),
        (["--client", "nobody"], []),
    ],
)
def test_ls_filters(run: Run, ledger: str, words: list[str], images: list[str]) -> None:
    done = run("ls", "--ledger", ledger, "--json", *words)
    assert done.code == 0
    assert [row["image"] for row in done.json] == images
    assert ("more than 1" in done.err) == (words == ["--limit", "1"])


# --- show -----------------------------------------------------------------------------------


def test_show_tells_the_chain_of_custody(run: Run, ledger: str) -> None:
    done = run("show", "web1_100", "--ledger", ledger)
    assert done.code == 0
    for piece in (
        "A1L8", "A2L8", "600", "400",  # places
        "images/web1_100/1/token-00000", "rosUhgp5mIg=",  # objects
        "COMPLIANCE until 2025-07-06T00:00:00Z", "legal hold: yes",
        "1000 bytes (1.00 kB)", str(stored("web1_100").sha256), "DEEP_ARCHIVE",
    ):  # fmt: skip
        assert piece in done.out
    history = done.out[done.out.index("What happened") :].splitlines()
    assert [line.split()[2] for line in history[2:4]] == ["stored", "hold_placed"]
    assert "counsel" in history[3]
    assert "case 7" in history[3]


def test_show_gives_state_and_all_facts_as_json(run: Run, ledger: str) -> None:
    answer = run("show", "web1_100", "--ledger", ledger, "--json").json
    assert [row["state"] for row in answer["images"]] == ["stored"]
    assert [row["kind"] for row in answer["facts"]] == ["stored", "hold_placed"]
    assert answer["facts"][0]["places"][1]["barcode"] == "A2L8"


def test_show_of_a_failed_image_says_why(run: Run, ledger: str) -> None:
    assert "failed - tape jammed" in run("show", "db2_100", "--ledger", ledger).out


def test_show_of_an_unknown_image_is_a_usage_error(run: Run, ledger: str) -> None:
    done = run("show", "nobody", "--ledger", ledger, "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == "not_found"


# --- sql ------------------------------------------------------------------------------------

COUNT = "SELECT state, COUNT(*) AS n, MAX(hold) AS held FROM images GROUP BY 1 ORDER BY 1"


def test_sql_answers_as_a_table(run: Run, ledger: str) -> None:
    done = run("sql", COUNT, "--ledger", ledger)
    assert done.out.splitlines() == ["STATE   N  HELD", "failed  1  no", "stored  2  yes"]


def test_sql_answers_as_json(run: Run, ledger: str) -> None:
    assert run("sql", COUNT, "--ledger", ledger, "--json").json == [
        {"state": "failed", "n": 1, "held": False},
        {"state": "stored", "n": 2, "held": True},
    ]


def test_sql_answers_as_csv(run: Run, ledger: str) -> None:
    question = "SELECT image, reason, tapes FROM images ORDER BY image"
    rows = list(csv.reader(io.StringIO(run("sql", question, "--ledger", ledger, "--csv").out)))
    assert rows[0] == ["image", "reason", "tapes"]
    assert rows[2] == ["db2_100", "tape jammed", "[]"]
    assert rows[3] == ["web1_100", "", '["A1L8", "A2L8"]']


def test_sql_reads_its_question_from_stdin(
    run: Run, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 42 AS answer"))
    assert run("sql", "-", "--ledger", ledger, "--json").json == [{"answer": 42}]


@pytest.mark.parametrize(
    "words",
    [
        ["SELECT nonsense"],
        ["COPY facts TO 'x.csv'"],
        ["SELECT * FROM read_csv('/etc/passwd')"],
        ["SELECT 1", "--json", "--csv"],
    ],
)
def test_a_question_that_cannot_be_answered_is_a_usage_error(
    run: Run, ledger: str, words: list[str]
) -> None:
    done = run("sql", *words, "--ledger", ledger)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


# --- verify ---------------------------------------------------------------------------------


def test_verify_says_sound_and_what_it_cannot_see(run: Run, ledger: str) -> None:
    done = run("verify", "--ledger", ledger)
    assert done.code == 0
    assert done.out.startswith(f"sound: {ledger}: 2 files, 4 rows")
    assert "removed at its end" in done.out
    answer = run("verify", "--ledger", ledger, "--json").json
    assert answer["ok"] is True
    assert answer["head"]["sequence"] == 1


def test_verify_names_the_first_bad_file_and_ends_with_three(run: Run, ledger: str) -> None:
    Path(ledger, name_of(0)).unlink()
    done = run("verify", "--ledger", ledger)
    assert done.code == 3
    assert f"first bad file: {name_of(0)}\nwhy: it is missing" in done.out
    done = run("verify", "--ledger", ledger, "--json")
    assert done.code == 3
    assert done.json["bad"]["name"] == name_of(0)


# --- where the ledger is --------------------------------------------------------------------


def test_a_pool_is_taken_for_its_ledger_and_said_so(run: Run, ledger: str) -> None:
    pool = str(Path(ledger).parent)
    done = run("ls", "--ledger", pool, "--json")
    assert len(done.json) == 3
    assert done.err == f"{pool} is a pool; reading its ledger {ledger}\n"


def test_an_empty_folder_is_an_empty_ledger(run: Run, tmp_path: Path) -> None:
    done = run("ls", "--ledger", str(tmp_path), "--json")
    assert (done.code, done.json) == (0, [])


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["show", "x"], ["sql", "SELECT 1"]])
def test_a_ledger_that_is_not_there_is_a_usage_error(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    for uri in (str(tmp_path / "nowhere"), str(tmp_path / "photos"), "ftp://host/x"):
        done = run(*command, "--ledger", uri)
        assert done.code == 2
        assert done.err.startswith("error: ")
        assert len(done.err.splitlines()) == 1


def test_a_pool_in_s3_is_found_with_and_without_commits(
    run: Run, moto_bucket: Callable[..., S3Location], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = moto_bucket(prefix="pool")
    words = ("--endpoint-url", str(place.endpoint_url), "--json")
    assert run("ls", "--ledger", place.uri, *words).code == 2
    make_client(place).put_object(Bucket=place.bucket, Key=place.key("pool.json"), Body=b"{}")
    for uri in (place.uri, place.uri + "/", place.uri + "/ledger"):
        assert run("ls", "--ledger", uri, *words).json == []
    Ledger(S3Files(S3Location(place.bucket, "pool/ledger", place.endpoint_url))).append(
        [stored("a")]
    )
    for uri in (place.uri, place.uri + "/ledger"):
        assert [row["image"] for row in run("ls", "--ledger", uri, *words).json] == ["a"]
        assert run("verify", "--ledger", uri, *words).json["ok"] is True


def test_a_bucket_that_is_not_there_cannot_be_used(run: Run, moto_endpoint: str) -> None:
    uri = "s3://no-such-bucket-at-all/pool"
    done = run("ls", "--ledger", uri, "--endpoint-url", moto_endpoint)
    assert done.code == 4
    assert "NoSuchBucket" in done.err
    assert len(done.err.splitlines()) == 1


# --- the program ----------------------------------------------------------------------------


def test_every_command_has_help_and_an_example() -> None:
    command = get_command(cli.app)
    names = command.list_commands(None)  # type: ignore[attr-defined]
    assert names == ["ls", "show", "sql", "verify", "anchor"]
    for name in names:
        text = command.get_command(None, name).help or ""  # type: ignore[attr-defined]
        assert f"Example: tapecatalog {name}" in text


def test_the_version_is_said(run: Run) -> None:
    assert run("--version").out.startswith("tapecatalog 0.")


def test_the_installed_command_works_from_anywhere(ledger: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("tapecatalog")
    if not program.exists():
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run(
        [program, "ls", "--ledger", ledger, "--json"],
        capture_output=True, check=False, cwd=tmp_path, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool"]


# --- anchors --------------------------------------------------------------------------------


def test_anchor_signs_the_head_and_verify_holds_the_ledger_to_it(
    run: Run, ledger: str, tmp_path: Path
) -> None:
    key = key_file(tmp_path)
    public = public_file(tmp_path, FileKey(key).public_key)
    done = run("anchor", "--ledger", ledger, "--key-file", str(key), "--json")
    head = Ledger(FolderFiles(Path(ledger))).head()
    assert head is not None
    noted = f"{head.sha256}@1"
    assert done.json == {
        "uri": ledger,
        "checkpoint": "00000000000000000000.jsonl",
        "head": noted,
    }
    again = run("anchor", "--ledger", ledger, "--key-file", str(key))
    assert again.out.splitlines() == ["checkpoint: none was needed", f"to note elsewhere: {noted}"]
    sound = run("verify", "--ledger", ledger, "--key", str(public), "--expect", noted)
    assert (sound.code, "anchored: up to 1, by 1 checkpoints" in sound.out) == (0, True)
    (Path(ledger) / name_of(1)).unlink()
    for words in ([], ["--key", str(public)], ["--expect", noted]):
        broken = run("verify", "--ledger", ledger, "--json", *words)
        assert (broken.code, broken.json["bad"]["name"]) == (3, name_of(1))


def test_checkpoints_may_lie_elsewhere(run: Run, ledger: str, tmp_path: Path) -> None:
    place = ["--checkpoints", str(tmp_path / "elsewhere")]
    run("anchor", "--ledger", ledger, "--key-file", str(key_file(tmp_path)), *place)
    assert run("verify", "--ledger", ledger, "--json").json["anchored"] is None
    assert run("verify", "--ledger", ledger, "--json", *place).json["anchored"] == 1


def test_a_key_hands_over_to_another(run: Run, ledger: str, tmp_path: Path) -> None:
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    first = public_file(tmp_path, FileKey(old).public_key, "first.pub")
    following = public_file(tmp_path, FileKey(new).public_key, "next.pub")
    words = ["anchor", "--ledger", ledger, "--key-file"]
    assert run(*words, str(old), "--next-key", str(following)).code == 0
    assert run(*words, str(old), "--next-key", str(first)).code == 2
    command = shlex.join([sys.executable, str(signing_script(tmp_path)), str(new)])
    by_command = ["anchor", "--ledger", ledger, "--key-command", command]
    assert run(*by_command, "--public-key", str(following), "--next-key", str(first)).code == 0
    done = run("verify", "--ledger", ledger, "--key", str(first), "--json")
    assert (done.code, done.json["checkpoints"]) == (0, 3)


def signing_script(folder: Path) -> Path:
    script = folder / "sign.py"
    script.write_text(
        "import sys, pathlib\n"
        "from catalog.keys import FileKey\n"
        "key = FileKey(pathlib.Path(sys.argv[1]))\n"
        "sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))\n"
    )
    return script


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--key-command", "sign"],
        ["--key-file", "a", "--key-command", "b", "--public-key", "c"],
        ["--key-file", "a", "--public-key", "c"],
        ["--key-command", "'", "--public-key", "c"],
        ["--key-file", "/nonexistent"],
    ],
)
def test_anchor_asks_what_shall_sign(run: Run, ledger: str, words: list[str]) -> None:
    assert run("anchor", "--ledger", ledger, *words).code == 2


@pytest.mark.parametrize("text", ["x", "a" * 64, "@1", "g" * 64 + "@1", "a" * 64 + "@-1"])
def test_a_noted_head_that_is_none_is_refused(run: Run, ledger: str, text: str) -> None:
    assert run("verify", "--ledger", ledger, "--expect", text).code == 2
