"""Storage classes are computed, and explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.model import NANOSECONDS, StorageClass
from connector.pool.classes import FOREVER_DAYS, ClassPolicy, choose, remaining_days
from connector.pool.prices import Prices

PRICES = Prices.load()
AUTO = ClassPolicy.parse("auto")
GB = 10**9


def test_a_large_image_that_is_never_read_goes_to_deep_archive_even_for_a_month() -> None:
    never = ClassPolicy(fixed=None, expected_restores=0)
    choice = choose(never, PRICES, size=100 * GB, days=30, objects=12)
    assert choice.storage_class is StorageClass.DEEP_ARCHIVE


def test_a_small_image_does_not() -> None:
    choice = choose(AUTO, PRICES, size=1000, days=365, objects=1)
    assert not choice.storage_class.archived


def test_an_image_that_is_read_often_stays_warm() -> None:
    often = ClassPolicy(fixed=None, expected_restores=50)
    assert not choose(often, PRICES, size=100 * GB, days=365, objects=12).storage_class.archived


def test_classes_that_are_slower_than_allowed_are_left_out_and_named() -> None:
    quick = ClassPolicy(fixed=None, expected_restores=0, max_wait_hours=1)
    choice = choose(quick, PRICES, size=100 * GB, days=3650, objects=12)
    assert choice.storage_class is StorageClass.GLACIER
    text = choice.explain("USD")
    assert "DEEP_ARCHIVE: no recall within 1 h" in text
    assert "ONEZONE_IA: kept in one zone only" in text


@given(
    size=st.integers(0, 10**14),
    days=st.floats(0, 40_000),
    restores=st.floats(0, 10),
    hours=st.floats(0, 100),
)
def test_the_choice_is_the_cheapest_of_those_that_fit(
    size: int, days: float, restores: float, hours: float
) -> None:
    policy = ClassPolicy(fixed=None, expected_restores=restores, max_wait_hours=hours)
    choice = choose(policy, PRICES, size=size, days=days, objects=max(1, size // (8 * 2**30)))
    costs = dict(choice.costs)
    assert costs[choice.storage_class] == min(costs.values())
    assert len(costs) + len(choice.left_out) == len(StorageClass)


def test_a_month_in_standard_costs_what_the_table_says() -> None:
    cost = PRICES.storing(StorageClass.STANDARD, size=1000 * GB, days=30.4)
    assert cost == pytest.approx(23.0, rel=1e-4)


def test_a_deleted_deep_archive_object_is_billed_for_its_minimum() -> None:
    short = PRICES.storing(StorageClass.DEEP_ARCHIVE, size=1000 * GB, days=1)
    assert short == PRICES.storing(StorageClass.DEEP_ARCHIVE, size=1000 * GB, days=180)
    assert short == pytest.approx(0.00099 * 1000 * 180 / 30.4, rel=1e-3)


def test_a_fixed_class_is_taken_and_a_wrong_name_is_refused() -> None:
    policy = ClassPolicy.parse("deep_archive")
    assert choose(policy, PRICES, size=1, days=1, objects=1).storage_class == "DEEP_ARCHIVE"
    with pytest.raises(ConfigError, match="glacier_ir"):
        ClassPolicy.parse("cold")


def test_remaining_days_know_for_ever_and_unknown() -> None:
    now = 1_700_000_000 * NANOSECONDS
    day = 86_400 * NANOSECONDS
    assert remaining_days(now=now, expires_at=None, infinite=True) == FOREVER_DAYS
    assert remaining_days(now=now, expires_at=now - day, infinite=False) == 0
    assert remaining_days(now=now, expires_at=now + 9 * day, infinite=False) == 9
    assert remaining_days(now=now, expires_at=None, infinite=False) == 365


def test_a_price_table_that_is_not_usable_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    for text in ("not toml [", "date = 1", 'date="x"\ncurrency="y"\n[class.COLD]\n'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"prices\.toml"):
            Prices.load(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Prices.load(tmp_path / "missing.toml")
