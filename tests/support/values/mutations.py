"""Mutations for tests: drawn ones, and plain ones by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from cluster.mutations.batch import Batch
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Cut, Mutation

CORPUS = "tickets"
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    text = draw(st.text(max_size=12))
    limits = st.integers(0, len(text))
    cut = st.tuples(limits, limits).map(lambda pair: (min(pair), max(pair)))
    cuts: list[Cut] | None = draw(st.none() | st.lists(cut, max_size=3))
    vectors = None
    if cuts and draw(st.booleans()):
        numbers = st.floats(-1e6, 1e6, width=32)
        d = draw(st.integers(1, 3))
        rows = st.lists(numbers, min_size=d, max_size=d)
        drawn = draw(st.lists(rows, min_size=len(cuts), max_size=len(cuts)))
        vectors = np.array(drawn, dtype=np.float32)
    return Content(
        text=text,
        metadata=draw(st.dictionaries(st.text("abc", min_size=1, max_size=3), _VALUES, max_size=3)),
        cuts=None if cuts is None else tuple(cuts),
        vectors=vectors,
        embedder=draw(st.none() | st.just("embedder")),
    )


def text_content(text: str) -> Content:
    """A document without metadata that is one passage, with a vector of its length."""
    vector = np.array([[len(text), 1.0]], dtype=np.float32)
    return Content(text=text, metadata={}, cuts=((0, len(text)),), vectors=vector)


def upsert(document: str, wall_ms: int, region: str = "a", text: str = "text") -> Mutation:
    return Mutation(
        document=document, time=HybridTime(wall_ms, 0, region), content=text_content(text)
    )


def delete(document: str, wall_ms: int, region: str = "a") -> Mutation:
    return Mutation(document=document, time=HybridTime(wall_ms, 0, region), content=None)


def batch(position: int, *mutations: Mutation, region: str = "a", corpus: str = CORPUS) -> Batch:
    """The batch of one object of the log."""
    return Batch(corpus=corpus, region=region, first=position, last=position, mutations=mutations)
