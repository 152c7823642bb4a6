"""The descriptions of routes in the OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from deployments.http.schemas.replies import ErrorReply

REFERENCES = "#/components/schemas/{model}"


def json_response(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def replies(model: Any, *, stream: str | None = None) -> dict[int | str, dict[str, Any]]:
    whole: dict[str, Any] = {"model": model}
    if stream is not None:
        whole["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        whole["description"] = f"The whole reply, or with `stream` its events. {stream}"
    return {200: whole, "default": {"model": ErrorReply, "description": "An error."}}


def body_of(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": REFERENCES.format(model=model.__name__)}
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}
