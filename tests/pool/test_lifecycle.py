"""Which rules a pool wants, what they change, what others' rules would do, and what cannot pay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.errors import ConfigError
from catalog.model import StorageClass
from connector.pool import lifecycle
from connector.pool.classes import ClassPolicy
from connector.pool.config import PoolConfig
from connector.pool.lifecycle import FRAGMENT_TAG, LifecycleStep, plan
from connector.pool.prices import Prices
from connector.pool.recall import RecallPolicy
from connector.settings import PoolSettings
from connector.store.s3_lifecycle import Rule, Transition
from tests.pool.support import open_pool, some_bytes, store_image, tiny_store

PRICES = Prices.load()
WEEK_S = 7 * 86_400.0
MIB = 1024 * 1024
STEPS = (
    LifecycleStep(days=30, storage_class=StorageClass.GLACIER_IR),
    LifecycleStep(days=120, storage_class=StorageClass.DEEP_ARCHIVE),
)


def settings(**changes: Any) -> PoolSettings:
    values: dict[str, Any] = {
        "name": "main",
        "bucket": "backups",
        "prefix": "pool",
        "endpoint_url": None,
        "policy": ClassPolicy(),
        "prices": PRICES,
    }
    return PoolSettings(**(values | changes))


def wanted(**changes: Any) -> lifecycle.Desired:
    return lifecycle.desired(settings(**changes), abandoned_s=WEEK_S)


def step(days: int, name: str) -> LifecycleStep:
    return LifecycleStep(days=days, storage_class=StorageClass(name))


# --- what a pool wants --------------------------------------------------------------------------


def test_only_tagged_fragments_below_images_are_ever_moved() -> None:
    uploads, steps = wanted(lifecycle=STEPS).rules
    assert (steps.prefix, steps.tags) == ("pool/images/", (FRAGMENT_TAG,))
    assert (uploads.prefix, uploads.transitions, uploads.expires) == ("pool/", (), None)


def test_nothing_in_a_pool_is_ever_deleted_by_a_rule_of_ours() -> None:
    for rule in wanted(lifecycle=STEPS).rules:
        assert (rule.expires, rule.noncurrent_expires) == (None, None)


def test_a_pool_in_the_whole_bucket_has_no_slash_before_its_keys() -> None:
    uploads, steps = wanted(prefix="", lifecycle=STEPS).rules
    assert (uploads.prefix, steps.prefix) == ("", "images/")


def test_fragments_are_tagged_when_there_are_steps() -> None:
    assert lifecycle.fragment_tags(STEPS) == (FRAGMENT_TAG,)
    assert lifecycle.fragment_tags(()) == ()


def test_fragments_carry_the_tag_and_nothing_else_does(tmp_path: Path) -> None:
    store = tiny_store()
    tags = lifecycle.fragment_tags(STEPS)
    with open_pool(store, tmp_path, fragment_tags=tags) as pool:
        store_image(pool, "a", some_bytes(600))
        pool.take_over(recall=RecallPolicy(), fragment_tags=())
        store_image(pool, "b", some_bytes(10))
    tagged = {key for key, versions in store._versions.items() if versions[-1].options.tags}
    assert len(tagged) == 3
    assert all(key.startswith("images/a/1/") and "manifest" not in key for key in tagged)


@pytest.mark.parametrize(
    ("abandoned_s", "days"), [(WEEK_S, 30), (60 * 86_400.0, 67), (0.0, 365), (1.0, 30)]
)
def test_uploads_are_aborted_later_than_any_image_is_given_up(
    abandoned_s: float, days: int
) -> None:
    assert lifecycle.abort_days(abandoned_s) == days


# --- what S3 would refuse -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "begins"),
    [
        ([step(29, "STANDARD_IA")], "STANDARD"),
        ([step(0, "GLACIER_IR")], "STANDARD"),
        ([step(30, "STANDARD")], "STANDARD"),
        ([step(10, "GLACIER_IR"), step(10, "GLACIER")], "STANDARD"),
        ([step(90, "GLACIER"), step(30, "DEEP_ARCHIVE")], "STANDARD"),
        ([step(90, "DEEP_ARCHIVE"), step(120, "GLACIER")], "STANDARD"),
        ([step(90, "GLACIER"), step(120, "GLACIER")], "STANDARD"),
        ([step(30, "ONEZONE_IA"), step(90, "GLACIER_IR")], "STANDARD"),
        ([step(30, "STANDARD_IA"), step(59, "GLACIER")], "STANDARD"),
        ([step(10, "GLACIER")], "STANDARD_IA"),
        ([step(90, "GLACIER")], "DEEP_ARCHIVE"),
    ],
)
def test_steps_that_s3_would_refuse_are_refused_before(
    steps: list[LifecycleStep], begins: str
) -> None:
    with pytest.raises(ConfigError, match=r"lifecycle step \d"):
        lifecycle.check_steps(steps, StorageClass(begins))


@pytest.mark.parametrize(
    ("steps", "begins"),
    [
        ([], "STANDARD"),
        ([step(0, "DEEP_ARCHIVE")], "STANDARD"),
        ([step(30, "STANDARD_IA"), step(60, "GLACIER"), step(150, "DEEP_ARCHIVE")], "STANDARD"),
        ([step(1, "GLACIER_IR"), step(91, "DEEP_ARCHIVE")], "STANDARD"),
        ([step(30, "GLACIER")], "STANDARD_IA"),
        ([step(0, "DEEP_ARCHIVE")], "GLACIER"),
    ],
)
def test_steps_that_s3_takes_are_taken(steps: list[LifecycleStep], begins: str) -> None:
    lifecycle.check_steps(steps, StorageClass(begins))


# --- what changes -------------------------------------------------------------------------------

FOREIGN = Rule(id="logs", prefix="logs/", expires="after 9 days", xml="<Rule>logs</Rule>")


def test_foreign_rules_stay_where_and_as_they_are() -> None:
    others = [FOREIGN, Rule(id="", prefix="x/", xml="<Rule>x</Rule>")]
    diff = plan(others, wanted(lifecycle=STEPS))
    assert diff.after[:2] == tuple(others)
    assert [rule.xml for rule in diff.after[:2]] == ["<Rule>logs</Rule>", "<Rule>x</Rule>"]
    assert diff.conflicts == ()


def test_our_rules_are_replaced_in_their_place_and_old_ones_removed() -> None:
    old = Rule(id="tapelift-main-steps", prefix="pool/images/", tags=(("old", "tag"),))
    gone = Rule(id="tapelift-main-noncurrent", prefix="pool/")
    desired = wanted(lifecycle=STEPS)
    diff = plan([old, FOREIGN, gone], desired)
    assert [rule.id for rule in diff.after] == [
        "tapelift-main-steps",
        "logs",
        "tapelift-main-uploads",
    ]
    assert diff.after[0].tags == (FRAGMENT_TAG,)


def test_the_rules_of_another_pool_are_foreign_however_alike_the_names() -> None:
    other = lifecycle.desired(settings(name="main-two", prefix="two"), abandoned_s=WEEK_S)
    diff = plan(other.rules, wanted())
    assert [rule.id for rule in diff.after] == [
        "tapelift-main-two-uploads",
        "tapelift-main-uploads",
    ]


def test_the_same_rules_change_nothing() -> None:
    desired = wanted(lifecycle=STEPS)
    diff = plan([FOREIGN, *desired.rules], desired)
    assert not diff.changed


def test_a_diff_can_be_read() -> None:
    old = Rule(id="tapelift-main-uploads", prefix="pool/", abort_days=3)
    text = str(plan([FOREIGN, old], wanted(lifecycle=STEPS)))
    lines = text.splitlines()
    assert "  logs: objects below logs/: deleted after 9 days" in lines
    assert (
        "- tapelift-main-uploads: objects below pool/: unfinished uploads aborted after 3 days"
        in lines
    )
    assert (
        "+ tapelift-main-steps: objects below pool/images/ with the tag tapelift=fragment larger"
        " than 131071 bytes: to GLACIER_IR after 30 days; to DEEP_ARCHIVE after 120 days" in lines
    )


# --- what others' rules would do ----------------------------------------------------------------

COLD = Transition(when="30", storage_class="GLACIER")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(id="x", prefix="", expires="after 365 days"), "DELETES objects of the pool"),
        (Rule(id="x", prefix="pool/", expires="on 2030-01-01"), "DELETES objects of the pool"),
        (Rule(id="x", prefix="pool/images/a", expires="after 1 days"), "DELETES objects"),
        (Rule(id="x", prefix="po", expires="after 1 days"), "DELETES objects"),
        (Rule(id="x", prefix="", noncurrent_expires="after 1 days"), "DELETES hidden versions"),
        (Rule(id="x", prefix="", transitions=(COLD,)), "cannot be read without its manifests"),
        (Rule(id="x", tags=(FRAGMENT_TAG,), transitions=(COLD,)), "moves fragments to GLACIER"),
        (Rule(id="x", prefix="", noncurrent_transitions=(COLD,)), "moves hidden versions"),
        (Rule(id="x", prefix="", abort_days=7), "use 30 days"),
        (Rule(id="x", prefix="", others=("Annotate",)), "Annotate"),
    ],
)
def test_a_foreign_rule_that_harms_the_pool_is_named(rule: Rule, said: str) -> None:
    (conflict,) = plan([rule], wanted()).conflicts
    assert "'x'" in conflict
    assert said in conflict
    assert "CONFLICT" in str(plan([rule], wanted()))


@pytest.mark.parametrize(
    "rule",
    [
        Rule(id="x", prefix="pool2/", expires="after 1 days"),
        Rule(id="x", prefix="pool.json.d/", expires="after 1 days"),
        Rule(id="x", enabled=False, expires="after 1 days"),
        Rule(id="x", tags=(("keep", "no"),), expires="after 1 days"),
        Rule(id="x", tags=(FRAGMENT_TAG, ("keep", "no")), expires="after 1 days"),
        Rule(id="x", prefix="", abort_days=30),
        Rule(id="x", prefix=""),
    ],
)
def test_a_foreign_rule_that_cannot_touch_the_pool_is_no_conflict(rule: Rule) -> None:
    assert plan([rule], wanted()).conflicts == ()


# --- what cannot pay ----------------------------------------------------------------------------


def test_steps_that_pay_are_not_warned_about() -> None:
    assert lifecycle.warnings(settings(lifecycle=STEPS)) == []


def test_a_step_beyond_the_retention_never_comes() -> None:
    (said,) = lifecycle.warnings(settings(lifecycle=(step(60, "DEEP_ARCHIVE"),), keep_days=60))
    assert "never comes" in said


def test_a_stay_much_shorter_than_the_minimum_cannot_pay() -> None:
    # 180 days of DEEP_ARCHIVE are 0.0059 a GB, five days of STANDARD 0.0038
    (said,) = lifecycle.warnings(settings(lifecycle=(step(30, "DEEP_ARCHIVE"),), keep_days=35))
    assert "cannot pay" in said
    assert "of which 180 are billed" in said
    assert PRICES.date in said


def test_small_objects_that_lose_by_a_move_are_told_with_the_size_from_which_it_pays() -> None:
    (said,) = lifecycle.warnings(settings(lifecycle=(step(30, "DEEP_ARCHIVE"),), keep_days=60))
    assert "pays only for objects above" in said
    size = int(said.split("about ")[1].split()[0])
    price = PRICES.of(StorageClass.DEEP_ARCHIVE)

    def gain(size: int) -> float:
        months = 30 / 30.4
        kept = size / 1e9 * 0.023 * months
        cold = size / 1e9 * price.storage_gb_month * 180 / 30.4
        overhead = (32768 * price.storage_gb_month + 8192 * 0.023) / 1e9 * 180 / 30.4
        return kept - cold - overhead - price.put_per_1k / 1000

    assert gain(size) > 0 > gain(size - 100_000)


def test_tiny_fragments_cannot_pay_at_all() -> None:
    config = PoolConfig(part_size=5 * MIB, fragment_size=5 * MIB)
    steps = (step(30, "GLACIER_IR"), step(31, "GLACIER"))
    said = lifecycle.warnings(settings(lifecycle=steps, keep_days=60, config=config))
    assert any("GLACIER after 31 days cannot pay" in line for line in said)
    assert any("GLACIER_IR is billed for 90 days, and is left after 1" in line for line in said)
