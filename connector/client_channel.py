"""One connection of a client: frames out and in, an eye on both, a deadline on every wait.

The socket does not block. While something is being sent, what arrives is taken at once: the
daemon may be telling that an earlier WRITE failed, and with both sides' socket buffers full
nobody would ever go on. Knows no image.
"""

from __future__ import annotations

import array
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

from catalog.errors import AuthFailed, ConfigError, PoolError, ProtocolError, Unsupported
from connector.client_errors import ConnectionLost, error_of
from connector.wire.challenge import CHALLENGE
from connector.wire.errors import LocalProtocolError, RemoteProtocolError
from connector.wire.frames import MAX_DATA, Header, Kind
from connector.wire.incoming import Incoming, take_memory
from connector.wire.messages import Accepted, Answer, Call, Failure, ReadRange
from connector.wire.session import NOBODY, Answered, ClientSession, Data, Event, Failed, Noticed

AnyAnswer = TypeVar("AnyAnswer", bound=Answer)

SEND_BUFFER = 1 << 20
"""What is asked of the kernel for a socket's send buffer, in bytes; it may give less."""
TLS_SLICE = 128 << 10
"""How many bytes go to TLS at a time, so that progress can be seen."""
CONNECT_PAUSE_S = 0.02
"""How long to wait before trying again to connect to a daemon whose queue is full."""

OnNotice = Callable[[Mapping[str, object]], None]


class _Plain:
    """A UNIX socket, which may pass descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.wants = 0

    def send(self, pieces: list[memoryview], descriptor: int | None) -> int:
        passed = []
        if descriptor is not None:
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            return self.socket.sendmsg(pieces, passed)
        except BlockingIOError:
            self.wants = select.POLLOUT | select.POLLIN
            return 0

    def receive(self, room: memoryview) -> int | None:
        """How many bytes came; None: nothing yet, 0: the end."""
        try:
            return self.socket.recv_into(room)
        except BlockingIOError:
            self.wants = select.POLLIN
            return None


class _Tls:
    """TLS over TCP. What it wants to wait for is its own business: it may read to send."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.socket = sock
        self.wants = 0

    def send(self, pieces: list[memoryview], descriptor: int | None) -> int:
        try:
            # the same bytes again after a wait: what OpenSSL took of them it does not tell
            return self.socket.send(pieces[0][:TLS_SLICE])
        except ssl.SSLWantWriteError:
            self.wants = select.POLLOUT | select.POLLIN
        except ssl.SSLWantReadError:
            self.wants = select.POLLIN
        return 0

    def receive(self, room: memoryview) -> int | None:
        try:
            return self.socket.recv_into(room)
        except ssl.SSLWantReadError:
            self.wants = select.POLLIN
        except ssl.SSLWantWriteError:
            self.wants = select.POLLOUT
        except ssl.SSLEOFError:
            return 0
        return None


class Channel:
    """A connection on which calls are made one at a time. Not for several threads at once.

    timeout_s bounds every wait for the daemon to take or to say something; a notice counts.
    """

    def __init__(self, sock: socket.socket, *, timeout_s: float, on_notice: OnNotice) -> None:
        sock.setblocking(False)
        self._wire = _Tls(sock) if isinstance(sock, ssl.SSLSocket) else _Plain(sock)
        self._poll = select.poll()
        self._poll.register(sock, 0)
        self._timeout_s = timeout_s
        self._until = 0.0
        self._on_notice = on_notice
        self._session = ClientSession()
        self._incoming = Incoming(from_client=False, place=self._place)
        self._target: Callable[[Header], memoryview] | None = None
        self._results: dict[int, Answered | Failed] = {}
        self.low_space: set[int] = set()
        self.trouble: dict[int, PoolError] = {}
        self.broken: PoolError | None = None

    def close(self) -> None:
        """Let the connection go. What was being written on it becomes incomplete."""
        if self.broken is None:
            self.broken = ConnectionLost("the connection was closed by this client")
        self._wire.socket.close()

    def alive(self) -> bool:
        """Whether it can still be used, as far as the daemon has said; waits for nothing."""
        if self.broken is None and self._target is None:
            with contextlib.suppress(PoolError):
                self._glance()
        return self.broken is None

    # --- calls ---

    def challenged(self) -> str:
        """Wait for what the daemon says first over TCP: the nonce that hello's token answers.

        Raises:
            ConnectionLost, ProtocolError: it says something else, or nothing.
            PoolError: what it said.
        """
        event = self._event()
        if isinstance(event, Noticed):
            nonce = event.notice.get(CHALLENGE)
            if isinstance(nonce, str) and nonce.isascii():
                return nonce
        self._note(event)
        said = "the daemon broke the protocol: no challenge came first"
        raise self._break(ProtocolError(said, hint="compare its version with ours"))

    def call(
        self, call: Call, answer: type[AnyAnswer], *, descriptor: int | None = None
    ) -> AnyAnswer:
        """Make a call and wait for its answer.

        Raises:
            ConnectionLost: whether it was done is not known.
            PoolError: what the daemon said.
        """
        request = self._begin(call, descriptor)
        while request not in self._results:
            self._note(self._event())
        return cast(AnyAnswer, self._outcome(request))

    def read(self, call: ReadRange, into: memoryview) -> int:
        """Make a read whose bytes are received straight into memory; gives how many came."""
        came = 0

        def target(header: Header) -> memoryview:
            return into[header.offset - call.offset :]

        for view in self._data(call, target):
            came += len(view)
        return came

    def stream(self, call: ReadRange, buffer: memoryview) -> Iterator[memoryview]:
        """Make a read and yield its bytes as they arrive, all in one buffer of MAX_DATA bytes.

        A view is valid until the next is asked for. Who stops early lets the rest be thrown away.
        """
        return self._data(call, lambda header: buffer)

    def _data(
        self, call: ReadRange, target: Callable[[Header], memoryview]
    ) -> Iterator[memoryview]:
        request = self._begin(call, None)
        self._target = target
        try:
            while request not in self._results:
                event = self._event()
                if isinstance(event, Data):
                    yield event.payload
                else:
                    self._note(event)
            self._outcome(request)
        except GeneratorExit:
            self._throw_away(request)
            raise
        except PoolError:
            raise
        except BaseException:  # interrupted: what is still to come belongs to nobody
            self._break(_lost("a read was interrupted"))
            raise
        finally:
            self._target = None

    def _throw_away(self, request: int) -> None:
        while self.broken is None and request not in self._results:
            event = self._event()
            if not isinstance(event, Data):
                self._note(event)
        self._results.pop(request, None)

    def write(self, handle: int, offset: int, data: memoryview, *, quiet: bool) -> None:
        """Send a WRITE frame, from the memory it lies in. ``trouble`` tells what failed so far."""
        self._usable()
        self._glance()
        try:
            _, header = self._session.write(handle, offset, len(data), quiet=quiet)
        except LocalProtocolError as exc:
            raise ProtocolError(str(exc)) from exc
        self._send([memoryview(header), data])

    def _begin(self, call: Call, descriptor: int | None) -> int:
        self._usable()
        if descriptor is not None and isinstance(self._wire, _Tls):
            raise Unsupported(
                "descriptors pass only through a UNIX socket", hint="send the bytes in frames"
            )
        try:
            request, frame = self._session.call(call, descriptors=int(descriptor is not None))
        except LocalProtocolError as exc:
            raise ProtocolError(str(exc)) from exc
        self._send([memoryview(frame)], descriptor)
        return request

    def _outcome(self, request: int) -> Answer:
        outcome = self._results.pop(request)
        if isinstance(outcome, Failed):
            raise error_of(outcome.failure)
        return outcome.answer

    # --- bytes ---

    def _usable(self) -> None:
        if self.broken is not None:
            raise self.broken
        if self._target is not None:
            raise ProtocolError(
                "a read of this client is still under way",
                hint="finish or close the iteration, or open another client",
            )

    def _send(self, pieces: list[memoryview], descriptor: int | None = None) -> None:
        try:
            self._send_all(pieces, descriptor)
        except BaseException:  # half a frame may be out: nothing can follow it
            self._break(_lost("a frame was not sent to its end"))
            raise

    def _send_all(self, pieces: list[memoryview], descriptor: int | None) -> None:
        self._progress()
        while pieces := [piece for piece in pieces if piece]:
            try:
                sent = self._wire.send(pieces, descriptor)
            except OSError as exc:
                raise self._left(exc) from exc
            if sent:
                descriptor = None
                pieces = _after(pieces, sent)
                self._progress()
            else:
                self._wait()
                self._glance()

    def _glance(self) -> None:
        """Take what is here already, without waiting."""
        while (event := self._next()) is not None:
            self._note(event)

    def _event(self) -> Event:
        """Wait for the next frame and say what it means."""
        self._progress()
        while (event := self._next()) is None:
            self._wait()
        return event

    def _next(self) -> Event | None:
        """The next frame, as far as it is here."""
        try:
            while (size := self._wire.receive(self._incoming.room())) is not None:
                if size == 0:
                    raise self._break(_lost("the daemon closed the connection"))
                self._progress()
                frame = self._incoming.advance(size)
                if frame is not None:
                    return self._session.receive(frame)
        except OSError as exc:
            raise self._break(_lost(f"the connection broke: {exc}")) from exc
        except RemoteProtocolError as exc:
            text = f"the daemon broke the protocol: {exc.message}"
            raise self._break(ProtocolError(text, hint="compare its version with ours")) from exc
        return None

    def _place(self, header: Header) -> memoryview:
        self._session.check(header)
        if header.kind is not Kind.DATA:
            return take_memory(header)
        if self._target is None:
            raise RemoteProtocolError("sequence", "DATA before the read was sent")
        return self._target(header)

    def _note(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self._noticed(event.notice)
        elif isinstance(event, Failed) and event.request == NOBODY:
            raise self._break(self._ended(event.failure))
        elif isinstance(event, Failed) and event.handle is not None:
            self.trouble.setdefault(event.handle, error_of(event.failure))
        elif isinstance(event, Answered) and event.handle is not None:
            if cast(Accepted, event.answer).low_space:
                self.low_space.add(event.handle)
            else:
                self.low_space.discard(event.handle)
        elif isinstance(event, Answered | Failed):
            self._results[event.request] = event

    def _noticed(self, notice: Mapping[str, object]) -> None:
        handle = notice.get("handle")
        if isinstance(handle, int) and notice.get("low_space") is True:
            self.low_space.add(handle)
        self._on_notice(notice)

    def _ended(self, failure: Failure) -> PoolError:
        """What it means that the daemon ends the connection."""
        exc = error_of(failure)
        if not self._session.greeted or isinstance(exc, ProtocolError):
            return exc
        lost = ConnectionLost(f"the daemon ended the session: {failure.message}", hint=failure.hint)
        vars(lost).update(failure=failure)
        return lost

    def _left(self, exc: OSError) -> PoolError:
        """What to raise when nothing more can be sent: the daemon's last words, if there are."""
        try:
            self._glance()
        except PoolError as said:
            return said
        return self._break(_lost(f"the connection broke: {exc}"))

    def _break(self, exc: PoolError) -> PoolError:
        if self.broken is None:
            self.broken = exc
        self._wire.socket.close()
        return self.broken

    # --- time ---

    def _progress(self) -> None:
        self._until = time.monotonic() + self._timeout_s

    def _wait(self) -> None:
        left = self._until - time.monotonic()
        self._poll.modify(self._wire.socket, self._wire.wants)
        if left <= 0 or not self._poll.poll(left * 1000):
            said = f"the daemon took and said nothing for {self._timeout_s:g} s"
            raise self._break(_lost(said))


def _after(pieces: list[memoryview], sent: int) -> list[memoryview]:
    left = []
    for piece in pieces:
        left.append(piece[sent:])
        sent = max(0, sent - len(piece))
    return left


def _lost(message: str) -> ConnectionLost:
    return ConnectionLost(message, hint="see the daemon's log; then connect again")


# --- connecting -------------------------------------------------------------------------------


def connect_unix(path: Path, timeout_s: float) -> socket.socket:
    """Connect to the daemon's UNIX socket.

    Raises:
        AuthFailed: this user may not open it.
        ConnectionLost: nobody listens there.
    """
    until = time.monotonic() + timeout_s
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        while True:
            try:
                sock.connect(str(path))
                break
            except BlockingIOError:  # its queue is full: a UNIX socket does not wait by itself
                if time.monotonic() > until:
                    raise
                time.sleep(CONNECT_PAUSE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    except PermissionError as exc:
        sock.close()
        raise AuthFailed(
            f"this user may not open the socket {path}",
            hint="ask for membership in the socket's group",
        ) from exc
    except OSError as exc:
        sock.close()
        raise ConnectionLost(
            f"no daemon answers on {path}: {exc}",
            hint="start it with tapeconnector serve, or give the path of its socket",
        ) from exc
    return sock


def connect_tls(host: str, port: int, cafile: Path | None, timeout_s: float) -> socket.socket:
    """Connect to the daemon's TCP door and prove who it is. Without cafile: the system's CAs.

    Raises:
        AuthFailed: its certificate does not hold.
        ConfigError: cafile cannot be used.
        ConnectionLost: nobody listens there, or it does not speak TLS.
    """
    try:
        context = ssl.create_default_context(cafile=cafile)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(f"{cafile}: {exc}", hint="cafile is a PEM file of certificates") from exc
    try:
        plain = socket.create_connection((host, port), timeout_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    except ssl.SSLCertVerificationError as exc:
        raise AuthFailed(
            f"the certificate of {host}:{port} does not hold: {exc.verify_message}",
            hint="give the CA that signed it as cafile, and a name that it is for as host",
        ) from exc
    except OSError as exc:
        raise ConnectionLost(
            f"no daemon answers on {host}:{port}: {exc}", hint="see its [tcp] settings"
        ) from exc


BUFFER = MAX_DATA
"""How much memory a reader needs for ``Channel.stream``, in bytes."""
