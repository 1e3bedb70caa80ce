"""A pool tries what its store can do; who dies while trying leaves nothing for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.errors import TransientStoreError
from connector.store.interface import PROBE_PREFIX, Capabilities
from connector.store.memory import MemoryStore
from tests.pool.support import open_pool


class DyingInProbe(MemoryStore):
    """Leaves an upload and an object, as a process does that is killed while it tries."""

    dying = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(smallest_part=1, **settings)

    def probe(self) -> Capabilities:
        if self.dying:
            self.start_upload(f"{PROBE_PREFIX}1")
            self.put(f"{PROBE_PREFIX}2", b"probe")
            raise TransientStoreError("the process died")
        return super().probe()


@pytest.mark.parametrize("versioning", [False, True])
def test_what_a_dead_process_left_of_its_probe_is_cleared_away(
    tmp_path: Path, versioning: bool
) -> None:
    store = DyingInProbe(versioning=versioning, object_lock=False)
    with pytest.raises(TransientStoreError), open_pool(store, tmp_path):
        pass
    assert list(store.uploads("")) != []
    store.dying = False
    with open_pool(store, tmp_path):
        assert list(store.uploads("")) == []
        assert [stored.key for stored in store.scan("")] == ["pool.json"]


def test_the_probe_of_another_host_is_left_alone(tmp_path: Path) -> None:
    store = DyingInProbe(versioning=False, object_lock=False)
    with pytest.raises(TransientStoreError), open_pool(store, tmp_path / "other"):
        pass
    store.dying = False
    with open_pool(store, tmp_path / "ours"):
        assert len(list(store.uploads(""))) == 1
