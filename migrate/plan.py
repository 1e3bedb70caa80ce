"""The plan: which tapes, in which order and drive, how long, how much, at what price.

Made from the inventory alone, tape by tape; nothing is read or spent. The run follows the same
visits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from catalog.console import size_text
from catalog.errors import ImageNotFound
from catalog.model import iso
from connector.pool.classes import remaining_days
from migrate import lto
from migrate.costs import ASSUMED_SIZE, ClassCost, CostTable
from migrate.errors import TapeError
from migrate.inventory.store import Inventory
from migrate.model import Copy, Image, Media
from migrate.schedule import TapeLoad, Visit, assign
from migrate.selection import Decision, Outcome, decide
from migrate.settings import Migration

MPX_OVERHEAD = 65_536 / (65_536 - 512)
"""A multiplexed tape file is larger than its images by the control bytes of each block."""


@dataclass(slots=True, kw_only=True)
class TapePlan:
    """One tape. size is bytes to be taken; seconds the whole visit; files tape files to be read."""

    media_id: str
    barcode: str
    generation: str
    files: int
    images: int
    size: int
    seconds: float
    here: bool = True


@dataclass(slots=True, kw_only=True)
class Plan:
    """Everything that a person should see before tapes move. Costs are in prices' currency."""

    as_of: int
    images: int
    size: int
    left_out: Counter[tuple[Outcome, str]]
    tapes: dict[str, TapePlan]
    visits: list[list[Visit]]
    costs: CostTable
    streams: int
    warnings: list[str] = field(default_factory=list)

    @property
    def mounts(self) -> int:
        """How often a cartridge is loaded."""
        return sum(len(run) for run in self.visits)

    def drive_seconds(self, drive: int) -> float:
        """How long one drive is busy; a second visit is a mount and a locate."""
        total = 0.0
        for visit in self.visits[drive]:
            tape = self.tapes[visit.media_id]
            generation = lto.GENERATIONS[tape.generation]
            again = lto.mount_seconds(generation) + generation.locate_s
            total += again if visit.again else tape.seconds
        return total


def make_plan(
    inventory: Inventory,
    settings: Migration,
    as_of: int,
    *,
    wanted: Callable[[str], bool] = lambda _: True,
    begun: Callable[[str], int | None] = lambda _: None,
    damaged: Callable[[str], int | None] = lambda _: None,
    decided: Callable[[Decision], None] = lambda _: None,
) -> Plan:
    """Select copies, schedule the tapes, and add it all up.

    wanted: whether an image is still to be looked at; begun: the copy it was begun with;
    damaged: the copy that was found damaged. decided is told every decision.
    """
    costs = CostTable(settings.prices, settings.policy, settings.config)
    left_out: Counter[tuple[Outcome, str]] = Counter()
    images = size = 0

    def selected() -> Iterator[tuple[str, int]]:
        nonlocal images, size
        for decision in decide(inventory, as_of, wanted, begun, damaged):
            decided(decision)
            if decision.copy is None:
                assert decision.outcome is not None
                left_out[decision.outcome, decision.reason] += 1
                continue
            image, copy = decision.image, decision.copy
            own = _size(image, copy)
            days = remaining_days(
                now=as_of, expires_at=image.expires_at, infinite=image.expires_infinite
            )
            costs.add(own, days)
            images += 1
            size += own or 0
            yield image.image_id, copy.copy_number

    inventory.select(selected())
    known = {media.media_id: media for media in inventory.media()}
    tapes: dict[str, TapePlan] = {}
    loads: dict[str, TapeLoad] = {}
    streams = 1
    for total in inventory.media_totals(selected_only=True):
        media = known.get(total.media_id) or Media(media_id=total.media_id)
        tape, widest = _tape_plan(inventory, settings, media, total.images)
        streams = max(streams, widest)
        tapes[media.media_id] = tape
        loads[media.media_id] = TapeLoad(
            media_id=media.media_id,
            size=tape.size,
            seconds=tape.seconds,
            rank=media.assigned_at or 0,
        )
    spans = [span.media for span in inventory.spanning(selected_only=True)]
    plan = Plan(
        as_of=as_of,
        images=images,
        size=size,
        left_out=left_out,
        tapes=tapes,
        visits=assign(loads, spans, settings.drives),
        costs=costs,
        streams=streams,
    )
    plan.warnings += _warnings(plan, known)
    return plan


def explain_class(inventory: Inventory, settings: Migration, plan: Plan, image_id: str) -> str:
    """Why an image goes to its class: its cost there and elsewhere, and what was left out.

    Raises:
        ImageNotFound: the catalogue has no such image, or it is not to be migrated.
    """
    image, number = inventory.image(image_id), inventory.selected_copy(image_id)
    if image is None or number is None:
        raise ImageNotFound(
            f"image {image_id!r} is not in the plan", hint="see tapemigrate inventory --json"
        )
    copy = next(copy for copy in image.copies if copy.copy_number == number)
    days = remaining_days(
        now=plan.as_of, expires_at=image.expires_at, infinite=image.expires_infinite
    )
    costs = CostTable(settings.prices, settings.policy, settings.config)
    return costs.add(_size(image, copy), days).explain(settings.prices.currency)


def _size(image: Image, copy: Copy) -> int | None:
    """Bytes of an image, by its fragments if they tell, else by itself."""
    sizes = [part.size_bytes for part in copy.fragments if part.fragment_number > 0]
    return image.size_bytes if None in sizes else sum(filter(None, sizes))


def _tape_plan(
    inventory: Inventory, settings: Migration, media: Media, images: int
) -> tuple[TapePlan, int]:
    """One tape's share, and how many images its widest tape file interleaves."""
    barcode, here = media.barcode or media.media_id, True
    if settings.shelf is not None:
        try:
            barcode = settings.shelf.match(media.media_id, media.barcode).barcode
        except TapeError:
            here = False
    generation = lto.generation_of(barcode) or lto.generation_of(media.media_id)
    model = generation or lto.GENERATIONS[lto.ASSUMED]
    rate = min(model.rate, settings.rate or model.rate)
    size = files = 0
    seconds = lto.mount_seconds(model)
    widest = in_file = 0
    last_file: int | None = -1
    last_end: int | None = 0
    for placed in inventory.fragments_on(media.media_id, selected_only=True):
        part = placed.fragment
        if part.fragment_number < 1:
            continue
        own = part.size_bytes or 0
        size += int(own * MPX_OVERHEAD) if part.multiplexed else own
        if part.tape_file_number != last_file or part.tape_file_number is None:
            start = _byte_address(part.block_offset, part.block_size)
            gap = None if start is None or last_end is None else max(0, start - last_end)
            follows = last_file is not None and part.tape_file_number == last_file + 1
            seconds += 0.0 if follows else lto.skip_seconds(model, gap)
            last_file, last_end, in_file = part.tape_file_number, start, 0
            files += 1
        in_file += 1
        widest = max(widest, in_file)
        last_end = None if last_end is None else last_end + own
    tape = TapePlan(
        media_id=media.media_id,
        barcode=barcode,
        generation=model.name,
        files=files,
        images=images,
        size=size,
        seconds=seconds + size / rate,
        here=here,
    )
    return tape, widest if settings.demultiplexer else 1


def _byte_address(block: int | None, block_size: int | None) -> int | None:
    return None if block is None or block_size is None else block * block_size


def _warnings(plan: Plan, known: dict[str, Media]) -> Iterator[str]:
    missing = [tape.media_id for tape in plan.tapes.values() if not tape.here]
    if missing:
        yield f"{len(missing)} tapes are not on the shelf: {_some(missing)}"
    assumed = [t.media_id for t in plan.tapes.values() if lto.generation_of(t.barcode) is None]
    if assumed:
        yield (
            f"{len(assumed)} barcodes name no LTO generation; their times are for {lto.ASSUMED}:"
            f" {_some(assumed)}"
        )
    closed = [name for name in plan.tapes if (m := known.get(name)) and (m.frozen or m.suspended)]
    if closed:
        yield f"{len(closed)} tapes are frozen or suspended, which does not matter for reading"
    again = [v.media_id for run in plan.visits for v in run if v.again]
    if again:
        yield f"{len(again)} tapes are mounted a second time: {_some(again)}"
    if plan.costs.unknown_sizes:
        yield (
            f"{plan.costs.unknown_sizes} images are of unknown size; each costs as if it had"
            f" {size_text(ASSUMED_SIZE)}"
        )
    failed = sum(n for (outcome, _), n in plan.left_out.items() if outcome is Outcome.FAILED)
    if failed:
        yield f"{failed} images that have not expired cannot be migrated; see left_out"


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan as data; sizes are bytes, times hours, costs in ``currency``."""
    prices = plan.costs.prices
    return {
        "as_of": iso(plan.as_of),
        "warnings": plan.warnings,
        "images": {
            "planned": plan.images,
            "left_out": [
                {"outcome": outcome, "reason": reason, "images": count}
                for (outcome, reason), count in sorted(plan.left_out.items())
            ],
        },
        "bytes": plan.size,
        "mounts": plan.mounts,
        "tapes": [
            {
                "media_id": tape.media_id,
                "barcode": tape.barcode,
                "generation": tape.generation,
                "on_shelf": tape.here,
                "tape_files": tape.files,
                "images": tape.images,
                "bytes": tape.size,
                "hours": round(tape.seconds / 3600, 3),
            }
            for tape in plan.tapes.values()
        ],
        "drives": [
            {
                "drive": drive,
                "hours": round(plan.drive_seconds(drive) / 3600, 3),
                "visits": [{"media_id": v.media_id, "again": v.again} for v in run],
            }
            for drive, run in enumerate(plan.visits)
        ],
        "costs": {
            "currency": prices.currency,
            "prices_of": prices.date,
            "chosen": [_cost_json(cost) for cost in plan.costs.chosen.values()],
            "if_all_in": [_cost_json(cost) for cost in plan.costs.alone.values()],
        },
    }


def _cost_json(cost: ClassCost) -> dict[str, object]:
    return {
        "storage_class": cost.storage_class,
        "images": cost.images,
        "objects": cost.objects,
        "bytes": cost.size,
        "requests": cost.requests,
        "writing": round(cost.once, 4),
        "writing_and_keeping": round(cost.whole_life, 4),
    }
