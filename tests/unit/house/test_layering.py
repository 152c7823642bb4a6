"""Imports point one way: deployments -> actors -> cluster, and the core stays free of what it must
not know.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "cluster": {"actors", "deployments", "ray", "faiss", "torch", "vllm", "transformers"},
    "actors": {"deployments"},
    "deployments": {"tests", "bench"},
}
LINES_MAX = 400


def imported_packages(source: Path) -> set[str]:
    packages: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            packages.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            packages.add("<relative>")
    return packages


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_imports_point_one_way(layer: str) -> None:
    sources = sorted((ROOT / layer).rglob("*.py"))
    assert sources
    offenders = {
        f"{source.relative_to(ROOT)} imports {package}"
        for source in sources
        for package in imported_packages(source) & (FORBIDDEN[layer] | {"<relative>"})
    }
    assert not offenders


def test_the_check_itself_sees_nested_imports(tmp_path: Path) -> None:
    source = tmp_path / "late.py"
    source.write_text("def f():\n    from ray import serve\n    import faiss.contrib\n")
    assert imported_packages(source) == {"ray", "faiss"}


def test_files_fit_in_a_head() -> None:
    python = [
        path for layer in (*FORBIDDEN, "tests", "bench") for path in (ROOT / layer).rglob("*.py")
    ]
    too_long = {
        str(p.relative_to(ROOT)): n
        for p in python
        if (n := len(p.read_text().splitlines())) > LINES_MAX
    }
    assert not too_long


def test_what_coordinates_and_serves_starts_without_pytorch() -> None:
    """Its import takes seconds, which a restarted coordinator or gateway would be missed for."""
    modules = "actors.coordinator.coordinator, actors.region.front, deployments.serve.gateway"
    heavy = "{'torch', 'transformers', 'vllm'} & sys.modules.keys()"
    program = f"import sys, {modules}; sys.exit(str({heavy}) if {heavy} else 0)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
