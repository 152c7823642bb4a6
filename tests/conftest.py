"""What holds for the whole test session: the environment, and the order of the tests."""

from __future__ import annotations

import os

import hypothesis
import pytest

# A test says what is right; how long it takes is the machine's affair.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

# Ray Serve reads this when it is imported, and some test modules import it while they are
# collected, before any cluster could set it.
os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"

SHARED_REGION = "shared_region"
_REGION_TIMEOUT_S = 900
"""The first test that uses the region waits until it is up."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first. Those that share the region come last: a process can be in one Ray cluster
    at a time, and it stays in the region's until the session ends.
    """
    for item in items:
        if _shares_region(item):
            item.add_marker(pytest.mark.timeout(_REGION_TIMEOUT_S))
    items.sort(key=lambda item: (_is_integration(item), _shares_region(item)))


def _is_integration(item: pytest.Item) -> bool:
    return item.get_closest_marker("integration") is not None


def _shares_region(item: pytest.Item) -> bool:
    return SHARED_REGION in getattr(item, "fixturenames", ())
