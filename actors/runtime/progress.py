"""Counts that distributed work reports and a person watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

_LOOK_EVERY_S = 0.25


class ProgressCounter:
    """A tiny actor: workers add, the driver looks."""

    def __init__(self) -> None:
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count

    def done(self) -> int:
        return self._done


@contextmanager
def watched(show: Callable[[int], None]) -> Iterator[Any]:
    """Gives a counter for workers to add to, and calls `show(count)` while the block runs."""
    counter: Any = ray.remote(ProgressCounter).options(num_cpus=0).remote()
    finished = threading.Event()

    def look() -> None:
        while not finished.wait(_LOOK_EVERY_S):
            show(ray.get(counter.done.remote()))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield counter
    finally:
        finished.set()
        watcher.join()
        show(ray.get(counter.done.remote()))
        ray.kill(counter)
