"""Checksums of the byte path."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.pool import digest
from connector.pool.digest import Sha256, crc64, crc64_join, crc64_text, crc64_value


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_a_digest_taken_up_from_its_state_equals_hashlib(pieces: list[bytes]) -> None:
    running = Sha256()
    for piece in pieces:
        running.update(bytearray(piece))
        restored = Sha256.restore(running.export())
        assert restored is not None
        running = restored
    assert running.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_asking_for_the_digest_does_not_end_it() -> None:
    running = Sha256()
    running.update(b"abc")
    first = running.hexdigest()
    running.update(memoryview(b"def"))
    assert first == hashlib.sha256(b"abc").hexdigest()
    assert running.hexdigest() == hashlib.sha256(b"abcdef").hexdigest()


@pytest.mark.parametrize("state", [None, b"", b"sha256-little:short", b"x" * 200])
def test_a_state_of_another_machine_is_not_taken_up(state: bytes | None) -> None:
    assert Sha256.restore(state) is None


def test_without_libcrypto_the_digest_is_right_and_has_no_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digest, "_libcrypto", lambda: None)
    running = Sha256()
    running.update(b"abc")
    assert running.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert running.copy().hexdigest() == running.hexdigest()
    assert running.export() is None
    assert Sha256.restore(b"anything") is None


def test_crc64nvme_has_the_published_check_value() -> None:
    assert crc64(b"123456789") == 0xAE8B14860A799888
    assert crc64_text(crc64(b"123456789")) == "rosUhgp5mIg="


@given(st.binary(max_size=500), st.binary(max_size=500))
def test_checksums_of_two_runs_join_to_that_of_both(one: bytes, other: bytes) -> None:
    assert crc64_join(crc64(one), crc64(other), len(other)) == crc64(one + other)


@given(st.integers(0, 2**64 - 1))
def test_a_checksum_reads_back_from_its_text(value: int) -> None:
    assert crc64_value(crc64_text(value)) == value
