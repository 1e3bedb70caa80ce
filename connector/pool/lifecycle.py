"""The rules that a pool gives its bucket: steps to colder classes, and an end for lost uploads.

Only fragments may ever move: a manifest, a ledger, a key or a virtual tape in a cold class would
make everything behind it unreadable. Fragments are told apart by a tag that they are written with
(docs/adr/0013). Nothing in a pool is ever deleted by a rule. Rules of others stay as they are, and
those that would harm the pool are named.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from catalog.errors import ConfigError, StoreError
from catalog.model import StorageClass
from connector.pool import names
from connector.pool.classes import FOREVER_DAYS
from connector.pool.prices import DAYS_PER_MONTH, Prices
from connector.store.s3_lifecycle import MAX_RULES, Lifecycle, Rule, Rules, Transition

if TYPE_CHECKING:
    from connector.settings import PoolSettings

FRAGMENT_TAG = ("tapelift", "fragment")
"""What marks an object as a fragment that may move. Part of the format: docs/format.md."""

SMALLEST = 128 * 1024
"""Bytes below which a move costs more than it saves; S3 does not move them by itself either."""
WARN_BELOW = 1024 * 1024
"""A step that does not pay for objects of so many bytes is worth a warning."""
IA_DAYS = 30
ABORT_DAYS = 30
"""Days after which an upload counts as lost, at least: longer than any image takes."""
ABORT_SLACK_DAYS = 7
NEVER_ABANDONED_DAYS = 365

WAY_DOWN = (
    StorageClass.STANDARD,
    StorageClass.STANDARD_IA,
    StorageClass.INTELLIGENT_TIERING,
    StorageClass.ONEZONE_IA,
    StorageClass.GLACIER_IR,
    StorageClass.GLACIER,
    StorageClass.DEEP_ARCHIVE,
)
"""Source: S3 user guide, "Transitioning objects using Amazon S3 Lifecycle", supported moves."""
INFREQUENT = (StorageClass.STANDARD_IA, StorageClass.ONEZONE_IA)
NOT_MOVED = {(StorageClass.ONEZONE_IA, StorageClass.GLACIER_IR)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleStep:
    """After so many days an image's objects go to a colder class, by the bucket's own rules."""

    days: int
    storage_class: StorageClass


def fragment_tags(steps: Sequence[LifecycleStep]) -> tuple[tuple[str, str], ...]:
    """What ``Pool.write_image`` must be given as tags, so that steps reach the image."""
    return (FRAGMENT_TAG,) if steps else ()


def check_steps(steps: Sequence[LifecycleStep], begins: StorageClass | None) -> None:
    """Refuse what S3 would refuse, or would silently never do.

    begins is the class that images are written into; None: one that is chosen for each.

    Raises:
        ConfigError: names the step.
    """
    day, there = -1, begins or StorageClass.STANDARD
    for number, step in enumerate(steps, start=1):
        which = f"lifecycle step {number} ({step.storage_class} after {step.days} days)"
        least = 0 if step.storage_class.archived else 1
        if step.storage_class in INFREQUENT:
            least = IA_DAYS
        if step.days < least:
            raise ConfigError(
                f"{which}: a move to {step.storage_class} is possible after {least} days",
                hint=f"use at least {least} days",
            )
        if step.days <= day:
            raise ConfigError(
                f"{which} is not after the step before it", hint="order the steps by their days"
            )
        down = WAY_DOWN.index(step.storage_class) > WAY_DOWN.index(there)
        if not down or (there, step.storage_class) in NOT_MOVED:
            raise ConfigError(
                f"{which}: S3 moves nothing from {there} to {step.storage_class}",
                hint="moves go one way only: " + ", ".join(WAY_DOWN),
            )
        since = max(day, 0)
        if there in INFREQUENT and step.days - since < IA_DAYS:
            raise ConfigError(
                f"{which}: objects stay in {there} for at least {IA_DAYS} days",
                hint=f"use at least {since + IA_DAYS} days",
            )
        day, there = step.days, step.storage_class


def abort_days(abandoned_s: float) -> int:
    """Days after which an unfinished upload may be aborted, where incomplete images are given up
    after abandoned_s seconds (0: never)."""
    if not abandoned_s:
        return NEVER_ABANDONED_DAYS
    return max(ABORT_DAYS, -(-int(abandoned_s) // 86_400) + ABORT_SLACK_DAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The rules of one pool. below is what the keys of all its objects begin with."""

    pool: str
    below: str
    rules: tuple[Rule, ...]

    def owns(self, rule: Rule) -> bool:
        """Whether a rule is this pool's, by its id: ``tapelift-POOL-WHAT``."""
        prefix, what = f"tapelift-{self.pool}-", rule.id
        return what.startswith(prefix) and "-" not in what.removeprefix(prefix)


def desired(settings: PoolSettings, *, abandoned_s: float) -> Desired:
    """The rules that a pool's settings ask for.

    Raises:
        ConfigError: a step is one that S3 would refuse.
    """
    check_steps(settings.lifecycle, settings.policy.fixed)
    below = f"{settings.prefix}/" if settings.prefix else ""
    images = f"{below}{names.IMAGES}/"
    rules = [
        Rule(
            id=f"tapelift-{settings.name}-uploads", prefix=below, abort_days=abort_days(abandoned_s)
        )
    ]
    if settings.lifecycle:
        steps = tuple(
            Transition(when=str(step.days), storage_class=step.storage_class)
            for step in settings.lifecycle
        )
        rules.append(
            Rule(
                id=f"tapelift-{settings.name}-steps",
                prefix=images,
                tags=(FRAGMENT_TAG,),
                larger_than=SMALLEST - 1,
                transitions=steps,
            )
        )
    return Desired(pool=settings.name, below=below, rules=tuple(rules))


# --- what would change ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What applying changes. after are all rules of the bucket as they would be, in order.

    conflicts: what rules of others do to the pool. warnings: steps that cost more than they save.
    applied: whether it was written.
    """

    before: tuple[Rule, ...]
    after: tuple[Rule, ...]
    conflicts: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    applied: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after

    def __str__(self) -> str:
        lines = list(
            difflib.ndiff([str(rule) for rule in self.before], [str(rule) for rule in self.after])
        )
        text = [line for line in lines if not line.startswith("?")]
        text += [f"CONFLICT: {one}" for one in self.conflicts]
        text += [f"warning: {one}" for one in self.warnings]
        return "\n".join(text)


def plan(current: Sequence[Rule], wanted: Desired) -> Diff:
    """What must change so that the bucket has the pool's rules, and nobody else's are touched.

    Raises:
        ConfigError: the bucket would have more rules than S3 allows.
    """
    left = {rule.id: rule for rule in wanted.rules}
    after: list[Rule] = []
    for rule in current:
        if not wanted.owns(rule):
            after.append(rule)
        elif rule.id in left:  # in its place, and as it stands when nothing is different
            new = left.pop(rule.id)
            after.append(rule if rule == new else new)
    after += left.values()
    if len(after) > MAX_RULES:
        raise ConfigError(
            f"the bucket would have {len(after)} lifecycle rules; S3 allows {MAX_RULES}",
            hint="remove some of the others, or give the pool a bucket of its own",
        )
    foreign = [rule for rule in current if not wanted.owns(rule)]
    return Diff(
        before=tuple(current),
        after=tuple(after),
        conflicts=tuple(_conflicts(foreign, wanted)),
    )


def _conflicts(foreign: Iterable[Rule], wanted: Desired) -> Iterator[str]:
    ours = max((rule.abort_days or 0 for rule in wanted.rules), default=0)
    for rule in foreign:
        if rule.enabled and _reaches(rule, wanted.below):
            yield from _harm(rule, ours)


def _reaches(rule: Rule, below: str) -> bool:
    """Whether a rule can apply to an object of the pool: those have no tag but ours."""
    near = rule.prefix.startswith(below) or below.startswith(rule.prefix)
    return near and all(tag == FRAGMENT_TAG for tag in rule.tags)


def _harm(rule: Rule, abort_after: int) -> Iterator[str]:
    name = f"rule {rule.id!r} is not ours and"
    cure = "take the pool's prefix out of it"
    if rule.expires:
        yield f"{name} DELETES objects of the pool {rule.expires}; {cure}"
    if rule.noncurrent_expires:
        yield (
            f"{name} DELETES hidden versions {rule.noncurrent_expires}: an image whose objects"
            f" somebody hid by mistake could not be brought back; {cure}"
        )
    for step in rule.transitions:
        what = "fragments" if rule.tags else "fragments and manifests alike"
        cold = step.storage_class in (StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE)
        worse = ", and the pool cannot be read without its manifests" if cold else ""
        yield f"{name} moves {what} {step}{'' if rule.tags else worse}; {cure}"
    for step in rule.noncurrent_transitions:
        yield f"{name} moves hidden versions {step}; {cure}"
    if rule.abort_days is not None and rule.abort_days < abort_after:
        yield (
            f"{name} aborts uploads after {rule.abort_days} days: an image that is resumed later"
            f" is lost; use {abort_after} days, or {cure}"
        )
    for action in rule.others:
        yield f"{name} does something that is not known here ({action}); see whether it may"


# --- what does not pay ----------------------------------------------------------------------


def warnings(settings: PoolSettings) -> list[str]:
    """Steps that cost more than they save, by the pool's price table."""
    prices, found = settings.prices, []
    there, since = settings.policy.fixed or StorageClass.STANDARD, 0
    end = settings.keep_days or FOREVER_DAYS
    leaves = [step.days for step in settings.lifecycle[1:]] + [end]
    for step, until in zip(settings.lifecycle, leaves, strict=False):
        which = f"step to {step.storage_class} after {step.days} days"
        if step.days >= end:
            found.append(f"{which}: images are kept for {end} days, so it never comes")
            break
        least = prices.of(there).minimum_days
        if step.days - since < least:
            found.append(
                f"{which}: {there} is billed for {least} days, and is left after"
                f" {step.days - since}"
            )
        stay = min(until, end) - step.days
        found += _not_paying(prices, which, there, step.storage_class, stay, settings)
        there, since = step.storage_class, step.days
    return found


def _not_paying(
    prices: Prices,
    which: str,
    there: StorageClass,
    colder: StorageClass,
    stay: int,
    settings: PoolSettings,
) -> Iterator[str]:
    def gain(size: int) -> float:
        """What the move of one object saves over its stay."""
        least = prices.of(colder).minimum_days
        kept = prices.monthly(there, size=size, objects=1) * stay / DAYS_PER_MONTH
        moved = prices.monthly(colder, size=size, objects=1) * max(stay, least) / DAYS_PER_MONTH
        return kept - moved - prices.moving(colder, objects=1)

    largest = settings.config.fragment_size
    least = prices.of(colder).minimum_days
    short = f", of which {least} are billed" if stay < least else ""
    if gain(largest) <= 0:
        yield (
            f"{which} cannot pay: an object of {largest} bytes stays {stay} days{short} and costs"
            f" {-gain(largest):.6f} {prices.currency} more than without it"
            f" (prices of {prices.date})"
        )
        return
    low, high = SMALLEST, largest
    if gain(WARN_BELOW) > 0:
        return
    while high - low > SMALLEST // 8:
        middle = (low + high) // 2
        low, high = (low, middle) if gain(middle) > 0 else (middle, high)
    yield (
        f"{which} pays only for objects above about {high} bytes, which stay {stay} days{short}"
        f" (prices of {prices.date})"
    )


# --- doing it -------------------------------------------------------------------------------


class HasLifecycle(Protocol):
    """A store whose bucket has rules."""

    def lifecycle(self) -> Lifecycle:
        """The rules of the bucket."""
        ...


def apply(
    store: HasLifecycle, settings: PoolSettings, *, dry_run: bool, abandoned_s: float = 7 * 86_400.0
) -> Diff:
    """Give the bucket the rules of a pool; with dry_run only say what would change.

    abandoned_s: after how long incomplete images are given up (``ClientLimits.abandoned_s``).

    Raises:
        ConfigError: a step that S3 would refuse, or too many rules.
        StoreError: the rules may not be read or written, or somebody else changed them meanwhile;
            the message says whether ours were written.
    """
    rules, wanted = store.lifecycle(), desired(settings, abandoned_s=abandoned_s)
    first = rules.read()
    diff = replace(plan(first.rules, wanted), warnings=tuple(warnings(settings)))
    if dry_run or not diff.changed:
        return diff
    again = rules.read()
    if _xml(again.rules) != _xml(first.rules):
        raise StoreError(
            f"the lifecycle rules of {rules.bucket} were changed by somebody else just now",
            hint="nothing was written; run it again",
        )
    rules.write(Rules(rules=diff.after, smallest_transition=first.smallest_transition))
    written = rules.read()
    if sorted(map(str, written.rules)) != sorted(map(str, diff.after)):
        raise StoreError(
            f"the lifecycle rules of {rules.bucket} are not those that were written",
            hint="somebody else writes them too, or the store does not know all of them: compare"
            " them with aws s3api get-bucket-lifecycle-configuration",
        )
    return replace(diff, applied=True)


def _xml(rules: Iterable[Rule]) -> list[str]:
    return [rule.xml for rule in rules]
