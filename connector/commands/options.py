"""What the client commands share: how they find the daemon, name images, say times, print.

Option names are fixed, because people script them.
"""

from __future__ import annotations

import base64
import functools
import inspect
import json
import os
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from catalog import console
from catalog.errors import ConfigError
from catalog.model import NANOSECONDS, from_iso
from connector.client import Client, ConnectionLost
from connector.config_table import Wrong
from connector.places import default_socket
from connector.secret_files import read_token
from connector.wire import codec
from connector.wire.messages import Answer, Name

P = ParamSpec("P")
R = TypeVar("R")
DAY = 86_400 * NANOSECONDS
TIMEOUT_S = 900.0

SocketOption = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The daemon's socket [the user's, the host's]."),
]
TcpOption = Annotated[
    str | None,
    typer.Option("--tcp", metavar="HOST:PORT", help="The daemon's port, instead of its socket."),
]
CaOption = Annotated[
    Path | None,
    typer.Option("--cafile", metavar="FILE", help="With --tcp: who signed its certificate, PEM."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="With --tcp: the file with the token."),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.1, help="How long the daemon may say nothing."
    ),
]
ImageArgument = Annotated[str, typer.Argument(metavar="POOL/NAME", help="The image.")]
CopyOption = Annotated[
    int | None, typer.Option("--copy", min=1, metavar="N", help="Which copy [the lowest].")
]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; stands in the ledger.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


class NoDaemon(ConnectionLost):
    """There is no socket: the daemon was not started, or is just being restarted."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """How to reach the daemon. The token is never shown."""

    socket: Path | None = None
    tcp: str | None = None
    cafile: Path | None = None
    token_file: Path | None = None
    timeout_s: float = TIMEOUT_S

    def client(self, **more: Any) -> Client:
        """A client that is not connected yet.

        Raises:
            ConfigError: options that do not go together, or a file that cannot be used.
            NoDaemon: there is no socket at its place.
        """
        if self.tcp is None:
            if self.cafile or self.token_file:
                raise ConfigError(
                    "--cafile and --token-file are for --tcp", hint="leave them out, or give --tcp"
                )
            path = self.socket or default_socket()
            if not path.exists():
                raise NoDaemon(
                    f"no daemon listens at {path}",
                    hint="start one: tapeconnector serve --embedded; or say --socket PATH",
                )
            return Client(socket=path, timeout_s=self.timeout_s, name="tapeconnector", **more)
        if self.socket is not None:
            raise ConfigError("--socket and --tcp at once", hint="choose one")
        host, _, port = self.tcp.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ConfigError(f"--tcp {self.tcp!r} is not HOST:PORT", hint="write 127.0.0.1:4711")
        if self.token_file is None:
            raise ConfigError("--tcp needs a token", hint="give --token-file")
        try:
            token = read_token(self.token_file)
        except Wrong as exc:
            raise ConfigError(f"--token-file: {exc.what}", hint=exc.remedy) from exc
        return Client(
            host=host.strip("[]"),
            port=int(port),
            cafile=self.cafile,
            token=token,
            timeout_s=self.timeout_s,
            name="tapeconnector",
            **more,
        )


def at_daemon(command: Callable[Concatenate[Place, P], R]) -> Callable[P, R]:
    """Give a command the options that find the daemon; it gets them as its first argument."""
    hints = typing.get_type_hints(command, include_extras=True)
    own = list(inspect.signature(command).parameters.values())
    options = {
        "socket": (SocketOption, None),
        "tcp": (TcpOption, None),
        "cafile": (CaOption, None),
        "token_file": (TokenFileOption, None),
        "timeout_s": (TimeoutOption, TIMEOUT_S),
    }
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in options.items()
    ]
    shown = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in own[1:]]

    @functools.wraps(command)
    def with_options(*args: P.args, **kwargs: P.kwargs) -> R:
        place = Place(**{name: kwargs.pop(name) for name in options})  # type: ignore[arg-type]
        return command(place, *args, **kwargs)

    with_options.__signature__ = inspect.Signature([*shown, *shared])  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in [*shown, *shared]}
    del with_options.__wrapped__
    return with_options


# --- names ----------------------------------------------------------------------------------------


def split(text: str, *, whole: bool = True) -> tuple[str, Name]:
    """The pool and the image of ``POOL/NAME``; the first slash parts them.

    whole False: the name, or the beginning of one, may be missing.

    Raises:
        ConfigError: there is no pool, or no name.
    """
    # what the shell gave, byte for byte: names need not be text
    pool, _, rest = os.fsencode(text).decode("utf-8", "surrogateescape").partition("/")
    if not pool or (whole and not rest):
        raise ConfigError(
            f"{text!r} does not name an image", hint="write POOL/NAME, for example main/db_17"
        )
    return pool, Name(rest)


def one_pool(texts: list[str]) -> tuple[str, list[Name]]:
    """The pool and the images of several names that must be of one pool."""
    pairs = [split(text) for text in texts]
    pools = sorted({pool for pool, _ in pairs})
    if len(pools) > 1:
        raise ConfigError(
            f"images of {len(pools)} pools at once: {', '.join(pools)}", hint="take one pool a time"
        )
    return pools[0], [name for _, name in pairs]


# --- times ----------------------------------------------------------------------------------------


def moment(text: str | None, option: str) -> int | None:
    """A time given as ISO 8601; without a zone it is UTC."""
    if text is None:
        return None
    try:
        return from_iso(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is not a time", hint="write 2027-06-01 or 2027-06-01T00:00:00Z"
        ) from None


def until(text: str | None, days: int | None, forever: bool, *, option: str) -> int | None:
    """When something ends, of three options of which at most one is given."""
    if sum((text is not None, days is not None, forever)) > 1:
        raise ConfigError(
            f"more than one of {option}, --days and --forever", hint="choose one of them"
        )
    if days is not None:
        return time.time_ns() + days * DAY
    return moment(text, option)


# --- printing -------------------------------------------------------------------------------------


def as_json(answer: Answer) -> Any:
    """An answer as docs/protocols.md shows it; a name that is not UTF-8 is ``image_b64``."""
    return json.loads(codec.encode_answer(answer))


def named(pool: str, image: str) -> dict[str, str]:
    """An image in JSON, as on the wire: a name that is not UTF-8 is ``image_b64``."""
    raw = image.encode("utf-8", "surrogateescape")
    try:
        return {"pool": pool, "image": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"pool": pool, "image_b64": base64.b64encode(raw).decode("ascii")}


def shown(pool: str, image: str | None) -> str:
    """An image as commands name it, safe for a terminal."""
    return console.printable(f"{pool}/{image}")


def consent(question: str, *, yes: bool, remedy: str) -> None:
    """Ask, unless told not to.

    Raises:
        ConfigError: nobody can be asked.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if not os.isatty(0):
        raise ConfigError(f"{question} needs your consent", hint=remedy)
    typer.confirm(console.printable(f"{question}?"), abort=True, err=True)
