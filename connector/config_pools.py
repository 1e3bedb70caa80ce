"""The keys of one pool, and what must hold between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.errors import ConfigError
from catalog.model import LockMode, StorageClass
from catalog.s3 import S3Location, parse_uri
from connector.config_table import (
    NEEDED,
    DaysOfWeek,
    File,
    Key,
    MomentOfDay,
    Number,
    OneOf,
    Problems,
    Section,
    Size,
    Table,
    Tables,
    Text,
    Whole,
    Wrong,
    YesNo,
    shown,
)
from connector.pool.classes import ClassPolicy
from connector.pool.coding import LONGEST_KEY_ID, ClientKey, Coding, Compression
from connector.pool.config import MAX_OBJECT, MAX_PART, MIB, MIN_PART, PoolConfig
from connector.pool.lifecycle import check_steps
from connector.pool.prices import Prices
from connector.secret_files import making, read_key
from connector.settings import (
    PIB,
    Ack,
    BandwidthWindow,
    LifecycleStep,
    PoolSettings,
    RecallPolicy,
    SpoolSettings,
)
from connector.store.interface import RecallTier
from connector.store.s3_encryption import Encryption, EncryptionKind

CLIENT = "client"
"""Encryption on this host, before anything leaves it."""
_WORDS = tuple(name.lower() for name in StorageClass)
_CLASS = OneOf(_WORDS, lambda word: StorageClass(word.upper()))
_TIER = OneOf(tuple(t.lower() for t in RecallTier), lambda word: RecallTier(word.capitalize()))
_LOCK = OneOf(tuple(m.lower() for m in LockMode), lambda word: LockMode(word.upper()))
_MAKE_KEY = f"make one: {making(Path('FILE'))}"
_POLICY = ClassPolicy()
_CONFIG = PoolConfig()
_RECALL = RecallPolicy()
_CENTURY = 36_500


# --- tables inside a pool ---------------------------------------------------------------------


def _window(read: Mapping[str, Any]) -> BandwidthWindow:
    if read["from"] == read["to"]:
        raise Wrong("begins and ends at the same time", "leave both out for the whole day")
    return BandwidthWindow(
        bytes_per_second=read["limit"],
        from_minute=read["from"],
        to_minute=read["to"],
        days=read["days"],
    )


def _spool(read: Mapping[str, Any]) -> SpoolSettings:
    return SpoolSettings(folder=read["dir"], limit=read["limit"])


def _recall(read: Mapping[str, Any]) -> RecallPolicy:
    policy = RecallPolicy(**read)
    if policy.automatic and policy.max_cost is None:
        raise Wrong(
            "asks for recalls by itself without a bound", "give max_cost, the most for each image"
        )
    if policy.max_cost is not None and policy.monthly_budget is not None and (
        policy.max_cost > policy.monthly_budget
    ):  # fmt: skip
        raise Wrong("has a max_cost above its monthly_budget", "lower max_cost")
    return policy


def _earlier(read: Mapping[str, Any]) -> ClientKey:
    return ClientKey(id=read["key_id"], key=read_key(read["key_file"]))


EARLIER = Section(
    "earlier_keys",
    (
        Key("key_file", File(), NEEDED, "32 bytes that not every user reads."),
        Key("key_id", Text(LONGEST_KEY_ID), NEEDED, "The name that is stored with its images."),
    ),
)
LIFECYCLE = Section(
    "lifecycle",
    (
        Key("days", Whole(0, _CENTURY), NEEDED, "Days after an object was stored."),
        Key("class", _CLASS, NEEDED, "The class it goes to."),
    ),
)
SPOOL = Section(
    "spool",
    (
        Key("dir", File(), NEEDED, "A folder that is there, on a disk that survives a crash."),
        Key("limit", Size(MIB), NEEDED, "Bytes that may lie in it; clients wait at the bound."),
    ),
)
BANDWIDTH = Section(
    "bandwidth",
    (
        Key("limit", Size(), NEEDED, "Bytes a second."),
        Key("from", MomentOfDay(), 0, "Beginning, in the host's local time.", '`"00:00"`'),
        Key(
            "to", MomentOfDay(), 24 * 60, "End; before the beginning: on the next day.", '`"24:00"`'
        ),
        Key("days", DaysOfWeek(), tuple(range(7)), "On which days it begins.", "every day"),
    ),
)
RECALL = Section(
    "recall",
    (
        Key("tier", _TIER, _RECALL.tier, "Speed, unless the caller says another.", '`"standard"`'),
        Key("days", Whole(1, _CENTURY), _RECALL.days, "Days that a recalled copy is kept."),
        Key(
            "automatic",
            YesNo(),
            _RECALL.automatic,
            "Whether opening an archived image asks for its recall. Needs max_cost.",
        ),
        Key(
            "max_cost",
            Number(0, 1e9),
            None,
            "The most that an automatic recall of one image may cost, in the prices' currency.",
        ),
        Key(
            "monthly_budget",
            Number(0, 1e9),
            None,
            "The most that all recalls of a calendar month may cost.",
        ),
    ),
)

POOL = Section(
    "[pools.NAME]",
    (
        Key("bucket", Text(255), NEEDED, "The bucket."),
        Key(
            "prefix",
            Text(400, empty=True),
            NEEDED,
            'Where in the bucket; "" is all of it. One pool is one naming domain.',
        ),
        Key(
            "endpoint_url",
            Text(),
            None,
            "Scheme, host and port of the S3 service, when it is not AWS.",
        ),
        Key(
            "class",
            OneOf((*_WORDS, "auto")),
            "standard",
            "Storage class of new images; auto computes the cheapest for each.",
            '`"standard"`',
        ),
        Key(
            "expected_restores",
            Number(0, 1e6),
            _POLICY.expected_restores,
            "With auto: how often each image is read, over its whole life.",
        ),
        Key(
            "max_wait_hours",
            Number(0, 1000),
            _POLICY.max_wait_hours,
            "With auto: how long a restore may wait for its data.",
        ),
        Key(
            "one_zone",
            YesNo(),
            _POLICY.one_zone,
            "With auto: whether classes that keep one zone only may be chosen.",
        ),
        Key(
            "prices",
            File(),
            None,
            "A price table of your own; see docs/operations.md.",
            "the one that comes with Tapelift",
        ),
        Key(
            "lifecycle",
            Tables(LIFECYCLE, dict),
            (),
            "Colder classes as days pass; `tapeconnector apply` writes the rules.",
        ),
        Key("lock", _LOCK, LockMode.NONE, "Object Lock until an image expires.", '`"none"`'),
        Key(
            "keep_days",
            Whole(1, _CENTURY),
            None,
            "How long images are kept that come without retention.",
            "for ever, unlocked",
        ),
        Key(
            "fragment_size",
            Size(MIN_PART, MAX_OBJECT),
            _CONFIG.fragment_size,
            "The largest object. Glacier recalls whole objects.",
        ),
        Key(
            "part_size",
            Size(MIN_PART, MAX_PART),
            _CONFIG.part_size,
            "Piece of an upload; at most 10,000 to a fragment.",
        ),
        Key(
            "parts_in_flight",
            Whole(1, 64),
            _CONFIG.parts_in_flight,
            "Pieces of one image on their way at once.",
        ),
        Key(
            "images_open",
            Whole(1, 1024),
            _CONFIG.images_open,
            "Images open at once. Memory: images_open x (parts_in_flight + 1) x part_size.",
        ),
        Key(
            "ledger",
            Text(),
            None,
            "Where the ledger is: a folder or s3://BUCKET/PREFIX.",
            "in the pool",
        ),
        Key(
            "ledger_rows",
            Whole(1, 1_000_000),
            _CONFIG.ledger_rows,
            "Rows that wait for one commit of the ledger.",
        ),
        Key(
            "ledger_seconds",
            Whole(1, 86_400),
            _CONFIG.ledger_seconds,
            "Seconds that rows wait at most.",
        ),
        Key(
            "compression",
            OneOf(tuple(Compression), Compression),
            Compression.NONE,
            "What fragments are compressed with.",
            '`"none"`',
        ),
        Key(
            "encryption",
            OneOf((*EncryptionKind, CLIENT)),
            "none",
            "By the store, or here with a key for each image (client). none: as the bucket does.",
        ),
        Key("kms_key_id", Text(), None, "With sse-kms: the key.", "the account's key for S3"),
        Key(
            "key_file",
            File(),
            None,
            "With sse-c and client: 32 bytes that not every user reads. Who loses them loses all.",
        ),
        Key(
            "key_id",
            Text(LONGEST_KEY_ID),
            None,
            "With client: the key's name, which is stored with each image.",
        ),
        Key(
            "earlier_keys",
            Tables(EARLIER, _earlier),
            (),
            "With client: keys that older images are still read with.",
        ),
        Key(
            "ack",
            OneOf(tuple(Ack), Ack),
            Ack.STORED,
            "When close is answered: in S3, or on this host's disk.",
            '`"stored"`',
        ),
        Key("spool", Table(SPOOL, _spool), None, "With spooled: where to."),
        Key(
            "bandwidth",
            Tables(BANDWIDTH, _window),
            (),
            "Limits to S3 and from it; the lowest of a time counts.",
        ),
        Key("capacity", Size(), PIB, "What the pool says it has room for."),
        Key("soft_quota", Size(), None, "Bytes of images from which clients are warned."),
        Key("hard_quota", Size(), None, "Bytes of images at which no image can be begun."),
        Key(
            "recall", Table(RECALL, _recall), _RECALL, "How archived images come back.", "as there"
        ),
        Key(
            "deadline_s",
            Number(1, 86_400),
            600.0,
            "Seconds that one call to S3 may take, repetitions included.",
        ),
    ),
)


def pool_settings(name: str, table: object, where: str, problems: Problems) -> PoolSettings | None:
    """One pool, or None when something of it is wrong, which is then in problems."""
    before = len(problems)
    read = POOL.read(table, where, problems)
    location = _location(read, where, problems)
    policy, prices = _policy(read, where, problems), _prices(read, where, problems)
    steps = _steps(read, where, problems)
    config = _config(read, where, problems)
    encryption, coding = _encryption(read, where, problems)
    _check_spool(read, where, problems)
    _check_marks(read, where, problems)
    if len(problems) > before or location is None or prices is None or config is None:
        return None
    return PoolSettings(
        name=name,
        bucket=location.bucket,
        prefix=location.prefix,
        endpoint_url=location.endpoint_url,
        policy=policy,
        prices=prices,
        lifecycle=steps,
        lock=read["lock"],
        keep_days=read["keep_days"],
        config=config,
        coding=coding,
        encryption=encryption,
        ack=read["ack"],
        spool=read["spool"],
        bandwidth=read["bandwidth"],
        capacity=read["capacity"],
        soft_quota=read["soft_quota"],
        hard_quota=read["hard_quota"],
        recall=read["recall"],
        s3_deadline_s=read["deadline_s"],
        ledger=read["ledger"],
    )


def _location(read: Mapping[str, Any], where: str, problems: Problems) -> S3Location | None:
    bucket, prefix = read["bucket"], read["prefix"]
    if bucket is None or prefix is None:
        return None
    if "/" in bucket:
        problems.add(f"{where}.bucket", f"is {shown(bucket)}", "write what follows / as prefix")
        return None
    for key, uri, endpoint in (
        ("bucket", f"s3://{bucket}", None),
        ("prefix", f"s3://{bucket}/{prefix}", None),
        ("endpoint_url", f"s3://{bucket}/{prefix}", read["endpoint_url"]),
    ):
        try:
            location = parse_uri(uri, endpoint)
        except ConfigError as exc:
            problems.add_error(f"{where}.{key}", exc)
            return None
    return location


def _policy(read: Mapping[str, Any], where: str, problems: Problems) -> ClassPolicy:
    if read["class"] != "auto":
        return ClassPolicy(fixed=StorageClass(read["class"].upper()))
    return ClassPolicy(
        fixed=None,
        expected_restores=read["expected_restores"],
        max_wait_hours=read["max_wait_hours"],
        recall_days=read["recall"].days,
        one_zone=read["one_zone"],
    )


def _prices(read: Mapping[str, Any], where: str, problems: Problems) -> Prices | None:
    try:
        return Prices.load(read["prices"])
    except ConfigError as exc:
        problems.add_error(f"{where}.prices", exc)
        return None


def _steps(read: Mapping[str, Any], where: str, problems: Problems) -> tuple[LifecycleStep, ...]:
    steps = tuple(
        LifecycleStep(days=step["days"], storage_class=step["class"]) for step in read["lifecycle"]
    )
    if not steps:
        return ()
    if read["class"] == "auto":
        problems.add(
            f"{where}.lifecycle",
            "cannot go with class auto",
            "choose one: auto picks for each image",
        )
        return ()
    try:
        check_steps(steps, StorageClass(read["class"].upper()))
    except ConfigError as exc:
        problems.add_error(f"{where}.lifecycle", exc)
    return steps


def _config(read: Mapping[str, Any], where: str, problems: Problems) -> PoolConfig | None:
    names = ("fragment_size", "part_size", "parts_in_flight", "images_open", "ledger_rows",
             "ledger_seconds")  # fmt: skip
    try:
        return PoolConfig(**{name: read[name] for name in names})
    except ConfigError as exc:
        problems.add_error(f"{where}.fragment_size", exc)
        return None


def _encryption(
    read: Mapping[str, Any], where: str, problems: Problems
) -> tuple[Encryption, Coding]:
    """What the store does and what we do; where problems say that it is wrong, nothing."""
    how, key = read["encryption"], _checked_key(read, where, problems)
    kms = read["kms_key_id"] if how == EncryptionKind.SSE_KMS else None
    try:
        if how == CLIENT:
            ours = ClientKey(id=read["key_id"], key=key) if key and read["key_id"] else None
            encryption = Encryption()
        else:
            ours = None
            theirs = how if key or how != EncryptionKind.SSE_C else EncryptionKind.NONE
            encryption = Encryption(kind=EncryptionKind(theirs), kms_key_id=kms, customer_key=key)
        earlier = read["earlier_keys"]
        coding = Coding(compression=read["compression"], client_key=ours, earlier_keys=earlier)
    except ConfigError as exc:
        problems.add_error(f"{where}.encryption", exc)
        return Encryption(), Coding()
    return encryption, coding


def _checked_key(read: Mapping[str, Any], where: str, problems: Problems) -> bytes | None:
    """The key of sse-c or client, and whether everything was given that the encryption needs."""
    how = read["encryption"]
    needs = {"kms_key_id": ("sse-kms",), "key_file": ("sse-c", CLIENT), "key_id": (CLIENT,)}
    for name, kinds in needs.items():
        if read[name] is not None and how not in kinds:
            problems.add(
                f"{where}.{name}",
                f"does not belong to encryption {how}",
                f"take it out, or use {' or '.join(kinds)}",
            )
        elif read[name] is None and how in kinds and name != "kms_key_id":
            remedy = "name the key" if name == "key_id" else _MAKE_KEY
            problems.add(f"{where}.{name}", f"is missing for encryption {how}", remedy)
    if read["key_file"] is None or how not in needs["key_file"]:
        return None
    try:
        return read_key(read["key_file"])
    except Wrong as exc:
        problems.add(f"{where}.key_file", exc.what, exc.remedy)
        return None


def _check_spool(read: Mapping[str, Any], where: str, problems: Problems) -> None:
    spool: SpoolSettings | None = read["spool"]
    if read["ack"] is Ack.SPOOLED and spool is None:
        problems.add(
            f"{where}.spool", "is missing or wrong for ack spooled", "give it: dir and limit"
        )
    elif read["ack"] is Ack.STORED and spool is not None:
        problems.add(f"{where}.spool", "is for ack spooled", 'take it out, or set ack = "spooled"')
    elif spool is not None and not spool.folder.is_dir():
        problems.add(
            f"{where}.spool.dir",
            f"there is no folder {spool.folder}",
            "create it, or mount its disk",
        )
    elif spool is not None and spool.limit < read["part_size"]:
        problems.add(f"{where}.spool.limit", "is less than a part", "give it room for images")


def _check_marks(read: Mapping[str, Any], where: str, problems: Problems) -> None:
    soft, hard, capacity = read["soft_quota"], read["hard_quota"], read["capacity"]
    if hard is not None and hard > capacity:
        problems.add(f"{where}.hard_quota", "is above capacity", "raise capacity, or lower it")
    if soft is not None and soft > (hard if hard is not None else capacity):
        above = "hard_quota" if hard is not None else "capacity"
        problems.add(f"{where}.soft_quota", f"is above {above}", "lower it: it warns before")
