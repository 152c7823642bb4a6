"""How the processes of a region write their logs: to standard error, which Ray keeps in a file for
each process.

A process hands its own way on to the actors, tasks and replicas that it starts. The first one is
the command line, which writes no log itself.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from cluster.logs.context import name_region
from cluster.logs.flood import FloodFilter
from cluster.logs.formats import FORMATTERS
from cluster.logs.settings import LogFormat

P = ParamSpec("P")
T = TypeVar("T")
_FLOORS = ("cluster", "actors", "deployments")


@dataclass(frozen=True, slots=True)
class ProcessLogs:
    """The region and the format of a process's log."""

    region: str = ""
    format: LogFormat = LogFormat.TEXT

    def begin(self) -> None:
        """Has this process write its log so, with what other libraries log there."""
        self.hand_on()
        name_region(self.region)
        # In its replicas Serve puts something else in the place of `sys.stderr`, which loses lines.
        handler = logging.StreamHandler(sys.__stderr__)
        handler.setFormatter(FORMATTERS[self.format]())
        handler.addFilter(FloodFilter())
        logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
        for floor in _FLOORS:
            logging.getLogger(floor).setLevel(logging.INFO)

    def hand_on(self) -> None:
        """Has the processes that this one starts write their logs so."""
        global _handed_on
        _handed_on = self


_handed_on = ProcessLogs()


def handed_on() -> ProcessLogs:
    """The logs of the processes that this one starts."""
    return _handed_on


def logging_class(plain: type) -> type:
    """The class with a constructor that first begins the log, whenever Ray starts the actor."""
    logs = handed_on()

    def begin_and_construct(self: Any, *args: object) -> None:
        logs.begin()
        plain.__init__(self, *args)  # type: ignore[misc]

    members = {"__init__": begin_and_construct, "__module__": plain.__module__}
    return type(plain.__name__, (plain,), members)


def logging_function(plain: Callable[P, T]) -> Callable[P, T]:
    """The function, which first begins the log of the process that it runs in."""
    logs = handed_on()

    @functools.wraps(plain)
    def begin_and_run(*args: P.args, **kwargs: P.kwargs) -> T:
        logs.begin()
        return plain(*args, **kwargs)

    return begin_and_run
