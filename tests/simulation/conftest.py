"""How many seeds: `SEEDS=2000 pytest tests/simulation`; one alone: `SEED=17 pytest ...`."""

from __future__ import annotations

import os

import pytest

SEEDS_DEFAULT = 30


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        one = os.environ.get("SEED")
        count = int(os.environ.get("SEEDS", SEEDS_DEFAULT))
        metafunc.parametrize("seed", range(count) if one is None else [int(one)])
