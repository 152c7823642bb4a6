"""The tables of docs/events.md: the events that the code writes, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.markdown import table
from cluster.logs.alerts import ALERTS

ROOT = Path(__file__).parents[2]
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class WrittenEvent:
    """A call of an `EventLog` for an event that is no alert."""

    name: str
    level: str
    sentence: str
    fields: frozenset[str]
    module: str


@dataclass(frozen=True, slots=True)
class WrittenAlert:
    """A call of an `EventLog` for an alert."""

    constant: str
    """Name of the alert in `cluster.logs.alerts`."""
    fields: frozenset[str]
    module: str


def written_alerts() -> list[WrittenAlert]:
    """All of them. Fails for a call whose alert is no constant."""
    return [alert for module, tree in _logging_modules() for alert in _alerts_of(module, tree)]


def written_events() -> list[WrittenEvent]:
    """All of them, by their names. Fails for a call whose name or sentence is no literal."""
    found = [event for module, tree in _logging_modules() for event in _events_of(module, tree)]
    return sorted(found, key=lambda event: event.name)


def events_tables() -> str:
    alerts = [(f"`{alert.name}`", alert.meaning, alert.to_do) for alert in ALERTS]
    # A module may write an event in several places.
    events = sorted(
        {(f"`{e.name}`", e.level, e.sentence, f"`{e.module}`") for e in written_events()}
    )
    return "\n\n".join(
        (
            "## Alerts",
            table(("alert", "meaning", "what to do"), alerts),
            "## Other events",
            table(("event", "level", "sentence", "module"), events),
        )
    )


@cache
def _logging_modules() -> Sequence[tuple[str, ast.Module]]:
    floors = ("cluster", "actors", "deployments")
    sources = ((p, p.read_text()) for floor in floors for p in (ROOT / floor).rglob("*.py"))
    return [
        (str(path.relative_to(ROOT)), ast.parse(source))
        for path, source in sources
        if " = EventLog(" in source
    ]


def _events_of(module: str, tree: ast.Module) -> Iterator[WrittenEvent]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Attribute(ast.Name("log"), level), args, keywords) if (
                level in _LEVELS
            ):
                where = f"{module}:{node.lineno}"
                match args:
                    case [ast.Constant(str(name)), ast.Constant(str(sentence))]:
                        fields = _given(keywords, where) - {"traceback_of"}
                        yield WrittenEvent(name, level, sentence, fields, module)
                    case _:
                        raise AssertionError(f"{where}: name and sentence must be literals")


def _alerts_of(module: str, tree: ast.Module) -> Iterator[WrittenAlert]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Attribute(ast.Name("log"), "alert"), args, keywords):
                where = f"{module}:{node.lineno}"
                match args:
                    case [ast.Name(constant)]:
                        yield WrittenAlert(constant, _given(keywords, where), module)
                    case _:
                        raise AssertionError(f"{where}: the alert must be a constant")


def _given(keywords: Sequence[ast.keyword], where: str) -> frozenset[str]:
    return frozenset(keyword.arg or where for keyword in keywords)
