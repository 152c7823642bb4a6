"""Names of the region's actors and Serve applications: one place, so that everybody finds them."""

from __future__ import annotations

COORDINATOR = "coordinator"
FRONT = "front"
GATEWAY_APPLICATION = "gateway"


def replica(corpus: str, shard: int, number: int) -> str:
    return f"replica/{corpus}/{shard}/{number}"


def embedder(model_version: str, number: int) -> str:
    return f"embedder/{model_version}/{number}"


def generator_application(model_version: str) -> str:
    return f"generator-{model_version}"
