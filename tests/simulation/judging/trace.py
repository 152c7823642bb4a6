"""A history as lines that a person can read, in order of time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.simulation.judging.history import History, Reply

_LEFT_OUT = ("kind", "epoch", "commit_id", "at_ms", "release", "prepare_by_ms")


def lines(history: History) -> list[str]:
    told = sorted(_events(history), key=lambda event: event[0])
    return [f"{at_s:8.3f}  {what}" for at_s, what in told]


def _events(history: History) -> Iterator[tuple[float, str]]:
    yield from history.accidents
    for write in history.writes:
        position = int(write.path.rpartition("/")[2].removesuffix(".json"))
        yield write.at_s, f"LOG {position} by {write.writer}: {_entry(json.loads(write.data))}"
    for request in history.requests:
        yield request.at_s, f"{request.kind} is asked for in {request.region}: {request.outcome}"
    for at_s, region, release in history.prepared:
        yield at_s, f"{region} has prepared release {release}"
    for at_s, region, release in history.given_up:
        yield at_s, f"{region} gives release {release} up"
    for at_s, incarnation, release in history.faults:
        yield at_s, f"{incarnation} finds a fault in release {release}"
    for hop in history.hops:
        if hop.chain:
            chain = " -> ".join(hop.chain)
            yield hop.at_s, f"query {hop.query_id} arrives in {hop.region}, by way of {chain}"
    for reply in history.replies:
        yield reply.query.asked_s, f"query {reply.query.query_id} {_asked(reply)}"
        yield reply.at_s, f"query {reply.query.query_id} {_told(reply)}"
    last: dict[str, tuple[int, bool, int | None]] = {}
    for seen in history.observations:
        now = (seen.position, seen.leads, seen.current)
        if last.get(seen.incarnation) != now:
            last[seen.incarnation] = now
            leads = ", leads" if seen.leads else ""
            yield (
                seen.at_s,
                f"{seen.incarnation} has read {seen.position}, current {seen.current}{leads}",
            )
    if history.quiet_from_s:
        yield history.quiet_from_s, "all is quiet and has settled"


def _entry(entry: dict[str, Any]) -> str:
    release = entry.get("release")
    number = release["number"] if isinstance(release, dict) else release
    rest = {name: value for name, value in entry.items() if name not in _LEFT_OUT}
    what = entry["kind"] if number is None else f"{entry['kind']} release {number}"
    return f"{what} (epoch {entry['epoch']}) {rest}"


def _asked(reply: Reply) -> str:
    query = reply.query
    details = [f"asks {query.region} for {'an answer' if query.answer else 'hits'}, {query.level}"]
    if query.release is not None:
        details.append(f"release {query.release}")
    if query.token_position is not None:
        details.append(f"not before {query.token_position}")
    if query.max_staleness_ms is not None:
        details.append(f"at most {query.max_staleness_ms} ms old")
    return ", ".join([*details, f"within {query.timeout_s} s"])


def _told(reply: Reply) -> str:
    serving = reply.serving
    if serving is None:
        return f"gets {reply.error}: {reply.reason}"
    return (
        f"gets release {serving.release} at {serving.position} by {serving.region}, "
        f"at most {serving.staleness_ms} ms old"
    )
