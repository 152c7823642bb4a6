"""What must hold of documents. Independent of the code that is judged: objects are read as Arrow,
and documents are made of them by the one rule that the latest write counts, or that each one counts
which no other has seen.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tests.simulation.documents.history import DocumentHistory

Order = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One mutation, as the log has it."""

    region: str
    position: int
    document: str
    order: Order
    text: str | None
    key: str | None
    seen: tuple[Order, ...]
    """The latest write of each region that its writer had read."""

    @property
    def version(self) -> str:
        return version_of(self.order)


def version_of(order: Order) -> str:
    return f"{order[0]}.{order[1]}.{order[2]}"


def order_of(version: str) -> Order:
    wall_ms, counter, region = version.split(".", 2)
    return int(wall_ms), int(counter), region


def logs(history: DocumentHistory) -> dict[str, list[list[Row]]]:
    """By region, the rows of each object as it was created, in the order of creation. What was
    trimmed later has counted all the same.
    """
    found: dict[str, list[list[Row]]] = {region: [] for region in history.regions}
    created = set()
    for write in history.writes:
        if write.path not in created:
            created.add(write.path)
            _, _, region, name = write.path.split("/")
            found[region].append(_rows(write.data, region, int(name.removesuffix(".batch"))))
    return found


@functools.lru_cache(maxsize=1024)
def _rows(data: bytes, region: str, position: int) -> list[Row]:
    with pa.ipc.open_stream(data[64:]) as reader:
        rows: list[dict[str, Any]] = reader.read_all().to_pylist()
    return [
        Row(
            region,
            position,
            row["document"],
            (row["wall_ms"], row["counter"], region),
            row["text"],
            row["key"],
            tuple(order_of(version) for version in row["seen"]),
        )
        for row in rows
    ]


def all_rows(history: DocumentHistory) -> list[Row]:
    return [row for log in logs(history).values() for rows in log for row in rows]


def logs_are_consecutive_and_ascend(history: DocumentHistory) -> list[str]:
    problems = []
    for region, log in logs(history).items():
        positions = [rows[0].position for rows in log if rows]
        if positions != list(range(1, len(log) + 1)):
            problems.append(f"the log of {region} has the positions {positions}")
        orders = [row.order for rows in log for row in rows]
        if orders != sorted(set(orders)):
            problems.append(f"the times in the log of {region} do not ascend")
    return problems


def no_acknowledged_write_is_lost(history: DocumentHistory) -> list[str]:
    rows = {row.version: row for row in all_rows(history)}
    problems = []
    for asked in history.asked:
        if asked.outcome == "written":
            row = rows.get(asked.version)
            if row is None or (row.document, row.text) != (asked.document, asked.text):
                problems.append(f"write {asked.number} was told as {asked.version}, where {row} is")
            elif row.position > asked.position:
                problems.append(f"write {asked.number} is at {row.position}, not {asked.position}")
    return problems


def no_write_is_applied_twice(history: DocumentHistory) -> list[str]:
    rows = all_rows(history)
    texts = Counter(row.text for row in rows if row.text is not None)
    keys = Counter(row.key for row in rows if row.key is not None)
    return [f"{what} is {n} times in the logs" for what, n in (texts + keys).items() if n > 1]


def refused_writes_change_nothing(history: DocumentHistory) -> list[str]:
    texts = {row.text for row in all_rows(history)}
    return [
        f"write {asked.number} was refused ({asked.outcome}) and is in the log"
        for asked in history.asked
        if asked.outcome not in ("written", "unknown")
        and asked.attempts == 1
        and asked.text is not None
        and asked.text in texts
    ]


def equal_watermarks_are_equal_documents(history: DocumentHistory) -> list[str]:
    """And those that the logs come to."""
    rows = logs(history)
    expected: dict[tuple[tuple[str, int], ...], dict[str, tuple[str, ...]]] = {}
    digests: dict[tuple[tuple[str, int], ...], str] = {}
    problems = []
    for state in history.states:
        at = tuple(sorted(state.watermark.items()))
        if at not in expected:
            expected[at] = documents_at(
                rows, state.watermark, keeps_siblings=history.keeps_siblings
            )
        if state.documents != expected[at]:
            problems.append(f"{state.reader} has {state.documents} at {at}, not {expected[at]}")
        if digests.setdefault(at, state.digest) != state.digest:
            problems.append(f"{state.reader} has another digest at {at}")
    return problems


def documents_at(
    rows: dict[str, list[list[Row]]], watermark: dict[str, int], *, keeps_siblings: bool = False
) -> dict[str, tuple[str, ...]]:
    """The versions of each live document that the logs come to."""
    written: dict[str, list[Row]] = {}
    for region, position in watermark.items():
        for row in (row for of_object in rows[region][:position] for row in of_object):
            written.setdefault(row.document, []).append(row)
    kept = _unseen if keeps_siblings else _latest
    versions = {
        document: sorted(row.version for row in kept(of_document) if row.text is not None)
        for document, of_document in written.items()
    }
    return {document: tuple(live) for document, live in versions.items() if live}


def _latest(rows: list[Row]) -> list[Row]:
    return [max(rows, key=lambda row: row.order)]


def _unseen(rows: list[Row]) -> list[Row]:
    """Those that the writer of no other one had read."""
    seen: dict[str, Order] = {}
    for order in (order for row in rows for order in row.seen):
        seen[order[2]] = max(order, seen.get(order[2], order))
    return [row for row in rows if row.region not in seen or seen[row.region] < row.order]


def digests_are_those_of_the_documents(history: DocumentHistory) -> list[str]:
    return [
        f"{state.reader} has a wrong digest at {state.watermark}"
        for state in history.states
        if state.digest_from_scratch not in (None, state.digest)
    ]


def watermarks_never_go_back(history: DocumentHistory) -> list[str]:
    last: dict[str, dict[str, int]] = {}
    problems = []
    for state in history.states:
        before = last.get(state.reader, {})
        if any(state.watermark.get(region, 0) < position for region, position in before.items()):
            problems.append(f"{state.reader} went back from {before} to {state.watermark}")
        last[state.reader] = state.watermark
    return problems


def sessions_see_their_writes(history: DocumentHistory) -> list[str]:
    """Whoever reads at the position of a write finds it, or a later one of the document."""
    problems = []
    for read in history.reads:
        least, asked = order_of(read.asked.version), read.asked
        found = read.found or read.deleted
        if found is None:
            # A delete that is forgotten; nothing but a delete is.
            is_right = asked.text is None or _was_deleted(history, asked.document, least)
        else:
            is_right = order_of(found) >= least
        if not is_right:
            problems.append(f"write {asked.number} of {asked.document}: {read.found} was found")
    return problems


def _was_deleted(history: DocumentHistory, document: str, after: Order) -> bool:
    rows = all_rows(history)
    return any(r.document == document and r.text is None and r.order > after for r in rows)


def demanded_versions_were_there(history: DocumentHistory) -> list[str]:
    """Of two writes that demand one version in one region, one alone is written; and it counts as
    later than that version.
    """
    problems = []
    granted: dict[tuple[str, str, str], int] = {}
    for asked in history.asked:
        if asked.outcome != "written" or asked.demands in (None, "absent"):
            continue
        assert asked.demands is not None
        if order_of(asked.version) <= order_of(asked.demands):
            problems.append(f"write {asked.number} is older than the version that it replaces")
        use = (asked.region, asked.document, asked.demands)
        if use in granted:
            problems.append(f"writes {granted[use]} and {asked.number} replace the same version")
        granted[use] = asked.number
    return problems


def the_quiet_time_ends_well(history: DocumentHistory) -> list[str]:
    return history.failures
