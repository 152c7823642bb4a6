"""Chance is repeatable: every generator of random numbers has a seed, in tests too. Clocks are held
by the banned functions and by the contract on `time` in `pyproject.toml`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ("cluster", "actors", "deployments", "bench", "tests")
SEEDED_BY_THE_SYSTEM = ROOT / "cluster" / "clock.py"
GENERATORS = ("Random", "default_rng")


def unseeded(source: str) -> list[str]:
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and draws_unseeded(node)
    ]


def draws_unseeded(call: ast.Call) -> bool:
    match call.func:
        case ast.Name(name) | ast.Attribute(attr=name) if name in GENERATORS:
            return not call.args and not call.keywords
        case ast.Attribute(ast.Name("random")):
            return True
    return False


def test_every_random_generator_has_a_seed() -> None:
    sources = [path for top in PYTHON for path in (ROOT / top).rglob("*.py")]
    offenders = {
        str(path.relative_to(ROOT)): found
        for path in sources
        if path != SEEDED_BY_THE_SYSTEM and (found := unseeded(path.read_text()))
    }
    assert not offenders


@pytest.mark.parametrize(
    ("call", "seeded"),
    [
        ("random.Random(7)", True),
        ("random.Random()", False),
        ("np.random.default_rng(seed=7)", True),
        ("np.random.default_rng()", False),
        ("random.gauss(0, 1)", False),
        ("rng.gauss(0, 1)", True),
    ],
)
def test_the_check_itself_sees_a_missing_seed(call: str, seeded: bool) -> None:
    assert (unseeded(call) == []) is seeded
