"""A client of the storage-pool daemon: every operation of the native protocol as a method.

    with Client(socket="/run/tapelift/pool.sock") as client:
        with client.create("main", "db_1700000000_C1_F1") as image:
            image.write(data)
        with client.open("main", "db_1700000000_C1_F1") as image:
            for piece in image:
                ...

Needs nothing of the daemon's: the wire package, the tree of errors, and the standard library.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from catalog.errors import ConfigError, PoolError
from connector.client_channel import Channel, connect_tls, connect_unix
from connector.client_errors import ConnectionLost, Refused, error_of, failure_in
from connector.client_reader import Reader
from connector.client_writer import Digest, Writer, new_digest
from connector.wire import challenge
from connector.wire import messages as wire
from connector.wire.session import VERSIONS

__all__ = ["Client", "ConnectionLost", "Reader", "Refused", "Writer", "error_of", "failure_in"]

CALL_S = 900.0
"""How long to wait for the daemon to take or say something: its own bound for a call."""
CONNECT_S = 30.0
SETTLE_ATTEMPTS = 8
SETTLE_FIRST_S = 0.2
SETTLE_LONGEST_S = 15.0
"""How a lost answer to close is asked for: attempts, and the pauses between them in seconds."""

AnyAnswer = TypeVar("AnyAnswer", bound=wire.Answer)
ImageName = str | bytes
"""A name is bytes; as ``str`` it is UTF-8 with ``surrogateescape``."""


def _name(image: ImageName) -> wire.Name:
    return wire.Name(
        image.decode("utf-8", "surrogateescape") if isinstance(image, bytes) else image
    )


def _silent(notice: Mapping[str, object]) -> None:
    pass


class Client:
    """A session with a daemon. Not for several threads at once: each takes a client of its own.

    Either socket, a path, or host and port with token (TLS; cafile: who signed the daemon's
    certificate). timeout_s bounds every wait for the daemon to take or say something; on_notice
    is called when it tells that a long call is still running. A client whose connection was lost
    connects anew with its next call; its writers and readers stay lost.

    Raises:
        ConnectionLost, AuthFailed, ProtocolError: on entry, and by any call that connects.
        PoolError: by every call, what the daemon said.
    """

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        cafile: str | Path | None = None,
        token: str | None = None,
        timeout_s: float = CALL_S,
        name: str = "tapelift-client",
        on_notice: Callable[[Mapping[str, object]], None] = _silent,
    ) -> None:
        if (socket is None) is (host is None) or (host is None) is not (port is None):
            raise ConfigError(
                "a client needs a socket, or a host and a port",
                hint="give the path of the daemon's socket",
            )
        self._path = None if socket is None else Path(socket)
        self._tcp = None if host is None or port is None else (host, port)
        self._cafile = None if cafile is None else Path(cafile)
        self._token = token
        self._timeout_s = timeout_s
        self._client_name = name
        self._on_notice = on_notice
        self._channel: Channel | None = None
        self._welcome: wire.Welcome | None = None

    def __enter__(self) -> Client:
        self.hello()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._path or self._tcp})"

    def close(self) -> None:
        """Let the connection go; images still being written become incomplete."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # --- the session ---

    def hello(self) -> wire.Welcome:
        """Connect, unless connected: what the daemon is, and what it can do."""
        if self._channel is None or self._welcome is None or not self._channel.alive():
            self._channel, self._welcome = self._connect()
        return self._welcome

    def _connect(self) -> tuple[Channel, wire.Welcome]:
        patience = min(CONNECT_S, self._timeout_s)
        if self._path is not None:
            sock = connect_unix(self._path, patience)
        else:
            assert self._tcp is not None
            sock = connect_tls(*self._tcp, self._cafile, patience)
        channel = Channel(sock, timeout_s=self._timeout_s, on_notice=self._on_notice)
        try:
            token = self._token
            if self._tcp is not None:
                nonce = channel.challenged()
                token = None if token is None else challenge.response(token, nonce)
            hello = wire.Hello(versions=VERSIONS, client=self._client_name, token=token)
            return channel, channel.call(hello, wire.Welcome)
        except BaseException:
            channel.close()
            raise

    def _open_channel(self) -> Channel:
        self.hello()
        assert self._channel is not None
        return self._channel

    def _call(self, call: wire.Call, answer: type[AnyAnswer]) -> AnyAnswer:
        return self._open_channel().call(call, answer)

    # --- server and pools ---

    def claim(self, name: str) -> bool:
        """Whether a pool of this name is served here; fast, and without any side effect."""
        return self._call(wire.Claim(name=name), wire.Claimed).mine

    def server_props(self) -> wire.ServerProps:
        """The daemon's state and its live handles."""
        return self._call(wire.GetServerProps(), wire.ServerProps)

    def list_pools(
        self, prefix: str = "", *, cursor: str | None = None, limit: int = wire.MAX_LIST
    ) -> wire.PoolNames:
        """A page of pool names."""
        call = wire.ListPools(prefix=prefix, cursor=cursor, limit=limit)
        return self._call(call, wire.PoolNames)

    def pools(self, prefix: str = "") -> Iterator[str]:
        """All pool names, page by page."""
        cursor = None
        while True:
            page = self.list_pools(prefix, cursor=cursor)
            yield from page.pools
            cursor = page.cursor
            if cursor is None:
                return

    def pool_props(self, pool: str) -> wire.PoolProps:
        """A pool's state and sizes."""
        return self._call(wire.GetPoolProps(pool=pool), wire.PoolProps)

    # --- writing ---

    def create(
        self,
        pool: str,
        image: ImageName,
        *,
        copy: int = 1,
        token: str | None = None,
        expected_size: int = 0,
        block_size: int = 0,
        source: wire.Source | None = None,
        keep: wire.Keep | None = None,
        replace: bool = False,
        digest: bool = True,
    ) -> Writer:
        """Begin an image; without a token a new one is made (``Writer.token``).

        digest: whether to compute the SHA-256 of what is written, and have it compared at close.
        """
        call = wire.Create(
            pool=pool,
            image=_name(image),
            token=token or secrets.token_hex(16),
            copy=copy,
            expected_size=expected_size,
            block_size=block_size,
            source=source or wire.Source(),
            keep=keep or wire.Keep(),
            replace=replace,
        )
        channel = self._open_channel()
        opened = channel.call(call, wire.Writing)
        sha256 = new_digest(wanted=digest, offset=opened.offset)
        return self._writer(channel, call, opened, sha256)

    def resume(
        self,
        pool: str,
        image: ImageName,
        token: str,
        *,
        copy: int = 1,
        digest: bool = True,
        digest_to: Callable[[int], Digest | None] | None = None,
    ) -> Writer:
        """Go on with an incomplete image, at ``Writer.offset``.

        digest: as for ``create``. digest_to: gives the SHA-256 object of the image's first so many
        bytes, where the caller can still compute it; without it no digest is compared at close
        (unless offset is 0).
        """
        call = wire.Resume(pool=pool, image=_name(image), token=token, copy=copy)
        channel = self._open_channel()
        opened = channel.call(call, wire.Writing)
        sha256 = new_digest(wanted=digest, offset=opened.offset)
        if digest and sha256 is None and digest_to is not None:
            sha256 = digest_to(opened.offset)
        return self._writer(channel, call, opened, sha256)

    def _writer(
        self,
        channel: Channel,
        call: wire.Create | wire.Resume,
        opened: wire.Writing,
        digest: Digest | None,
    ) -> Writer:
        assert self._welcome is not None
        return Writer(
            channel,
            pool=call.pool,
            image=call.image,
            copy=call.copy,
            token=call.token,
            handle=opened.handle,
            offset=opened.offset,
            digest=digest,
            settle=self._settle,
            longest=self._welcome.limits.data,
        )

    def settle(
        self,
        pool: str,
        image: ImageName,
        token: str,
        *,
        copy: int = 1,
        size: int | None = None,
        sha256: str | None = None,
    ) -> wire.Closed:
        """Repeat a close whose answer was lost: same token, size and digest, same answer."""
        call = wire.Settle(
            pool=pool, image=_name(image), token=token, copy=copy, size=size, sha256=sha256
        )
        return self._call(call, wire.Closed)

    def _settle(self, call: wire.Settle) -> wire.Closed:
        """Settle over connections of its own, until the daemon knows or patience ends."""
        pause = SETTLE_FIRST_S
        for attempt in range(SETTLE_ATTEMPTS):
            if attempt:
                time.sleep(pause)
            try:
                channel, _ = self._connect()
                try:
                    return channel.call(call, wire.Closed)
                finally:
                    channel.close()
            except PoolError as exc:
                if not exc.retryable:
                    raise
                last, failure = exc, failure_in(exc)
                pause = min(SETTLE_LONGEST_S, pause * 2)
                if failure is not None:
                    pause = min(SETTLE_LONGEST_S, max(pause, failure.retry_after_s))
        raise ConnectionLost(
            f"the answer to close was lost, and not found in {SETTLE_ATTEMPTS} attempts: "
            f"{last.message}",
            hint=f"settle the image later, with token {call.token} and size {call.size}",
        ) from last

    def discard(
        self, pool: str, image: ImageName, *, token: str | None = None, copy: int = 1
    ) -> None:
        """Give up an incomplete image that no handle is open on."""
        call = wire.Discard(pool=pool, image=_name(image), token=token, copy=copy)
        self._call(call, wire.Done)

    # --- reading ---

    def open(
        self, pool: str, image: ImageName, *, copy: int | None = None, verify: bool = True
    ) -> Reader:
        """Open a complete image; without copy the lowest.

        verify: compare the SHA-256 when all of it is read in order.

        Raises:
            ImageArchived: ``failure_in(exc).offer`` says what a recall would take.
        """
        call = wire.Open(pool=pool, image=_name(image), copy=copy)
        channel = self._open_channel()
        return Reader(channel, channel.call(call, wire.Reading), verify=verify)

    # --- images ---

    def props(self, pool: str, image: ImageName, *, copy: int | None = None) -> wire.Props:
        """Everything about one image."""
        return self._call(wire.GetProps(pool=pool, image=_name(image), copy=copy), wire.Props)

    def list(
        self,
        pool: str,
        prefix: ImageName = "",
        *,
        created_after: int | None = None,
        created_before: int | None = None,
        state: str = "",
        cursor: str | None = None,
        limit: int = wire.MAX_LIST,
    ) -> wire.Page:
        """A page of images."""
        call = wire.ListImages(
            pool=pool,
            prefix=_name(prefix),
            created_after=created_after,
            created_before=created_before,
            state=state,
            cursor=cursor,
            limit=limit,
        )
        return self._call(call, wire.Page)

    def images(
        self, pool: str, prefix: ImageName = "", *, state: str = ""
    ) -> Iterator[wire.ImageFacts]:
        """All images, page by page."""
        cursor = None
        while True:
            page = self.list(pool, prefix, state=state, cursor=cursor)
            yield from page.images
            cursor = page.cursor
            if cursor is None:
                return

    def delete(
        self,
        pool: str,
        image: ImageName,
        *,
        reason: str,
        copy: int | None = None,
        actor: str = "",
    ) -> str:
        """Delete one copy: ``deleted``, or ``pending`` while space is still being freed."""
        call = wire.Delete(pool=pool, image=_name(image), reason=reason, copy=copy, actor=actor)
        return self._call(call, wire.Deleted).state

    def set_retention(
        self,
        pool: str,
        image: ImageName,
        *,
        reason: str,
        until: int | None = None,
        infinite: bool = False,
        copy: int | None = None,
        actor: str = "",
    ) -> wire.ImageFacts:
        """Keep an image until a time (UTC nanoseconds) or for ever."""
        call = wire.SetRetention(
            pool=pool,
            image=_name(image),
            reason=reason,
            until=until,
            infinite=infinite,
            copy=copy,
            actor=actor,
        )
        return self._call(call, wire.Kept).facts

    def set_hold(
        self,
        pool: str,
        image: ImageName,
        *,
        on: bool,
        reason: str,
        copy: int | None = None,
        actor: str = "",
    ) -> wire.ImageFacts:
        """Place or release the legal hold."""
        call = wire.SetHold(
            pool=pool, image=_name(image), on=on, reason=reason, copy=copy, actor=actor
        )
        return self._call(call, wire.Kept).facts

    # --- recall ---

    def prepare(
        self,
        pool: str,
        images: Iterable[ImageName | wire.Wanted],
        *,
        tier: str = "",
        days: int = 0,
        max_cost: float | None = None,
        dry_run: bool = False,
    ) -> wire.Ticket:
        """Ask for images to be recalled, all in one batch; with dry_run only what it would take."""
        wanted = tuple(
            image if isinstance(image, wire.Wanted) else wire.Wanted(image=_name(image))
            for image in images
        )
        call = wire.Prepare(
            pool=pool, images=wanted, tier=tier, days=days, max_cost=max_cost, dry_run=dry_run
        )
        return self._call(call, wire.Ticket)

    def ticket(self, pool: str, ticket: str, *, cancel: bool = False) -> wire.Ticket:
        """How far a recall is; cancel stops what was not asked for yet."""
        return self._call(wire.GetTicket(pool=pool, ticket=ticket, cancel=cancel), wire.Ticket)

    # --- copies, maps, events, verification ---

    def copy(
        self,
        pool: str,
        image: ImageName,
        to_pool: str,
        *,
        token: str | None = None,
        copy: int | None = None,
        to_image: ImageName | None = None,
        to_copy: int = 1,
        keep: wire.Keep | None = None,
    ) -> wire.Operation:
        """Begin to copy an image, behind; the same token is the same copy."""
        call = wire.CopyImage(
            pool=pool,
            image=_name(image),
            to_pool=to_pool,
            token=token or secrets.token_hex(16),
            copy=copy,
            to_image=None if to_image is None else _name(to_image),
            to_copy=to_copy,
            keep=keep or wire.Keep(),
        )
        return self._call(call, wire.Operation)

    def operation(self, operation: str) -> wire.Operation:
        """How far an operation is."""
        return self._call(wire.GetOperation(operation=operation), wire.Operation)

    def map(
        self,
        pool: str,
        image: ImageName,
        *,
        copy: int | None = None,
        offset: int = 0,
        length: int | None = None,
    ) -> wire.Extents:
        """Which bytes lie where; ``next`` says where to ask on."""
        call = wire.Map(pool=pool, image=_name(image), copy=copy, offset=offset, length=length)
        return self._call(call, wire.Extents)

    def events(self, cursor: int = 0, *, limit: int = 100, wait_s: int = 0) -> wire.EventPage:
        """Events after a cursor, waiting up to wait_s for the first."""
        call = wire.GetEvents(cursor=cursor, limit=limit, wait_s=wait_s)
        return self._call(call, wire.EventPage)

    def verify(
        self, pool: str, image: ImageName, *, depth: str = "head", copy: int | None = None
    ) -> wire.Verified:
        """Compare an image with its manifest. depth: head, checksum, full."""
        call = wire.Verify(pool=pool, image=_name(image), depth=depth, copy=copy)
        return self._call(call, wire.Verified)
