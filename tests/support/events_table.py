"""The tables of docs/events.md: the events that the code writes, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
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


def written_events() -> list[WrittenEvent]:
    """All of them, by their names. Fails for a call whose name or sentence is no literal."""
    floors = ("cluster", "actors", "deployments")
    files = [path for floor in floors for path in (ROOT / floor).rglob("*.py")]
    found = [event for path in files for event in _events_of(path)]
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


def _events_of(path: Path) -> Iterator[WrittenEvent]:
    source = path.read_text()
    if " = EventLog(" not in source:
        return
    module = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(ast.Attribute(ast.Name("log"), level), args, keywords) if (
                level in _LEVELS
            ):
                where = f"{module}:{node.lineno}"
                match args:
                    case [ast.Constant(str(name)), ast.Constant(str(sentence))]:
                        fields = frozenset(k.arg or where for k in keywords) - {"traceback_of"}
                        yield WrittenEvent(name, level, sentence, fields, module)
                    case _:
                        raise AssertionError(f"{where}: name and sentence must be literals")
