"""The store that tests of actors start with, unless they bring another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.store.local_store import LocalStore
from cluster.store.object_store import ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store on this machine's disk."""
    return LocalStore(tmp_path / "store")
