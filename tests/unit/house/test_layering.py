"""Files and folders stay small, and light processes stay light. Which way imports point is held by
the contracts of import-linter in `pyproject.toml` (`make check`).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ("cluster", "actors", "deployments", "bench", "tests")
LINES_MAX = 400
FILES_MAX = 16


def test_files_fit_in_a_head() -> None:
    python = [path for top in PYTHON for path in (ROOT / top).rglob("*.py")]
    too_long = {
        str(p.relative_to(ROOT)): n
        for p in python
        if (n := len(p.read_text().splitlines())) > LINES_MAX
    }
    assert not too_long


def test_folders_fit_in_a_head() -> None:
    folders = Counter(p.parent for top in PYTHON for p in (ROOT / top).rglob("*.py"))
    too_full = {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > FILES_MAX}
    assert not too_full


def test_what_coordinates_and_serves_starts_without_pytorch() -> None:
    """Its import takes seconds, which a restarted coordinator or gateway would be missed for."""
    modules = "actors.coordinator.coordinator, actors.region.front, deployments.serve.gateway"
    heavy = "{'torch', 'transformers', 'vllm'} & sys.modules.keys()"
    program = f"import sys, {modules}; sys.exit(str({heavy}) if {heavy} else 0)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
