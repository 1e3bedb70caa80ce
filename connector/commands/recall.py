"""``prepare`` and ``ticket``: images that lie in Glacier, their price first."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from catalog import console
from catalog.console import ExitCode, JsonOption
from catalog.errors import ConfigError
from catalog.model import iso
from connector.commands.options import (
    Place,
    YesOption,
    as_json,
    at_daemon,
    consent,
    one_pool,
    split,
)
from connector.wire.messages import Range, Ticket, Wanted

FIRST_POLL_S, LONGEST_POLL_S = 0.2, 60.0


class Tier(StrEnum):
    """Speed of a recall, as ``--tier`` takes it."""

    EXPEDITED = "expedited"
    STANDARD = "standard"
    BULK = "bulk"


@at_daemon
def prepare(
    place: Place,
    images: Annotated[list[str], typer.Argument(metavar="POOL/NAME", help="Images of one pool.")],
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="OFFSET+LENGTH", help="Only these bytes; of one image."),
    ] = None,
    tier: Annotated[
        Tier | None, typer.Option("--tier", help="Speed; without it the pool's.")
    ] = None,
    days: Annotated[
        int,
        typer.Option("--days", min=0, metavar="N", help="Keep it readable so long; 0: the pool's."),
    ] = 0,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="Refuse what is dearer; asks nothing.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show prices and times.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all can be read.")] = False,
    yes: YesOption = False,
    as_json_: JsonOption = False,
) -> None:
    """Ask for archived images to be made readable, in one batch; the price is shown first.

    The same images in the same tier are the same ticket, and are billed once.
    Example: tapeconnector prepare main/db_1700000000 --tier bulk --max-cost 5
    """
    pool, names = one_pool(images)
    spans = tuple(_range(text) for text in ranges or ())
    if spans and len(names) > 1:
        raise ConfigError("--range is for one image", hint="prepare the images one by one")
    wanted = [Wanted(image=name, ranges=spans) for name in names]
    with place.client() as client:

        def ask(*, dry: bool) -> Ticket:
            return client.prepare(
                pool, wanted, tier=tier.value if tier else "", days=days, max_cost=max_cost,
                dry_run=dry,
            )  # fmt: skip

        ticket = ask(dry=True)
        if not dry_run:
            if not as_json_:
                _show_offer(ticket)
            if ticket.objects and not ticket.asked and max_cost is None:
                price = f"recall for {ticket.cost:.4f} {ticket.currency}"
                consent(price, yes=yes, remedy="use --yes, or --max-cost with a limit")
            ticket = ask(dry=False)
            if wait:
                ticket = _wait(lambda: client.ticket(pool, ticket.ticket), ticket)
    _print(pool, ticket, as_json_)
    if not dry_run and ticket.state == "waiting":
        raise typer.Exit(ExitCode.INTERRUPTED)


def _range(text: str) -> Range:
    found = re.fullmatch(r"(\d{1,19})\+(\d{1,19})", text)
    if found is None:
        raise ConfigError(f"--range {text!r} is not OFFSET+LENGTH", hint="write 0+1048576")
    return Range(offset=int(found[1]), length=int(found[2]))


def _wait(look: Callable[[], Ticket], ticket: Ticket) -> Ticket:
    pause = FIRST_POLL_S
    while ticket.state == "waiting":
        time.sleep(pause)
        pause = min(LONGEST_POLL_S, 2 * pause)
        ticket = look()
    return ticket


def _show_offer(ticket: Ticket) -> None:
    if not ticket.objects:
        return
    console.say(
        f"{ticket.objects} objects, {console.size_text(ticket.size)}, must be recalled:"
        f" {ticket.cost:.4f} {ticket.currency} in tier {ticket.tier}, up to {ticket.hours:g} h,"
        f" readable for {ticket.days} days (prices of {ticket.price_date})"
    )
    for offer in ticket.offers:
        console.say(f"  {offer.tier}: {offer.cost:.4f} {ticket.currency}, {offer.hours:g} h")


def _print(pool: str, ticket: Ticket, json: bool) -> None:
    if json:
        console.print_json({"pool": pool, **as_json(ticket)})
        return
    lines = {
        "ticket": f"{pool}/{ticket.ticket}" if ticket.ticket else None,
        "state": ticket.state,
        "can be read": f"{ticket.done} of {ticket.total} objects",
        "recalled": f"{ticket.objects} objects, {console.size_text(ticket.size)}",
        "tier": ticket.tier,
        "cost": f"{ticket.cost:.4f} {ticket.currency} (prices of {ticket.price_date})",
        "takes": f"up to {ticket.hours:g} h",
        "readable for": f"{ticket.days} days",
        "readable until": iso(ticket.expires_at),
    }
    for label, value in lines.items():
        if value is not None:
            print(f"{label + ':':<16}{console.printable(str(value))}")
    if ticket.offers and not ticket.asked:
        console.print_table(
            ("tier", "cost", "hours"),
            ((one.tier, round(one.cost, 4), one.hours) for one in ticket.offers),
        )


@at_daemon
def ticket(
    place: Place,
    ticket_: Annotated[
        str, typer.Argument(metavar="POOL/TICKET", help="The ticket, as prepare gave it.")
    ],
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop what was not asked for yet.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all can be read.")] = False,
    as_json_: JsonOption = False,
) -> None:
    """Say how far a recall is; exits with 5 while it is on its way.

    Example: tapeconnector ticket main/0123456789abcdef --wait
    """
    pool, name = split(ticket_)
    with place.client() as client:
        found = client.ticket(pool, name, cancel=cancel)
        if wait:
            found = _wait(lambda: client.ticket(pool, name), found)
    _print(pool, found, as_json_)
    if found.state == "waiting":
        raise typer.Exit(ExitCode.INTERRUPTED)
