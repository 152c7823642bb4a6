"""The contract that every compared system implements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.load.client import LoadReport
from cluster.arrays import Float32Array, Int64Array


class NotMeasured(Exception):
    """A system that is not installed, does not start or cannot do what is asked; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Closed loops: so many clients, each with so many queries in a request."""

    clients: int
    batch: int


SERVER_CASES = (
    Case(clients=1, batch=1),
    Case(clients=8, batch=1),
    Case(clients=32, batch=1),
    Case(clients=4, batch=64),
)


class System(Protocol):
    """One system that runs and holds all vectors of a set."""

    @property
    def title(self) -> str: ...

    @property
    def index(self) -> str:
        """The kind of index, in words."""

    @property
    def forms(self) -> Sequence[str]:
        """The ways to ask, the main one first: `JSON`, `float32`..."""

    @property
    def cases(self) -> Sequence[Case]: ...

    @property
    def is_tuned(self) -> bool:
        """True when `set_effort` has an effect. Other systems were started with the right effort,
        or compare with every row."""

    @property
    def build_s(self) -> float:
        """Time from vectors in a file to an index that can be asked."""

    def set_effort(self, ef_search: int) -> None: ...

    def rows(self, form: str, queries: Float32Array) -> Int64Array:
        """int64 [n, 10]: the rows found for each query, best first, padded with -1."""

    def run(
        self, form: str, case: Case, queries: Float32Array, warm_up_s: float, window_s: float
    ) -> LoadReport: ...
