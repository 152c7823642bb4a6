"""Documents that change after an index of them was built, and indexes of them at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.index import ShardIndex
from cluster.deltas.changes import Changes, DocumentChange
from cluster.documents.passages import Passage, passage_ids, passage_table
from cluster.metadata import ColumnType
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content
from cluster.mutations.watermark import Watermark
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.metric import Metric

DIMENSION = 3
EMBEDDER = "embedder"
SCHEMA = {"region": ColumnType.STRING, "year": ColumnType.FLOAT}
NAMES = ("a", "a#1", "a#1#0", "b", "c")
"""Ids of documents, some of which look like those of passages."""
Documents = Mapping[str, Content]
Step = Mapping[str, Content | None]
"""What a version changes: None deletes the document."""


def content_of(
    vectors: Sequence[Sequence[float]],
    metadata: Mapping[str, str | float | None] | None = None,
    embedder: str | None = EMBEDDER,
) -> Content:
    """A document with a passage for each vector."""
    pieces = [f"passage {number} " for number in range(len(vectors))]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return Content(
        text="".join(pieces),
        metadata=metadata or {},
        cuts=tuple(zip([0, *ends[:-1]], ends, strict=True)) if vectors else (),
        vectors=np.array(vectors, dtype=np.float32) if vectors else None,
        embedder=embedder if vectors else None,
    )


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Of few different numbers, so that many scores tie; some have no passage at all."""
    number = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, 300.0])
    vector = st.lists(number, min_size=DIMENSION, max_size=DIMENSION)
    metadata = st.fixed_dictionaries(
        {},
        optional={
            "region": st.sampled_from(["x", "y", None]),
            "year": st.sampled_from([2000, 2000.5, 2001]),
        },
    )
    return content_of(draw(st.lists(vector, max_size=3)), draw(metadata))


def steps(*, least: int = 0) -> st.SearchStrategy[Step]:
    """Changes of at least so many documents, of which a fifth are deletes."""
    change = st.one_of(st.none(), *[contents()] * 4)
    return st.dictionaries(st.sampled_from(NAMES), change, min_size=least)


def after(documents: Documents, step: Step) -> Documents:
    return {id: content for id, content in {**documents, **step}.items() if content is not None}


def changes_of(
    step: Step, *, after: int, version: int, since: Mapping[str, int], epoch: str = "epoch"
) -> Changes:
    return Changes(
        epoch=epoch,
        after=after,
        version=version,
        watermark=Watermark.of({"r": version}),
        read_ms=version,
        changes=tuple(
            DocumentChange(
                document=document,
                time=HybridTime(version, 0, "r"),
                content=content,
                since=since.get(document, version),
            )
            for document, content in step.items()
        ),
    )


def flat_index(documents: Documents, metric: Metric, folder: Path) -> ShardIndex:
    """One Flat index of these documents, built as every other; there is at least one passage."""
    passages = [
        Passage(id=id, document=document, text=text, metadata=content.metadata, vector=vector)
        for document, content in documents.items()
        if content.vectors is not None
        for id, text, vector in zip(
            passage_ids(document, len(content.vectors)),
            content.passages,
            content.vectors,
            strict=True,
        )
    ]
    table = passage_table(passages, SCHEMA, None)
    vectors = np.array([passage.vector for passage in passages], dtype=np.float32)
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=metric)
    folder.mkdir(parents=True)
    build_shard(pa.table(table), vectors, ShardPlan(parameters), folder)
    return ShardIndex.open(folder, parameters, DIMENSION)
