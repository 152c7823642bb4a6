"""Routes, and their descriptions in the OpenAPI page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from deployments.http.schemas.replies import ErrorReply

REFERENCES = "#/components/schemas/{model}"


def add_route(
    app: FastAPI,
    method: str,
    path: str,
    does: Callable[..., Awaitable[Response]],
    *,
    responses: dict[int | str, dict[str, Any]],
    body: dict[str, Any] | None = None,
) -> None:
    """`body` is what `body_of` or `parameters_of` makes."""
    app.add_api_route(
        path,
        does,
        methods=[method],
        response_class=Response,
        responses=responses,
        openapi_extra=body,
    )


def json_response(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def replies(model: Any, *, stream: str | None = None) -> dict[int | str, dict[str, Any]]:
    whole: dict[str, Any] = {"model": model}
    if stream is not None:
        whole["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        whole["description"] = f"The whole reply, or with `stream` its events. {stream}"
    return {200: whole, "default": {"model": ErrorReply, "description": "An error."}}


def parameters_of(model: type[BaseModel], *in_path: str) -> dict[str, Any]:
    """The fields of a URL: those in its path, and those behind the question mark."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in in_path
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]
    return {"parameters": parameters}


def body_of(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": REFERENCES.format(model=model.__name__)}
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}
