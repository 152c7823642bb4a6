"""Histories of several regions that write the same documents: what each had read is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions, merged, seen_of
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation
from tests.support.values.mutations import batch, text_content

REGIONS = "abc"
DOCUMENTS = ("x", "y")


@dataclass
class _Writer:
    region: str
    versions: dict[str, Versions] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    wall_ms: int = 0


@st.composite
def histories(draw: st.DrawFn, policy: ConflictPolicy) -> dict[str, list[Batch]]:
    """Logs by region. Each writer reads some of the others' logs, in their order, and then writes
    with knowledge of that; its clock is later than what it has read, and else as drawn.
    """
    logs: dict[str, list[Batch]] = {region: [] for region in REGIONS}
    writers = {region: _Writer(region) for region in REGIONS}
    for _ in range(draw(st.integers(0, 14))):
        writer = writers[draw(st.sampled_from(REGIONS))]
        for other in draw(st.lists(st.sampled_from(REGIONS), max_size=2)):
            _read(policy, writer, logs[other])
        _read(policy, writer, logs[writer.region])
        mutations = []
        for _ in range(draw(st.integers(0, 2))):
            writer.wall_ms += draw(st.integers(1, 5))
            mutation = _mutation(draw, policy, writer)
            mutations.append(mutation)
            _take(policy, writer, mutation)
        log = logs[writer.region]
        log.append(batch(len(log) + 1, *mutations, region=writer.region))
    return logs


def _mutation(draw: st.DrawFn, policy: ConflictPolicy, writer: _Writer) -> Mutation:
    document = draw(st.sampled_from(DOCUMENTS))
    text = draw(st.none() | st.sampled_from(["one", "two", "three"]))
    known = writer.versions.get(document, ())
    return Mutation(
        document=document,
        time=HybridTime(writer.wall_ms, 0, writer.region),
        content=None if text is None else text_content(text),
        timestamp_ms=draw(st.none() | st.integers(0, 20)),
        seen=seen_of(known) if policy.keeps_siblings else (),
    )


def _read(policy: ConflictPolicy, writer: _Writer, log: list[Batch]) -> None:
    for each in log[writer.read.get(log[0].region, 0) :] if log else ():
        writer.read[each.region] = each.last
        for mutation in each.mutations:
            _take(policy, writer, mutation)


def _take(policy: ConflictPolicy, writer: _Writer, mutation: Mutation) -> None:
    known = writer.versions.get(mutation.document, ())
    writer.versions[mutation.document] = merged(policy, known, mutation)
    writer.wall_ms = max(writer.wall_ms, mutation.time.wall_ms)
