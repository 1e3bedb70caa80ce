"""How a client proves over TCP that it knows the token, without saying it.

The daemon's first frame on such a connection is a NOTICE of request 0, ``{"challenge": NONCE}``;
``token`` of the client's ``hello`` is ``response(token, NONCE)``. A nonce is good for one hello on
one connection, so a hello that somebody recorded opens nothing.
"""

from __future__ import annotations

import hmac
import secrets

NONCE_BYTES = 32
CHALLENGE = "challenge"
"""The key of the NOTICE that carries the nonce."""


def new_nonce() -> str:
    """A number that is used once, as hex."""
    return secrets.token_hex(NONCE_BYTES)


def response(token: str, nonce: str) -> str:
    """HMAC-SHA256 with the token's UTF-8 bytes as key over the nonce's ASCII letters, as hex."""
    return hmac.new(token.encode(), nonce.encode("ascii"), "sha256").hexdigest()


def proves(token: str, nonce: str, given: str | None) -> bool:
    """Whether a hello's token is the response; takes as long for a wrong one as for a right one."""
    if given is None:
        return False
    expected = response(token, nonce)
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))
