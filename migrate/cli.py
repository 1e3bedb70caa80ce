"""The migration engineer's command: ``tapemigrate``. Parses, calls one thing, prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from catalog import console
from catalog.console import DebugOption, ExitCode, JsonOption, VerboseOption
from catalog.errors import ConfigError, ImageNotFound, OverBudget
from connector.pool.prices import Prices
from connector.pool.recall import RecallPolicy
from connector.pool.tickets import Ticket
from connector.pool.verify import Depth
from connector.store.interface import RecallTier
from connector.store.s3_encryption import EncryptionKind
from migrate import options as opt
from migrate import rehydrate as back
from migrate import report
from migrate.access import pool_to_read
from migrate.errors import InventoryError
from migrate.formats.registry import load_demultiplexer
from migrate.inventory.detect import read_catalogs
from migrate.inventory.output import summary, summary_lines, write_json
from migrate.inventory.store import Inventory
from migrate.plan import explain_class, make_plan, plan_json
from migrate.run import run as run_migration
from migrate.session import StoppedError

NAME = "tapemigrate"
RESUME = "run the same command to go on"
CODES = {
    InventoryError: ExitCode.USAGE,
    ImageNotFound: ExitCode.USAGE,
    OverBudget: ExitCode.USAGE,
    StoppedError: ExitCode.INTERRUPTED,
    back.NotYet: ExitCode.INTERRUPTED,
}

app = typer.Typer(
    name=NAME,
    rich_markup_mode=None,
    help="""Migrate backups from LTO tapes to S3 and Glacier, and prove it.

    Start with: tapemigrate inventory --catalog nbu.csv
    Exit codes: 0 all done, 2 wrong option or catalogue, 3 finished but some images failed or are
    damaged, 4 the destination or a tape cannot be used, 5 interrupted and can be resumed.
    """,
)


def main() -> NoReturn:
    """Entry point of the command."""
    console.run(app, NAME, codes=CODES, when_interrupted=RESUME)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {version('tapelift')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Defaults, in TOML [tapelift.toml]."),
    ] = None,
    verbose: VerboseOption = 0,
    debug: DebugOption = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    console.set_up_logging(max(verbose, 2 if debug else 0))
    group = context.command
    assert isinstance(group, TyperGroup)
    parameters = {
        name: {str(parameter.name) for parameter in command.params}
        for name, command in group.commands.items()
    }
    context.default_map = opt.defaults_from(config, parameters)


@app.command()
def inventory(
    catalog: opt.Catalog = None,
    as_of: opt.AsOf = None,
    timezone: opt.Timezone = None,
    encoding: opt.Encoding = None,
    format_name: opt.Format = None,
    as_json: JsonOption = False,
) -> None:
    """Read catalogues and say what is in them: images, tapes, findings.

    Example: tapemigrate inventory --catalog bpimagelist.txt --catalog bpmedialist.txt --json
    """
    moment = opt.moment(as_of) or time.time_ns()
    with Inventory.create(":memory:") as found:
        options = opt.import_options(timezone, encoding, format_name)
        read = read_catalogs(opt.required(catalog, "--catalog"), found, options)
        for line in read.lines():
            console.say(line)
        if as_json:
            write_json(sys.stdout, found, moment)
        else:
            for line in summary_lines(summary(found, moment)):
                print(console.printable(line))


@app.command()
def plan(
    catalog: opt.Catalog = None,
    tapes: opt.Tapes = None,
    drive: opt.Drive = None,
    drives: opt.Drives = 1,
    to: opt.To = None,
    endpoint_url: opt.Endpoint = None,
    class_name: opt.Class = "standard",
    lock: opt.Lock = "none",
    as_of: opt.AsOf = None,
    timezone: opt.Timezone = None,
    encoding: opt.Encoding = None,
    format_name: opt.Format = None,
    prices: opt.PriceFile = None,
    expected_restores: opt.Restores = 0.05,
    max_wait_hours: opt.MaxWait = 48.0,
    rate_mb: opt.Rate = None,
    part_mib: opt.PartMib = 16,
    fragment_mib: opt.FragmentMib = 8192,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="IMAGE", help="Say why this image goes to its class."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which tapes would be read, in which order, how long it takes and what it costs.

    Nothing is read from tape, and nothing is spent.
    Example: tapemigrate plan --catalog nbu.csv --tapes /shelf --class auto
    """
    settings = opt.migration(
        catalog=catalog, tapes=tapes, drive=drive, drives=drives, to=to,
        endpoint_url=endpoint_url, workdir=opt.WORKDIR, class_name=class_name, lock=lock,
        ledger=None, as_of=as_of, options=opt.import_options(timezone, encoding, format_name),
        prices=prices, expected_restores=expected_restores, max_wait_hours=max_wait_hours,
        lock_infinite_days=3650, allow_unlabelled=False, demultiplexer=None, buffer_mib=256,
        rate_mb=rate_mb, part_mib=part_mib, fragment_mib=fragment_mib, destination=False,
    )  # fmt: skip
    with Inventory.create(":memory:") as found:
        read = read_catalogs(settings.catalogs, found, settings.options)
        for line in read.lines():
            console.say(line)
        made = make_plan(found, settings, settings.as_of or time.time_ns())
        why = explain_class(found, settings, made, explain) if explain else None
    if why is not None:
        console.print_json({"image": explain, "class": why}) if as_json else print(why)
    elif as_json:
        console.print_json(plan_json(made))
    else:
        report.print_plan(made)


@app.command()
def run(
    catalog: opt.Catalog = None,
    tapes: opt.Tapes = None,
    drive: opt.Drive = None,
    drives: opt.Drives = 1,
    to: opt.To = None,
    endpoint_url: opt.Endpoint = None,
    workdir: opt.Workdir = opt.WORKDIR,
    class_name: opt.Class = "standard",
    lock: opt.Lock = "none",
    ledger: opt.LedgerUri = None,
    as_of: opt.AsOf = None,
    timezone: opt.Timezone = None,
    encoding: opt.Encoding = None,
    format_name: opt.Format = None,
    prices: opt.PriceFile = None,
    expected_restores: opt.Restores = 0.05,
    max_wait_hours: opt.MaxWait = 48.0,
    lock_infinite_days: opt.LockInfinite = 3650,
    allow_unlabelled: opt.Unlabelled = False,
    demultiplexer: opt.Demux = None,
    buffer_mib: opt.Buffer = 256,
    encryption: opt.EncryptionKindOption = EncryptionKind.NONE,
    kms_key_id: opt.KmsKey = None,
    customer_key_file: opt.CustomerKey = None,
    s3_deadline: opt.Deadline = 600.0,
    part_mib: opt.PartMib = 16,
    fragment_mib: opt.FragmentMib = 8192,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and stop, as plan does.")
    ] = False,
    yes: opt.Yes = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read the tapes, store and verify the images, and say which tapes may be destroyed.

    Repeat the same command after an interruption: it goes on where it stopped.
    Example: tapemigrate run --catalog nbu.csv --tapes /shelf --to s3://backups/pool
    """
    settings = opt.migration(
        catalog=catalog, tapes=tapes, drive=drive, drives=drives, to=to,
        endpoint_url=endpoint_url, workdir=workdir, class_name=class_name, lock=lock,
        ledger=ledger, as_of=as_of, options=opt.import_options(timezone, encoding, format_name),
        prices=prices, expected_restores=expected_restores, max_wait_hours=max_wait_hours,
        lock_infinite_days=lock_infinite_days, allow_unlabelled=allow_unlabelled,
        demultiplexer=demultiplexer, buffer_mib=buffer_mib, rate_mb=None, part_mib=part_mib,
        fragment_mib=fragment_mib,
        encrypted=opt.encryption(encryption, kms_key_id, customer_key_file),
        s3_deadline=s3_deadline,
    )  # fmt: skip
    if dry_run or (not yes and sys.stdin.isatty()):
        with Inventory.create(":memory:") as found:
            read_catalogs(settings.catalogs, found, settings.options)
            made = make_plan(found, settings, settings.as_of or time.time_ns())
        if dry_run and as_json:
            console.print_json(plan_json(made))
        else:
            report.print_plan(made, to_stderr=not dry_run)
        if dry_run:
            return
        typer.confirm(f"Migrate to {settings.to}?", abort=True, err=True)
    result = run_migration(settings, quiet=quiet)
    if as_json:
        console.print_json(report.result_json(result))
    else:
        report.print_result(result)
    raise typer.Exit(report.exit_code(result))


@app.command()
def status(workdir: opt.Workdir = opt.WORKDIR, as_json: JsonOption = False) -> None:
    """Say how far a migration is; also while it runs.

    Example: tapemigrate status --workdir work
    """
    found = report.read_status(workdir)
    if as_json:
        console.print_json(found)
    else:
        report.print_status(found)


@app.command()
def verify(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="All images if none is named.")
    ] = None,
    to: opt.To = None,
    endpoint_url: opt.Endpoint = None,
    depth: Annotated[
        Depth,
        typer.Option(
            help="head: objects are there; checksum: the store's checksums; full: read every byte."
        ),
    ] = Depth.CHECKSUM,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", metavar="DIR", help="Where its journal is kept.")
    ] = None,
    ledger: opt.LedgerUri = None,
    customer_key_file: opt.CustomerKey = None,
    s3_deadline: opt.Deadline = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Compare what the pool holds with its manifests; the result goes to the ledger.

    Example: tapemigrate verify --to s3://backups/pool --depth full fs01_1546635613
    """
    uri = opt.required(to, "--to")
    opened = pool_to_read(
        uri, endpoint_url, workdir, ledger, opt.reading(customer_key_file),
        s3_deadline_s=s3_deadline,
    )  # fmt: skip
    with opened as pool:
        found = report.verify_images(pool, images or [], depth, _say_progress("verified"))
    if as_json:
        console.print_json(found.as_json())
    else:
        report.print_verified(found)
    if found.problems or found.unknown:
        raise typer.Exit(ExitCode.INCOMPLETE)


@app.command()
def rehydrate(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="The image's name, as in the catalogue.")
    ],
    source: Annotated[
        str | None, typer.Option("--from", metavar="s3://BUCKET/PREFIX", help="The pool.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE|-", help="Where to.")] = None,
    endpoint_url: opt.Endpoint = None,
    copy: Annotated[int | None, typer.Option("--copy", min=1, help="Which copy.")] = None,
    tier: Annotated[
        str, typer.Option("--tier", metavar="bulk|standard|expedited", help="Speed of a recall.")
    ] = "bulk",
    days: Annotated[int, typer.Option("--days", min=1, help="Keep recalled copies so long.")] = 7,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="Refuse a recall above this price.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a recall.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show price and time.")] = False,
    yes: opt.Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    demultiplexer: opt.Demux = None,
    prices: opt.PriceFile = None,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", metavar="DIR", help="Where its journal is kept.")
    ] = None,
    ledger: opt.LedgerUri = None,
    customer_key_file: opt.CustomerKey = None,
    s3_deadline: opt.Deadline = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Bring an image back from the pool, byte for byte; recall it first if it is archived.

    Example: tapemigrate rehydrate fs01_1546635613 --from s3://backups/pool --out fs01.tar --wait
    """
    target = opt.required(out, "--out") if not dry_run else out or ""
    if target == "-" and as_json:
        raise ConfigError("--out - and --json would both write to stdout", hint="use one of them")
    order = back.Rehydration(
        image=image, copy=copy, out=target, tier=_tier(tier), max_cost=max_cost,
        wait=wait, force=force,
        demultiplexer=load_demultiplexer(demultiplexer) if demultiplexer else None,
    )  # fmt: skip
    uri = opt.required(source, "--from")
    opened = pool_to_read(
        uri, endpoint_url, workdir, ledger, opt.reading(customer_key_file),
        s3_deadline_s=s3_deadline, prices=Prices.load(prices), recall=RecallPolicy(days=days),
    )  # fmt: skip
    with opened as pool:
        manifest = pool.stat(image, copy)
        quote = back.offer(pool, manifest, order)
        _show_quote(quote, as_json=as_json and dry_run)
        if dry_run:
            return
        if quote.objects and not quote.asked and not yes and max_cost is None:
            _ask(quote)
        back.make_readable(pool, manifest, quote, order, console.say)
        with tqdm(total=manifest.size, unit="B", unit_scale=True, disable=None) as bar:
            done = back.rehydrate(pool, manifest, order, bar.update)
    if as_json:
        console.print_json(
            {"image": image, "copy": manifest.copy, "size": done.size, "sha256": done.sha256,
             "out": target, "resumed_at": done.resumed_at}
        )  # fmt: skip
    else:
        console.say(f"{image}: {console.size_text(done.size)}, SHA-256 {done.sha256}")


def _tier(text: str) -> RecallTier:
    try:
        return RecallTier(text.capitalize())
    except ValueError:
        raise ConfigError(
            f"--tier {text!r} is not known", hint="use bulk, standard or expedited"
        ) from None


def _show_quote(quote: Ticket, *, as_json: bool) -> None:
    if as_json:
        console.print_json(
            {
                "ticket": quote.ticket, "objects": quote.objects, "bytes": quote.size,
                "tier": quote.tier, "days": quote.days, "hours": quote.hours,
                "cost": round(quote.cost, 4), "currency": quote.currency,
                "prices_of": quote.price_date, "recalling": quote.recalling,
                "readable": quote.done,
            }
        )  # fmt: skip
    elif quote.objects and not quote.asked:
        console.say(
            f"{quote.objects} objects, {console.size_text(quote.size)}, must be recalled:"
            f" {quote.cost:.4f} {quote.currency} in tier {quote.tier}, up to {quote.hours:g} h"
            f" (prices of {quote.price_date})"
        )
    elif quote.recalling:
        console.say(f"{quote.recalling} objects are on their way, up to {quote.hours:g} h")


def _ask(quote: Ticket) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"a recall for {quote.cost:.4f} {quote.currency} needs your consent",
            hint="use --yes, or --max-cost with a limit",
        )
    typer.confirm("Recall?", abort=True, err=True)


def _say_progress(what: str) -> Any:
    """A counter that says something every ten seconds, so that a long check is not silent."""

    def counter() -> Iterator[None]:
        last, count = time.monotonic(), 0
        while True:
            yield
            count += 1
            if time.monotonic() - last > 10:
                last = time.monotonic()
                console.say(f"{count} images {what}")

    ticks = counter()
    next(ticks)
    return lambda: next(ticks)
