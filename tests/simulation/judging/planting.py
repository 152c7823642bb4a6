"""Planting bugs: each is to be found by the checker that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.simulation.harness import Scenario, simulate
from tests.simulation.judging.verdict import violations

SEEDS_MAX = 100
LOG = Scenario(regions=3, roughness=1.0, clients=0, noise_s=40.0)
"""Nobody asks for answers: there is time for more entries of the log."""
ANSWERS = Scenario(regions=3, roughness=1.0)
ANSWERS_IN_GOOD_WEATHER = Scenario(regions=3, roughness=0.0)
"""Where the store hardly fails, more is answered by it."""
ANSWERS_NEARBY = Scenario(regions=3, roughness=0.0, in_one_city=True)
"""Where regions answer each other before a clock that is behind has come as far as another one."""
Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Bug:
    plant: Callable[[Patch], None]
    caught_by: str
    scenario: Scenario = LOG


def is_caught(bug: Bug) -> bool:
    return any(
        bug.caught_by in violations(simulate(seed, bug.scenario)) for seed in range(SEEDS_MAX)
    )
