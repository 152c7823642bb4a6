"""Planting bugs: each is to be found by the checker that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.simulation.harness import Scenario, simulate
from tests.simulation.verdict import violations

SEEDS_MAX = 60
Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Bug:
    plant: Callable[[Patch], None]
    caught_by: str
    roughness: float = 1.0
    """Of the network and the store; where the two hardly fail, more is answered."""


def is_caught(bug: Bug) -> bool:
    scenario = Scenario(regions=3, roughness=bug.roughness)
    return any(bug.caught_by in violations(simulate(seed, scenario)) for seed in range(SEEDS_MAX))
