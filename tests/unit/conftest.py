"""Unit tests start no cluster."""

from __future__ import annotations

import pytest
import ray


@pytest.fixture(autouse=True)
def _no_ray_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a unit test must not start or join a Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
