"""How the store encrypts what it keeps. The key of SSE-C never appears in a repr or a log."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from catalog.errors import ConfigError


class EncryptionKind(StrEnum):
    """Server-side encryption. Source: S3 user guide, "Protecting data with encryption"."""

    NONE = "none"  # what the bucket does by default
    SSE_S3 = "sse-s3"
    SSE_KMS = "sse-kms"
    SSE_C = "sse-c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """Which encryption, and its key.

    kms_key_id may be None: then the account's own key for S3. customer_key is 32 bytes; whoever
    loses it loses every object.
    """

    kind: EncryptionKind = EncryptionKind.NONE
    kms_key_id: str | None = None
    customer_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.kind is EncryptionKind.SSE_C) != (self.customer_key is not None):
            raise ConfigError(
                f"encryption {self.kind}: customer key and kind do not belong together",
                hint="give a customer key with sse-c, and only there",
            )
        if self.customer_key is not None and len(self.customer_key) != 32:
            raise ConfigError(
                f"customer key of {len(self.customer_key)} bytes", hint="give exactly 32 bytes"
            )
        if self.kms_key_id is not None and self.kind is not EncryptionKind.SSE_KMS:
            raise ConfigError(
                f"encryption {self.kind}: a KMS key id", hint="give it with sse-kms only"
            )

    def on_create(self) -> dict[str, str]:
        """Parameters of PutObject and CreateMultipartUpload."""
        if self.kind is EncryptionKind.SSE_S3:
            return {"ServerSideEncryption": "AES256"}
        if self.kind is EncryptionKind.SSE_KMS:
            key = {"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {}
            return {"ServerSideEncryption": "aws:kms", **key}
        return self.on_access()

    def on_access(self) -> dict[str, str]:
        """Parameters of every request that needs the bytes: parts, Get, Head, Complete."""
        if self.customer_key is None:
            return {}
        digest = hashlib.md5(self.customer_key, usedforsecurity=False).digest()
        return {
            "SSECustomerAlgorithm": "AES256",
            "SSECustomerKey": base64.b64encode(self.customer_key).decode("ascii"),
            "SSECustomerKeyMD5": base64.b64encode(digest).decode("ascii"),
        }
