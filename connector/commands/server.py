"""``pools``, ``status``, ``events``: what the daemon knows of itself."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from catalog import console
from catalog.console import JsonOption
from catalog.model import iso
from connector.commands.options import Place, as_json, at_daemon
from connector.wire.messages import EventPage, PoolProps, ServerProps

WAIT_S = 20
"""How long one call waits for the next event; then it is asked again."""


@at_daemon
def pools(
    place: Place,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only pools that begin so [all].")
    ] = "",
    as_json_: JsonOption = False,
) -> None:
    """List the pools with their state and sizes.

    Example: tapeconnector pools
    """
    with place.client() as client:
        found = [client.pool_props(name) for name in client.pools(prefix)]
    if as_json_:
        console.print_json([as_json(one) for one in found])
        return
    console.print_table(
        ("pool", "state", "where", "images", "used", "free", "spooled", "class", "lock", "ack",
         "why"),
        (_pool_row(one) for one in found),
    )  # fmt: skip


def _pool_row(one: PoolProps) -> tuple[Any, ...]:
    size = console.size_text
    return (
        one.pool, one.state, one.uri, one.images, size(one.used_logical), size(one.free),
        size(one.spooled), one.storage_class, one.lock, one.ack, one.why or None,
    )  # fmt: skip


@at_daemon
def status(place: Place, as_json_: JsonOption = False) -> None:
    """Show the daemon's state: open images, rates, what is not safe in S3 yet.

    Example: tapeconnector status
    """
    with place.client() as client:
        props = client.server_props()
    if as_json_:
        console.print_json(as_json(props))
    else:
        _print_status(props)


def _print_status(props: ServerProps) -> None:
    lines = {
        "state": props.state,
        "daemon": f"{props.server}, since {iso(props.started_at)}",
        "connections": props.connections,
        "open images": len(props.handles),
        "not in S3 yet": f"{console.size_text(props.backlog)}, the oldest for"
        f" {props.oldest_unsafe_s:.0f} s",
    }
    for label, value in lines.items():
        print(f"{label + ':':<16}{console.printable(str(value))}")
    if props.handles:
        print()
        console.print_table(
            ("image", "copy", "mode", "client", "at", "unsafe", "rate", "open", "idle"),
            (
                (
                    f"{one.pool}/{one.image}", one.copy, one.mode, one.client,
                    console.size_text(one.offset), console.size_text(one.unsafe),
                    f"{console.size_text(int(one.bytes_per_second))}/s",
                    f"{one.open_seconds:.0f} s", f"{one.idle_seconds:.0f} s",
                )
                for one in props.handles
            ),
        )  # fmt: skip


@at_daemon
def events(
    place: Place,
    cursor: Annotated[
        int, typer.Option("--cursor", min=-1, help="After this one; 0: all kept, -1: from now.")
    ] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens; JSON is then in lines.")
    ] = False,
    as_json_: JsonOption = False,
) -> None:
    """Show what happened to images, in order.

    Example: tapeconnector events --follow
    """
    with place.client() as client:
        page = client.events(cursor, limit=limit)
        if not follow:
            if as_json_:
                console.print_json(as_json(page))
            else:
                _print_events(page)
                console.say(f"go on with --cursor {page.cursor}")
            return
        while True:
            _stream(page, as_json_)
            page = client.events(page.cursor, limit=limit, wait_s=WAIT_S)


def _print_events(page: EventPage) -> None:
    console.print_table(
        ("cursor", "when", "what", "image", "copy", "detail"),
        ((e.cursor, iso(e.at), e.kind, _image(e.pool, e.image), e.copy, e.detail)
         for e in page.events),
    )  # fmt: skip


def _stream(page: EventPage, json_lines: bool) -> None:
    if json_lines:
        for event in as_json(page)["events"]:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        return
    for event in page.events:
        image = _image(event.pool, event.image)
        told = f"{iso(event.at)} {event.kind} {image} {event.detail}"
        print(console.printable(told.rstrip()), flush=True)


def _image(pool: str, image: str | None) -> str:
    return pool if image is None else f"{pool}/{image}"
