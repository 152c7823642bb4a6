"""The partitions of a corpus that a filter names, and the shards that have them.

A corpus with `partition_by: country` keeps all documents of a country in one shard. A filter names
partitions where it demands that the field equals a value, or is one of some, alone or beside other
conditions:

    {"country": "Chad"}        {"country": {"in": ["Chad", "Mali"]}}        {"country": "Chad",
    "year": {"gte": 2000}}     {"and": [{"country": "Chad"}, ...]}

Any other filter may match rows of every partition, and rows that belong to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from cluster.metadata import ColumnType
from cluster.query.filters import And, Compare, Comparison, Filter, In
from cluster.shards.placement import shard_of

PartitionKey: TypeAlias = str | int
"""The value of the field that a corpus is partitioned by."""
KEY_TYPES = (ColumnType.STRING, ColumnType.INT)


@dataclass(frozen=True, slots=True)
class NamedPartitions:
    """`keys` and `rest` together mean what the filter meant."""

    keys: tuple[PartitionKey, ...]
    """Distinct; empty where the filter can match nothing."""
    rest: Filter | None
    """Conditions of the filter besides the partitions; None when there are none."""


def named_partitions(filter: Filter | None, field: str) -> NamedPartitions | None:
    """The partitions that the filter names; None when it names none."""
    match filter:
        case Compare(name, Comparison.EQ, value) if name == field and _is_key(value):
            return NamedPartitions((value,), None)
        case In(name, values) if name == field:
            keys = tuple(dict.fromkeys(value for value in values if _is_key(value)))
            # Null is no partition: documents without a value are anywhere.
            return NamedPartitions(keys, None) if all(map(_is_key, values)) else None
        case And(parts):
            for index, part in enumerate(parts):
                named = named_partitions(part, field)
                if named is not None:
                    left = () if named.rest is None else (named.rest,)
                    return NamedPartitions(
                        named.keys, _all_of((*parts[:index], *left, *parts[index + 1 :]))
                    )
    return None


def shard_of_partition(key: PartitionKey, num_shards: int) -> int:
    """The shard that has the partition, by the same consistent hash as documents."""
    return shard_of(str(key), num_shards)


def shards_to_ask(filter: Filter | None, field: str, num_shards: int) -> tuple[int, ...]:
    """The numbers of the shards, ascending, outside of which nothing matches the filter; at least
    one. `field` is what the corpus is partitioned by.
    """
    named = named_partitions(filter, field)
    if named is None:
        return tuple(range(num_shards))
    # If no partition matches, one shard is asked anyway, because the shard validates the query.
    return tuple(sorted({shard_of_partition(key, num_shards) for key in named.keys})) or (0,)


def _is_key(value: object) -> TypeGuard[PartitionKey]:
    # A bool is an int to Python, and 1.0 equals 1; the columns tell them apart.
    return type(value) is str or type(value) is int


def _all_of(parts: tuple[Filter, ...]) -> Filter | None:
    if len(parts) <= 1:
        return parts[0] if parts else None
    return And(parts)
