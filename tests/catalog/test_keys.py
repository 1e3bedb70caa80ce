from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from catalog.errors import CatalogError, ConfigError
from catalog.keys import CommandKey, FileKey, is_signed, read_public_key
from tests.catalog.keyring import key_file, made_key, public_file


def test_a_key_from_a_file_signs_and_nothing_else_is_signed(tmp_path: Path) -> None:
    key, other = made_key(tmp_path, "one"), made_key(tmp_path, "two")
    signature = key.sign(b"message")
    assert is_signed(b"message", signature, key.public_key)
    assert not is_signed(b"massage", signature, key.public_key)
    assert not is_signed(b"message", signature, other.public_key)
    assert not is_signed(b"message", signature[:-1], key.public_key)
    assert not is_signed(b"message", signature, "rubbish")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        FileKey(path)


def test_what_is_no_private_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    elliptic = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for content in (b"", b"secret rubbish", elliptic, key_file(tmp_path, "x").read_bytes()[:-40]):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            FileKey(path)
        assert "secret" not in str(caught.value)
        assert "openssl genpkey" in caught.value.hint
    with pytest.raises(ConfigError, match="No such file"):
        FileKey(tmp_path / "none")


def test_a_public_key_is_read_from_pem_and_from_its_body(tmp_path: Path) -> None:
    key = made_key(tmp_path)
    path = public_file(tmp_path, key.public_key)
    assert read_public_key(path) == key.public_key
    path.write_text(key.public_key)
    assert read_public_key(path) == key.public_key
    for content in ("", "x" * 60, key.public_key[:-4], f"{key.public_key}{key.public_key}"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="no Ed25519 public key"):
            read_public_key(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_public_key(tmp_path / "none")


def test_openssl_writes_the_same_public_key(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    done = subprocess.run(
        ["openssl", "pkey", "-in", str(path), "-pubout"], capture_output=True, check=True
    )
    (tmp_path / "pub").write_bytes(done.stdout)
    assert read_public_key(tmp_path / "pub") == FileKey(path).public_key


def signing_command(folder: Path, key: Path, *, plain: bool) -> list[str]:
    """A stand-in for a KMS client: signs its standard input."""
    script = folder / "sign.py"
    script.write_text(
        "import base64, pathlib, sys\n"
        "from cryptography.hazmat.primitives.serialization import load_pem_private_key\n"
        "key = load_pem_private_key(pathlib.Path(sys.argv[1]).read_bytes(), None)\n"
        "made = key.sign(sys.stdin.buffer.read())\n"
        f"sys.stdout.buffer.write(made if {plain} else base64.encodebytes(made))\n"
    )
    return [sys.executable, str(script), str(key)]


@pytest.mark.parametrize("plain", [True, False])
def test_a_command_signs(tmp_path: Path, plain: bool) -> None:
    path = key_file(tmp_path)
    public_key = FileKey(path).public_key
    key = CommandKey(signing_command(tmp_path, path, plain=plain), public_key)
    assert is_signed(b"message", key.sign(b"message"), public_key)


def test_a_command_that_signs_with_another_key_is_found_before_anything_is_written(
    tmp_path: Path,
) -> None:
    command = signing_command(tmp_path, key_file(tmp_path, "one"), plain=False)
    key = CommandKey(command, made_key(tmp_path, "two").public_key)
    with pytest.raises(CatalogError, match="no signature of this public key"):
        key.sign(b"message")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/nonexistent/signer"], "cannot run"),
        (["sh", "-c", "echo no token >&2; exit 7"], "ended with 7: no token"),
        (["sh", "-c", "echo rubbish!"], "no signature"),
        (["true"], "no signature"),
    ],
)
def test_a_command_that_fails_says_why(tmp_path: Path, command: list[str], said: str) -> None:
    key = CommandKey(command, made_key(tmp_path).public_key)
    with pytest.raises(CatalogError, match=said) as caught:
        key.sign(b"message")
    assert caught.value.hint


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    key = CommandKey(["sleep", "60"], made_key(tmp_path).public_key, timeout_s=0.2)
    with pytest.raises(CatalogError, match=r"within 0\.2 s"):
        key.sign(b"message")


def test_a_command_needs_a_program_and_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty command"):
        CommandKey([], made_key(tmp_path).public_key)
    with pytest.raises(ConfigError, match="public key"):
        CommandKey(["true"], base64.b64encode(b"x" * 44).decode())
