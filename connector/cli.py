"""The backup administrator's command: ``tapeconnector``. Parses, calls one thing, prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from catalog import console, errors
from catalog.console import DebugOption, ExitCode, JsonOption, VerboseOption
from catalog.errors import PoolError
from connector import dplcompat
from connector.commands import images, keep, local, recall, server
from connector.commands.producing import ProducerFailed

NAME = "tapeconnector"

CODES: Mapping[type[PoolError], ExitCode] = {
    # never, as it was asked for
    errors.NoPool: ExitCode.USAGE,
    errors.NameInvalid: ExitCode.USAGE,
    errors.ImageNotFound: ExitCode.NOT_FOUND,
    errors.ImageExists: ExitCode.USAGE,
    errors.ImageComplete: ExitCode.USAGE,
    errors.ImageLocked: ExitCode.USAGE,
    errors.ImageHeld: ExitCode.USAGE,
    errors.WouldShorten: ExitCode.USAGE,
    errors.OverBudget: ExitCode.USAGE,
    errors.SamePlace: ExitCode.USAGE,
    errors.Unsupported: ExitCode.USAGE,
    errors.CursorExpired: ExitCode.USAGE,
    # bytes are not what they should be
    errors.ImageDamaged: ExitCode.INCOMPLETE,
    errors.CorruptObject: ExitCode.INCOMPLETE,
    errors.DigestMismatch: ExitCode.INCOMPLETE,
    errors.SizeMismatch: ExitCode.INCOMPLETE,
    ProducerFailed: ExitCode.INCOMPLETE,
    # not yet
    errors.ImageArchived: ExitCode.INTERRUPTED,
    errors.ImageBusy: ExitCode.INTERRUPTED,
    errors.TooBusy: ExitCode.INTERRUPTED,
}
"""What the daemon says, as exit codes; all else is 4: it, or its store, cannot be used."""

app = typer.Typer(
    name=NAME,
    rich_markup_mode=None,
    help="""A storage pool for backup products: serve it, and use it from the command line.

    Start with: tapeconnector serve --embedded
    Exit codes: 0 done, 2 wrong option or refused for good, 3 damaged, or the program of --run
    failed, 4 the daemon or its store cannot be used, 5 interrupted or not yet: archived, busy; the
    same command goes on, 6 there is no such image.
    """,
)


def main() -> NoReturn:
    """Entry point of the command."""
    console.run(
        app, NAME, codes=CODES, when_interrupted="a file goes on with the same command, a pipe anew"
    )


def _show_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {version('tapelift')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    verbose: VerboseOption = 0,
    debug: DebugOption = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    level = max(verbose, 2 if debug else 0)
    console.set_up_logging(level)
    context.obj = {"verbose": level}


def show_version(as_json: JsonOption = False) -> None:
    """Show the version.

    Example: tapeconnector version
    """
    if as_json:
        console.print_json({"program": NAME, "version": version("tapelift")})
    else:
        print(f"{NAME} {version('tapelift')}")


def wrapper(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="OPERATION",
            help="options, testconnection, list V, stat V P, upload V P, download V P, remove V P.",
        ),
    ],
) -> None:
    """Be the program that Bareos runs for each part of a volume; set up by environment variables.

    Give Bareos the program tapeconnector-dplcompat, which is this command.
    Example: tapeconnector dplcompat list Full-0001
    """
    raise typer.Exit(dplcompat.run(words, os.environ))


COMMANDS: dict[str, Callable[..., None]] = {
    "serve": local.serve,
    "put": images.put,
    "get": images.get,
    "ls": images.list_images,
    "stat": images.stat,
    "rm": images.rm,
    "prepare": recall.prepare,
    "ticket": recall.ticket,
    "retain": keep.retain,
    "hold": keep.hold,
    "copy": keep.copy,
    "verify": keep.verify,
    "events": server.events,
    "pools": server.pools,
    "status": server.status,
    "apply": local.apply,
    "rebuild": local.rebuild,
    "erase": local.erase,
    "doctor": local.doctor,
    "dplcompat": wrapper,
    "version": show_version,
}
for command_name, command in COMMANDS.items():
    app.command(command_name)(command)
