from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated

import pytest
import typer

from catalog import console
from catalog.console import DebugOption, ExitCode, JsonOption, VerboseOption
from catalog.errors import (
    CatalogError,
    ConfigError,
    ImageError,
    ImageNotFound,
    PoolError,
    StoreUnusable,
    TransientStoreError,
)


def outcome(
    error: BaseException | None = None,
    *words: str,
    codes: Mapping[type[PoolError], ExitCode] | None = None,
    when_interrupted: str = "",
) -> int:
    """Exit code of a command that raises this."""
    app = typer.Typer(rich_markup_mode=None)

    @app.callback()
    def common(verbose: VerboseOption = 0, debug: DebugOption = False) -> None: ...

    @app.command()
    def act(number: Annotated[int, typer.Option()] = 0, as_json: JsonOption = False) -> None:
        print("data")
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as caught:
        console.run(
            app,
            "tapetest",
            codes=codes,
            when_interrupted=when_interrupted,
            args=words or ("act",),
        )
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPELIFT_DEBUG", raising=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (ConfigError("x"), 2),
        (StoreUnusable("x"), 4),
        (CatalogError("x"), 4),
        (PoolError("x"), 4),
        (KeyboardInterrupt(), 5),
        (typer.Abort(), 5),
        (typer.Exit(3), 3),
        (ZeroDivisionError("x"), 1),
        (OSError("x"), 1),
        (BrokenPipeError(), 141),
    ],
)
def test_an_error_ends_with_its_exit_code(error: BaseException | None, code: int) -> None:
    assert outcome(error) == code


def test_callers_add_their_own_exit_codes_and_the_most_special_class_decides() -> None:
    codes = {ImageError: ExitCode.INCOMPLETE}
    assert outcome(ImageNotFound("x"), codes=codes) == 3
    assert outcome(StoreUnusable("x"), codes=codes) == 4
    assert outcome(ImageNotFound("x")) == 4


def test_an_error_is_one_line_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(StoreUnusable("no bucket\x1b[2J\nhere", hint="create it"))
    out, err = capsys.readouterr()
    assert err == "error: no bucket\\x1b[2J\\nhere; create it\n"
    assert out == "data\n"


def test_json_gives_the_error_as_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(TransientStoreError("slow", hint="wait"), "act", "--json")
    out, err = capsys.readouterr()
    assert err == "error: slow; wait\n"
    assert json.loads(out.removeprefix("data\n")) == {
        "error": {"code": "pool_down", "message": "slow", "hint": "wait", "retryable": True}
    }


def test_a_wrong_option_is_one_line_and_json_on_demand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert outcome(None, "act", "--json", "--number", "x") == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: Invalid value for '--number'")
    assert err.endswith("; see tapetest act --help\n")
    assert len(err.splitlines()) == 1
    assert json.loads(out)["error"]["code"] == "usage"


def test_json_behind_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(None, "act", "--", "--json") == 2
    assert capsys.readouterr().out == ""


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(rich_markup_mode=None, help="What it is for.")
    app.callback()(lambda: None)
    app.command("act")(lambda: None)
    with pytest.raises(SystemExit) as caught:
        console.run(app, "tapetest", args=())
    assert caught.value.code == 2
    assert "What it is for." in capsys.readouterr().err


def test_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(None, "--help") == 0
    assert "Usage: tapetest" in capsys.readouterr().out


def test_interrupting_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(KeyboardInterrupt(), when_interrupted="run it again")
    assert capsys.readouterr().err == "error: interrupted; run it again\n"


def test_a_bug_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(ZeroDivisionError("division"))
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected ZeroDivisionError: division; ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_traceback_is_shown_when_asked_for(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setenv("TAPELIFT_DEBUG", "1")
        outcome(ZeroDivisionError("division"))
    else:
        outcome(ZeroDivisionError("division"), "--debug", "act")
    assert "Traceback" in capsys.readouterr().err


def script(body: str) -> list[str]:
    program = (
        "import typer; from catalog import console\n"
        "app = typer.Typer()\n"
        "app.callback()(lambda: None)\n"
        f"@app.command()\ndef act():\n    {body}\n"
        "console.run(app, 'tapetest', args=['act'])\n"
    )
    return [sys.executable, "-c", program]


def test_a_reader_that_goes_away_makes_no_noise() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    for body in ("print('x')", "[print('x' * 1000) for _ in range(1000)]"):
        with os.fdopen(os.dup(write_end), "wb") as stdout:
            done = subprocess.run(
                script(body), stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=60
            )
        assert done.stderr == b""
        assert done.returncode == 141
    os.close(write_end)


def test_names_that_are_not_utf8_do_not_stop_the_output() -> None:
    done = subprocess.run(
        script(r"console.print_json({'a': '\udcff'}); console.print_table(['b'], [['\udcff']])"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\udcff" in done.stdout


def test_completion_still_works() -> None:
    environment = os.environ | {
        "_TAPETEST_COMPLETE": "complete_bash",
        "COMP_WORDS": "tapetest a",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        script("pass"), capture_output=True, env=environment, check=False, timeout=60
    )
    assert done.stdout.split() == [b"act"]


# --- tables ---------------------------------------------------------------------------------


def table(columns: list[str], *rows: list[object]) -> list[str]:
    lines: list[str] = []
    console.print_table(columns, rows, write=lines.append)
    return lines


def test_a_table_aligns_its_columns_and_numbers_to_the_right() -> None:
    assert table(["name", "n", "ok"], ["a", 5, True], ["longer", 1234, None]) == [
        "NAME       N  OK",
        "a          5  yes",
        "longer  1234  -",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    assert table(["name", "n"]) == ["NAME  N"]


def test_wide_and_combining_characters_keep_the_columns() -> None:
    assert table(["a", "b"], ["\u65e5\u672c", 1], ["e\u0301", 2], ["abcd", 3]) == [
        "A     B",
        "\u65e5\u672c  1",
        "e\u0301     2",
        "abcd  3",
    ]


def test_a_name_cannot_steer_the_terminal() -> None:
    assert table(["a"], ["x\x1b[31m\n\x07\u202e"])[1] == "x\\x1b[31m\\n\\x07\\u202e"


def test_lists_and_structures_have_a_place_in_a_table() -> None:
    assert table(["a", "b"], [["x", "y"], {"k": 1}], [[], None])[1:] == ['x,y  {"k": 1}', "-    -"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, None),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_994, "999.99 kB"),
        (999_999, "1.00 MB"),
        (1_500_000_000_000, "1.50 TB"),
        (2 * 10**18, "2000.00 PB"),
    ],
)
def test_sizes_are_written_in_decimal_units(size: int | None, text: str | None) -> None:
    assert console.size_text(size) == text


# --- logging --------------------------------------------------------------------------------


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers, root.level = handlers, level
    for name in ("catalog", "connector", "migrate"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("verbose", "level"), [(0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG), (9, 10)]
)
def test_verbose_raises_our_loggers_and_no_other(
    root_logger: logging.Logger, verbose: int, level: int
) -> None:
    console.set_up_logging(verbose)
    assert logging.getLogger("catalog.ledger").getEffectiveLevel() == level
    assert logging.getLogger("botocore.auth").getEffectiveLevel() == logging.WARNING
