"""Every call and every answer of the native protocol, as a table of dataclasses.

A call is a subclass of ``Call``; its ``op`` is its name on the wire and ``Answer`` its answer. A
field without a default must be given. Sizes and offsets are bytes, times are UTC nanoseconds since
1970; other units stand in the name. ``codec.py`` turns these into JSON and back and enforces the
bounds below; docs/protocols.md explains each operation.

``Name`` is an image name: opaque bytes, held as ``str`` with ``surrogateescape``. In JSON a name
that is UTF-8 is a string ``image``; any other is base64 in ``image_b64``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NewType

Name = NewType("Name", str)

VERSION = 1
MAX_NAME_BYTES = 1024
MAX_TEXT = 4096
"""Longest other text in a message, in characters."""
MAX_LIST = 1000
"""Most items of any list in a message, and of a page."""
MAX_INT = 2**63 - 1

CAPABILITIES = (
    "CHECKPOINT_RESUME",
    "RANGED_READ",
    "ASYNC_COPY",
    "EXTENT_MAP",
    "WORM",
    "LEGAL_HOLD",
    "ARCHIVE_STATES",
    "PARTIAL_RECALL",
    "EVENTS",
    "CAPACITY_VIRTUAL",
    "DESCRIPTORS",
)
"""What a daemon may flag in ``hello``. WORM and LEGAL_HOLD are flagged per pool, in pool_props."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request of the client."""

    op: ClassVar[str]
    answer: ClassVar[type[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call was answered with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Answer):
    """Nothing more to say than that it was done."""


# --- parts of messages ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image comes from, in the words of the product. All of it optional."""

    product: str | None = None
    client: str | None = None
    policy: str | None = None
    schedule: str | None = None
    schedule_type: str | None = None
    backup_time: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long an image is kept. Nothing given: as the pool is configured.

    lock is none, governance or compliance.
    """

    expires_at: int | None = None
    infinite: bool = False
    lock: str | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A run of an image's bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An image to be recalled; without ranges all of it."""

    image: Name
    copy: int | None = None
    ranges: tuple[Range, ...] = ()


# --- session and server -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the daemon holds its clients to. control and data are bytes of a frame's payload."""

    control: int
    data: int
    handles: int
    idle_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Answer):
    """The session may begin. server is the daemon's name and version."""

    version: int
    server: str
    limits: Limits
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Call):
    """The first call of every session. token authenticates on TCP."""

    op: ClassVar[str] = "hello"
    answer: ClassVar[type[Answer]] = Welcome

    versions: tuple[int, ...]
    client: str = ""
    token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed(Answer):
    """Whether a pool of this name is served here."""

    mine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Call):
    """Ask whether a pool is served here: fast, without any side effect."""

    op: ClassVar[str] = "claim"
    answer: ClassVar[type[Answer]] = Claimed

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHandle:
    """An open handle as ``server_props`` shows it. unsafe is bytes accepted and not durable yet."""

    pool: str
    image: Name | None
    copy: int
    mode: str  # write, read, spool (uploading behind)
    client: str
    offset: int
    unsafe: int
    bytes_per_second: float
    open_seconds: float
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProps(Answer):
    """The daemon as a whole. state is up, draining or down (no pool works).

    backlog is bytes in spools that are not in S3; oldest_unsafe_s the age of the oldest byte that
    a client was told about and that is not in S3 (0: there is none).
    """

    state: str
    server: str
    started_at: int
    connections: int
    max_handles: int
    handles: tuple[LiveHandle, ...]
    backlog: int
    oldest_unsafe_s: float
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetServerProps(Call):
    """Ask for the daemon's state and live handles."""

    op: ClassVar[str] = "server_props"
    answer: ClassVar[type[Answer]] = ServerProps


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNames(Answer):
    """A page of pool names, in order; cursor None: there are no more."""

    pools: tuple[str, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPools(Call):
    """List pools whose name begins with prefix."""

    op: ClassVar[str] = "list_pools"
    answer: ClassVar[type[Answer]] = PoolNames

    prefix: str = ""
    cursor: str | None = None
    limit: int = MAX_LIST


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolProps(Answer):
    """A pool. state is up or down (then why says what is wrong).

    capacity is virtual; free = capacity - used_logical, never below 0. used_logical: bytes of the
    images; used_physical: bytes in the store; used_billed: with what minimum sizes and durations
    add; locked: bytes under a lock that has not ended. soft_quota and hard_quota are marks on
    used_logical, None: none. age_s: how old these numbers are.
    """

    pool: str
    state: str
    why: str
    uri: str
    capacity: int
    free: int
    used_logical: int
    used_physical: int
    used_billed: int
    locked: int
    images: int
    soft_quota: int | None
    hard_quota: int | None
    storage_class: str
    lock: str
    ack: str
    compression: str
    encryption: str
    spooled: int
    part_size: int
    fragment_size: int
    capabilities: tuple[str, ...]
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPoolProps(Call):
    """Ask for a pool's state and sizes."""

    op: ClassVar[str] = "pool_props"
    answer: ClassVar[type[Answer]] = PoolProps

    pool: str


# --- writing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing(Answer):
    """An image open for writing: the next byte belongs at offset."""

    handle: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Call):
    """Begin an image. token is the client's own, at least 8 characters: the same token is the
    same attempt.

    expected_size is a hint, 0 unknown. block_size: of the product's records, recorded only.
    replace: give up an attempt of another token that is not complete (never a complete image).
    """

    op: ClassVar[str] = "create"
    answer: ClassVar[type[Answer]] = Writing

    pool: str
    image: Name
    token: str
    copy: int = 1
    expected_size: int = 0
    block_size: int = 0
    source: Source = field(default_factory=Source)
    keep: Keep = field(default_factory=Keep)
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(Answer):
    """Bytes were accepted, and are not durable yet; the next byte belongs at offset.

    low_space: the pool is above its soft quota, or the spool nearly full.
    """

    offset: int
    low_space: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Answer):
    """What ``write_from`` took from the descriptor; eof: it has ended."""

    offset: int
    eof: bool
    low_space: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFrom(Call):
    """The daemon reads the descriptor passed with this frame, to its end or length bytes."""

    op: ClassVar[str] = "write_from"
    answer: ClassVar[type[Answer]] = Received

    handle: int
    offset: int
    length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Durable(Answer):
    """Every byte below durable survives a crash of the daemon."""

    durable: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush(Call):
    """Wait for what is on its way. With checkpoint everything accepted becomes durable."""

    op: ClassVar[str] = "flush"
    answer: ClassVar[type[Answer]] = Durable

    handle: int
    checkpoint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Answer):
    """An image was closed. state is complete, spooled or incomplete.

    incomplete: offset is where ``resume`` goes on, sha256 None. id names the attempt for ever.
    """

    pool: str
    image: Name
    copy: int
    state: str
    offset: int
    sha256: str | None
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Close(Call):
    """End a handle. For writing: complete or a checkpoint. A read handle is just let go.

    size and sha256 (hex) are compared with what was received, when given.
    """

    op: ClassVar[str] = "close"
    answer: ClassVar[type[Answer]] = Closed

    handle: int
    complete: bool = True
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(Call):
    """Repeat a ``close(complete)`` whose answer was lost: the same token, size and digest give the
    same answer. not_found: there is no such attempt, nor such an image; incomplete: resume it.
    """

    op: ClassVar[str] = "settle"
    answer: ClassVar[type[Answer]] = Closed

    pool: str
    image: Name
    token: str
    copy: int = 1
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Call):
    """Go on with an incomplete image, at its durable offset."""

    op: ClassVar[str] = "resume"
    answer: ClassVar[type[Answer]] = Writing

    pool: str
    image: Name
    token: str
    copy: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Call):
    """Give an open image up: nothing of it stays."""

    op: ClassVar[str] = "abort"
    answer: ClassVar[type[Answer]] = Done

    handle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard(Call):
    """Give up an incomplete image that no handle is open on."""

    op: ClassVar[str] = "discard"
    answer: ClassVar[type[Answer]] = Done

    pool: str
    image: Name
    token: str | None = None
    copy: int = 1


# --- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Answer):
    """An image open for reading. sha256 is of all its bytes."""

    handle: int
    image: Name
    copy: int
    size: int
    sha256: str | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Call):
    """Open a complete image; without copy the lowest. ``archived`` carries a ticket offer."""

    op: ClassVar[str] = "open"
    answer: ClassVar[type[Answer]] = Reading

    pool: str
    image: Name
    copy: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Answer):
    """How many bytes came, in DATA frames before this or into the descriptor.

    sha256 is of exactly these bytes, only where the daemon computed it (``read_to`` of a whole).
    """

    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRange(Call):
    """Read length bytes from offset (fewer only at the end); they come as DATA frames."""

    op: ClassVar[str] = "read"
    answer: ClassVar[type[Answer]] = Read

    handle: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTo(Call):
    """The daemon writes to the descriptor passed with this frame; without length to the end."""

    op: ClassVar[str] = "read_to"
    answer: ClassVar[type[Answer]] = Read

    handle: int
    offset: int = 0
    length: int | None = None


# --- images -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image as ``list`` shows it. state: writing, incomplete, spooled, complete, damaged,
    deleting."""

    image: Name
    copy: int
    state: str
    size: int
    stored_size: int
    created_at: int
    sha256: str | None
    storage_class: str | None
    expires_at: int | None
    infinite: bool
    lock: str
    lock_until: int | None
    hold: bool
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentFacts:
    """One object of an image. recall: readable, archived, recalling, recalled."""

    number: int
    offset: int
    size: int
    stored_size: int
    key: str
    version_id: str | None
    storage_class: str
    sha256: str
    recall: str
    recall_expires_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Props(Answer):
    """An image with all that is known of it now. fragments are at most MAX_LIST, more says so.

    recall: the worst of its fragments; eta_hours for those on their way, None: unknown.
    """

    facts: ImageFacts
    source: Source
    recall: str
    eta_hours: float | None
    fragments: tuple[FragmentFacts, ...]
    more: bool
    compression: str
    encryption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GetProps(Call):
    """Ask for everything about one image, its recall state in the store included."""

    op: ClassVar[str] = "props"
    answer: ClassVar[type[Answer]] = Props

    pool: str
    image: Name
    copy: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Answer):
    """Images in the order of their names' bytes, then copies. cursor None: there are no more."""

    images: tuple[ImageFacts, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListImages(Call):
    """List images. state "" is complete, spooled and damaged; "any" is all."""

    op: ClassVar[str] = "list"
    answer: ClassVar[type[Answer]] = Page

    pool: str
    prefix: Name = Name("")
    created_after: int | None = None
    created_before: int | None = None
    state: str = ""
    cursor: str | None = None
    limit: int = MAX_LIST


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Answer):
    """state: deleted, or pending while space is still being freed."""

    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Call):
    """Delete one copy. The second call says deleted as well."""

    op: ClassVar[str] = "delete"
    answer: ClassVar[type[Answer]] = Deleted

    pool: str
    image: Name
    reason: str
    copy: int | None = None
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Answer):
    """How the image is kept now."""

    facts: ImageFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRetention(Call):
    """Keep an image until a time or for ever; only ever longer where it is locked."""

    op: ClassVar[str] = "set_retention"
    answer: ClassVar[type[Answer]] = Kept

    pool: str
    image: Name
    reason: str
    until: int | None = None
    infinite: bool = False
    copy: int | None = None
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHold(Call):
    """Place or release the legal hold."""

    op: ClassVar[str] = "set_hold"
    answer: ClassVar[type[Answer]] = Kept

    pool: str
    image: Name
    on: bool
    reason: str
    copy: int | None = None
    actor: str = ""


# --- recall -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TierOffer:
    """What one retrieval tier would take."""

    tier: str
    cost: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket(Answer):
    """A recall, asked for or only offered (then asked is False and nothing was billed).

    objects and size are those that had to be recalled; done of total objects can be read now.
    ready are the byte ranges that can be read, of the first image only. state: offered, waiting,
    ready, expired, cancelled.
    """

    ticket: str
    state: str
    asked: bool
    tier: str
    days: int
    objects: int
    size: int
    cost: float
    currency: str
    price_date: str
    hours: float
    done: int
    total: int
    expires_at: int | None
    ready: tuple[Range, ...]
    offers: tuple[TierOffer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Call):
    """Ask for images or ranges to be recalled, all in one batch; with dry_run only the offer.

    The same set in the same tier is the same ticket. A faster tier for a waiting ticket speeds it
    up. tier "" is the pool's own choice. max_cost refuses what is dearer: over_budget.
    """

    op: ClassVar[str] = "prepare"
    answer: ClassVar[type[Answer]] = Ticket

    pool: str
    images: tuple[Wanted, ...]
    tier: str = ""
    days: int = 0
    max_cost: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GetTicket(Call):
    """Ask how far a recall is; cancel stops what was not asked for yet."""

    op: ClassVar[str] = "ticket"
    answer: ClassVar[type[Answer]] = Ticket

    pool: str
    ticket: str
    cancel: bool = False


# --- copies, maps, events, verification -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Answer):
    """Work that goes on behind. state: running, done, failed; error says why."""

    operation: str
    state: str
    done: int
    total: int
    error: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyImage(Call):
    """Copy an image to another pool (or copy number), behind; the same token is the same copy."""

    op: ClassVar[str] = "copy"
    answer: ClassVar[type[Answer]] = Operation

    pool: str
    image: Name
    to_pool: str
    token: str
    copy: int | None = None
    to_image: Name | None = None
    to_copy: int = 1
    keep: Keep = field(default_factory=Keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOperation(Call):
    """Ask how far an operation is."""

    op: ClassVar[str] = "operation"
    answer: ClassVar[type[Answer]] = Operation

    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of an image. hole: it could not be read from tape and is filled with zeros."""

    offset: int
    length: int
    hole: bool
    fragment: int
    storage_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extents(Answer):
    """Extents in order; next is where to ask on, None at the end."""

    extents: tuple[Extent, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Map(Call):
    """Ask which bytes lie where."""

    op: ClassVar[str] = "map"
    answer: ClassVar[type[Answer]] = Extents

    pool: str
    image: Name
    copy: int | None = None
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. detail is a JSON object as text."""

    cursor: int
    at: int
    kind: str
    pool: str
    image: Name | None
    copy: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage(Answer):
    """Events in order; cursor is for the next call."""

    events: tuple[Event, ...]
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEvents(Call):
    """Ask for events after a cursor (0: from the oldest kept, -1: from now), waiting up to wait_s
    for the first. cursor_expired: events between were forgotten."""

    op: ClassVar[str] = "events"
    answer: ClassVar[type[Answer]] = EventPage

    cursor: int = 0
    limit: int = 100
    wait_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(Answer):
    """What a verification found; ok: nothing is wrong and nothing stayed unknown."""

    ok: bool
    depth: str
    problems: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify(Call):
    """Compare an image with its manifest. depth: head, checksum, full."""

    op: ClassVar[str] = "verify"
    answer: ClassVar[type[Answer]] = Verified

    pool: str
    image: Name
    depth: str = "head"
    copy: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call that was refused or failed. code is stable; see docs/protocols.md, "Errors".

    retryable: the same call may succeed later, not before retry_after_s. request_id is the
    store's, for its support. offer: with ``archived``, what a recall would take. offset: with
    ``offset`` and ``no_space``, where the next byte belongs or what is durable.
    """

    code: str
    message: str
    hint: str = ""
    retryable: bool = False
    retry_after_s: float = 0.0
    request_id: str | None = None
    offset: int | None = None
    offer: Ticket | None = None


CALLS: dict[str, type[Call]] = {
    call.op: call
    for call in (
        Hello, Claim, GetServerProps, ListPools, GetPoolProps,
        Create, WriteFrom, Flush, Close, Settle, Resume, Abort, Discard,
        Open, ReadRange, ReadTo,
        GetProps, ListImages, Delete, SetRetention, SetHold,
        Prepare, GetTicket, CopyImage, GetOperation, Map, GetEvents, Verify,
    )
}  # fmt: skip
