"""``retain``, ``hold``, ``copy``, ``verify``: how images are kept, doubled and checked."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer
from tqdm import tqdm

from catalog import console
from catalog.console import ExitCode, JsonOption
from catalog.errors import ConfigError, PoolError
from catalog.model import iso
from connector.client import Client
from connector.client_errors import error_of
from connector.commands.options import (
    CopyOption,
    ImageArgument,
    Place,
    QuietOption,
    ReasonOption,
    as_json,
    at_daemon,
    named,
    split,
    until,
)
from connector.wire.messages import Failure, Keep, Kept, Operation

POLL_S = 0.5


class Depth(StrEnum):
    """How thoroughly ``verify`` looks; ``connector.pool.verify.Depth`` without its imports."""

    HEAD = "head"
    CHECKSUM = "checksum"
    FULL = "full"


@at_daemon
def retain(
    place: Place,
    image: ImageArgument,
    time_: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Keep it until then (UTC).")
    ] = None,
    days: Annotated[
        int | None, typer.Option("--days", min=1, metavar="N", help="Keep it so long from now on.")
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep it without an end.")] = False,
    copy: CopyOption = None,
    reason: ReasonOption = "extended by hand",
    as_json_: JsonOption = False,
) -> None:
    """Keep an image longer; never shorter where it is locked.

    Example: tapeconnector retain main/db_1700000000 --days 3650 --reason "audit 2026"
    """
    pool, name = split(image)
    end = until(time_, days, forever, option="--until")
    if end is None and not forever:
        raise ConfigError("nothing says how long", hint="give --until, --days or --forever")
    with place.client() as client:
        facts = client.set_retention(
            pool, name, until=end, infinite=forever, copy=copy, reason=reason
        )
    if as_json_:
        console.print_json({"pool": pool, **as_json(Kept(facts=facts))["facts"]})
    else:
        expires = "for ever" if facts.infinite else f"until {iso(facts.expires_at)}"
        locked = f", locked until {iso(facts.lock_until)}" if facts.lock_until else ""
        console.say(f"{pool}/{name}: kept {expires}{locked}")


@at_daemon
def hold(
    place: Place,
    image: ImageArgument,
    release: Annotated[bool, typer.Option("--release", help="Release it instead.")] = False,
    copy: CopyOption = None,
    reason: ReasonOption = "by hand",
    as_json_: JsonOption = False,
) -> None:
    """Place the legal hold on an image, or release it.

    Example: tapeconnector hold main/db_1700000000 --reason "case 4711"
    """
    pool, name = split(image)
    with place.client() as client:
        facts = client.set_hold(pool, name, on=not release, copy=copy, reason=reason)
    if as_json_:
        console.print_json({"pool": pool, **as_json(Kept(facts=facts))["facts"]})
    else:
        console.say(f"{pool}/{name}: {'held' if facts.hold else 'not held'}")


@at_daemon
def copy(
    place: Place,
    image: ImageArgument,
    target: Annotated[
        str, typer.Argument(metavar="POOL[/NAME]", help="Where to; the same name if none is given.")
    ],
    copy_: CopyOption = None,
    to_copy: Annotated[
        int, typer.Option("--to-copy", min=1, metavar="N", help="Number of the new copy.")
    ] = 1,
    days: Annotated[
        int | None, typer.Option("--days", min=1, metavar="N", help="Keep it for so many days.")
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep it without an end.")] = False,
    hold_: Annotated[bool, typer.Option("--hold", help="Place a legal hold on it.")] = False,
    token: Annotated[
        str | None, typer.Option("--token", help="Names this copying: repeated, it is the same.")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Begin it, and let it go on behind.")
    ] = False,
    quiet: QuietOption = False,
    as_json_: JsonOption = False,
) -> None:
    """Copy an image to another pool, or to another copy number; the daemon does it.

    Retention and hold of the copy are what is said here, or the target pool's.
    Example: tapeconnector copy main/db_1700000000 archive --days 3650
    """
    pool, name = split(image)
    to_pool, to_name = split(target, whole=False)
    keep = Keep(
        expires_at=until(None, days, forever, option="--until"), infinite=forever, hold=hold_
    )
    with place.client() as client:
        begun = client.copy(
            pool, name, to_pool, copy=copy_, to_image=to_name or None, to_copy=to_copy, keep=keep,
            token=token,
        )  # fmt: skip
        done = begun if no_wait else _wait(client, begun, quiet)
    if as_json_:
        console.print_json(as_json(done))
    else:
        console.say(
            f"{pool}/{name} to {to_pool}/{to_name or name}: {done.state} ({done.operation})"
        )
    if done.state == "failed":
        raise _failed(done)


def _wait(client: Client, operation: Operation, quiet: bool) -> Operation:
    with tqdm(
        total=operation.total or None, unit="B", unit_scale=True, disable=True if quiet else None
    ) as bar:
        while operation.state == "running":
            time.sleep(POLL_S)
            operation = client.operation(operation.operation)
            bar.total = operation.total or None
            bar.update(max(0, operation.done - bar.n))
    return operation


def _failed(done: Operation) -> PoolError:
    return error_of(Failure(code=done.code or "error", message=f"not copied: {done.error}"))


@at_daemon
def verify(
    place: Place,
    images: Annotated[list[str], typer.Argument(metavar="POOL/NAME", help="The images.")],
    depth: Annotated[
        Depth,
        typer.Option(
            help="head: objects are there; checksum: the store's checksums; full: read every byte."
        ),
    ] = Depth.CHECKSUM,
    copy: CopyOption = None,
    as_json_: JsonOption = False,
) -> None:
    """Compare what the pool holds with what was stored; exits with 3 if anything differs.

    Example: tapeconnector verify main/db_1700000000 --depth full
    """
    chosen, found, sound = [split(image) for image in images], [], True
    with place.client() as client:
        for pool, name in chosen:
            verified = client.verify(pool, name, depth=depth.value, copy=copy)
            sound = sound and verified.ok
            found.append({**named(pool, name), **as_json(verified)})
            if not as_json_:
                what = [*verified.problems, *(f"unknown: {one}" for one in verified.unknown)]
                print(console.printable(f"{pool}/{name}: {'; '.join(what) or 'sound'}"))
    if as_json_:
        console.print_json(found)
    if not sound:
        raise typer.Exit(ExitCode.INCOMPLETE)
