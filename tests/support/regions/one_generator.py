"""The starter generator behind Serve, without a region: one replica of vLLM, warm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.models.serve_generator import ServeGenerator
from actors.models.starter_models import STARTER_GENERATOR, starter_generator_folder
from cluster.clock import Deadline
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest, Generator
from deployments.nodes.local_cluster import LocalCluster, start_local_cluster

ROOT = Path(__file__).resolve().parents[3]
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
    cluster = start_local_cluster(
        name="generator",
        run_dir=tmp_path_factory.mktemp("cluster"),
        http_port=0,
        num_cpus=4,
        object_store_memory_bytes=100_000_000,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        cluster.prepare_driver()
        ray.init(log_to_driver=False)
        from ray import serve

        from deployments.serve.generator import GeneratorSpec, build_generator_app

        serve.start(proxy_location="Disabled")
        spec = GeneratorSpec(
            model_id="smol",
            model_folder=str(folder),
            max_model_len=MODEL_LEN,
            max_num_seqs=SEQUENCES,
        )
        serve.run(build_generator_app(spec), name=APP, route_prefix=None)
        yield cluster
    finally:
        ray.shutdown()
        cluster.stop()


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
