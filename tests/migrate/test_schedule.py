"""The order of mounts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from migrate.schedule import TapeLoad, Visit, assign


def loads(names: str, seconds: float = 100.0) -> dict[str, TapeLoad]:
    return {
        name: TapeLoad(media_id=name, size=1, seconds=seconds, rank=at)
        for at, name in enumerate(names)
    }


def order(visits: list[Visit]) -> str:
    return "".join(visit.media_id for visit in visits)


def test_tapes_follow_the_images_that_span_them() -> None:
    visits = assign(loads("ABC"), [["C", "A"], ["A", "B"]], drives=1)
    assert order(visits[0]) == "CAB"


def test_a_contradiction_costs_a_second_mount_and_only_that() -> None:
    visits = assign(loads("AB"), [["A", "B"], ["B", "A"]], drives=1)
    assert visits == [[Visit("A"), Visit("B"), Visit("A", again=True)]]


def test_independent_tapes_are_shared_between_the_drives() -> None:
    visits = assign(loads("ABCD"), [], drives=2)
    assert sorted(len(run) for run in visits) == [2, 2]


def test_a_short_chain_stays_in_one_drive() -> None:
    visits = assign(loads("ABCDEF"), [["A", "B"]], drives=2)
    drive = next(run for run in visits if Visit("A") in run)
    assert Visit("B") in drive


def test_a_chain_of_everything_is_cut_so_that_no_drive_stands_idle() -> None:
    names = "ABCDEFGH"
    chain = [list(pair) for pair in pairwise(names)]
    visits = assign(loads(names), chain, drives=2)
    first = [[v.media_id for v in run if not v.again] for run in visits]
    assert sorted(len(run) for run in first) == [4, 4]
    assert [v.media_id for run in visits for v in run if v.again] == ["E"]


def test_no_tapes_give_no_visits() -> None:
    assert assign({}, [], drives=2) == [[], []]


spans_of = st.lists(st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=4), max_size=6)


@given(spans_of, st.integers(1, 3))
def test_every_span_can_be_read_whatever_the_images_say(
    spans: list[list[str]], drives: int
) -> None:
    visits = assign(loads("ABCDEF"), spans, drives)
    mounted = [v.media_id for run in visits for v in run if not v.again]
    assert sorted(mounted) == list("ABCDEF")
    if drives == 1:
        left = [list(span) for span in spans]
        for visit in visits[0]:
            for span in left:
                while span and span[0] == visit.media_id:
                    span.pop(0)
        assert not any(left)
