"""The Python client: object refs, typed results, and the errors of `cluster.errors`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.models.starter_models import STARTER_GENERATOR
from actors.region_client import Region, connect
from cluster.errors import DeadlineExceeded, InvalidArgument, RaygionError
from cluster.query.answers import AnswerResult
from cluster.query.search import SearchResult
from cluster.regions.status import RegionSummary
from deployments.nodes.local_cluster import LocalCluster, find_local_cluster, start_local_cluster
from tests.support.regions.region_fixture import REGION, LiveRegion

pytestmark = pytest.mark.integration

QUESTION = "What is the Saxon Garden in Polish?"
PARAGRAPH = "Warsaw/0"

OUTSIDER = """
import sys
import ray
from actors.region_client import connect
from cluster.errors import Unavailable
try:
    region = connect(sys.argv[1], token_file=sys.argv[2])
except Unavailable as error:
    print("Unavailable:", error)
else:
    print(ray.get(region.search.remote(sys.argv[3], corpus="xquad", top_k=1)).hits[0].id)
"""


@pytest.fixture(scope="module")
def region(shared_region: LiveRegion) -> Region:
    return connect()


def test_a_search_gives_typed_hits(region: Region, shared_region: LiveRegion) -> None:
    result = ray.get(region.search.remote(QUESTION, corpus="xquad", top_k=3))
    assert isinstance(result, SearchResult)
    assert (result.release, result.region) == (shared_region.release, REGION)
    assert result.coverage == 1.0
    best = result.hits[0]
    passage = shared_region.xquad.passages[PARAGRAPH]
    assert (best.id, best.text, dict(best.metadata)) == (
        PARAGRAPH,
        passage["text"],
        passage["metadata"],
    )
    assert len(result.trace_id) == 32


def test_batches_vectors_filters_and_fields(region: Region, shared_region: LiveRegion) -> None:
    batch = ray.get(region.search.remote([QUESTION, "Who was Tesla?"], corpus="xquad", top_k=2))
    assert [len(hits) for hits in batch.results] == [2, 2]
    assert batch.hits[0].id == PARAGRAPH
    ids = list(shared_region.vectors)
    stacked = np.stack([shared_region.vectors[id] for id in ids])
    found = ray.get(region.search.remote(vectors=stacked, corpus="vectors-eight", top_k=1))
    assert [hits[0].id for hits in found.results] == ids
    one = ray.get(
        region.search.remote(
            vectors=stacked[0], corpus="xquad", filter={"title": "Warsaw"}, fields=["title"]
        )
    )
    assert {hit.id for hit in one.hits} == {"Warsaw/0", "Warsaw/1"}
    assert all(hit.metadata == {"title": "Warsaw"} for hit in one.hits)


def test_many_calls_are_under_way_at_once(region: Region, shared_region: LiveRegion) -> None:
    questions = shared_region.xquad.questions[:64]
    refs = [region.search.remote(q.question, corpus="xquad", top_k=5) for q in questions]
    found = [{hit.id for hit in result.hits} for result in ray.get(refs)]
    assert sum(q.paragraph in ids for q, ids in zip(questions, found, strict=True)) > 60


def test_an_answer_has_citations_and_usage(region: Region, shared_region: LiveRegion) -> None:
    result = ray.get(region.answer.remote(QUESTION, corpus="xquad", max_tokens=24))
    assert isinstance(result, AnswerResult)
    assert result.citations[0].id == PARAGRAPH
    assert result.citations[0].text == shared_region.xquad.passages[PARAGRAPH]["text"]
    assert result.answer
    assert 0 < result.usage.completion_tokens <= 24
    assert (result.release, result.model) == (shared_region.release, STARTER_GENERATOR)


def test_the_status_is_that_of_http(region: Region, shared_region: LiveRegion) -> None:
    summary = ray.get(region.status.remote())
    assert isinstance(summary, RegionSummary)
    assert (summary.region, summary.release, summary.healthy) == (
        REGION,
        shared_region.release,
        True,
    )
    with shared_region.http() as http:
        status = http.get("/v1/status").json()
    assert [r["release"] for r in status["resident"]] == [r.release for r in summary.resident]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ({"vectors": [[0.5, 0.25]]}, "vectors"),
        ({"query": "tea", "corpus": "nowhere"}, "corpus"),
        ({"query": "tea", "corpus": None}, "corpus"),
        ({"query": "tea", "top_k": 0}, "top_k"),
        ({"query": "tea", "release": 999}, "release"),
        ({"query": "tea", "filter": {"colour": "red"}}, "filter.colour"),
        ({"query": "tea", "fields": ["colour"]}, "fields"),
        ({"query": " "}, "query"),
        ({}, "query"),
        ({"query": "tea", "corpus": "vectors-one"}, "query"),
    ],
)
def test_ray_get_raises_what_http_would_answer(
    region: Region, call: dict[str, object], field: str
) -> None:
    ref = region.search.remote(**{"corpus": "xquad", **call})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        ray.get(ref)
    assert caught.value.field == field
    assert isinstance(caught.value, RaygionError)
    assert (caught.value.code, caught.value.retryable) == ("invalid_argument", False)
    assert caught.value.message
    assert "Traceback" not in caught.value.message


def test_what_is_no_vector_is_refused_before_it_leaves(region: Region) -> None:
    with pytest.raises(InvalidArgument) as caught:
        region.search.remote(vectors=[[float("nan")] * 384], corpus="xquad")
    assert caught.value.field == "vectors[0]"
    with pytest.raises(InvalidArgument):
        region.search.remote("tea", filter={"and": 3}, corpus="xquad")


def test_time_that_is_over_is_typed_and_retryable(region: Region) -> None:
    ref = region.answer.remote(QUESTION, corpus="xquad", max_tokens=1000, timeout_s=0.02)
    with pytest.raises(DeadlineExceeded) as caught:
        ray.get(ref)
    assert caught.value.retryable


def test_a_program_elsewhere_joins_with_the_token(shared_region: LiveRegion) -> None:
    cluster = find_local_cluster(shared_region.installation.run_folder)
    assert cluster is not None
    assert _outsider(cluster) == PARAGRAPH


def test_a_cluster_without_a_region_is_unavailable(tmp_path: Path) -> None:
    cluster = start_local_cluster(name="bare", run_dir=tmp_path, http_port=0, num_cpus=1)
    try:
        said = _outsider(cluster)
    finally:
        cluster.stop()
    assert said == ("Unavailable: no region runs on this Ray cluster; start one with `raygion up`")
    # Now there is not even a cluster.
    cluster.token_path.write_text("0" * 64)
    assert _outsider(cluster).startswith("Unavailable: no Ray cluster answers at 127.0.0.1:")


def _outsider(cluster: LocalCluster) -> str:
    """What a process of its own, which knows only address and token, prints."""
    arguments = [cluster.ray_address, str(cluster.token_path), QUESTION]
    # Nothing of what this process knows of its cluster.
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDER, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
