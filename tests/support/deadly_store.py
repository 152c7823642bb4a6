"""A store whose process dies at one of its operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import LossyStore

T = TypeVar("T")


class Died(BaseException):
    """The end of a process."""


class DeadlyStore(LossyStore):
    """The process dies at operation `at`, before its effect or after it; None: it lives."""

    def __init__(self, inner: ObjectStore, at: int | None, *, has_effect: bool) -> None:
        super().__init__(inner, lambda: "")
        self._at = at
        self._has_effect = has_effect
        self.operations = 0

    def _do(self, operation: Callable[[], T]) -> T:
        self.operations += 1
        if self.operations != self._at:
            return operation()
        if self._has_effect:
            operation()
        raise Died

    def put_if_absent(self, path: str, data: bytes) -> None:
        self._do(lambda: super(DeadlyStore, self).put_if_absent(path, data))

    def get(self, path: str) -> bytes:
        return self._do(lambda: super(DeadlyStore, self).get(path))

    def exists(self, path: str) -> bool:
        return self._do(lambda: super(DeadlyStore, self).exists(path))

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        return self._do(lambda: super(DeadlyStore, self).list_names(folder, start_after))

    def list_folders(self, folder: str) -> list[str]:
        return self._do(lambda: super(DeadlyStore, self).list_folders(folder))

    def remove(self, path: str) -> None:
        self._do(lambda: super(DeadlyStore, self).remove(path))
