"""The backup administrator's command: ``tapeconnector``. Parses, calls one thing, prints."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from catalog import console
from catalog.console import DebugOption, VerboseOption

NAME = "tapeconnector"

app = typer.Typer(
    name=NAME,
    rich_markup_mode=None,
    help="""A storage pool for backup products: serve it, and use it from the command line.""",
)


def main() -> NoReturn:
    """Entry point of the command."""
    console.run(app, NAME)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {version('tapelift')}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: VerboseOption = 0,
    debug: DebugOption = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    console.set_up_logging(max(verbose, 2 if debug else 0))
