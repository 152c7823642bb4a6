"""What holds for the whole test session: the environment, and the order of the tests."""

from __future__ import annotations

import os

import pytest

# Ray Serve reads this when it is imported, and some test modules import it while they are
# collected, before any cluster could set it.
os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first. Those that share the region come last: a process can be in one Ray cluster
    at a time, and the region's stays until the session ends.
    """
    items.sort(key=lambda item: (_is_integration(item), _uses_region(item)))


def _is_integration(item: pytest.Item) -> bool:
    return item.get_closest_marker("integration") is not None


def _uses_region(item: pytest.Item) -> bool:
    return "region" in getattr(item, "fixturenames", ())
