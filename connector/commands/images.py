"""``put``, ``get``, ``ls``, ``stat``, ``rm``: images in and out."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from catalog import console
from catalog.console import JsonOption
from catalog.errors import ConfigError
from catalog.model import iso
from connector.client import Client
from connector.commands.fetching import Fetched, Progress, Wish, fetch
from connector.commands.options import (
    CopyOption,
    ImageArgument,
    Place,
    QuietOption,
    ReasonOption,
    YesOption,
    as_json,
    at_daemon,
    consent,
    moment,
    named,
    shown,
    split,
    until,
)
from connector.commands.producing import Producer
from connector.commands.sending import Order, send
from connector.commands.streams import Given, give, output_of
from connector.config_table import Size, Wrong
from connector.wire.messages import Closed, ImageFacts, Keep, Props, Source

NoDescriptor = Annotated[
    bool,
    typer.Option("--no-descriptor", help="Send the bytes through the socket, not the pipe itself."),
]
DigestToo = Annotated[
    bool,
    typer.Option("--digest", help="Hash the bytes here as well, and compare; always with --tcp."),
]


class Lock(StrEnum):
    """Object Lock, as ``put --lock`` takes it."""

    NONE = "none"
    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


class State(StrEnum):
    """States of an image, as ``ls --state`` takes them."""

    WRITING = "writing"
    INCOMPLETE = "incomplete"
    SPOOLED = "spooled"
    COMPLETE = "complete"
    DAMAGED = "damaged"
    DELETING = "deleting"
    ANY = "any"


# --- put ------------------------------------------------------------------------------------------


@at_daemon
def put(
    place: Place,
    image: ImageArgument,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="What to store [standard input]; with --run, -- and a program with its arguments.",
        ),
    ] = None,
    run: Annotated[
        bool,
        typer.Option("--run", help="Run the program, and store what it writes if it ends well."),
    ] = False,
    accept_exit: Annotated[
        list[int] | None,
        typer.Option(
            "--accept-exit",
            min=1,
            max=255,
            metavar="N",
            help="With --run: an exit code besides 0 that counts as well.",
        ),
    ] = None,
    copy: Annotated[
        int, typer.Option("--copy", min=1, metavar="N", help="Number of the copy.")
    ] = 1,
    token: Annotated[
        str | None,
        typer.Option("--token", help="Names this attempt: the same token goes on with it."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="SIZE", help="About how much comes, if known.")
    ] = None,
    block_size: Annotated[
        int,
        typer.Option("--block-size", min=0, metavar="BYTES", help="Of its records; noted only."),
    ] = 0,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="Keep it until then (UTC).")
    ] = None,
    days: Annotated[
        int | None, typer.Option("--days", min=1, metavar="N", help="Keep it for so many days.")
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep it without an end.")] = False,
    lock: Annotated[
        Lock | None, typer.Option("--lock", help="Object Lock until it expires [the pool's].")
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Place a legal hold on it.")] = False,
    product: Annotated[str | None, typer.Option("--product", help="Who wrote the backup.")] = None,
    client: Annotated[str | None, typer.Option("--client", help="Of which host it is.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="By which policy.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="By which schedule.")] = None,
    backup_time: Annotated[
        str | None, typer.Option("--backup-time", metavar="TIME", help="When it was made (UTC).")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Give up an earlier attempt that is not complete."),
    ] = False,
    no_descriptor: NoDescriptor = False,
    digest: DigestToo = False,
    quiet: QuietOption = False,
    as_json_: JsonOption = False,
) -> None:
    """Store a file, or what is piped in, as an image.

    Repeat the same command after an interruption: a file is gone on with, a pipe begins anew. Let
    --run start what makes the bytes: a pipe does not tell that its writer failed.
    Example: tapeconnector put main/db_1700000000 /backup/db.dump
    """
    pool, name = split(image)
    given = _what(words or [], run, accept_exit or [])
    order = Order(
        pool=pool,
        image=name,
        copy=copy,
        token=token,
        expected_size=_size(size),
        block_size=block_size,
        source=Source(
            product=product, client=client, policy=policy, schedule=schedule,
            backup_time=moment(backup_time, "--backup-time"),
        ),
        keep=Keep(
            expires_at=until(expires, days, forever, option="--expires"),
            infinite=forever,
            lock=lock.value if lock else None,
            hold=hold,
        ),
        replace=replace,
        descriptor=not (no_descriptor or digest),
        digest=digest or place.tcp is not None,
    )  # fmt: skip
    with _bar(given.size, quiet) as (progress, on_notice), _told_to_end():
        closed = send(lambda: place.client(on_notice=on_notice), order, given, progress)
    if as_json_:
        console.print_json(as_json(closed))
    else:
        console.say(_stored(closed))


def _what(words: list[str], run: bool, accepted: list[int]) -> Given:
    """What ``put`` is to store: a file, standard input, or what a program writes."""
    if run:
        if not words:
            raise ConfigError(
                "--run without a program", hint="write put POOL/NAME --run -- PROGRAM ARGUMENT..."
            )
        return output_of(Producer(words, (0, *accepted)))
    if accepted:
        raise ConfigError("--accept-exit is for --run", hint="leave it out")
    if len(words) > 1:
        raise ConfigError(
            f"{len(words)} files at once", hint="store one a time; a program needs --run"
        )
    return give(words[0] if words else None)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: after it has cleaned up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # in a process of somebody else's
        return
    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _size(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return Size(0).read(int(text) if text.isdigit() else text, Path())
    except Wrong as exc:
        raise ConfigError(f"--size {exc.what}", hint=exc.remedy) from exc


def _stored(closed: Closed) -> str:
    where = {"spooled": ", on the daemon's disk and not in S3 yet"}.get(closed.state, "")
    size = console.size_text(closed.offset)
    return f"{closed.pool}/{closed.image}: {closed.state}, {size}, SHA-256 {closed.sha256}{where}"


@contextmanager
def _bar(size: int | None, quiet: bool) -> Iterator[tuple[Progress, Any]]:
    """A progress bar on a terminal: what to tell how far it is, and what takes notices."""
    with tqdm(total=size, unit="B", unit_scale=True, disable=True if quiet else None) as bar:

        def progress(done: int) -> None:
            bar.update(max(0, done - bar.n))

        def on_notice(notice: Any) -> None:
            offset = notice.get("offset")
            if isinstance(offset, int):
                progress(offset)

        yield progress, on_notice


# --- get ------------------------------------------------------------------------------------------


@at_daemon
def get(
    place: Place,
    image: ImageArgument,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE|-", help="Where to; - is standard output.")
    ] = "-",
    offset: Annotated[
        int, typer.Option("--offset", min=0, metavar="BYTES", help="Where to begin.")
    ] = 0,
    length: Annotated[
        int | None, typer.Option("--length", min=0, metavar="BYTES", help="How much [to the end].")
    ] = None,
    copy: CopyOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    no_descriptor: NoDescriptor = False,
    digest: DigestToo = False,
    quiet: QuietOption = False,
    as_json_: JsonOption = False,
) -> None:
    """Read an image, or a part of it; every part is compared with its checksum.

    Into a file, the same command goes on where an interrupted one ended.
    Example: tapeconnector get main/db_1700000000 --out db.dump
    """
    pool, name = split(image)
    if out == "-" and as_json_:
        raise ConfigError("--out - and --json would both write to stdout", hint="use one of them")
    wish = Wish(
        pool=pool,
        image=name,
        copy=copy,
        offset=offset,
        length=length,
        out=None if out == "-" else Path(out),
        force=force,
        descriptor=not (no_descriptor or digest),
        digest=digest or place.tcp is not None,
    )
    with _bar(None, quiet or out == "-") as (progress, on_notice):
        found = fetch(lambda: place.client(on_notice=on_notice), wish, progress)
    if as_json_:
        console.print_json(_fetched_json(pool, found, out))
    elif out != "-":
        size = console.size_text(found.size)
        console.say(f"{pool}/{name}: {size} in {out}, of an image with SHA-256 {found.sha256}")


def _fetched_json(pool: str, found: Fetched, out: str) -> dict[str, Any]:
    return {
        **named(pool, found.image), "copy": found.copy, "offset": found.offset,
        "size": found.size, "sha256": found.sha256, "out": out, "resumed_at": found.resumed_at,
    }  # fmt: skip


# --- ls -------------------------------------------------------------------------------------------


@at_daemon
def list_images(
    place: Place,
    prefix: Annotated[
        str | None,
        typer.Argument(metavar="POOL[/PREFIX]", help="Which images [of all pools]."),
    ] = None,
    state: Annotated[
        State | None, typer.Option("--state", help="Only in this state [those to restore].")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TIME", help="Only if created then or later.")
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="TIME", help="Only if created before.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")
    ] = 1000,
    as_json_: JsonOption = False,
) -> None:
    """List images, in the order of their names.

    Example: tapeconnector ls main/db_
    """
    start, name = split(prefix, whole=False) if prefix else ("", "")
    with place.client() as client:
        pools = [start] if start else list(client.pools())
        found = (
            (pool, facts)
            for pool in pools
            for facts in _images(
                client, pool, name, state=state.value if state else "",
                created_after=moment(after, "--after"),
                created_before=moment(before, "--before"),
            )
        )  # fmt: skip
        rows = list(itertools.islice(found, limit or None))
        more = limit > 0 and next(found, None) is not None
    if as_json_:
        console.print_json([{"pool": pool, **_facts_json(facts)} for pool, facts in rows])
    else:
        _print_images(rows)
    if more:
        console.say(f"there are more than {limit}; see all with --limit 0")


def _images(client: Client, pool: str, prefix: str, **filters: Any) -> Iterator[ImageFacts]:
    cursor = None
    while True:
        page = client.list(pool, prefix, cursor=cursor, **filters)
        yield from page.images
        cursor = page.cursor
        if cursor is None:
            return


def _facts_json(facts: ImageFacts) -> dict[str, Any]:
    from connector.wire.messages import Kept

    made: dict[str, Any] = as_json(Kept(facts=facts))["facts"]
    return made


def _print_images(rows: list[tuple[str, ImageFacts]]) -> None:
    console.print_table(
        ("image", "copy", "state", "size", "class", "created", "expires", "locked until", "hold"),
        (
            (
                f"{pool}/{facts.image}", facts.copy, facts.state, console.size_text(facts.size),
                facts.storage_class, iso(facts.created_at), _expiry(facts), iso(facts.lock_until),
                facts.hold,
            )
            for pool, facts in rows
        ),
    )  # fmt: skip


def _expiry(facts: ImageFacts) -> str | None:
    return "never" if facts.infinite else iso(facts.expires_at)


# --- stat -----------------------------------------------------------------------------------------


@at_daemon
def stat(
    place: Place, image: ImageArgument, copy: CopyOption = None, as_json_: JsonOption = False
) -> None:
    """Show all that is known of an image: state, retention, objects, whether it can be read now.

    Example: tapeconnector stat main/db_1700000000
    """
    pool, name = split(image)
    with place.client() as client:
        props = client.props(pool, name, copy=copy)
    if as_json_:
        console.print_json({"pool": pool, **as_json(props)})
    else:
        _print_props(pool, props)


def _print_props(pool: str, props: Props) -> None:
    facts, source = props.facts, props.source
    origin = (source.product, source.client, source.policy, source.schedule)
    lines = {
        "image": f"{pool}/{facts.image}",
        "copy": facts.copy,
        "state": facts.state,
        "size": f"{facts.size} bytes ({console.size_text(facts.size)})",
        "in the store": f"{facts.stored_size} bytes",
        "sha256": facts.sha256,
        "created": iso(facts.created_at),
        "backup": " / ".join(one for one in origin if one),
        "made": iso(source.backup_time),
        "class": facts.storage_class,
        "to read": props.recall + (f", in {props.eta_hours:g} h" if props.eta_hours else ""),
        "expires": _expiry(facts),
        "lock": f"{facts.lock} until {iso(facts.lock_until)}" if facts.lock_until else facts.lock,
        "legal hold": "yes" if facts.hold else "no",
        "compression": props.compression,
        "encryption": props.encryption,
        "id": facts.id,
    }
    for label, value in lines.items():
        if value not in (None, ""):
            print(f"{label + ':':<14}{console.printable(str(value))}")
    if props.fragments:
        print("\nObjects:" + (" (the first of them)" if props.more else ""))
        console.print_table(
            ("fragment", "key", "version", "bytes", "class", "to read", "sha256"),
            (
                (one.number, one.key, one.version_id, one.size, one.storage_class, one.recall,
                 one.sha256)
                for one in props.fragments
            ),
        )  # fmt: skip


# --- rm -------------------------------------------------------------------------------------------


@at_daemon
def rm(
    place: Place,
    images: Annotated[list[str], typer.Argument(metavar="POOL/NAME", help="The images.")],
    copy: CopyOption = None,
    reason: ReasonOption = "deleted by hand",
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Give up attempts that are not complete instead.")
    ] = False,
    yes: YesOption = False,
    as_json_: JsonOption = False,
) -> None:
    """Delete images: a copy of each. What is locked or held stays, and is said so.

    Example: tapeconnector rm main/db_1700000000 --reason "test data" --yes
    """
    chosen = [split(image) for image in images]
    what = shown(*chosen[0]) if len(chosen) == 1 else f"{len(chosen)} images"
    consent(f"delete {what}", yes=yes, remedy="use --yes")
    done = []
    with place.client() as client:
        for pool, name in chosen:
            if incomplete:
                client.discard(pool, name, copy=copy or 1)
                state = "discarded"
            else:
                state = client.delete(pool, name, reason=reason, copy=copy)
            done.append({**named(pool, name), "state": state})
            if not as_json_:
                console.say(f"{pool}/{name}: {state}")
    if as_json_:
        console.print_json(done)
