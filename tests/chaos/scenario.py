"""One way in which chaos breaks a region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.region import ChaosRegion


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    does: Callable[[ChaosRegion], str]
    """Returns what there is to say of it besides the counts."""
    needs_answers: bool = False
    needs_redis: bool = False
    lost_s: float = 0.0
    """For how long requests may be lost: what breaks had them in its hands."""
