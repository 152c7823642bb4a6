"""The metadata of a document: what it may hold, and the types of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

MetadataValue = str | int | float | bool | None


Metadata = Mapping[str, MetadataValue]


class ColumnType(StrEnum):
    """The types that a metadata field can have."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
