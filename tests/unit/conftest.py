"""Unit tests start no cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(autouse=True)
def _no_ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a unit test must not start or join a Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    yield
    if ray.is_initialized():  # by another way than `ray.init`
        ray.shutdown()  # so that only this test fails
        pytest.fail("the test started or joined a Ray cluster")
