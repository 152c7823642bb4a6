"""An object as a listing of the store describes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object by the last part of its path, with its size and when it was written, by the
    store's clock, which may tell whole seconds only.
    """

    name: str
    size_bytes: int
    modified_ms: int
