"""What is known wherever something happens: the region, the release and the trace id.

The region is bound once for the process; the other two for a request, or for a step of a rollout.
Tasks, and threads by `asyncio.to_thread`, inherit what is bound; other threads begin with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType

Value = str | int | float | bool | None
CONTEXT = ("region", "release", "trace_id")

_NOTHING: Mapping[str, str | int] = MappingProxyType({})
_bound: ContextVar[Mapping[str, str | int]] = ContextVar("bound", default=_NOTHING)
_region = ""


def name_region(region: str) -> None:
    """Binds the region of this process."""
    global _region
    _region = region


def bind(*, release: int) -> None:
    """Binds the release until the scope around it ends, or else the task."""
    _bound.set({**_bound.get(), "release": release})


class log_scope:
    """A block of code that has this trace id and this release, or none, whatever is bound around
    it. What is bound within goes with the block.
    """

    __slots__ = ("_context", "_token")

    def __init__(self, *, trace_id: str = "", release: int | None = None) -> None:
        self._context: dict[str, str | int] = {}
        if trace_id:
            self._context["trace_id"] = trace_id
        if release is not None:
            self._context["release"] = release

    def __enter__(self) -> None:
        self._token: Token[Mapping[str, str | int]] = _bound.set(self._context)

    def __exit__(self, *_: object) -> None:
        _bound.reset(self._token)


def bound_context() -> dict[str, Value]:
    """What is bound here, of `region`, `release` and `trace_id`."""
    known: dict[str, Value] = {"region": _region} if _region else {}
    return known | dict(_bound.get())
