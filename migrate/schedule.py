"""In which order tapes are mounted, and in which drive.

An image that spans tapes must be read in the order of its fragments, because its digest is. Tapes
that such images link form a chain, and a chain is read in one drive, in an order that follows the
images. Where the images contradict each other (A before B, and B before A) a tape is mounted a
second time for what could not be read the first time. A chain so long that the other drives would
stand idle is cut: that costs one more mount for each image that crosses the cut.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

CUT_ABOVE = 1.25
"""A chain longer than this many times a drive's fair share is cut."""
SHORTEST_RUN = 4
"""Tapes of a chain that stay together: a cut costs about a mount, and must gain more than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeLoad:
    """What is to be read of one tape. seconds is the estimate, mount included.

    rank orders tapes where nothing else does: the earliest backup on it.
    """

    media_id: str
    size: int
    seconds: float
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Visit:
    """One mount of a tape. again: it was mounted before in this plan."""

    media_id: str
    again: bool = False


def assign(
    loads: Mapping[str, TapeLoad], spans: Sequence[Sequence[str]], drives: int
) -> list[list[Visit]]:
    """Visits for each drive, in order.

    spans: for every image on more than one tape, the media ids in the order of its fragments.
    """
    share = sum(load.seconds for load in loads.values()) / drives
    starting: dict[str, list[Sequence[str]]] = defaultdict(list)
    for span in spans:
        starting[span[0]].append(span)
    runs: list[tuple[float, list[str]]] = []
    for chain in _chains(loads, spans):
        ordered = _ordered(chain, loads, [span for media in chain for span in starting[media]])
        runs += _cut(ordered, loads, share if drives > 1 else float("inf"))
    plan: list[list[str]] = [[] for _ in range(drives)]
    free = [(0.0, drive) for drive in range(drives)]
    # the longest first, always to the drive that is free first
    for seconds, run in sorted(runs, key=lambda item: (-item[0], item[1])):
        busy, drive = heapq.heappop(free)
        plan[drive] += run
        heapq.heappush(free, (busy + seconds, drive))
    visits = [[Visit(media) for media in run] for run in plan]
    for drive, media in enumerate(_second_visits(plan, spans)):
        visits[drive % drives] += [Visit(name, again=True) for name in media]
    return visits


def _chains(loads: Mapping[str, TapeLoad], spans: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Sets of tapes that images link, directly or through others (union-find)."""
    parent = {media: media for media in loads}

    def root(media: str) -> str:
        while parent[media] != media:
            parent[media] = parent[parent[media]]
            media = parent[media]
        return media

    for span in spans:
        for one, other in pairwise(span):
            parent[root(one)] = root(other)
    chains: dict[str, list[str]] = defaultdict(list)
    for media in loads:
        chains[root(media)].append(media)
    yield from chains.values()


def _ordered(
    chain: list[str], loads: Mapping[str, TapeLoad], spans: Sequence[Sequence[str]]
) -> list[str]:
    """A chain in the order of its images; a contradiction is broken at the earliest tape."""
    after: dict[str, set[str]] = defaultdict(set)
    before: dict[str, int] = dict.fromkeys(chain, 0)
    for span in spans:
        for one, other in pairwise(span):
            if one != other and other not in after[one]:
                after[one].add(other)
                before[other] += 1
    rank = {media: (loads[media].rank, media) for media in chain}
    ready = [rank[media] for media in chain if before[media] == 0]
    heapq.heapify(ready)
    waiting = sorted(rank.values(), reverse=True)
    ordered: list[str] = []
    placed: set[str] = set()
    while len(ordered) < len(chain):
        if not ready:
            while waiting[-1][1] in placed:
                waiting.pop()
            heapq.heappush(ready, waiting.pop())
        media = heapq.heappop(ready)[1]
        if media in placed:
            continue
        placed.add(media)
        ordered.append(media)
        for other in after[media]:
            before[other] -= 1
            if before[other] == 0 and other not in placed:
                heapq.heappush(ready, rank[other])
    return ordered


def _cut(
    ordered: list[str], loads: Mapping[str, TapeLoad], share: float
) -> list[tuple[float, list[str]]]:
    """One run of tapes, or several of about a drive's share each."""
    total = sum(loads[media].seconds for media in ordered)
    if total <= share * CUT_ABOVE or len(ordered) < 2 * SHORTEST_RUN:
        return [(total, ordered)]
    runs: list[tuple[float, list[str]]] = []
    run: list[str] = []
    seconds = 0.0
    for media in ordered:
        if len(run) >= SHORTEST_RUN and seconds + loads[media].seconds / 2 > share:
            runs.append((seconds, run))
            run, seconds = [], 0.0
        run.append(media)
        seconds += loads[media].seconds
    return [*runs, (seconds, run)]


def _second_visits(
    plan: Sequence[Sequence[str]], spans: Iterable[Sequence[str]]
) -> Iterator[list[str]]:
    """Tapes that must come again, because what precedes their fragments is read later.

    Pessimistic across drives: another drive's tape counts as read later.
    """
    place = {media: (drive, at) for drive, run in enumerate(plan) for at, media in enumerate(run)}
    open_spans = [list(span) for span in spans]
    while open_spans:
        left: list[list[str]] = []
        for span in open_spans:
            rest = _rest_after_round(span, place)
            if rest:
                left.append(rest)
        if left:
            again = sorted({media for span in left for media in span}, key=lambda m: place[m])
            yield again
            place = {media: (0, at) for at, media in enumerate(again)}
        open_spans = left


def _rest_after_round(span: Sequence[str], place: Mapping[str, tuple[int, int]]) -> list[str]:
    """What of a span is unread after one round; its first tape is always readable."""
    at = 1
    while at < len(span):
        here, there = place[span[at - 1]], place[span[at]]
        if span[at] == span[at - 1] or (here[0] == there[0] and here[1] < there[1]):
            at += 1
        else:
            break
    return list(span[at:])
