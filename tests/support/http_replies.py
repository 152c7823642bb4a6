"""What tests read from replies over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deployments.http.schemas.replies import ErrorReply


def error_of(reply: httpx.Response) -> dict[str, Any]:
    ErrorReply.model_validate_json(reply.content, strict=True)
    return dict(reply.json()["error"])


def sample(metrics: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(metrics):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return 0.0
