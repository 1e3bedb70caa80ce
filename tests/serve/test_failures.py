"""What clients are told of errors."""

from __future__ import annotations

from catalog import errors
from connector.serve.failures import ArchivedOffer, BusyFor, PoolAway, failure_of
from connector.wire.messages import MAX_TEXT, Ticket

OFFER = Ticket(
    ticket="t", state="offered", asked=False, tier="Bulk", days=1, objects=1, size=1, cost=0.1,
    currency="USD", price_date="2026-01-01", hours=5.0, done=0, total=1, expires_at=None, ready=(),
    offers=(),
)  # fmt: skip


def test_a_pool_that_is_down_is_told_as_down_and_when_to_come_back() -> None:
    failure = failure_of(PoolAway("s3://b is away", retry_after_s=4.5, hint="wait"))
    assert (failure.code, failure.retryable, failure.retry_after_s) == ("down", True, 4.5)
    assert (failure.message, failure.hint) == ("s3://b is away", "wait")


def test_a_throttled_store_is_down_too_and_an_unusable_bucket_is_not_retryable() -> None:
    assert failure_of(errors.TransientStoreError("x")).code == "down"
    assert failure_of(errors.TransientStoreError("x")).retry_after_s > 0
    unusable = failure_of(errors.StoreUnusable("no bucket"))
    assert (unusable.code, unusable.retryable, unusable.retry_after_s) == ("down", False, 0.0)


def test_offsets_and_offers_travel_with_the_failures_that_have_them() -> None:
    assert failure_of(errors.OffsetMismatch("x", offset=7)).offset == 7
    assert failure_of(errors.NoSpace("x", offset=0)).offset == 0
    assert failure_of(ArchivedOffer("x", offer=OFFER)).offer == OFFER
    assert failure_of(errors.ImageNotFound("x")).offset is None


def test_busy_tells_how_long_to_wait() -> None:
    assert failure_of(BusyFor("x", retry_after_s=2.0)).retry_after_s == 2.0
    assert failure_of(errors.ImageBusy("x")).retry_after_s > 0


def test_the_request_id_of_the_store_is_told_apart_from_the_text() -> None:
    text = "putting images/a/1/x-00000: InternalError (HTTP 500, request id 0A1B/2c=)"
    assert failure_of(errors.StoreError(text)).request_id == "0A1B/2c="
    assert failure_of(errors.StoreError("x (HTTP 500, request id none)")).request_id is None


def test_long_texts_are_cut_to_what_a_message_may_hold() -> None:
    failure = failure_of(errors.PoolError("x" * 2 * MAX_TEXT, hint="y" * 2 * MAX_TEXT))
    assert (len(failure.message), len(failure.hint)) == (MAX_TEXT, MAX_TEXT)


def test_every_error_of_the_tree_has_a_code_that_a_script_can_use() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {k.code for k in kinds if issubclass(k, errors.PoolError)} >= {"size", "digest", "same"}
    assert all(k.code.isidentifier() for k in kinds if issubclass(k, errors.PoolError))
