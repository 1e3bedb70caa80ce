"""One client's session: its handles, and which function answers which call."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from catalog.errors import NoHandle, Unsupported
from connector.serve import (
    operations_images,
    operations_keep,
    operations_server,
    operations_writing,
    recalls,
)
from connector.serve.failures import BusyFor
from connector.serve.handles import Writing
from connector.serve.interface import Notify, Peer
from connector.serve.reading import Reading
from connector.serve.units import Unit
from connector.serve.waiting import Patience
from connector.wire import messages
from connector.wire.messages import Answer, Call, Closed

if TYPE_CHECKING:
    from connector.serve.service import Service

ANSWERS_KEPT = 64
"""Ends of handles that a session remembers, so that a repeated one is answered the same."""

Operation = Callable[["ClientSession", Any, Patience], Answer]

OPERATIONS: dict[type[Call], Operation] = {
    messages.Claim: operations_server.claim,
    messages.GetServerProps: operations_server.server_props,
    messages.ListPools: operations_server.list_pools,
    messages.GetPoolProps: operations_server.pool_props,
    messages.GetEvents: operations_server.events,
    messages.CopyImage: operations_server.copy_image,
    messages.GetOperation: operations_server.operation,
    messages.Create: operations_writing.create,
    messages.Resume: operations_writing.resume,
    messages.Flush: operations_writing.flush,
    messages.Close: operations_writing.close,
    messages.Settle: operations_writing.settle,
    messages.Abort: operations_writing.abort,
    messages.Discard: operations_writing.discard,
    messages.Open: operations_images.open_image,
    messages.GetProps: operations_images.props,
    messages.ListImages: operations_images.list_images,
    messages.Map: operations_images.extent_map,
    messages.Verify: operations_images.verify,
    messages.Delete: operations_keep.delete,
    messages.SetRetention: operations_keep.set_retention,
    messages.SetHold: operations_keep.set_hold,
    messages.Prepare: recalls.prepare,
    messages.GetTicket: recalls.ticket,
}


class ClientSession:
    """See ``interface.Session``."""

    def __init__(self, service: Service, peer: Peer) -> None:
        self.service = service
        self.peer = peer
        self._handles: dict[int, Writing | Reading] = {}
        self._answers: OrderedDict[int, Closed | None] = OrderedDict()
        self._next = 0
        self._ended = False

    def perform(self, call: Call, notify: Notify, gone: Callable[[], bool]) -> Answer:
        """See ``interface.Session``."""
        operation = OPERATIONS.get(type(call))
        if operation is None:
            raise Unsupported(f"{call.op} is not for this side", hint="report this as a fault")
        return operation(self, call, Patience(notify, gone, self.service.workers))

    def writing(self, handle: int) -> Writing:
        """See ``interface.Session``."""
        found = self.handle(handle)
        if not isinstance(found, Writing):
            raise NoHandle(f"handle {handle} reads", hint="open another with create")
        return found

    def reading(self, handle: int) -> Reading:
        """See ``interface.Session``."""
        found = self.handle(handle)
        if not isinstance(found, Reading):
            raise NoHandle(f"handle {handle} writes", hint="open another with open")
        return found

    def end(self) -> None:
        """See ``interface.Session``. May take the store's deadline where an image is suspended."""
        if self._ended:
            return
        self._ended = True
        with contextlib.ExitStack() as ends:  # each has its turn, also when another fails
            ends.callback(self.service.ended, self)
            handles = list(self._handles.values())
            for writing in (one for one in handles if isinstance(one, Writing)):
                ends.callback(writing.abandon)
            for reading in (one for one in handles if isinstance(one, Reading)):
                ends.callback(reading.close)
        self._handles.clear()

    # --- for the operations --------------------------------------------------------------

    def unit(self, name: str) -> Unit:
        """A pool by its name; NoPool when it is not served here."""
        return self.service.unit(name)

    def handle(self, number: int) -> Writing | Reading:
        """A handle of this session; NoHandle when there is none."""
        try:
            return self._handles[number]
        except KeyError:
            raise NoHandle(
                f"there is no handle {number} in this session", hint="open or create again"
            ) from None

    def check_room(self) -> None:
        """Refuse more handles than a client may have.

        Raises:
            TooBusy: it has as many already, or the daemon is about to end.
        """
        self.service.check_open()
        most = self.service.settings.limits.handles
        if len(self._handles) >= most:
            raise BusyFor(
                f"this session has {most} handles open already",
                retry_after_s=1.0,
                hint="close one, or raise limits.handles",
            )

    def add(self, handle: Writing | Reading) -> int:
        """Give a handle its number."""
        self._next += 1
        self._handles[self._next] = handle
        return self._next

    def forget(self, number: int, answer: Closed | None) -> None:
        """Drop a handle that was closed, and keep what was answered; None: it was aborted."""
        self._handles.pop(number, None)
        self._answers[number] = answer
        while len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)

    def answer_of(self, number: int) -> Closed | None:
        """What the close of a handle was answered with."""
        return self._answers.get(number)

    def was_aborted(self, number: int) -> bool:
        """Whether a handle was aborted, not long ago."""
        return number in self._answers and self._answers[number] is None

    def writing_on(self, unit: Unit, name: str, copy: int) -> tuple[int, Writing] | None:
        """This session's own handle that writes an image."""
        for number, handle in self._handles.items():
            same = (handle.unit, handle.name, handle.copy) == (unit, name, copy)
            if same and isinstance(handle, Writing):
                return number, handle
        return None
