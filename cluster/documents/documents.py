"""Documents, and the checks that a document must pass to enter a corpus.

    {"id": "fr/1", "text": "Paris is ...", "metadata": {"region": "europe", "year": 2024}}

`metadata` is flat: strings, integers, floats, booleans and null. A document may bring its own
`vector`; its text may then be empty. Every refusal names the source, the row and the field.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never
from uuid import UUID

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType, Metadata, MetadataValue
from cluster.records import Name
from cluster.vectors.checks import NORM_MAX

ID_BYTES_MAX = 512
TEXT_BYTES_MAX = 1_000_000
STRING_BYTES_MAX = 65_536
FIELDS_MAX = 256
DIMENSION_MAX = 65_536
FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# These join conditions in a filter, so a field of that name could not be asked for.
RESERVED_FIELDS = frozenset({"and", "or", "not"})

INT64 = range(-(2**63), 2**63)
EXACT_IN_FLOAT = range(-(2**53), 2**53 + 1)
"""The integers up to which a float of 64 bits holds every one."""
_CORPUS_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentOrigin:
    """The origin of a document: a file, or a row or a section of one."""

    source: str
    row: int | None = None
    """Row of the file, counted from 1; None when the whole file is one document."""
    section: str | None = None
    """Section of a file without rows, such as "page 3"."""

    def __str__(self) -> str:
        inside = self.section if self.row is None else f"row {self.row}"
        return self.source if inside is None else f"{self.source}, {inside}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A valid document; `parse_document` makes it."""

    id: str
    text: str
    metadata: Metadata
    vector: Float32Array | None = None
    """float32 [d], finite"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaField:
    """The type of a metadata field, and where a value of that type was seen, for messages."""

    type: ColumnType
    example: str
    long_example: str | None = None
    """Origin of an integer that a float might round; None if all are in EXACT_IN_FLOAT."""


Schema = Mapping[str, SchemaField]


def check_corpus_name(corpus: str) -> None:
    """Raises InvalidArgument for a text that cannot name a corpus."""
    try:
        _CORPUS_NAME.validate_python(corpus)
    except ValidationError:
        raise InvalidArgument(
            f"{corpus[:64]!r} is no name: use small letters, digits, '-' and '_', at most 63",
            "corpus",
        ) from None


def parse_document(raw: Mapping[str, object], origin: DocumentOrigin) -> Document:
    """Checks `id`, `text`, `metadata` and `vector` of one row.

    An integer id becomes its decimal digits, a UUID its usual text. Raises InvalidArgument.
    """
    vector = raw.get("vector")
    parsed = None if vector is None else _parse_vector(vector, origin)
    return Document(
        id=_parse_id(raw.get("id"), origin),
        text=_parse_text(raw.get("text"), origin, may_be_empty=parsed is not None),
        metadata=_parse_metadata(raw.get("metadata"), origin),
        vector=parsed,
    )


def infer_schema(documents: Iterable[tuple[Document, DocumentOrigin]]) -> dict[str, SchemaField]:
    """The type of every metadata field that has a value, by name.

    Integers and floats in one field make it a float. Raises InvalidArgument, naming both documents,
    when the types of a field conflict otherwise, or an integer would be rounded as a float.
    """
    schema: dict[str, SchemaField] = {}
    for document, origin in documents:
        add_to_schema(schema, document, origin)
    return dict(sorted(schema.items()))


def add_to_schema(
    schema: dict[str, SchemaField], document: Document, origin: DocumentOrigin
) -> None:
    """Widens `schema` in place by the values of one document, as `infer_schema` says."""
    for name, value in document.metadata.items():
        if value is None:
            continue
        type_ = type_of(value)
        is_long = type_ is ColumnType.INT and value not in EXACT_IN_FLOAT
        known = schema.get(name)
        if known is None or known.type != type_ or (is_long and known.long_example is None):
            example = f"{origin} ({document.id!r})"
            found = SchemaField(
                type=type_, example=example, long_example=example if is_long else None
            )
            schema[name] = found if known is None else _merged(name, known, found)
    _check_width(len(schema), str(origin))


def merge_schemas(first: Schema, second: Schema) -> dict[str, SchemaField]:
    """Both schemas as one, by the rules of `infer_schema`."""
    merged = dict(first)
    for name, field in second.items():
        merged[name] = _merged(name, merged[name], field) if name in merged else field
    _check_width(len(merged), "the sources together")
    return dict(sorted(merged.items()))


def schema_of(types: Mapping[str, ColumnType], example: str) -> dict[str, SchemaField]:
    """A stored schema as one that can be merged; `example` says in messages where it comes from."""
    return {name: SchemaField(type=type_, example=example) for name, type_ in types.items()}


def column_types(schema: Schema) -> dict[str, ColumnType]:
    return {name: field.type for name, field in sorted(schema.items())}


def _merged(name: str, first: SchemaField, second: SchemaField) -> SchemaField:
    if first.type == second.type:
        return replace(first, long_example=first.long_example or second.long_example)
    if {first.type, second.type} == {ColumnType.INT, ColumnType.FLOAT}:
        of_ints, of_floats = (first, second) if first.type == ColumnType.INT else (second, first)
        if of_ints.long_example is None:
            return of_floats
        raise InvalidArgument(
            f"is an integer beyond 2**53 in {of_ints.long_example}, "
            f"but a float in {of_floats.example}; "
            "as a float it would be rounded: write such numbers as strings",
            f"metadata.{name}",
        )
    raise InvalidArgument(
        f"is {spelled(first.type)} in {first.example}, but {spelled(second.type)} in "
        f"{second.example}; a field has one type in the whole corpus: declare it with --types, or "
        "start the corpus anew with --replace",
        f"metadata.{name}",
    )


def spelled(type_: ColumnType) -> str:
    """The type as messages name it."""
    match type_:
        case ColumnType.STRING:
            return "a string"
        case ColumnType.INT:
            return "an integer"
        case ColumnType.FLOAT:
            return "a float"
        case ColumnType.BOOL:
            return "a boolean"
        case _:
            assert_never(type_)


def _check_width(num_fields: int, where: str) -> None:
    if num_fields > FIELDS_MAX:
        raise InvalidArgument(
            f"{where}: the corpus would have more than {FIELDS_MAX} metadata fields; use fewer",
            "metadata",
        )


def type_of(value: str | int | float | bool) -> ColumnType:
    """The type of a metadata field that has this value."""
    # A bool is an int to Python, so it is asked for first.
    if isinstance(value, bool):
        return ColumnType.BOOL
    if isinstance(value, int):
        return ColumnType.INT
    return ColumnType.FLOAT if isinstance(value, float) else ColumnType.STRING


def _parse_id(value: object, origin: DocumentOrigin) -> str:
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InvalidArgument(f"{origin}: must be a string, not {_kind(value)}", "id")
    if not value:
        raise InvalidArgument(f"{origin}: must not be empty", "id")
    if _size_bytes(value, origin, "id") > ID_BYTES_MAX:
        raise InvalidArgument(f"{origin}: has more than {ID_BYTES_MAX} bytes", "id")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidArgument(f"{origin}: must not contain control characters", "id")
    return value


def _parse_text(value: object, origin: DocumentOrigin, *, may_be_empty: bool) -> str:
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{origin}: must be a string, not {_kind(value)}", "text")
    if not value.strip() and not may_be_empty:
        raise InvalidArgument(f"{origin}: must not be empty", "text")
    if _size_bytes(value, origin, "text") > TEXT_BYTES_MAX:
        raise InvalidArgument(
            f"{origin}: has more than {TEXT_BYTES_MAX} bytes; divide it into several documents",
            "text",
        )
    return value


def _parse_metadata(value: object, origin: DocumentOrigin) -> Metadata:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{origin}: must be an object, not {_kind(value)}", "metadata")
    if len(value) > FIELDS_MAX:
        raise InvalidArgument(f"{origin}: has more than {FIELDS_MAX} fields", "metadata")
    return {
        _parse_field_name(name, origin): _parse_value(item, f"metadata.{name}", origin)
        for name, item in value.items()
    }


def _parse_field_name(name: object, origin: DocumentOrigin) -> str:
    if not isinstance(name, str) or not FIELD_NAME.fullmatch(name):
        raise InvalidArgument(
            f"{origin}: the field name {str(name)[:64]!r} must be letters, digits and '_', at most "
            "128, and not begin with a digit",
            "metadata",
        )
    if name in RESERVED_FIELDS:
        raise InvalidArgument(
            f"{origin}: {name!r} joins conditions in a filter; give the field another name",
            "metadata",
        )
    return name


def _parse_value(value: object, field: str, origin: DocumentOrigin) -> MetadataValue:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in INT64:
            raise InvalidArgument(f"{origin}: does not fit into 64 bits; use a string", field)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgument(f"{origin}: must be finite; use null for no value", field)
        return value
    if isinstance(value, str):
        if _size_bytes(value, origin, field) > STRING_BYTES_MAX:
            raise InvalidArgument(f"{origin}: has more than {STRING_BYTES_MAX} bytes", field)
        return value
    if isinstance(value, Mapping | list | tuple):
        raise InvalidArgument(
            f"{origin}: metadata is flat, so {_kind(value)} does not fit; give each part a field "
            f'of its own, such as {{"{field.removeprefix("metadata.")}_name": "..."}}',
            field,
        )
    name = field.removeprefix("metadata.")
    raise InvalidArgument(
        f"{origin}: must be a string, number, boolean or null, not {_kind(value)}; declare its "
        f"type (--types {name}=string), or write it as text (a date as 2024-05-01) or as a number",
        field,
    )


def _parse_vector(value: object, origin: DocumentOrigin) -> Float32Array:
    try:
        given = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        given = np.empty((0, 0))
    if given.dtype.kind not in "fiu" or given.ndim != 1 or not given.size:
        raise InvalidArgument(f"{origin}: must be a list of numbers", "vector")
    if given.size > DIMENSION_MAX:
        raise InvalidArgument(f"{origin}: has more than {DIMENSION_MAX} numbers", "vector")
    with np.errstate(over="ignore", invalid="ignore"):
        vector: Float32Array = np.ascontiguousarray(given, dtype=np.float32)
        valid = np.linalg.norm(vector.astype(np.float64)) <= NORM_MAX
    if not valid:
        raise InvalidArgument(
            f"{origin}: must hold finite numbers, with a norm of at most {NORM_MAX:g}", "vector"
        )
    return vector


def _size_bytes(value: str, origin: DocumentOrigin, field: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"{origin}: holds half of a surrogate pair, which is not Unicode text", field
        ) from None


def _kind(value: object) -> str:
    """The kind of a value, in the words of JSON."""
    match value:
        case None:
            return "missing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
        case _:
            return f"a {type(value).__name__}"
