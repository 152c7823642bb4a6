"""A history of documents as lines that a person can read, in order of time."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.documents.history import Asked, DocumentHistory


def document_lines(history: DocumentHistory) -> list[str]:
    told = sorted(_events(history), key=lambda event: event[0])
    return [f"{at_s:8.3f}  {what}" for at_s, what in told]


def _events(history: DocumentHistory) -> Iterator[tuple[float, str]]:
    yield from history.accidents
    for write in history.writes:
        yield write.at_s, f"{write.path} by {write.writer}, {len(write.data)} bytes"
    for asked in history.asked:
        yield asked.at_s, f"write {asked.number} in {asked.region}: {_wish(asked)}"
        if asked.told_s is not None:
            yield asked.told_s, f"write {asked.number} is {asked.outcome} {asked.version}"
    for state in history.states:
        yield state.at_s, f"{state.reader} has read {state.watermark}: {state.documents}"
    for read in history.reads:
        looked = f"write {read.asked.number} is looked for in {read.region}"
        yield read.at_s, f"{looked}, {read.found} is found"


def _wish(asked: Asked) -> str:
    what = "delete" if asked.text is None else "upsert"
    demand = "" if asked.demands is None else f", if it is {asked.demands}"
    return f"{what} {asked.document}{demand}, {asked.key or 'no key'}"
