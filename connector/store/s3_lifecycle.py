"""The lifecycle rules of a bucket: read as they are, written back as they are.

S3 replaces all rules at once, so whoever changes one must send all. Rules of others go back as the
XML in which they came: what boto3 does not know of them is not lost. S3 has no condition on the
write; what can be done is to read again right before it and right after.
"""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from catalog.errors import StoreError, TransientStoreError
from catalog.s3 import vendor_code
from connector.store.s3_bucket import S3Bucket

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MAX_RULES = 1000
"""Source: S3 user guide, "Lifecycle configuration elements"."""
MAX_XML = 16 * 1024 * 1024

_NONE_YET = ("NoSuchLifecycleConfiguration", "NoSuchLifecycle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A move to a class. when is ``30`` (days) or a date, as the rule has it."""

    when: str
    storage_class: str

    @property
    def days(self) -> int | None:
        """Days after the object was made; None when it is a date."""
        return int(self.when) if self.when.isdigit() else None

    def __str__(self) -> str:
        at = f"after {self.when} days" if self.days is not None else f"on {self.when}"
        return f"to {self.storage_class} {at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Objects must have the prefix and all tags and lie between the sizes (bytes).

    expires and noncurrent_expires say when objects or hidden versions are deleted, None: never.
    others are the names of actions that are not known here. xml is the rule as it stands.
    """

    id: str
    enabled: bool = True
    prefix: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    larger_than: int | None = None
    smaller_than: int | None = None
    transitions: tuple[Transition, ...] = ()
    noncurrent_transitions: tuple[Transition, ...] = ()
    expires: str | None = None
    noncurrent_expires: str | None = None
    abort_days: int | None = None
    others: tuple[str, ...] = ()
    xml: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.id or '(without a name)'}: {self._what()}: {'; '.join(self._actions())}"

    def _what(self) -> str:
        words = [f"objects below {self.prefix}" if self.prefix else "all objects"]
        words += [f"with the tag {key}={value}" for key, value in self.tags]
        if self.larger_than is not None:
            words.append(f"larger than {self.larger_than} bytes")
        if self.smaller_than is not None:
            words.append(f"smaller than {self.smaller_than} bytes")
        return " ".join(words)

    def _actions(self) -> Iterator[str]:
        if not self.enabled:
            yield "disabled"
        yield from map(str, self.transitions)
        for one in self.noncurrent_transitions:
            yield f"hidden versions {one}"
        if self.expires:
            yield f"deleted {self.expires}"
        if self.noncurrent_expires:
            yield f"hidden versions deleted {self.noncurrent_expires}"
        if self.abort_days is not None:
            yield f"unfinished uploads aborted after {self.abort_days} days"
        yield from self.others


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All rules of a bucket. smallest_transition is the bucket's own setting of which objects are
    too small to be moved; it is written back with the rules."""

    rules: tuple[Rule, ...] = ()
    smallest_transition: str | None = None


class Lifecycle:
    """The rules of one bucket."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        events = bucket.client.meta.events
        events.register(
            "before-parse.s3.GetBucketLifecycleConfiguration", _keep_xml, unique_id="tapelift-read"
        )
        events.register(
            "before-call.s3.PutBucketLifecycleConfiguration", _give_xml, unique_id="tapelift-write"
        )

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._bucket.location.bucket

    @property
    def prefix(self) -> str:
        """What the keys of the store begin with, with its slash; empty for the whole bucket."""
        return self._bucket.location.key("")

    def read(self) -> Rules:
        """GetBucketLifecycleConfiguration; no configuration is no rules."""
        client = self._bucket.client
        with _exchange() as held:
            try:
                answer = self._bucket.call(
                    f"reading the lifecycle rules of {self.bucket}",
                    lambda: client.get_bucket_lifecycle_configuration(Bucket=self.bucket),
                )
            except TransientStoreError:
                raise
            except StoreError as exc:
                if vendor_code(exc.__cause__) in _NONE_YET:
                    return Rules()
                raise
            xml = held.xml
        return Rules(
            rules=tuple(parse(xml)),
            smallest_transition=answer.get("TransitionDefaultMinimumObjectSize"),
        )

    def write(self, rules: Rules) -> None:
        """PutBucketLifecycleConfiguration with all rules; with none the configuration is deleted.

        The write replaces everything, so it is safe to repeat.
        """
        what = f"writing the lifecycle rules of {self.bucket}"
        client, parameters = self._bucket.client, {"Bucket": self.bucket}
        if not rules.rules:
            self._bucket.call(what, lambda: client.delete_bucket_lifecycle(**parameters))
            return
        if rules.smallest_transition:
            parameters["TransitionDefaultMinimumObjectSize"] = rules.smallest_transition
        # boto3 wants a configuration of its own; _give_xml puts ours in its place
        parameters["LifecycleConfiguration"] = {"Rules": []}  # type: ignore[assignment]
        with _exchange() as held:
            held.xml = to_xml(rules.rules)
            self._bucket.call(what, lambda: client.put_bucket_lifecycle_configuration(**parameters))


# --- the XML itself -------------------------------------------------------------------------


@dataclass(slots=True)
class _Held:
    xml: bytes = b""


_held: ContextVar[_Held | None] = ContextVar("lifecycle_xml", default=None)


@contextmanager
def _exchange() -> Iterator[_Held]:
    """What the handlers below take and give in this thread's call."""
    held = _Held()
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


def _keep_xml(response_dict: dict[str, Any], **_: object) -> None:
    held = _held.get()
    if held is not None:
        held.xml = bytes(response_dict["body"] or b"")


def _give_xml(params: dict[str, Any], **_: object) -> None:
    """Replaces the body before it is hashed and signed. Content-MD5: older stores insist on it."""
    held = _held.get()
    if held is not None:
        params["body"] = held.xml
        digest = hashlib.md5(held.xml, usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def parse(xml: bytes) -> list[Rule]:
    """The rules of a configuration.

    Raises:
        StoreError: this is not one, so nothing may be written over it.
    """
    if len(xml) > MAX_XML:
        raise StoreError(f"the lifecycle configuration has {len(xml)} bytes", hint="look at it")
    try:
        root = ET.fromstring(xml)
        for element in root.iter():  # the namespace is written once, at the root
            element.tag = _local(element.tag)
        if root.tag != "LifecycleConfiguration":
            raise ValueError(f"the answer is a {root.tag}")
        return [_rule(element) for element in root.findall("Rule")]
    except (ET.ParseError, ValueError) as exc:
        raise StoreError(
            f"the lifecycle configuration cannot be read: {exc}",
            hint="look at it with aws s3api get-bucket-lifecycle-configuration",
        ) from exc


def to_xml(rules: Sequence[Rule]) -> bytes:
    """A configuration of rules, each as it stands."""
    body = "".join(rule.xml or _own_xml(rule) for rule in rules)
    return f'<LifecycleConfiguration xmlns="{NAMESPACE}">{body}</LifecycleConfiguration>'.encode()


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


_KNOWN = frozenset(
    {"ID", "Status", "Prefix", "Filter", "Transition", "NoncurrentVersionTransition"}
    | {"Expiration", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"}
)


def _rule(element: ET.Element) -> Rule:
    given = element.find("Filter")
    inner = element if given is None else given
    both = inner.find("And")
    inner = inner if both is None else both
    expiration = element.find("Expiration")
    hidden = element.find("NoncurrentVersionExpiration")
    element.tail = None
    abort = element.findtext("AbortIncompleteMultipartUpload/DaysAfterInitiation")
    return Rule(
        id=element.findtext("ID") or "",
        enabled=element.findtext("Status") == "Enabled",
        prefix=inner.findtext("Prefix") or "",
        tags=tuple(
            (tag.findtext("Key") or "", tag.findtext("Value") or "") for tag in inner.findall("Tag")
        ),
        larger_than=_number(inner.findtext("ObjectSizeGreaterThan")),
        smaller_than=_number(inner.findtext("ObjectSizeLessThan")),
        transitions=tuple(_transition(one, "Days") for one in element.findall("Transition")),
        noncurrent_transitions=tuple(
            _transition(one, "NoncurrentDays")
            for one in element.findall("NoncurrentVersionTransition")
        ),
        expires=None if expiration is None else _when(expiration, "Days"),
        noncurrent_expires=None if hidden is None else _when(hidden, "NoncurrentDays"),
        abort_days=_number(abort),
        others=tuple(child.tag for child in element if child.tag not in _KNOWN),
        xml=ET.tostring(element, encoding="unicode"),
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _transition(element: ET.Element, days: str) -> Transition:
    when = element.findtext(days) or element.findtext("Date") or "0"
    return Transition(when=when, storage_class=element.findtext("StorageClass") or "")


def _when(element: ET.Element, days: str) -> str | None:
    """When something is deleted; None for what only clears delete markers away."""
    after, date = element.findtext(days), element.findtext("Date")
    if after is not None:
        return f"after {after} days"
    return f"on {date}" if date is not None else None


def _own_xml(rule: Rule) -> str:
    """A rule of ours. It has a prefix, and what it needs of the rest."""
    parts = [f"<Prefix>{escape(rule.prefix)}</Prefix>"]
    for key, value in rule.tags:
        parts.append(f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>")
    if rule.larger_than is not None:
        parts.append(f"<ObjectSizeGreaterThan>{rule.larger_than}</ObjectSizeGreaterThan>")
    inner = "".join(parts)
    text = f"<Rule><ID>{escape(rule.id)}</ID>"
    text += f"<Filter>{inner if len(parts) == 1 else f'<And>{inner}</And>'}</Filter>"
    text += f"<Status>{'Enabled' if rule.enabled else 'Disabled'}</Status>"
    for step in rule.transitions:
        text += f"<Transition><Days>{step.when}</Days>"
        text += f"<StorageClass>{step.storage_class}</StorageClass></Transition>"
    if rule.abort_days is not None:
        text += "<AbortIncompleteMultipartUpload>"
        text += f"<DaysAfterInitiation>{rule.abort_days}</DaysAfterInitiation>"
        text += "</AbortIncompleteMultipartUpload>"
    return text + "</Rule>"
