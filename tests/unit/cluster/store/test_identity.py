"""One id for a store, whoever asks first and however the writing of it goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import Corrupt, OutcomeUnknown
from cluster.store.identity import STORE_FILE, store_identity
from cluster.store.local_store import LocalStore


class LossyStore(LocalStore):
    """Loses the reply of each write, and with `drops` the write, too."""

    drops = False

    def put_if_absent(self, path: str, data: bytes) -> None:
        if not self.drops:
            super().put_if_absent(path, data)
        raise OutcomeUnknown("the reply was lost")


def test_it_is_made_once(tmp_path: Path) -> None:
    first = store_identity(LocalStore(tmp_path / "a"))
    assert store_identity(LocalStore(tmp_path / "a")) == first
    assert store_identity(LocalStore(tmp_path / "b")) != first


def test_all_who_come_first_get_the_same(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as askers:
        assert len(set(askers.map(lambda _: store_identity(store), range(8)))) == 1


def test_a_lost_reply_is_read_back(tmp_path: Path) -> None:
    store = LossyStore(tmp_path)
    first = store_identity(store)
    assert store_identity(LocalStore(tmp_path)) == first


def test_a_write_that_may_still_land_gives_no_id(tmp_path: Path) -> None:
    store = LossyStore(tmp_path)
    store.drops = True
    with pytest.raises(OutcomeUnknown):
        store_identity(store)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"id": ""}', b'{"id": 7}', b"\xff"])
def test_what_is_no_identity_is_corrupt(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put_if_absent(STORE_FILE, data)
    with pytest.raises(Corrupt, match=r"store\.json"):
        store_identity(store)
