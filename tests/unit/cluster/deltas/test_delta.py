"""One delta: which documents its searches see, in which order, and that views stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.deltas.delta import Delta, DeltaView
from cluster.deltas.space import Space
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.mutations.mutation import Content
from cluster.query.filters import parse_filter
from cluster.query.search import ShardQuery
from cluster.vectors.metric import Metric
from tests.support.values.changing_documents import (
    DIMENSION,
    EMBEDDER,
    SCHEMA,
    Step,
    changes_of,
    content_of,
)

SPACE = Space(EMBEDDER, DIMENSION)
ONE = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)


class Followed:
    """A delta that takes one version after the other."""

    def __init__(self, space: Space = SPACE, metric: Metric = Metric.INNER_PRODUCT) -> None:
        self.delta = Delta(space, metric)
        self.version = 0

    def take(self, step: Step) -> DeltaView:
        self.version += 1
        after = self.version - 1
        self.delta.take(changes_of(step, after=after, version=self.version, since={}))
        assert self.delta.view is not None
        return self.delta.view


def found(view: DeltaView, top_k: int = 10, condition: object = None) -> list[str]:
    filter = None if condition is None else parse_filter(condition)
    query = ShardQuery(corpus="c", index_version="v", vectors=ONE, top_k=top_k, filter=filter)
    hits = view.search(query, SCHEMA)
    assert hits.ids.shape == hits.rows.shape == hits.scores.shape == (1, top_k)
    return [id.decode() for id in hits.ids[0].tolist() if id]


def scored(score: float, embedder: str | None = EMBEDDER) -> Content:
    """A document of one passage, with this score for `ONE`."""
    return content_of([[score, 0, 0]], embedder=embedder)


@pytest.mark.parametrize("top_k", [1, 3, 39, 40, 50])
def test_rows_of_equal_scores_come_by_their_ids_whenever_they_were_written(top_k: int) -> None:
    followed = Followed()
    names = [f"{(number * 7) % 40:02}" for number in range(40)]
    for name in names:
        view = followed.take({name: scored(1.0)})
    assert found(view, top_k) == sorted(names)[:top_k]


def test_later_changes_leave_a_view_as_it_is() -> None:
    """Arrays grow meanwhile, and rows that do not count any more are left behind."""
    followed = Followed()
    kept = [(followed.take({"a": scored(1.0), "b": scored(2.0)}), ["b", "a"])]
    for number in range(3000):
        name = f"{number % 3}"
        view = followed.take({name: scored(3.0 + number), "a": None if number else scored(2.5)})
        if number % 500 == 0:
            kept.append((view, found(view)))
    assert len(followed.delta.view.rows) < 2100  # type: ignore[union-attr]
    for view, names in kept:
        assert found(view) == names
        assert found(view, condition={"region": None}) == names


def test_searches_do_not_see_what_another_embedder_made() -> None:
    followed = Followed()
    view = followed.take({"a": scored(1.0, "other"), "b": scored(1.0)})
    assert (found(view), view.num_documents) == (["b"], 1)
    view = followed.take({"b": scored(1.0, "other"), "a": scored(1.0)})
    assert (found(view), view.num_documents) == (["a"], 1)
    longer = Content(text="", metadata={}, cuts=((0, 0),), vectors=np.ones((1, 4), np.float32))
    assert found(followed.take({"a": longer})) == []


@pytest.mark.parametrize("gone", [None, content_of([])])
def test_a_document_that_has_no_passage_any_more_counts_in_every_space(
    gone: Content | None,
) -> None:
    view = Followed().take({"a": gone})
    assert (found(view), view.num_documents) == ([], 1)


def test_a_document_that_is_not_embedded_yet_is_as_the_base_has_it() -> None:
    waiting = Content(text="text", metadata={}, cuts=((0, 4),))
    view = Followed().take({"a": waiting})
    assert (found(view), view.num_documents) == ([], 0)


def test_everything_anew_replaces_what_was_known() -> None:
    followed = Followed()
    followed.take({"a": scored(1.0)})
    delta = followed.delta
    delta.take(changes_of({"b": scored(1.0)}, after=0, version=1, since={}, epoch="next"))
    view = delta.view
    assert view is not None
    assert (found(view), view.epoch, view.version) == (["b"], "next", 1)


@pytest.mark.parametrize(("after", "epoch"), [(2, "epoch"), (1, "other")])
def test_changes_that_do_not_follow_are_refused(after: int, epoch: str) -> None:
    followed = Followed()
    followed.take({"a": scored(1.0)})
    with pytest.raises(ValueError, match="do not follow"):
        followed.delta.take(changes_of({}, after=after, version=3, since={}, epoch=epoch))


def test_a_document_that_brings_its_vector_keeps_its_id() -> None:
    followed = Followed(Space(None, DIMENSION))
    assert found(followed.take({"a#1": scored(1.0, embedder=None)})) == ["a#1"]


def test_fields_that_the_base_does_not_have_are_found_and_told() -> None:
    followed = Followed()
    view = followed.take(
        {
            "a": content_of([[1, 0, 0]], {"colour": "red", "year": 2000}),
            "b": content_of([[1, 0, 0]], {"size": 3}),
        }
    )
    new = {"colour": ColumnType.STRING, "size": ColumnType.INT, "year": ColumnType.INT}
    assert view.types == new
    assert found(view, condition={"colour": "red"}) == ["a"]
    assert found(view, condition={"size": {"gt": 2}}) == ["b"]
    told = view.passages(np.array([0, 1]), None, SCHEMA)
    assert told.metadata == (
        {"colour": "red", "region": None, "size": None, "year": 2000.0},
        {"colour": None, "region": None, "size": 3, "year": None},
    )
    with pytest.raises(InvalidArgument, match="no metadata field"):
        found(view, condition={"weight": 1})
    with pytest.raises(InvalidArgument, match="no metadata field"):
        view.passages(np.array([0]), ("weight",), SCHEMA)
    view = followed.take({"a": None, "b": content_of([[1, 0, 0]], {"size": 2.5})})
    assert view.types == {"size": ColumnType.FLOAT}


def test_a_value_that_is_not_of_its_fields_type_is_null() -> None:
    followed = Followed()
    view = followed.take({"a": content_of([[1, 0, 0]], {"region": 5})})
    assert found(view, condition={"region": None}) == ["a"]
    assert view.passages(np.array([0]), ("region",), SCHEMA).metadata == ({"region": None},)


def test_texts_end_where_a_reply_would_be_too_long() -> None:
    view = Followed().take({"a": content_of([[1, 0, 0]] * 3, {"region": "é"})})
    rows, types = np.arange(3), {"region": ColumnType.STRING}
    for bytes_max, count in ((11, 0), (12, 1), (35, 2), (36, 3)):
        told = view.rows.passages(rows, types, bytes_max=bytes_max)
        assert told.texts == ("passage 0 ", "passage 1 ", "passage 2 ")[:count]
        assert len(told.metadata) == count
