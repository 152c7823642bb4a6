"""Tests keep to the house's rules: what several of them share stands in `tests/support` or in a
`conftest.py`, so that no test reads as a library of another.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests" / "unit"
SUPPORT = ROOT / "tests" / "support"


def sources() -> Iterator[tuple[str, ast.Module]]:
    for top in (TESTS, SUPPORT):
        for path in sorted(top.rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def test_no_test_is_a_library_of_another() -> None:
    offenders = [
        f"{name}, line {node.lineno}: {node.module}"
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and ".test_" in (node.module or "")
    ]
    assert not offenders
