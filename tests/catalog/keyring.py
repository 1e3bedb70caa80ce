"""Keys for tests: made anew for each, in memory or in a file."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from catalog.keys import FileKey


def key_file(folder: Path, name: str = "key.pem") -> Path:
    """A private key as openssl makes it, which its owner alone may read."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / name
    path.write_bytes(pem)
    path.chmod(0o600)
    return path


def public_file(folder: Path, public_key: str, name: str = "key.pub") -> Path:
    """A public key in PEM."""
    path = folder / name
    path.write_text(f"-----BEGIN PUBLIC KEY-----\n{public_key}\n-----END PUBLIC KEY-----\n")
    return path


def made_key(folder: Path, name: str = "key.pem") -> FileKey:
    """A new key, in a file."""
    return FileKey(key_file(folder, name))


class MadeKey(FileKey):
    """A new key that is in no file."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
