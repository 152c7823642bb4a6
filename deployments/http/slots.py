"""Bounds on what a gateway works on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import Overloaded


class Slots:
    """A bounded number of slots; what needs more than are free is refused at once."""

    def __init__(self, most: int, refusal: str) -> None:
        """`refusal`: what the error says of a gateway whose slots are taken."""
        self.most = most
        self.taken = 0
        self._refusal = refusal

    @contextmanager
    def hold(self, count: int = 1) -> Iterator[None]:
        """Raises Overloaded where fewer are free."""
        if self.taken + count > self.most:
            raise Overloaded(f"{self._refusal}; try again shortly")
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
