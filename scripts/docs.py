"""The command reference and the table of settings, made from the code. See scripts/docs."""

from __future__ import annotations

import argparse
import enum
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

import catalog.cli
import connector.cli
import migrate.cli
from connector.config import SECTIONS
from connector.config_table import Section, page_rows

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- made by scripts/docs from the programs; do not edit up to the end mark -->\n"
END = "<!-- end -->\n"
PROGRAMS = {
    "tapeconnector": connector.cli.app,
    "tapemigrate": migrate.cli.app,
    "tapecatalog": catalog.cli.app,
}
VALUES = {int: "N", float: "N", str: "TEXT", Path: "PATH"}


def reference() -> str:
    """All programs and their commands, as Markdown."""
    return "\n".join(line for name in PROGRAMS for line in _program(name))


def command_of(name: str) -> Any:
    """The command group of a program."""
    return typer.main.get_command(PROGRAMS[name])


def _program(name: str) -> Iterator[str]:
    group = command_of(name)
    yield f"## {name}\n"
    yield f"{_text(group.help)}\n"
    yield f"`{name} [OPTION]... COMMAND ...`\n"
    yield from _options(group.params)
    for command_name, command in group.commands.items():
        yield f"### {name} {command_name}\n"
        help_text, _, example = command.help.partition("\n\nExample: ")
        if not example:
            help_text, _, example = command.help.partition("\nExample: ")
        yield f"{_text(help_text)}\n"
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        words = " ".join(_argument(one) for one in arguments)
        yield f"`{name} {command_name} [OPTION]... {words}".rstrip() + "`\n"
        yield from _options(command.params)
        yield f"```sh\n{_text(example)}\n```\n"


def _text(text: str) -> str:
    """Help with its lines joined; paragraphs stay."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    shown = name if parameter.required else f"[{name}]"
    return f"{shown}..." if parameter.nargs == -1 else shown


def _options(parameters: list[Any]) -> Iterator[str]:
    yield "| option | default | meaning |"
    yield "| --- | --- | --- |"
    for parameter in parameters:
        cells = (_option(parameter), _default(parameter), parameter.help or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    if parameter.is_flag or parameter.count:
        return names
    return f"{names} `{_value(parameter)}`"


def _value(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(member.value) for member in kind)
    return VALUES.get(kind, "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    default = parameter.default
    if default is None or default is False or parameter.param_type_name == "argument":
        return ""
    if getattr(parameter, "count", False):
        return ""
    value = default.value if isinstance(default, enum.Enum) else default
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


# --- settings -------------------------------------------------------------------------------------


def settings() -> str:
    """All sections of the configuration and their keys, as Markdown."""
    return "\n".join(line for section in SECTIONS for line in _section(section))


def _section(section: Section) -> Iterator[str]:
    yield f"### {section.title}\n"
    yield "| key | takes | default | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from page_rows(section)
    yield ""


# --- pages ----------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "docs/cli.md": reference,
    "docs/configuration.md": settings,
}


def page(name: str, old: str) -> str:
    """The page with its generated part made anew; SystemExit when it has no markers."""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{name} has lost its markers")
    return f"{before}{BEGIN}\n{PAGES[name]()}\n{END}{after}"


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(prog="scripts/docs", add_help=False)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name in PAGES:
        old = (ROOT / name).read_text("utf-8")
        new = page(name, old)
        if check and new != old:
            sys.exit(f"{name} is stale; run scripts/docs")
        if not check:
            (ROOT / name).write_text(new, "utf-8")


if __name__ == "__main__":
    main()
