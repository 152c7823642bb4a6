"""The environment of the test process, which whoever joins a Ray cluster sets for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from actors.runtime.ray_environment import reread_environment


@contextmanager
def environment_restored() -> Iterator[None]:
    """What the block leaves set is taken back, unless the process is still in a cluster."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if not ray.is_initialized():
            os.environ.clear()
            os.environ.update(before)
            reread_environment()
