"""Names of the region's actors and Serve applications: one place, so that everybody finds them."""

from __future__ import annotations

COORDINATOR = "coordinator"
FRONT = "front"
GATEWAY_APPLICATION = "gateway"


def replica(corpus: str, shard: int, number: int) -> str:
    return f"replica/{corpus}/{shard}/{number}"


def corpus_of(replica_name: str) -> str:
    """The corpus that a replica's name holds; a corpus's own name has no slash."""
    return replica_name.split("/")[1]


def number_of(replica_name: str) -> int:
    """Which of its shard's replicas this is, counted from 0."""
    return int(replica_name.rpartition("/")[2])


def embedder(model_version: str, number: int) -> str:
    return f"embedder/{model_version}/{number}"


def generator_application(model_version: str) -> str:
    return f"generator-{model_version}"
