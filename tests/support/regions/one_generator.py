"""The starter generator behind Serve, without a region: one replica of vLLM, warm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import serve

from actors.models.serve_generator import ServeGenerator
from actors.models.starter_models import STARTER_GENERATOR, starter_generator_folder
from cluster.clock import Deadline
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest, Generator
from deployments.nodes.local_cluster import LocalCluster
from tests.support.regions.joined_cluster import ROOT, joined_cluster

APP = "generator-test"
MODEL_LEN = 1024
SEQUENCES = 2


@pytest.fixture(scope="module")
def folder() -> Path:
    """Made once for this checkout: the conversion takes 20 s."""
    return starter_generator_folder(ROOT / ".raygion" / "test-models" / STARTER_GENERATOR)


@pytest.fixture(scope="module")
def cluster(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One replica of the generator, warm."""
    run_dir = tmp_path_factory.mktemp("cluster")
    with joined_cluster("generator", run_dir, num_cpus=4) as joined:
        from deployments.serve.generator import GeneratorSpec, build_generator_app

        spec = GeneratorSpec(
            model_id="smol",
            model_folder=str(folder),
            max_model_len=MODEL_LEN,
            max_num_seqs=SEQUENCES,
        )
        serve.run(build_generator_app(spec), name=APP, route_prefix=None)
        yield joined


@pytest.fixture(scope="module")
def generator(cluster: LocalCluster) -> ServeGenerator:
    return ServeGenerator(APP)


def asking(content: str, *, max_tokens: int = 48, system: str = "") -> GenerationRequest:
    messages: tuple[ChatMessage, ...] = (ChatMessage(role="user", content=content),)
    if system:
        messages = (ChatMessage(role="system", content=system), *messages)
    return GenerationRequest(
        messages=messages, max_tokens=max_tokens, temperature=0.0, request_id="test"
    )


ENDLESS = asking("Write a very long novel about a whale. Never stop.", max_tokens=MODEL_LEN - 100)


async def answer(
    generator: Generator, request: GenerationRequest, timeout_s: float = 60.0
) -> tuple[str, GenerationChunk]:
    chunks = [chunk async for chunk in generator.stream(request, Deadline.after(timeout_s))]
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    return "".join(chunk.text for chunk in chunks), chunks[-1]
