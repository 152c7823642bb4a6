"""Immutable sequences that grow at their end without being copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar, overload

T = TypeVar("T")


class Grown(Sequence[T]):
    """An immutable sequence. `appended` gives one that is longer by an item, in constant time.

    Each shares its memory with those that have grown from it, and looks at its own beginning of
    that alone. May be read by any thread; those that stem from one another are made by one.
    """

    __slots__ = ("_items", "_length")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = list(items)
        self._length = len(self._items)

    def appended(self, item: T) -> Grown[T]:
        """This sequence and then `item`."""
        is_end = len(self._items) == self._length
        longer: Grown[T] = Grown()
        # When another one has grown from this one already, the ways part here.
        longer._items = self._items if is_end else self._items[: self._length]
        longer._items.append(item)
        longer._length = self._length + 1
        return longer

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return islice(self._items, self._length)

    def __reversed__(self) -> Iterator[T]:
        return (self._items[n] for n in range(self._length - 1, -1, -1))

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._items[n] for n in range(*index.indices(self._length)))
        return self._items[range(self._length)[index]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grown | tuple):
            return NotImplemented
        return tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Grown({list(self)!r})"

    def __reduce__(self) -> tuple[type[Grown[T]], tuple[list[T]]]:
        return Grown, (list(self),)
