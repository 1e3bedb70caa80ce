"""Counts what is asked of S3, for metrics: every attempt, by operation and by how it ended.

An answer whose body breaks off later has ended well here: what is counted is what is billed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from catalog.s3 import TRANSIENT_STATUS

_SLOWER = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})
"""Codes that ask for fewer requests. Source: S3 user guide, "503 Slow Down"."""


class Ended(StrEnum):
    """How an attempt at a request ended."""

    OK = "ok"
    REFUSED = "refused"  # an answer that is not worth another attempt; 404 is one
    THROTTLED = "throttled"
    FAILED = "failed"  # an error of the server, or no answer at all


@dataclass(frozen=True, slots=True)
class Traffic:
    """Attempts so far, by S3's name of the operation and by how they ended."""

    requests: Mapping[tuple[str, Ended], int]

    def total(self, *ended: Ended) -> int:
        """How many attempts ended so; without a word, all."""
        wanted = ended or tuple(Ended)
        return sum(count for (_, how), count in self.requests.items() if how in wanted)


class TrafficCounter:
    """Listens to one boto3 client. Its calls may come from several threads."""

    def __init__(self, client: Any) -> None:
        self._counts: Counter[tuple[str, Ended]] = Counter()
        self._mutex = threading.Lock()
        client.meta.events.register("response-received.s3", self._count)

    def _count(
        self, event_name: str, parsed_response: dict[str, Any] | None = None, **_: object
    ) -> None:
        operation = event_name.rpartition(".")[2]
        with self._mutex:
            self._counts[operation, how_ended(parsed_response)] += 1

    @property
    def traffic(self) -> Traffic:
        """The counts as they are now."""
        with self._mutex:
            return Traffic(dict(self._counts))


def how_ended(answer: Mapping[str, Any] | None) -> Ended:
    """What botocore's parsed answer says; None: there was none."""
    if answer is None:
        return Ended.FAILED
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    code = str(answer.get("Error", {}).get("Code", ""))
    if code in _SLOWER or status in (429, 503):
        return Ended.THROTTLED
    if status in TRANSIENT_STATUS:
        return Ended.FAILED
    return Ended.OK if status < 400 and not code else Ended.REFUSED
