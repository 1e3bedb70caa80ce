"""Commands for the daemon's own host, which work from its configuration: ``serve``, ``rebuild``,
``erase``, ``apply``, ``doctor``.

What they need is imported when they run: it takes most of a second, and the commands of clients,
which backup products call for every part, need none of it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog import console
from catalog.console import ExitCode, JsonOption
from catalog.errors import ConfigError
from catalog.model import iso
from connector.commands.options import (
    CopyOption,
    ImageArgument,
    YesOption,
    consent,
    named,
    shown,
    split,
)
from connector.places import SYSTEM_CONFIG

if TYPE_CHECKING:
    from connector.pool.lifecycle import Diff
    from connector.pool.rebuild import Rebuilt
    from connector.serve.service import Service
    from connector.settings import PoolSettings, Settings

DRAIN_S = 60.0
"""How long running calls may take when the daemon is told to end."""
POOL_WAIT_S = 30.0
"""How long ``rebuild`` waits for a pool's store."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"The daemon's configuration [{SYSTEM_CONFIG}]."),
]
PoolArgument = Annotated[
    list[str] | None, typer.Argument(metavar="POOL", help="Which pools [all].")
]


def _settings(config: Path | None) -> tuple[Settings, Path]:
    from connector.config import load

    path = config or SYSTEM_CONFIG
    if config is None and not path.exists():
        raise ConfigError(
            f"there is no {path}", hint="give --config FILE; see docs/configuration.md"
        )
    return load(path), path


def _chosen(settings: Settings, names: list[str] | None) -> list[PoolSettings]:
    known = {pool.name: pool for pool in settings.pools}
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"there is no pool {name!r} in the configuration", hint=f"use {', '.join(known)}"
            )
    return [known[name] for name in names or known]


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[Service]:
    """The pools without a door, while no daemon runs: what it would do in between is done too."""
    from connector.serve.service import Service
    from connector.state_lock import lock_state

    with lock_state(settings.state), contextlib.closing(Service(settings)) as service:
        service.start(wait_s=POOL_WAIT_S)
        yield service


# --- serve ----------------------------------------------------------------------------------------


def serve(
    context: typer.Context,
    config: ConfigOption = None,
    embedded_: Annotated[
        bool,
        typer.Option("--embedded", help="Try it without a cloud: an S3 of its own, in memory."),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", help="With --embedded: where its state and socket are."
        ),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option("--socket", metavar="PATH", help="With --embedded: its socket.")
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            "--drain", metavar="SECONDS", min=0, help="What running calls get when it must end."
        ),
    ] = DRAIN_S,
) -> None:
    """Serve pools to backup products, until SIGTERM or Ctrl-C; SIGHUP reads the file again.

    Example: tapeconnector serve --embedded
    """
    from connector import logs
    from connector.daemon import Daemon
    from connector.manager import Manager
    from connector.serve.activation import handed_over

    verbose = int((context.obj or {}).get("verbose", 0))
    if embedded_:
        if config is not None:
            raise ConfigError("--config and --embedded at once", hint="choose one")
        _serve_embedded(folder, socket, drain_s, verbose)
        return
    if folder is not None or socket is not None:
        raise ConfigError("--dir and --socket are for --embedded", hint="set them in the file")
    settings, path = _settings(config)
    logs.set_up(settings.log_json, verbose)
    manager, sockets = Manager.of(os.environ), handed_over(os.environ)
    Daemon(settings, config=path, manager=manager, sockets=sockets, drain_s=drain_s).run()


def _serve_embedded(folder: Path | None, socket: Path | None, drain_s: float, verbose: int) -> None:
    from connector import embedded, logs
    from connector.daemon import Daemon
    from connector.manager import Manager

    logs.set_up(False, verbose)
    with embedded.embedded_s3(os.environ) as url:
        settings = embedded.settings_for(url, folder, socket)
        daemon = Daemon(settings, manager=Manager.of(os.environ), drain_s=drain_s)
        told = "" if folder is None and socket is None else f" --socket {settings.socket.path}"  # type: ignore[union-attr]
        console.say("an S3 in memory: what is stored here is gone when this ends (Ctrl-C)")
        console.say(f"in another terminal: echo hello | tapeconnector put{told} main/hello")
        daemon.run(before=lambda: embedded.forget(settings.state))


# --- rebuild --------------------------------------------------------------------------------------


def rebuild(
    pools: PoolArgument = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Make the list of images anew from the bucket alone, while no daemon runs.

    Nothing in the bucket is changed; what does not belong there is told; exits with 3 if there is
    damage.
    Example: tapeconnector rebuild main --config tapeconnector.toml
    """
    settings, _ = _settings(config)
    chosen = [pool.name for pool in _chosen(settings, pools)]
    with _alone(settings) as service:
        found = {name: service.rebuild(name) for name in chosen}
    rows = {name: _counts(rebuilt) for name, rebuilt in found.items()}
    if as_json:
        console.print_json(rows)
    else:
        columns = ("images", "damaged", "foreign", "orphans", "uploads")
        console.print_table(
            ("pool", *columns), ([name, *(row[c] for c in columns)] for name, row in rows.items())
        )
        for name, rebuilt in found.items():
            for what in ("damaged", "foreign", "orphans", "uploads"):
                for one in getattr(rebuilt, what).named:
                    console.say(f"{name}: {what}: {one}")
    if any(row["damaged"] for row in rows.values()):
        raise typer.Exit(ExitCode.INCOMPLETE)


def _counts(rebuilt: Rebuilt) -> dict[str, int]:
    return {
        "images": rebuilt.images, "damaged": rebuilt.damaged.count,
        "foreign": rebuilt.foreign.count, "orphans": rebuilt.orphans.count,
        "uploads": rebuilt.uploads.count,
    }  # fmt: skip


# --- erase ----------------------------------------------------------------------------------------


def erase(
    image: ImageArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the ledger for ever.")],
    copy: CopyOption = None,
    config: ConfigOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Destroy the key of an image that was encrypted on this host, while no daemon runs.

    Nobody can read its bytes ever again, also where Object Lock keeps its objects.
    Example: tapeconnector erase main/db_1700000000 --reason "request 4711" --yes
    """
    from connector.pool.erase import erase_image

    pool_name, name = split(image)
    settings, _ = _settings(config)
    _chosen(settings, [pool_name])
    consent(f"make {shown(pool_name, name)} unreadable for ever", yes=yes, remedy="use --yes")
    with _alone(settings) as service:
        pool = service.unit(pool_name).pool()
        done = erase_image(pool, pool.stat(name, copy), reason=reason, actor=getpass.getuser())
    if as_json:
        console.print_json(
            {**named(pool_name, name), "copy": done.copy, "sha256": done.sha256,
             "erased_at": done.erased_at, "already": done.already, "tombstone": done.tombstone}
        )  # fmt: skip
    else:
        console.say(f"{pool_name}/{name}: erased at {iso(done.erased_at)}")


# --- apply ----------------------------------------------------------------------------------------


def apply(
    pools: PoolArgument = None,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give the buckets the lifecycle rules of their pools; rules of others stay as they are.

    What would change is shown first. Exits with 3 when a rule of somebody else harms a pool.
    Example: tapeconnector apply --config tapeconnector.toml --dry-run
    """
    from connector.serve.service import open_s3_store

    settings, _ = _settings(config)
    conflicts, done = False, []
    for pool in _chosen(settings, pools):
        store: Any = open_s3_store(pool)
        with contextlib.closing(store):
            diff = _apply(store, pool, settings, dry_run=dry_run, yes=yes, quiet=as_json)
        conflicts = conflicts or bool(diff.conflicts)
        done.append(
            {"pool": pool.name, "changed": diff.changed, "applied": diff.applied,
             "diff": str(diff).splitlines(), "conflicts": list(diff.conflicts),
             "warnings": list(diff.warnings)}
        )  # fmt: skip
    if as_json:
        console.print_json(done)
    if conflicts:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _apply(
    store: Any, pool: PoolSettings, settings: Settings, *, dry_run: bool, yes: bool, quiet: bool
) -> Diff:
    from connector.pool import lifecycle

    abandoned_s = settings.limits.abandoned_s
    diff = lifecycle.apply(store, pool, dry_run=True, abandoned_s=abandoned_s)
    if not quiet:
        state = "would change" if diff.changed else "as they should be"
        print(f"pool {pool.name}: the rules of {pool.bucket} {state}" + (":" if str(diff) else ""))
        for line in str(diff).splitlines():
            print(console.printable(line))
    if dry_run or not diff.changed:
        return diff
    consent(f"write the rules of {pool.bucket}", yes=yes, remedy="use --yes, or --dry-run")
    diff = lifecycle.apply(store, pool, dry_run=False, abandoned_s=abandoned_s)
    if not quiet:
        console.say(f"pool {pool.name}: written")
    return diff


# --- doctor ---------------------------------------------------------------------------------------


def doctor(
    pools: PoolArgument = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Examine an installation by really trying: bucket, rights, lock, checksums, clock, spool.

    Every finding comes with its remedy; exits with 3 when something does not work.
    Example: tapeconnector doctor --config tapeconnector.toml
    """
    from connector import doctor as examination

    settings, _ = _settings(config)
    names = [pool.name for pool in _chosen(settings, pools)]
    findings = examination.examine(
        settings, pools=names, progress=None if as_json else lambda what: console.say(f"{what} ...")
    )
    if as_json:
        console.print_json(examination.to_json(findings))
    else:
        console.print_table(
            ("pool", "check", "level", "finding", "remedy"),
            ((one.pool or None, one.check, str(one.level), one.message, one.remedy or None)
             for one in findings),
        )  # fmt: skip
    if examination.worst(findings) is examination.Level.ERROR:
        raise typer.Exit(ExitCode.INCOMPLETE)
