"""Watching a demultiplexer, which is code from outside.

A plug-in may forget an image, give too much of one, or fall over. None of that may end as an
image that is called whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catalog.errors import PoolError
from migrate.formats.interface import Demultiplexer, Done, Extract, Gap, Piece, Wanted
from migrate.formats.take import ROUNDING
from migrate.source.interface import TapeEvent

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watched:
    """What a plug-in has given of one fragment. placed counts bytes, gaps included."""

    placed: int = 0
    gaps: int = 0
    unplaceable: bool = False
    done: Done | None = None
    late: bool = False


def supervise(
    demultiplexer: Demultiplexer, events: Iterator[TapeEvent], wanted: Sequence[Wanted]
) -> Iterator[Extract]:
    """Pass on a plug-in's pieces and gaps, and give exactly one Done for each wanted fragment.

    The Dones come at the end of the tape file, when the plug-in can take nothing back. Errors of
    the source pass through; any other exception of the plug-in is a problem of every fragment.
    """
    watched = {each: Watched() for each in wanted}
    failure = ""
    try:
        for item in demultiplexer.extract(events, wanted):
            state = watched.get(item.wanted)
            if state is None:
                continue
            if state.done is not None:
                state.late = True
            elif isinstance(item, Done):
                state.done = item
            else:
                _count(state, item)
                yield item
    except PoolError:
        raise
    except Exception as exc:
        log.exception("the demultiplexer failed")
        failure = f"the demultiplexer failed: {type(exc).__name__}: {exc}"
    for each, state in watched.items():
        problems = [state.done.problem] if state.done and state.done.problem else []
        problems += _faults(each, state, failure)
        yield Done(each, "; ".join(problems), state.done.note if state.done else "")


def _count(state: Watched, item: Piece | Gap) -> None:
    if isinstance(item, Piece):
        state.placed += len(item.data)
    else:
        state.gaps += 1
        if item.size is None:
            state.unplaceable = True
        else:
            state.placed += item.size


def _faults(wanted: Wanted, state: Watched, failure: str) -> list[str]:
    """What is wrong with a fragment whatever the plug-in says of it."""
    faults = [failure] if failure else []
    if state.done is None:
        faults.append("the demultiplexer did not end this image")
    if state.late:
        faults.append("the demultiplexer gave more of this image after its end")
    if state.done is not None and state.done.problem:
        return faults
    if state.gaps:
        faults.append(f"{state.gaps} records could not be read")
    if wanted.size is not None and not state.unplaceable:
        above = 0 if wanted.size_is_exact else ROUNDING - 1
        if not wanted.size <= state.placed <= wanted.size + above:
            faults.append(f"the demultiplexer gave {state.placed} of {wanted.size} bytes")
    return faults
