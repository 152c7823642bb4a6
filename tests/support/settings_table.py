"""The tables of docs/settings.md, made from the models of the settings."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from bench.markdown import table
from cluster.config import Settings
from cluster.records import Record
from cluster.shards.index_parameters import AutoIndex

COLUMNS = ("key", "type", "bounds", "default", "meaning")
_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "`true`, `false`",
    "null": "`null`",
    "object": "keys and values",
}
_FORMATS = {"password": "secret text", "path": "folder"}


def settings_tables() -> str:
    """One section with a table for each model of the settings."""
    return "\n\n".join(_sections(Settings, ""))


def attribute_docs(owner: type) -> dict[str, str]:
    """The docstrings under the attributes of a class, each on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for node, following in zip(definition.body, definition.body[1:], strict=False):
        match node, following:
            case (
                ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]),
                ast.Expr(ast.Constant(str(text))),
            ):
                docs[name] = " ".join(text.split())
    return docs


def _sections(model: type[Record], prefix: str) -> Iterator[str]:
    """The section of the model, then those of the models in its fields."""
    title = f"`{prefix}`" if prefix else "At the top"
    if model is AutoIndex:
        title += " of the kind `auto`"
    bases = [base for base in reversed(model.__mro__) if issubclass(base, Record)]
    docs = {name: doc for base in bases for name, doc in attribute_docs(base).items()}
    schema = model.model_json_schema()
    rows, below = [], []
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        records = list(_records(field.annotation))
        below += [part for record in records for part in _sections(record, key + _entry(field))]
        if records and name not in docs:
            continue
        kind, bounds = (
            ("see below", "")
            if records
            else _type_and_bounds(schema["properties"][name], schema.get("$defs", {}))
        )
        meaning = " ".join([docs.get(name, ""), *_choices(field.annotation)])
        cells = (f"`{key}`", kind, bounds, _default(field), meaning)
        rows.append([cell.replace("|", r"\|") for cell in cells])
    about = " ".join((model.__doc__ or "").split())
    yield f"## {title}\n\n{about}\n\n{table(COLUMNS, rows)}"
    yield from below


def _records(annotation: Any) -> Iterator[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        yield annotation
    for argument in get_args(annotation):
        yield from _records(argument)


def _entry(field: FieldInfo) -> str:
    """The place of an entry's name in a key, where the field holds entries by name."""
    if get_origin(field.annotation) is not dict:
        return ""
    names = get_args(field.annotation)[0]
    return ".<name>" if str in get_args(names) else ".<network>"


def _type_and_bounds(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[str, str]:
    """Of one field, from its JSON schema."""
    match schema:
        case {"$ref": reference}:
            return _type_and_bounds(defs[reference.rpartition("/")[2]], defs)
        case {"anyOf": choices}:
            found = [_type_and_bounds(choice, defs) for choice in choices]
            return " or ".join(kind for kind, _ in found), "; ".join(b for _, b in found if b)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values), ""
        case {"const": value}:
            return f"`{value}`", ""
        case {"type": "array", "items": items}:
            kind, bounds = _type_and_bounds(items, defs)
            entries = _range(schema, "minItems", "maxItems", " entries")
            return f"list of {kind}", "; ".join(filter(None, [entries, bounds]))
        case {"pattern": pattern, "type": kind}:
            return _TYPES[kind], f"`{pattern}`"
        case {"exclusiveMinimum": least, "type": kind}:
            return _TYPES[kind], f"over {least}"
    kind = _FORMATS.get(schema.get("format", ""), _TYPES[schema["type"]])
    characters = _range(schema, "minLength", "maxLength", " characters")
    return kind, characters or _range(schema, "minimum", "maximum", "")


def _range(schema: Mapping[str, Any], least: str, most: str, unit: str) -> str:
    match schema.get(least), schema.get(most):
        case None, None:
            return ""
        case 1, None if unit:
            return "not empty"
        case low, None:
            return f"at least {low:,}{unit}"
        case None, high:
            return f"at most {high:,}{unit}"
        case low, high:
            return f"{low:,} to {high:,}{unit}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Record):
        return "see below"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value, default=str)}`"


def _choices(annotation: Any) -> Iterator[str]:
    """The meaning of each value of an enumeration, where it has a docstring."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        docs = attribute_docs(annotation)
        described = [f"`{m.value}`: {docs[m.name]}" for m in annotation if m.name in docs]
        if described:
            yield "; ".join(text.removesuffix(".") for text in described) + "."
