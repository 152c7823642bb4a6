"""`raygion eval` against the live region: its figures are those of the hits that it gives."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.regions.region_fixture import REGION, LiveRegion

pytestmark = pytest.mark.integration

RAYGION = str(Path(sys.executable).with_name("raygion"))
TOP_K = 10


@pytest.fixture
def workspace(shared_region: LiveRegion, tmp_path: Path) -> Path:
    """Settings of the region, XQuAD's questions and their paragraphs as judgements."""
    port = shared_region.installation.region_settings.http.port
    (tmp_path / "regions.yaml").write_text(f"regions: {{{REGION}: {{http: {{port: {port}}}}}}}\n")
    asked = shared_region.xquad.questions
    queries = [json.dumps({"id": q.id, "text": q.question}) + "\n" for q in asked]
    (tmp_path / "queries.jsonl").write_text("".join(queries))
    (tmp_path / "qrels.txt").write_text("".join(f"{q.id} 0 {q.paragraph} 1\n" for q in asked))
    return tmp_path


def run_eval(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAYGION, "eval", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def figures(folder: Path, *arguments: str) -> dict[str, Any]:
    done = run_eval(folder, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_figures_are_those_of_the_hits(
    shared_region: LiveRegion, http: httpx.Client, workspace: Path
) -> None:
    found = figures(workspace, "xquad", "--queries", "queries.jsonl", "--qrels", "qrels.txt")
    asked = shared_region.xquad.questions
    ranks = []
    for question in asked:
        hits = shared_region.search(http, query=question.question, top_k=TOP_K)["hits"]
        ids = [hit["id"] for hit in hits]
        ranks.append(ids.index(question.paragraph) + 1 if question.paragraph in ids else math.inf)
    # With one relevant document, the ideal gain is that of the first place: 1.
    expected = {
        "nDCG@10": np.mean([1 / math.log2(rank + 1) for rank in ranks]),
        "R@10": np.mean([rank <= TOP_K for rank in ranks]),
        "RR@10": np.mean([1 / rank for rank in ranks]),
    }
    assert found["metrics"] == pytest.approx(expected, abs=1e-9)
    assert min(expected.values()) > 0.9
    assert (found["num_answered"], found["num_failed"], found["coverage"]) == (len(asked), 0, 1.0)
    assert (found["release"], found["region"]) == (shared_region.release, REGION)


def test_a_corpus_with_its_own_vectors_is_asked_with_vectors(
    shared_region: LiveRegion, workspace: Path
) -> None:
    """Every stored vector finds itself."""
    np.save(workspace / "queries.npy", np.stack(list(shared_region.vectors.values())))
    rows = enumerate(shared_region.vectors)
    (workspace / "own.tsv").write_text("".join(f"{row}\t{id}\t1\n" for row, id in rows))
    arguments = ("--queries", "queries.npy", "--qrels", "own.tsv", "--metric", "P@1")
    found = figures(workspace, "vectors-three", *arguments, "--by", "passage")
    assert found["metrics"] == {"P@1": 1.0}
    assert found["num_answered"] == len(shared_region.vectors)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("nowhere --qrels qrels.txt", "there is no corpus 'nowhere'"),
        ("xquad --qrels regions.yaml", "regions.yaml, line 1"),
        ("xquad --qrels qrels.txt --release 99", "there is no release 99"),
        ("xquad --qrels qrels.txt --metric P@20", "looks at 20 hits of 10"),
        ("vectors-one --qrels qrels.txt", "has no embedder"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(workspace: Path, arguments: str, reason: str) -> None:
    done = run_eval(workspace, *arguments.split(), "--queries", "queries.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
