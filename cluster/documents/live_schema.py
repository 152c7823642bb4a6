"""The metadata fields of a corpus whose documents are written while it is served.

The fields that the base has keep their types, since the base's columns have them. A field that came
with a live document has the type of its values, by the rules of an ingest: integers and floats
together are floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from cluster.documents.documents import EXACT_IN_FLOAT, FIELDS_MAX, spelled, type_of
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType, Metadata, MetadataValue


@dataclass(frozen=True, slots=True)
class _NewField:
    """A field that the base does not have."""

    type: ColumnType
    has_long: bool = False
    """True when one of its integers would be rounded as a float."""

    @classmethod
    def of(cls, value: str | int | float | bool) -> Self:
        """The field of a single value."""
        return cls(type_of(value), has_long=_is_long(value))


class LiveSchema:
    """The types of a corpus's metadata fields. Not thread-safe."""

    def __init__(self, base: Mapping[str, ColumnType]) -> None:
        self._base = dict(base)
        self._new: dict[str, _NewField] = {}

    @property
    def types(self) -> dict[str, ColumnType]:
        """The type of every field, by name."""
        return {**{name: field.type for name, field in self._new.items()}, **self._base}

    def rebased(self, base: Mapping[str, ColumnType]) -> Self:
        """The same live fields over another base."""
        copied = type(self)(base)
        copied._new = dict(self._new)
        return copied

    def copy(self) -> Self:
        return self.rebased(self._base)

    def learn(self, metadata: Metadata) -> None:
        """Takes in the fields of a document that is in the log.

        The log may have values of another type than the field's, since two regions may bring a new
        field at the same moment. They change no type: the first document read decides.
        """
        for name, value in metadata.items():
            if value is not None and name not in self._base:
                found = _NewField.of(value)
                known = self._new.get(name)
                self._new[name] = found if known is None else (_joined(known, found) or known)

    def fitted(self, metadata: Metadata) -> Metadata:
        """The metadata with each value as the type of its field; the fields may be new.

        A whole float becomes an integer in a field of integers, and an integer a float in one of
        floats. Raises InvalidArgument, naming the field, for any other type, for an integer that a
        float would round, and for more fields than a corpus may have.
        """
        fitted = {name: self._value(name, value) for name, value in metadata.items()}
        new = fitted.keys() - self._base.keys() - self._new.keys()
        if new and len(self._base.keys() | self._new.keys()) + len(new) > FIELDS_MAX:
            raise InvalidArgument(
                f"the corpus would have more than {FIELDS_MAX} metadata fields; use fewer",
                "metadata",
            )
        return fitted

    def _value(self, name: str, value: MetadataValue) -> MetadataValue:
        if value is None:
            return None
        if name in self._base:
            return _as(self._base[name], value, name)
        known = self._new.get(name)
        if known is None:
            return value
        joined = _joined(known, _NewField.of(value))
        return _as(known.type if joined is None else joined.type, value, name)


def _joined(known: _NewField, found: _NewField) -> _NewField | None:
    """The field with values of both; None where their types do not go together."""
    if known == found:
        return known
    has_long = known.has_long or found.has_long
    if known.type == found.type:
        return replace(known, has_long=has_long)
    if {known.type, found.type} == {ColumnType.INT, ColumnType.FLOAT} and not has_long:
        return _NewField(ColumnType.FLOAT)
    return None


def _as(type_: ColumnType, value: str | int | float | bool, name: str) -> MetadataValue:
    """The value as this type. Raises InvalidArgument where it would not stay what it is."""
    given = type_of(value)
    if given is type_:
        return value
    if type_ is ColumnType.FLOAT and given is ColumnType.INT and not _is_long(value):
        return float(value)
    if type_ is ColumnType.INT and isinstance(value, float) and value.is_integer():
        whole = int(value)
        if whole in EXACT_IN_FLOAT:
            return whole
    raise InvalidArgument(
        f"is {spelled(given)}, but the field has {spelled(type_)} in the documents of the "
        "corpus; write it so, or give it a field of another name",
        f"metadata.{name}",
    )


def _is_long(value: object) -> bool:
    """True for an integer that a float may round."""
    return isinstance(value, int) and value not in EXACT_IN_FLOAT
