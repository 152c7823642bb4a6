"""What a region shows of a corpus, for tests that look at only a part of it."""

from __future__ import annotations

from cluster.serving.view import CorpusView
from cluster.vectors.metric import Metric


def corpus_view(name: str, *, has_embedder: bool = False) -> CorpusView:
    """A corpus of one passage, without shards."""
    return CorpusView(
        corpus=name,
        index_version="v",
        dimension=1,
        metric=Metric.INNER_PRODUCT,
        metadata_schema={},
        has_embedder=has_embedder,
        num_passages=1,
        recall_at_10=1.0,
        shards=(),
    )
