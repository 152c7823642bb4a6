"""What keeps test modules with clusters of their own apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.environment import environment_restored


@pytest.fixture(autouse=True, scope="module")
def _environment_restored() -> Iterator[None]:
    """Whoever joins a cluster sets the environment for it; the next module may start another."""
    with environment_restored():
        yield
