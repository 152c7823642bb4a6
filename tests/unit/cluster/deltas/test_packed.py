"""Changes are the same on the other side of a process."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.deltas.changes import Changes, DocumentChange
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content
from cluster.mutations.watermark import Watermark
from tests.support.values.mutations import contents


def changes_of(*found: Content | None) -> Changes:
    return Changes(
        epoch="epoch",
        after=3,
        version=9,
        watermark=Watermark.of({"a": 4}),
        read_ms=17,
        changes=tuple(
            DocumentChange(
                document=f"d{n}", time=HybridTime(n, 2, "ab"[n % 2]), content=content, since=n + 1
            )
            for n, content in enumerate(found)
        ),
    )


@given(found=st.lists(st.none() | contents(), max_size=6))
def test_what_is_sent_arrives(found: list[Content | None]) -> None:
    sent = changes_of(*found)
    arrived = pickle.loads(pickle.dumps(sent))
    assert arrived == sent
    for one, other in zip(sent.changes, arrived.changes, strict=True):
        assert (one.content is None) == (other.content is None)
        if one.content is not None and other.content is not None:
            assert other.content.cuts == one.content.cuts
            assert other.content.embedder == one.content.embedder
            assert list(other.content.metadata) == list(one.content.metadata)


@pytest.mark.parametrize("pack", [pickle.dumps, lambda c: pickle.dumps(c, 5)])
def test_vectors_of_several_dimensions_stay_apart(pack: Callable[[Changes], bytes]) -> None:
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    other = np.full((1, 2), 9, dtype=np.float32)
    sent = changes_of(
        Content(text="ab", metadata={}, cuts=((0, 1), (1, 2)), vectors=one, embedder="e"),
        Content(text="", metadata={"n": None}, cuts=()),
        Content(text="x", metadata={}, cuts=((0, 1),), vectors=other),
    )
    vectors = [c.content.vectors for c in pickle.loads(pack(sent)).changes if c.content is not None]
    assert vectors[1] is None
    np.testing.assert_array_equal(vectors[0], one)
    np.testing.assert_array_equal(vectors[2], other)
