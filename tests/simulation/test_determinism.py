"""A seed alone decides what happens, in every process: so every failure can be replayed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.simulation.harness import simulate

SEEDS = (1, 2, 3)
PRINT_DIGESTS = f"""
from tests.simulation.harness import simulate
for seed in {SEEDS}:
    print(simulate(seed).digest())
"""


def test_the_same_seed_gives_the_same_history() -> None:
    assert [simulate(seed).digest() for seed in SEEDS] == [simulate(s).digest() for s in SEEDS]


def test_different_seeds_give_different_histories() -> None:
    assert len({simulate(seed).digest() for seed in SEEDS}) == len(SEEDS)


def test_another_process_with_another_hash_seed_gives_the_same_history() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert told.stdout.split() == [simulate(seed).digest() for seed in SEEDS]
