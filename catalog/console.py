"""What every command line of ours shares: exit codes, errors, tables, JSON, logging.

Data goes to stdout, everything else to stderr. Nothing here knows a ledger, an image or a tape.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from catalog.errors import ConfigError, PoolError

logger = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """How a command ended. Scripts depend on these numbers: they are never given new meanings."""

    DONE = 0
    BUG = 1  # an error that nobody foresaw
    USAGE = 2  # an option, an argument or the configuration is wrong
    INCOMPLETE = 3  # finished, but some images failed or are damaged, or a check found something
    UNUSABLE = 4  # the destination, the ledger or a tape cannot be used
    INTERRUPTED = 5  # stopped by the user; the same command goes on where it stopped
    NOT_FOUND = 6  # there is no such image; nothing else ends like this
    READER_GONE = 141  # whoever read stdout has closed it, as `head` does; 128 + SIGPIPE


ERROR_CODES: Mapping[type[PoolError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    PoolError: ExitCode.UNUSABLE,
}
"""Error class to exit code; the most special class of an error decides."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more on stderr; -vv says all.")
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
]


# --- running a command ----------------------------------------------------------------------


def run(
    app: typer.Typer,
    name: str,
    *,
    codes: Mapping[type[PoolError], ExitCode] | None = None,
    when_interrupted: str = "",
    args: Sequence[str] | None = None,
) -> NoReturn:
    """Run a command line and leave the process with its exit code.

    name is the program's, codes are added to ERROR_CODES, when_interrupted is the hint after
    Ctrl-C, args default to the process's. A command that wants another exit code than 0 raises
    ``typer.Exit(code)``.
    """
    words = list(sys.argv[1:] if args is None else args)
    if _completing(name):
        typer.main.get_command(app)(args=words, prog_name=name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    try:
        code = _outcome(app, name, words, {**ERROR_CODES, **(codes or {})})
    except KeyboardInterrupt:
        _report("interrupted", when_interrupted, "interrupted", _asked(words, "--json"))
        code = ExitCode.INTERRUPTED
    sys.exit(_flushed(code))


def _completing(name: str) -> bool:
    return f"_{name}_COMPLETE".replace("-", "_").upper() in os.environ


def _outcome(
    app: typer.Typer, name: str, words: list[str], codes: Mapping[type[PoolError], ExitCode]
) -> int:
    as_json = _asked(words, "--json")
    try:
        command = typer.main.get_command(app)
        if not words and isinstance(command, TyperGroup):
            with command.make_context(name, [], resilient_parsing=True) as context:
                print(context.get_help(), file=sys.stderr)
            return ExitCode.USAGE
        with command.make_context(name, list(words)) as context:  # which empties the list
            command.invoke(context)
    except typer.Exit as exc:
        return exc.exit_code
    except BrokenPipeError:
        return ExitCode.READER_GONE
    except typer.Abort as exc:
        raise KeyboardInterrupt from exc
    except typer.TyperException as exc:
        hint = f"see {_command_path(exc, name)} --help"
        _report(exc.format_message().rstrip("."), hint, "usage", as_json)
        return ExitCode.USAGE
    except PoolError as exc:
        _trace(words)
        _report(exc.message, exc.hint, exc.code, as_json, retryable=exc.retryable)
        return exit_code(exc, codes)
    except Exception as exc:
        _trace(words)
        hint = "run it again with --debug and report what it shows"
        _report(f"unexpected {type(exc).__name__}: {exc}", hint, "bug", as_json)
        return ExitCode.BUG
    return ExitCode.DONE


def exit_code(error: PoolError, codes: Mapping[type[PoolError], ExitCode]) -> ExitCode:
    """The exit code for an error: that of the most special class in the table."""
    for cls in type(error).__mro__:
        if cls in codes:
            return codes[cls]
    return ExitCode.UNUSABLE


def _asked(words: Sequence[str], option: str) -> bool:
    """Whether an option was given; known also when the rest could not be understood."""
    return option in (words[: words.index("--")] if "--" in words else words)


def _command_path(exc: typer.TyperException, name: str) -> str:
    context = getattr(exc, "ctx", None)
    return str(context.command_path) if context is not None else name


def _trace(words: Sequence[str]) -> None:
    if _asked(words, "--debug") or os.environ.get("TAPELIFT_DEBUG", "") not in ("", "0"):
        traceback.print_exc(file=sys.stderr)


def _report(message: str, hint: str, code: str, as_json: bool, *, retryable: bool = False) -> None:
    line = f"error: {message}; {hint}" if hint else f"error: {message}"
    try:
        print(printable(line), file=sys.stderr)
        if as_json:
            about = {"code": code, "message": message, "hint": hint, "retryable": retryable}
            print_json({"error": about})
    except BrokenPipeError:
        logger.debug("nobody reads what this command says")


def _flushed(code: int) -> int:
    """Flush now, so that the interpreter has nothing to complain about when it ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = ExitCode.READER_GONE
    if code == ExitCode.READER_GONE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(code)


# --- output ---------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Print one JSON value on stdout, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """Tell the user something that is not data: on stderr."""
    print(printable(message), file=sys.stderr)


def printable(text: str) -> str:
    """Text without what could steer a terminal: controls and unprintables as escapes.

    Names of images and labels of tapes come from outside.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def size_text(size: int | None) -> str | None:
    """Bytes for people, in decimal units as stores bill them: ``1.50 TB``."""
    if size is None:
        return None
    if abs(size) < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if abs(value) < 999.995 or unit == "PB":
            break
    return f"{value:.2f} {unit}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(_cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def _width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "FW")
        for c in text
    )


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    write: Callable[[str], Any] | None = None,
) -> None:
    """Print rows as aligned columns on stdout; numbers to the right, ``-`` for unknown.

    All rows are held in memory, for their widths.
    """
    write = write or print
    lines = [list(row) for row in rows]
    cells = [[_cell(value) for value in line] for line in lines]
    widths = [
        max([_width(name), *(_width(line[at]) for line in cells)])
        for at, name in enumerate(columns)
    ]
    right = [_all_numbers(line[at] for line in lines) for at in range(len(columns))]
    for line in [[name.upper() for name in columns], *cells]:
        padded = (
            " " * (width - _width(cell)) + cell if to_right else cell + " " * (width - _width(cell))
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        write("  ".join(padded).rstrip())


def _all_numbers(values: Iterable[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in known
    )


# --- logging --------------------------------------------------------------------------------


def set_up_logging(verbose: int = 0) -> None:
    """Log to stderr: warnings, with 1 also what is done, with 2 everything of ours.

    Other people's libraries never say more than warnings: boto3's debug log holds credentials.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    for ours in ("catalog", "connector", "migrate"):
        logging.getLogger(ours).setLevel(level)
