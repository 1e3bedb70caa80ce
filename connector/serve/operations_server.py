"""claim, server_props, list_pools, pool_props, events, copy, operation: the daemon as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.pool.coding import Compression
from connector.serve.units import Unit
from connector.serve.waiting import Patience
from connector.store.s3_encryption import EncryptionKind
from connector.wire import messages
from connector.wire.codec import fitting
from connector.wire.messages import MAX_INT, MAX_LIST

if TYPE_CHECKING:
    from connector.serve.session import ClientSession

LONGEST_WAIT_S = 60


def claim(session: ClientSession, call: messages.Claim, wait: Patience) -> messages.Claimed:
    """Whether a pool is served here; looks at a name and at nothing else."""
    return messages.Claimed(mine=session.service.has_pool(call.name))


def server_props(
    session: ClientSession, call: messages.GetServerProps, wait: Patience
) -> messages.ServerProps:
    """The daemon's state and its live handles."""
    service = session.service
    status = service.status()
    return messages.ServerProps(
        state=status.state,
        server=service.server,
        started_at=status.started_at,
        connections=status.connections,
        max_handles=status.max_handles,
        handles=tuple(fitting(service.live_handles()[:MAX_LIST])),
        backlog=sum(pool.spooled for pool in status.pools),
        oldest_unsafe_s=max((pool.oldest_unsafe_s for pool in status.pools), default=0.0),
        capabilities=service.capabilities,
    )


def list_pools(
    session: ClientSession, call: messages.ListPools, wait: Patience
) -> messages.PoolNames:
    """A page of pool names; the cursor is the last of them."""
    limit = max(1, min(call.limit, MAX_LIST))
    names = [
        name
        for name in session.service.pool_names()
        if name.startswith(call.prefix) and (call.cursor is None or name > call.cursor)
    ]
    page = tuple(names[:limit])
    return messages.PoolNames(pools=page, cursor=page[-1] if len(names) > limit else None)


def pool_props(
    session: ClientSession, call: messages.GetPoolProps, wait: Patience
) -> messages.PoolProps:
    """A pool's state and sizes. Its numbers come from the index, so they are there when it is
    down."""
    unit = session.unit(call.pool)
    settings = unit.settings
    counted = unit.space.count(fresh_s=0.0)
    totals, used = counted.totals, unit.space.used()
    capacity = max(1, min(settings.capacity, MAX_INT))
    return messages.PoolProps(
        pool=unit.name,
        state="up" if unit.up else "down",
        why=unit.why,
        uri=unit.uri,
        capacity=capacity,
        free=max(0, capacity - used),
        used_logical=min(used, MAX_INT),
        used_physical=totals.physical,
        used_billed=_billed(unit, totals.physical, totals.images),
        locked=totals.locked,
        images=totals.images,
        soft_quota=settings.soft_quota,
        hard_quota=settings.hard_quota,
        storage_class="auto" if settings.policy.fixed is None else str(settings.policy.fixed),
        lock=str(settings.lock).lower(),
        ack=str(settings.ack),
        compression=str(settings.coding.compression),
        encryption=encryption_word(unit),
        spooled=unit.spool.backlog().size,
        part_size=settings.config.part_size,
        fragment_size=settings.config.fragment_size,
        capabilities=_capabilities(unit),
        age_s=counted.age_s,
    )


def encryption_word(unit: Unit) -> str:
    """How images are encrypted: by us, by the store, or both."""
    words = []
    if unit.settings.coding.client_key is not None:
        words.append("client")
    if unit.settings.encryption.kind is not EncryptionKind.NONE:
        words.append(str(unit.settings.encryption.kind))
    return "+".join(words) or "none"


def _billed(unit: Unit, physical: int, images: int) -> int:
    """An estimate: what minimum sizes, and the index objects of archive classes, add to the bytes.

    What was deleted before its minimum duration is billed too, and only the bill knows it.
    """
    fixed = unit.settings.policy.fixed
    if fixed is None:
        return physical
    prices = unit.settings.prices
    price = prices.of(fixed)
    extra = (prices.archive_bytes + prices.standard_bytes) if price.archive else 0
    return max(physical, images * price.minimum_bytes) + images * extra


def _capabilities(unit: Unit) -> tuple[str, ...]:
    """What this pool's store offers beside what every pool has."""
    found = []
    if unit.object_lock:
        found += ["WORM", "LEGAL_HOLD"]
    if unit.settings.coding.compression is not Compression.NONE:
        found.append("COMPRESSION")
    if unit.settings.coding.client_key is not None:
        found.append("CLIENT_ENCRYPTION")
    return tuple(found)


def events(session: ClientSession, call: messages.GetEvents, wait: Patience) -> messages.EventPage:
    """What happened after a cursor, waiting for the first of it."""
    return session.service.events.page(
        call.cursor,
        call.limit,
        wait_s=max(0, min(call.wait_s, LONGEST_WAIT_S)),
        gone=wait.gone,
    )


def copy_image(
    session: ClientSession, call: messages.CopyImage, wait: Patience
) -> messages.Operation:
    """Begin a copy that goes on behind; the same token is the same copy."""
    return session.service.copies.begin(call, session.peer.name)


def operation(
    session: ClientSession, call: messages.GetOperation, wait: Patience
) -> messages.Operation:
    """How far an operation is."""
    return session.service.copies.look(call.operation)
