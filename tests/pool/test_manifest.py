"""The manifest: what it says is read back, and what is not a manifest is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import CorruptObject
from catalog.model import NANOSECONDS, LockMode, ScheduleType, StorageClass, TapePlace
from connector.pool.manifest import FragmentObject, Manifest, Origin, Retention, Within

texts = st.text(max_size=20)
seconds = st.integers(0, 4_000_000_000).map(lambda s: s * NANOSECONDS)
names = st.binary(min_size=1, max_size=40).map(lambda b: b.decode("utf-8", "surrogateescape"))


@st.composite
def fragments(draw: st.DrawFn) -> tuple[FragmentObject, ...]:
    offset, made = 0, []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        part_size = draw(st.integers(1, 50))
        size = draw(st.integers(0, 300))
        parts = -(-size // part_size)
        made.append(
            FragmentObject(
                number=number,
                key=f"images/a/1/t-{number:05d}",
                version_id=draw(st.none() | texts),
                offset=offset,
                size=size,
                sha256="ab" * 32,
                crc64nvme=draw(st.integers(0, 2**64 - 1)),
                store_checksum="CRC64NVME",
                etag=draw(texts),
                storage_class=draw(st.sampled_from(StorageClass)),
                part_size=part_size,
                part_crc64nvme=tuple(
                    draw(st.lists(st.integers(0, 2**64 - 1), min_size=parts, max_size=parts))
                ),
            )
        )
        offset += size
    return tuple(made)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    parts = draw(fragments())
    place = TapePlace(media_id=draw(texts), tape_file=draw(st.none() | st.integers(0, 9)))
    return Manifest(
        name=draw(names),
        copy=draw(st.integers(1, 9)),
        token="00",
        created_at=draw(seconds),
        writer=draw(texts),
        size=sum(part.size for part in parts),
        sha256="cd" * 32,
        fragments=parts,
        origin=Origin(
            client=draw(st.none() | texts),
            schedule_type=draw(st.none() | st.sampled_from(ScheduleType)),
            backup_time=draw(st.none() | seconds),
            places=(place,),
            problems=tuple(draw(st.lists(texts, max_size=3))),
        ),
        retention=Retention(
            expires_at=draw(st.none() | seconds),
            lock_mode=draw(st.sampled_from(LockMode)),
            lock_until=draw(st.none() | seconds),
            hold=draw(st.booleans()),
        ),
        blocks=((1024, 1), (65536, 7)),
        gaps=tuple(draw(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9)), max_size=2))),
    )


@given(manifests())
def test_a_manifest_reads_back_as_it_was(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest


def small() -> dict[str, Any]:
    manifest = Manifest(
        name="a",
        copy=1,
        token="00",
        created_at=0,
        writer="w",
        size=None,
        sha256=None,
        fragments=(),
        within=(Within(image="f", copy=1, fragment_number=1, size=5),),
        origin=Origin(),
        retention=Retention(),
    )
    return dict(json.loads(manifest.to_json()))


def test_fields_of_a_later_version_are_ignored() -> None:
    fields = small() | {"colour": "blue"}
    assert Manifest.from_json(json.dumps(fields).encode(), where="here").name == "a"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "tapelift-image/9"},
        {"format": None},
        {"key_name": "a/b"},
        {"copy": "one"},
        {"within": []},
        {"within": [{}]},
        {"fragments": [{}]},
        {"fragments": 3},
        {"retention": None},
        {"origin": []},
        {"created_at": "yesterday"},
    ],
)
def test_what_is_not_a_manifest_is_refused_with_its_place(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptObject, match="here"):
        Manifest.from_json(json.dumps(small() | change).encode(), where="here")


@given(st.binary(max_size=100))
def test_any_bytes_end_in_our_error(data: bytes) -> None:
    with pytest.raises(CorruptObject):
        Manifest.from_json(data, where="here")


@given(manifests(), st.sampled_from(["offset", "number", "size", "part_size"]), st.integers(1, 9))
def test_fragments_that_do_not_join_are_refused(manifest: Manifest, field: str, by: int) -> None:
    fields = json.loads(manifest.to_json())
    fields["fragments"][-1][field] += by
    if field == "part_size":  # the same number of parts may still fit
        fields["fragments"][-1]["part_crc64nvme"] += "AAAAAAAAAAA="
    with pytest.raises(CorruptObject):
        Manifest.from_json(json.dumps(fields).encode(), where="here")
