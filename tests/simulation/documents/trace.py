"""A history of documents as lines that a person can read, in order of time."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.documents.history import Asked, DocumentHistory, Served


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
    for answer in history.answers:
        by = answer.error if answer.served is None else _served(answer.served)
        yield answer.asked_s, f"asked {answer.level}, having seen {answer.seen}: {by}"


def _served(served: Served) -> str:
    said = f"{served.watermark}, at most {served.staleness_ms} ms old"
    return f"{served.gateway} at {served.at_s:.3f}: {said}"


def _wish(asked: Asked) -> str:
    what = "delete" if asked.text is None else "upsert"
    demand = "" if asked.demands is None else f", if it is {asked.demands}"
    return f"{what} {asked.document}{demand}, {asked.key or 'no key'}"
