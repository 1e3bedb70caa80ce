"""Ed25519 keys that sign checkpoints: from a file, or behind a command that keeps the key.

A public key is written as the body of its PEM file: 60 characters of base64, the same that
``openssl pkey -pubout`` prints between its two lines. Private keys are in no message and no repr.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from catalog.errors import CatalogError, ConfigError

SIGNATURE_BYTES = 64
MAX_KEY_FILE_BYTES = 16 * 1024
COMMAND_TIMEOUT_S = 60.0
_DER_HEAD = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, section 4: id-Ed25519, 32 bytes
_PEM_LINES = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----")
_MAKE = "make one: openssl genpkey -algorithm ed25519 -out FILE"


class Signer(Protocol):
    """What signs; public_key is the key's text."""

    @property
    def public_key(self) -> str:
        """The key that verifies what sign() gives."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes. Raises CatalogError when none could be had."""
        ...


class FileKey:
    """A private key in a PEM file (PKCS 8, no passphrase) that its owner alone may read."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when the file is no such key, or others may read it."""
        try:
            key = serialization.load_pem_private_key(_read_private(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # its text may hold the key
            raise ConfigError(
                f"{path} is no private key without a passphrase", hint=_MAKE
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"the key in {path} is not an Ed25519 key", hint=_MAKE)
        self._key = key

    @property
    def public_key(self) -> str:
        """See Signer."""
        return _text(self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        """See Signer."""
        return self._key.sign(message)


class CommandKey:
    """A key that never leaves its keeper (a KMS, an HSM, another account), asked by a command.

    The command gets the message on its standard input, at most 4,096 bytes, and prints the
    signature: 64 bytes, or their base64. It is run without a shell, within COMMAND_TIMEOUT_S.
    What it prints is checked against the public key before anybody sees it.
    """

    def __init__(
        self,
        command: Sequence[str],
        public_key: str,
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        if not command:
            raise ConfigError("an empty command to sign with", hint="name a program")
        _load(public_key)
        self._command = tuple(command)
        self._public_key = public_key
        self._timeout_s = timeout_s

    @property
    def public_key(self) -> str:
        """See Signer."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """See Signer."""
        program = self._command[0]
        hint = f"run {program} by hand with some text on its standard input"
        try:
            done = subprocess.run(
                self._command,
                input=message,
                capture_output=True,
                check=False,
                timeout=self._timeout_s,
            )
        except OSError as exc:
            raise CatalogError(f"cannot run {program}: {exc.strerror}", hint=hint) from exc
        except subprocess.TimeoutExpired as exc:
            raise CatalogError(
                f"{program} gave no signature within {self._timeout_s:g} s", hint=hint
            ) from exc
        if done.returncode != 0:
            said = done.stderr[:300].decode("utf-8", "replace").strip()
            raise CatalogError(f"{program} ended with {done.returncode}: {said}", hint=hint)
        signature = _signature_in(done.stdout)
        if not is_signed(message, signature, self._public_key):
            raise CatalogError(
                f"{program} gave no signature of this public key",
                hint="see that the public key belongs to the key which the command uses",
            )
        return signature


def read_public_key(path: Path) -> str:
    """The text of the public key in a file: PEM, or only its body. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES)
    except OSError as exc:
        raise ConfigError(f"cannot read the key {path}: {exc.strerror}") from exc
    lines = [line.strip() for line in data.decode("ascii", "replace").splitlines()]
    text = "".join(line for line in lines if line not in _PEM_LINES)
    try:
        _load(text)
    except ConfigError:
        raise ConfigError(
            f"{path} is no Ed25519 public key",
            hint="get it from the private key: openssl pkey -in KEY -pubout",
        ) from None
    return text


def is_signed(message: bytes, signature: bytes, public_key: str) -> bool:
    """Whether the signature is this key's over this message; False for a text that is no key."""
    try:
        _load(public_key).verify(signature, message)
    except (InvalidSignature, ConfigError):
        return False
    return True


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
                raise ConfigError(
                    f"the key {path} can be read by others than its owner", hint=f"chmod 600 {path}"
                )
            return file.read(MAX_KEY_FILE_BYTES)
    except OSError as exc:
        raise ConfigError(f"cannot read the key {path}: {exc.strerror}", hint=_MAKE) from exc


def _signature_in(printed: bytes) -> bytes:
    if len(printed) == SIGNATURE_BYTES:
        return printed
    try:
        return base64.b64decode(b"".join(printed.split()), validate=True)
    except binascii.Error:
        return b""


def _load(public_key: str) -> Ed25519PublicKey:
    try:
        der = base64.b64decode(public_key, validate=True)
        if der.startswith(_DER_HEAD):
            return Ed25519PublicKey.from_public_bytes(der[len(_DER_HEAD) :])
    except (ValueError, binascii.Error):
        pass
    raise ConfigError(
        f"no Ed25519 public key: {public_key[:80]!r}", hint="give the body of its PEM file"
    )


def _text(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(_DER_HEAD + raw).decode("ascii")
