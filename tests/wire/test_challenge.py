"""The proof that a client knows the token: as the page says it, and of no use a second time."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from connector.wire.challenge import NONCE_BYTES, new_nonce, proves, response


def test_the_response_is_an_hmac_of_the_nonces_letters() -> None:
    nonce = "00ff"
    expected = hmac.new("tök".encode(), b"00ff", hashlib.sha256).hexdigest()
    assert response("tök", nonce) == expected
    assert proves("tök", nonce, expected)


def test_a_nonce_is_never_used_again() -> None:
    nonces = {new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(bytes.fromhex(nonce)) == NONCE_BYTES for nonce in nonces)


@pytest.mark.parametrize("given", [None, "", "token", "\ud800", "ü" * 64])
def test_nothing_else_proves_anything(given: str | None) -> None:
    nonce = new_nonce()
    assert not proves("token", nonce, given)
    assert not proves("token", nonce, response("other", nonce))
    assert not proves("token", nonce, response("token", new_nonce()))
    assert not proves("token", nonce, response("token", nonce).upper())
