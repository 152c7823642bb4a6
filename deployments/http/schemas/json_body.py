"""JSON bodies from outside, and the fields of a URL: how they are read, and refused by the field
that is wrong.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from cluster import exact_json
from cluster.errors import InvalidArgument
from cluster.quoting import quoted


class Body(BaseModel):
    """A JSON object from outside: strict about types, closed to unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    known_keys: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.known_keys = frozenset(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: object) -> object:
        # Before pydantic's own check, which would make one error for each of a million keys.
        if isinstance(data, dict) and not data.keys() <= cls.known_keys:
            unknown = next(key for key in data if key not in cls.known_keys)
            known = ", ".join(sorted(cls.known_keys))
            raise PydanticCustomError(
                "unknown_key", "is not known; known: {known}", {"key": unknown, "known": known}
            )
        return data


BodyT = TypeVar("BodyT", bound=Body)


def parse_body(model: type[BodyT], body: bytes) -> BodyT:
    """Raises InvalidArgument for what is no JSON object or does not fit the model."""
    # Some programs begin a text with a byte order mark, which RFC 8259 lets a reader skip.
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body:
        raise InvalidArgument("is empty; send a JSON object", "body")
    try:
        parsed = exact_json.loads(body)
    except ValueError as error:
        if not _is_utf8(body):
            raise InvalidArgument(
                "is not text in UTF-8; send JSON in UTF-8, and not compressed", "body"
            ) from None
        raise InvalidArgument(f"is not valid JSON: {error}", "body") from None
    if not isinstance(parsed, dict):
        raise InvalidArgument("must be a JSON object", "body")
    return validated(model, parsed)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def validated(model: type[BodyT], parsed: dict[str, Any], *, strict: bool | None = None) -> BodyT:
    """`strict`: None as the model says. Raises InvalidArgument for what does not fit the model."""
    try:
        return model.model_validate(parsed, strict=strict)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[0]
        raise invalid_argument(details) from None


def query_fields(query_string: bytes) -> dict[str, str]:
    """The fields behind the question mark of a URL. Raises InvalidArgument for one that stands
    there twice.
    """
    given: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name in given:
            raise InvalidArgument("is given twice", quoted(name))
        given[name] = value
    return given


def validated_query(model: type[BodyT], given: Mapping[str, object]) -> BodyT:
    """Same as `validated`, for fields of a URL, in which every number is a string."""
    return validated(model, dict(given), strict=False)


_MESSAGES = {
    "missing": "is required",
    "model_type": "must be an object",
    "string_too_short": "is empty",
    "string_too_long": "has more than {max_length} characters",
    "too_short": "is empty",
    "too_long": "has more than {max_length} items",
}


def invalid_argument(details: ErrorDetails) -> InvalidArgument:
    context: dict[str, Any] = details.get("ctx") or {}
    location = details["loc"]
    if details["type"] == "unknown_key":
        location = (*location, quoted(context["key"]))
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    template = _MESSAGES.get(details["type"])
    message = template.format(**context) if template else details["msg"]
    return InvalidArgument(
        message.replace("Input should be", "must be"), path.lstrip(".") or "body"
    )
