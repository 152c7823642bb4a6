from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.clock import Deadline
from cluster.errors import Unavailable
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore, open_store
from deployments.demo.store_link import StoreLink


@pytest.fixture
def link(tmp_path: Path) -> StoreLink:
    (tmp_path / "store").mkdir()
    return StoreLink(tmp_path / "region" / "store", tmp_path / "store")


def append(log: NumberedLog, position: int) -> None:
    log.append_at(position, b"x", is_mine=lambda _: True, deadline=Deadline.after(5))


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.get("folder/name"),
        lambda store: store.exists("folder/name"),
        lambda store: store.size("folder/name"),
        lambda store: store.put("folder/name", b""),
        lambda store: store.put_if_absent("folder/other", b""),
        lambda store: store.list_names("folder"),
        lambda store: store.list_folders("folder"),
    ],
    ids=["get", "exists", "size", "put", "put_if_absent", "list_names", "list_folders"],
)
def test_nothing_comes_through_a_closed_link(
    link: StoreLink, act: Callable[[ObjectStore], object]
) -> None:
    store = open_store(str(link.path))
    store.put("folder/name", b"x")
    link.close()
    with pytest.raises(Unavailable):
        act(store)
    link.open()
    assert store.get("folder/name") == b"x"


def test_a_log_behind_a_closed_link_does_not_look_unchanged(
    link: StoreLink, tmp_path: Path
) -> None:
    log = NumberedLog(open_store(str(link.path)), "log")
    append(log, 1)
    assert len(log.read_after(0)) == 1
    link.close()
    append(NumberedLog(open_store(str(tmp_path / "store")), "log"), 2)
    with pytest.raises(Unavailable):
        log.read_after(1)
    link.open()
    assert [number for number, _ in log.read_after(1)] == [2]
