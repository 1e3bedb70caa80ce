"""Rules of others survive byte for byte; ours are written beside them, against a server."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from catalog.errors import ConfigError, StoreError
from catalog.s3 import S3Limits, S3Location
from connector.pool import lifecycle
from connector.store.s3 import S3Store
from connector.store.s3_lifecycle import Rule, Rules, Transition, parse, to_xml
from tests.pool.test_lifecycle import STEPS, settings
from tests.support.faults import FaultProxy, altered
from tests.support.servers import _maker, new_bucket

THEIRS = """
<Rule><ID>logs &amp; more</ID><Filter><And><Prefix>logs/</Prefix>
<Tag><Key>a</Key><Value>ü</Value></Tag><Tag><Key>b</Key><Value></Value></Tag>
<ObjectSizeGreaterThan>500</ObjectSizeGreaterThan><ObjectSizeLessThan>70000</ObjectSizeLessThan>
</And></Filter><Status>Enabled</Status>
<Transition><Days>45</Days><StorageClass>STANDARD_IA</StorageClass></Transition>
<Expiration><Date>2031-02-03T00:00:00.000Z</Date></Expiration></Rule>
<Rule><ID>old style</ID><Prefix>tmp/</Prefix><Status>Disabled</Status>
<Expiration><Days>7</Days></Expiration></Rule>
<Rule><ID>hidden</ID><Filter><Prefix>docs/</Prefix></Filter><Status>Enabled</Status>
<NoncurrentVersionExpiration><NoncurrentDays>9</NoncurrentDays>
<NewerNoncurrentVersions>3</NewerNoncurrentVersions></NoncurrentVersionExpiration>
<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>
"""
NEW_WORDS = """
<Rule><ID>tomorrow</ID><Filter><Prefix>x/</Prefix><Colour>blue</Colour></Filter>
<Status>Enabled</Status><Annotate><Days>3</Days></Annotate></Rule>
"""


def configuration(rules: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{rules}</LifecycleConfiguration>"
    ).encode()


def canonical(rule: str) -> str:
    return ET.canonicalize(rule, strip_text=True)


class Bucket:
    """A bucket with the rules of others, and a store in it."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        self.store = S3Store(location, limits=S3Limits(deadline_s=10))
        self.client: Any = _maker(str(location.endpoint_url))

    def put(self, rules: str, smallest: str | None = None) -> None:
        written = Rules(rules=tuple(parse(configuration(rules))), smallest_transition=smallest)
        self.store.lifecycle().write(written)

    def xml(self) -> list[str]:
        return [canonical(rule.xml) for rule in self.store.lifecycle().read().rules]

    def ids(self) -> list[str]:
        return [rule.id for rule in self.store.lifecycle().read().rules]


@pytest.fixture
def bucket(moto_bucket: Callable[..., S3Location]) -> Iterator[Bucket]:
    made = Bucket(moto_bucket(prefix="pool"))
    yield made
    made.store.close()


def test_a_rule_is_read_with_all_that_it_says() -> None:
    logs, old, hidden = parse(configuration(THEIRS))
    assert logs == Rule(
        id="logs & more",
        prefix="logs/",
        tags=(("a", "ü"), ("b", "")),
        larger_than=500,
        smaller_than=70000,
        transitions=(Transition(when="45", storage_class="STANDARD_IA"),),
        expires="on 2031-02-03T00:00:00.000Z",
    )
    assert (old.prefix, old.enabled, old.expires) == ("tmp/", False, "after 7 days")
    assert (hidden.expires, hidden.noncurrent_expires) == (None, "after 9 days")


def test_rules_are_written_as_they_were_read() -> None:
    rules = parse(configuration(THEIRS + NEW_WORDS))
    again = parse(to_xml(rules))
    assert [canonical(rule.xml) for rule in again] == [canonical(rule.xml) for rule in rules]
    assert "<Colour>blue</Colour>" in again[-1].xml
    assert again[-1].others == ("Annotate",)


@pytest.mark.parametrize("xml", [b"", b"<a/>", b"<LifecycleConfiguration", b"\xff\xfe", b"[]"])
def test_what_is_no_configuration_is_never_written_over(xml: bytes) -> None:
    with pytest.raises(StoreError):
        parse(xml)


def test_a_bucket_without_rules_has_none(bucket: Bucket) -> None:
    assert bucket.store.lifecycle().read() == Rules()


def test_applying_keeps_the_rules_of_others_byte_for_byte(bucket: Bucket) -> None:
    bucket.put(THEIRS + NEW_WORDS, smallest="varies_by_storage_class")
    theirs = bucket.xml()
    diff = lifecycle.apply(bucket.store, settings(lifecycle=STEPS), dry_run=False)
    assert diff.applied
    assert bucket.xml()[:4] == theirs
    assert bucket.ids()[4:] == ["tapelift-main-uploads", "tapelift-main-steps"]
    assert bucket.store.lifecycle().read().smallest_transition == "varies_by_storage_class"


def test_what_boto3_sees_of_our_rules_is_what_was_asked_for(bucket: Bucket) -> None:
    lifecycle.apply(bucket.store, settings(lifecycle=STEPS), dry_run=False)
    answer = bucket.client.get_bucket_lifecycle_configuration(Bucket=bucket.location.bucket)
    uploads, steps = answer["Rules"]
    assert uploads["Filter"] == {"Prefix": "pool/"}
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 30}
    assert steps["Filter"]["And"] == {
        "Prefix": "pool/images/",
        "Tags": [{"Key": "tapelift", "Value": "fragment"}],
        "ObjectSizeGreaterThan": 131071,
    }
    assert steps["Transitions"] == [
        {"Days": 30, "StorageClass": "GLACIER_IR"},
        {"Days": 120, "StorageClass": "DEEP_ARCHIVE"},
    ]
    assert {uploads["Status"], steps["Status"]} == {"Enabled"}


def test_a_dry_run_writes_nothing(bucket: Bucket) -> None:
    bucket.put(THEIRS)
    before = bucket.xml()
    diff = lifecycle.apply(bucket.store, settings(lifecycle=STEPS), dry_run=True)
    assert (diff.changed, diff.applied) == (True, False)
    assert bucket.xml() == before


def test_applying_twice_changes_nothing_the_second_time(bucket: Bucket) -> None:
    lifecycle.apply(bucket.store, settings(lifecycle=STEPS), dry_run=False)
    again = lifecycle.apply(bucket.store, settings(lifecycle=STEPS), dry_run=False)
    assert (again.changed, again.applied) == (False, False)


def test_a_step_that_was_taken_out_is_taken_out_of_the_bucket(bucket: Bucket) -> None:
    lifecycle.apply(bucket.store, settings(lifecycle=STEPS), dry_run=False)
    lifecycle.apply(bucket.store, settings(), dry_run=False)
    assert bucket.ids() == ["tapelift-main-uploads"]


def test_without_any_rule_the_configuration_is_deleted(bucket: Bucket) -> None:
    bucket.put(THEIRS)
    bucket.store.lifecycle().write(Rules())
    assert bucket.store.lifecycle().read() == Rules()


def test_a_change_by_somebody_else_in_between_is_noticed_and_nothing_is_written(
    moto_endpoint: str,
) -> None:
    location = new_bucket(moto_endpoint, prefix="pool")
    other = Bucket(location)
    other.put(THEIRS)

    def meanwhile(status: int, headers: dict[str, str], body: bytes) -> Any:
        other.put(THEIRS + NEW_WORDS)
        return status, headers, body

    with FaultProxy(moto_endpoint) as proxy:
        seen = S3Location(location.bucket, "pool", proxy.url)
        store = S3Store(seen, limits=S3Limits(deadline_s=10))
        proxy.play(altered("GetBucketLifecycleConfiguration", meanwhile))
        with pytest.raises(StoreError, match="nothing was written"):
            lifecycle.apply(store, settings(lifecycle=STEPS), dry_run=False)
        store.close()
    assert other.ids() == ["logs & more", "old style", "hidden", "tomorrow"]
    other.store.close()


def test_a_bucket_with_a_thousand_rules_of_others_is_left_alone(bucket: Bucket) -> None:
    many = "".join(
        f"<Rule><ID>r{n}</ID><Filter><Prefix>r{n}/</Prefix></Filter><Status>Enabled</Status>"
        "<Expiration><Days>5</Days></Expiration></Rule>"
        for n in range(1000)
    )
    bucket.put(many)
    with pytest.raises(ConfigError, match="1001 lifecycle rules"):
        lifecycle.apply(bucket.store, settings(), dry_run=False)
    assert len(bucket.ids()) == 1000


@pytest.mark.rgw
def test_a_real_server_keeps_the_rules_that_it_knows(rgw_endpoint: str) -> None:
    bucket = Bucket(new_bucket(rgw_endpoint, prefix="pool"))
    bucket.put(
        "<Rule><ID>theirs</ID><Filter><Prefix>logs/</Prefix></Filter><Status>Enabled</Status>"
        "<Expiration><Days>9</Days></Expiration></Rule>"
    )
    diff = lifecycle.apply(bucket.store, settings(), dry_run=False)
    assert diff.applied
    assert sorted(bucket.ids()) == ["tapelift-main-uploads", "theirs"]
    bucket.store.close()
