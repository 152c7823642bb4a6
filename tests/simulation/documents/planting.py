"""Planting bugs in documents: each is to be found by the checker that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from cluster.mutations.conflicts import ConflictPolicy
from tests.simulation.documents.verdict import document_violations
from tests.simulation.documents.world import DocumentScenario, simulate_documents

SEEDS_MAX = 100
ROUGH = DocumentScenario(
    regions=3, roughness=1.0, noise_s=12.0, clients=3, policy=ConflictPolicy.LAST_WRITER
)
SIBLINGS = replace(ROUGH, policy=ConflictPolicy.VERSION_VECTOR)
Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class DocumentBug:
    plant: Callable[[Patch], None]
    caught_by: str
    scenario: DocumentScenario = ROUGH


def is_caught(bug: DocumentBug) -> bool:
    return any(
        bug.caught_by in document_violations(simulate_documents(seed, bug.scenario))
        for seed in range(SEEDS_MAX)
    )
