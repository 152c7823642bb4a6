"""The types of metadata fields, as documents have them that come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cluster.documents.documents import INT64
from cluster.metadata import ColumnType, Metadata, MetadataValue

_WIDEST_FIRST = (ColumnType.STRING, ColumnType.FLOAT, ColumnType.INT, ColumnType.BOOL)


class FieldTypes:
    """Counts the values of each field by their type.

    A field of several types has the widest of them, so that the result depends on which documents
    there are, and not on the order in which they came.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ColumnType]] = Counter()
        self._types: dict[str, ColumnType] = {}

    @property
    def types(self) -> Mapping[str, ColumnType]:
        """By the name of the field. Later documents do not change what was returned."""
        return self._types

    def add(self, metadata: Metadata) -> None:
        self._count(metadata, 1)

    def remove(self, metadata: Metadata) -> None:
        self._count(metadata, -1)

    def _count(self, metadata: Metadata, change: int) -> None:
        for name, value in metadata.items():
            if (type := type_of(value)) is not None:
                self._counts[name, type] += change
                self._update(name)

    def _update(self, name: str) -> None:
        known = next((type for type in _WIDEST_FIRST if self._counts[name, type]), None)
        if known is not self._types.get(name):
            others = {field: type for field, type in self._types.items() if field != name}
            self._types = others if known is None else {**others, name: known}


def type_of(value: MetadataValue) -> ColumnType | None:
    """None for null."""
    match value:
        case bool():
            return ColumnType.BOOL
        case int():
            return ColumnType.INT
        case float():
            return ColumnType.FLOAT
        case str():
            return ColumnType.STRING
    return None


def in_column(value: MetadataValue, type: ColumnType) -> MetadataValue:
    """The value as a column of this type holds it; null where the column cannot."""
    match type, value:
        case ColumnType.FLOAT, int() if not isinstance(value, bool):
            return float(value)
        case ColumnType.INT, int() if value not in INT64:
            return None
    return value if type_of(value) is type else None
