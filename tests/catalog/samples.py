"""Facts for tests: one that is easy to vary, and any that can be written."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from hypothesis import strategies as st

from catalog.model import (
    NANOSECONDS,
    Fact,
    Kind,
    LockMode,
    ScheduleType,
    StorageClass,
    StoredFragment,
    TapePlace,
)

DAY = 86_400 * NANOSECONDS
START = 1_717_200_000 * NANOSECONDS  # 2024-06-01T00:00:00Z


def fact(kind: Kind = Kind.STORED, image: str | None = "client1_1717200000", **values: Any) -> Fact:
    defaults: dict[str, Any] = {
        "fact_id": str(uuid.uuid4()),
        "kind": kind,
        "recorded_at": START,
        "actor": "operator",
        "writer": "tapelift 0.1.0",
        "image": image,
    }
    return Fact(**(defaults | values))


def stored(image: str = "client1_1717200000", **values: Any) -> Fact:
    defaults: dict[str, Any] = {
        "copy": 1,
        "product": "netbackup",
        "client": "client1",
        "policy": "daily",
        "schedule": "full",
        "schedule_type": ScheduleType.FULL,
        "backup_time": START - DAY,
        "expires_at": START + 400 * DAY,
        "expires_infinite": False,
        "size": 1000,
        "sha256": hashlib.sha256(image.encode()).hexdigest(),
        "media": ("A00001",),
        "places": (place("A00001", "A00001L8", size=1000, tape_file=3),),
        "pool": "s3://bucket/pool",
        "manifest_key": f"images/{image}/1/manifest.json",
        "fragments": (
            StoredFragment(
                key=f"images/{image}/1/token-00000",
                version_id=None,
                size=1000,
                sha256=hashlib.sha256(image.encode()).hexdigest(),
                crc64nvme="rosUhgp5mIg=",
            ),
        ),
        "storage_class": StorageClass.DEEP_ARCHIVE,
        "lock_mode": LockMode.COMPLIANCE,
        "lock_until": START + 400 * DAY,
        "hold": False,
    }
    return fact(Kind.STORED, image, **(defaults | values))


def place(media_id: str, barcode: str | None = None, **values: Any) -> TapePlace:
    return TapePlace(media_id=media_id, barcode=barcode, **values)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
maybe_texts = st.none() | texts
numbers = st.integers(0, 2**63 - 1)
maybe_numbers = st.none() | numbers
# A ledger keeps microseconds; all years that ISO 8601 can write.
times = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999).map(lambda us: us * 1_000)
maybe_times = st.none() | times

places = st.builds(
    TapePlace,
    media_id=texts,
    barcode=maybe_texts,
    fragment_number=maybe_numbers,
    tape_file=maybe_numbers,
    block_offset=maybe_numbers,
    size=st.none() | st.integers(0, 2**58),
)
fragments = st.builds(
    StoredFragment,
    key=texts,
    version_id=maybe_texts,
    size=numbers,
    sha256=texts,
    crc64nvme=maybe_texts,
)


def _some(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=3).map(tuple)


any_fact = st.builds(
    Fact,
    fact_id=st.uuids().map(str),
    kind=st.sampled_from(Kind),
    recorded_at=times,
    actor=texts,
    writer=texts,
    run_id=maybe_texts,
    reason=maybe_texts,
    image=maybe_texts,
    copy=maybe_numbers,
    product=maybe_texts,
    client=maybe_texts,
    policy=maybe_texts,
    schedule=maybe_texts,
    schedule_type=st.none() | st.sampled_from(ScheduleType),
    backup_time=maybe_times,
    expires_at=maybe_times,
    expires_infinite=st.none() | st.booleans(),
    size=maybe_numbers,
    sha256=maybe_texts,
    problems=_some(texts),
    media=_some(texts),
    barcode=maybe_texts,
    drive=maybe_texts,
    places=_some(places),
    pool=maybe_texts,
    manifest_key=maybe_texts,
    fragments=_some(fragments),
    storage_class=st.none() | st.sampled_from(StorageClass),
    lock_mode=st.none() | st.sampled_from(LockMode),
    lock_until=maybe_times,
    hold=st.none() | st.booleans(),
    detail=maybe_texts,
)
