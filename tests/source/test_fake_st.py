"""The fake driver answers as a real one did.

``tests/fixtures/st`` holds what Linux 6.1 answered to the steps of ``st_scenario.py``: its st
driver read the scenarios' tapes from an iSCSI target that fails the records which say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.source.interface import BadBlock, Block, EndOfTape, Filemark
from tests.source.fake_st import MARK, Bad, FakeKernel, Item
from tests.source.st_scenario import STEPS, TAPES, run
from tests.source.tapes import Raw, events
from tests.source.test_drive_tape import drive_of

SEEN = Path(__file__).parents[1] / "fixtures" / "st"


def drive_with(name: str) -> FakeKernel:
    items: list[Item] = [MARK if isinstance(item, Raw) else bytes(item) for item in TAPES[name]]  # type: ignore[arg-type]
    bad = {
        place: Bad(moves=item.startswith(b"BAD"))
        for place, item in enumerate(items)
        if item is not None and item.startswith((b"BAD", b"STUCK"))
    }
    return FakeKernel(items, bad)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_fake_answers_each_step_as_the_kernel_did(name: str) -> None:
    seen = json.loads((SEEN / f"{name}.json").read_text())["answers"]
    answers = run(name, "/dev/nst0", drive_with(name))
    assert len(answers) == len(seen)
    for answer, want in zip(answers, seen, strict=True):
        assert answer == want


def test_there_is_a_recording_of_every_scenario() -> None:
    assert {path.stem for path in SEEN.glob("*.json")} == set(STEPS) == set(TAPES)


@pytest.mark.parametrize("name", sorted(TAPES))
def test_the_scenarios_tapes_are_read_as_they_were_written(name: str) -> None:
    kernel = drive_with(name)
    assert kernel.items is not None
    found = events(drive_of(kernel).mount("SCN001"))
    assert found.pop() == EndOfTape()
    for place, (event, item) in enumerate(zip(found, kernel.items, strict=True)):
        if place in kernel.bad:
            assert isinstance(event, BadBlock)
        else:
            assert event == (Filemark() if item is MARK else Block(item))
