"""The logs of mutations become the next position of a corpus, whatever else happens to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import CorpusManifest
from cluster.corpora.compaction import compact_corpus, unfolded
from cluster.documents.deletes import drop_corpus
from cluster.errors import InvalidArgument, NotFound
from cluster.metadata import ColumnType, Metadata
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore
from tests.support.deadly_store import DeadlyStore, Died
from tests.support.fakes import SimClock
from tests.support.values.mutations import CORPUS
from tests.support.worlds.live_corpus import (
    LAST_WRITER,
    append,
    compact,
    delete,
    documents_of,
    empty_store,
    ingest,
    live,
    log_of,
    rows_of,
)


def test_what_was_written_live_is_in_the_corpus_and_nothing_else_has_changed() -> None:
    store = empty_store()
    first = ingest(store, {"a": 1, "b": 1, "c": 1})
    append(store, live("a", 2, 10), live("x", 1, 11))
    append(store, live("b", None, 12), live("never", None, 13))
    append(store, live("x", 2, 12, region="b"))
    assert unfolded(Catalog(store), log_of(store), CORPUS) == 3
    done = compact(store)
    assert documents_of(store) == {"a": 2, "c": 1, "x": 2}
    changes = done.documents
    assert (changes.new, changes.replaced, changes.removed, changes.unchanged) == (1, 1, 1, 0)
    manifest = done.manifest
    assert (manifest.position, manifest.watermark) == (2, Watermark.of({"a": 2, "b": 1}))
    assert (manifest.sources, manifest.metadata_schema) == (first.sources, first.metadata_schema)
    assert unfolded(Catalog(store), log_of(store), CORPUS) == 0


def test_twice_is_once() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 2, 10))
    done = compact(store)
    again = compact(store)
    assert again.manifest == done.manifest
    assert not again.documents


def test_what_changes_nothing_keeps_the_content_and_moves_the_watermark() -> None:
    store = empty_store()
    first = ingest(store, {"a": 1, "b": 1})
    append(store, live("a", 1, 10))
    append(store, live("new", 1, 11), live("new", None, 12))
    done = compact(store)
    assert (done.documents.unchanged, bool(done.documents)) == (1, False)
    assert done.manifest.content() == first.content(), "so that its index fits"
    assert done.manifest.watermark == Watermark.of({"a": 2})


def test_an_older_write_that_comes_later_still_loses() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 9, 100))
    compact(store)
    append(store, live("a", 5, 50, region="b"))
    done = compact(store)
    assert documents_of(store) == {"a": 9}
    assert done.manifest.watermark == Watermark.of({"a": 1, "b": 1})


def test_what_the_corpus_holds_is_not_read_again() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 9, 100), live("b", 1, 101))
    compact(store)
    trim(store)
    append(store, live("a", 5, 50, region="b"))
    append(store, live("b", 2, 102))
    manifest = compact(store).manifest
    assert documents_of(store) == {"a": 9, "b": 2}
    assert b"a 9" not in b"".join(Artifacts(store).read_bytes(file) for file in manifest.spans)


def trim(store: ObjectStore) -> None:
    """Takes away what the corpus holds of the logs."""
    watermark = Catalog(store).existing_corpus(CORPUS).watermark
    for region in watermark:
        log_of(store).trim(region, watermark[region])


def test_a_file_that_was_ingested_after_the_compaction_stays() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 2, 10))
    compact(store)
    ingest(store, {"a": 3})
    append(store, live("b", 1, 11))
    compact(store)
    assert documents_of(store) == {"a": 3, "b": 1}
    delete(store, "b")
    compact(store)
    assert documents_of(store) == {"a": 3}


def test_the_current_one_of_several_versions_goes_in_and_the_conflict_is_told() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 2, 10))
    append(store, live("a", 3, 11, region="b"))
    done = compact(store, ConflictPolicy.MANUAL)
    assert documents_of(store) == {"a": 3}
    assert (done.conflicts, done.conflict_examples) == (1, ("a",))
    seen = (HybridTime(10, 0, "a"), HybridTime(11, 0, "b"))
    append(store, live("a", 4, 12, seen=seen))
    done = compact(store, ConflictPolicy.MANUAL)
    assert (documents_of(store), done.conflicts) == ({"a": 4}, 0)


# Metadata and vectors.


def with_metadata(document: str, wall_ms: int, metadata: Metadata) -> Mutation:
    content = Content(text=document, metadata=metadata)
    return Mutation(document=document, time=HybridTime(wall_ms, 0, "a"), content=content)


def test_a_new_field_is_null_in_the_documents_of_before() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, with_metadata("b", 10, {"n": 2.0, "state": "open", "score": 1}))
    append(store, with_metadata("c", 11, {"score": 0.5}))
    manifest = compact(store).manifest
    expected = {"n": ColumnType.INT, "score": ColumnType.FLOAT, "state": ColumnType.STRING}
    assert manifest.metadata_schema == expected
    rows = {row["document"]: row for row in rows_of(store)}
    assert [rows[d]["meta.state"] for d in "abc"] == [None, "open", None]
    assert [rows[d]["meta.score"] for d in "abc"] == [None, 1.0, 0.5]
    assert [rows[d]["meta.n"] for d in "abc"] == [1, 2, None]


def test_a_clash_of_types_is_refused_by_name_and_nothing_has_changed() -> None:
    store = empty_store()
    before = ingest(store, {"a": 1})
    append(store, with_metadata("T-1", 10, {"n": "many"}), live("b", 1, 11))
    with pytest.raises(InvalidArgument, match=r"metadata\.n: the live document 'T-1' .* anew or"):
        compact(store)
    assert Catalog(store).latest_corpus(CORPUS) == before
    append(store, live("T-1", None, 12))
    compact(store)
    assert documents_of(store) == {"a": 1, "b": 1}


def test_documents_keep_the_vectors_that_they_brought() -> None:
    store = empty_store()
    ingest(store, {"a": 1}, dimension=2)
    vector = np.array([[0.25, -3.5]], dtype=np.float32)
    content = Content(text="", metadata={}, cuts=((0, 0),), vectors=vector)
    append(store, Mutation(document="b", time=HybridTime(9, 0, "a"), content=content))
    compact(store)
    assert {row["document"]: row["vector"] for row in rows_of(store)}["b"] == [0.25, -3.5]
    append(store, live("c", 1, 10))
    with pytest.raises(InvalidArgument, match=r"vector: the live document 'c' must bring one"):
        compact(store)


# Others change the corpus meanwhile.


def drop(store: ObjectStore) -> None:
    drop_corpus(catalog=Catalog(store), corpus=CORPUS, log=log_of(store), clock=SimClock())


def test_there_is_nothing_to_compact_into_without_a_corpus() -> None:
    store = empty_store()
    append(store, live("a", 1, 10))
    with pytest.raises(NotFound, match="raygion ingest"):
        compact(store)
    ingest(store, {"b": 1})
    drop(store)
    with pytest.raises(NotFound):
        compact(store)


def test_what_was_written_live_is_dropped_with_its_corpus() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 2, 10), live("b", 1, 11))
    append(store, live("b", 3, 11, region="b"))
    compact(store)
    trim(store)
    append(store, live("b", 4, 12, region="b"))
    drop(store)
    append(store, live("c", 1, 13))
    ingest(store, {"a": 3})
    assert unfolded(Catalog(store), log_of(store), CORPUS) == 1
    compact(store)
    assert documents_of(store) == {"a": 3, "c": 1}, "what came after the drop counts"


@dataclass
class Racing(Catalog):
    """Others act between the decision and the append, as often as there are acts left."""

    store: ObjectStore
    acts: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.store)

    def append_corpus(self, manifest: CorpusManifest) -> None:
        if self.acts:
            self.acts.pop(0)()
        super().append_corpus(manifest)


def test_two_at_once_and_an_ingest_between_lose_nothing() -> None:
    store = empty_store()
    ingest(store, {"a": 1})
    append(store, live("a", 2, 10), live("b", 1, 11))
    racing = Racing(store, [lambda: ingest(store, {"c": 1, "b": 7}), lambda: compact(store)])
    done = compact_corpus(
        catalog=racing,
        artifacts=Artifacts(store),
        log=log_of(store),
        corpus=CORPUS,
        policy=LAST_WRITER,
        clock=SimClock(2000.0),
    )
    # Ingest, then the other compaction: for this one nothing is left to do.
    assert (done.manifest.position, bool(done.documents)) == (3, False)
    assert documents_of(store) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize("has_effect", [False, True])
def test_a_compaction_may_die_anywhere(has_effect: bool) -> None:
    def prepared() -> ObjectStore:
        store = empty_store()
        ingest(store, {"a": 1, "b": 1})
        append(store, live("a", 2, 10), live("c", 1, 11))
        append(store, live("b", None, 12))
        return store

    old, new = {"a": 1, "b": 1}, {"a": 2, "c": 1}
    undisturbed = DeadlyStore(prepared(), None, has_effect=True)
    finished = compact(undisturbed).manifest
    outcomes = set()
    for at in range(1, undisturbed.operations + 1):
        store = prepared()
        with pytest.raises(Died):
            compact(DeadlyStore(store, at, has_effect=has_effect))
        found = documents_of(store)
        assert found in (old, new), f"died at {at}"
        outcomes.add(len(Catalog(store).existing_corpus(CORPUS).watermark.as_dict()))
        assert compact(store).manifest == finished, f"died at {at}"
        assert documents_of(store) == new
    assert outcomes == ({0, 1} if has_effect else {0})


# Any order.

IDS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            IDS,
            st.none() | st.integers(0, 9),
            st.sampled_from(["a", "b"]),
            st.integers(-30, 0),
        ),
        st.tuples(st.just("ingest"), st.sets(IDS, min_size=1), st.integers(10, 19)),
        st.tuples(st.just("delete"), st.sets(IDS, min_size=1)),
        st.tuples(st.just("compact")),
    ),
    max_size=14,
)


@dataclass
class Model:
    """A corpus, and the latest write of each document with what the corpus has of it."""

    corpus: dict[str, int]
    latest: dict[str, tuple[HybridTime, int | None]] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)

    def write(self, document: str, n: int | None, time: HybridTime) -> None:
        if document not in self.latest or time > self.latest[document][0]:
            self.latest[document] = (time, n)
            self.pending.add(document)

    def compact(self) -> None:
        for document in self.pending:
            _, n = self.latest[document]
            self.corpus.pop(document, None)
            if n is not None:
                self.corpus[document] = n
        self.pending.clear()


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_a_compaction_changes_no_document(steps: Sequence[tuple[Any, ...]]) -> None:
    store = empty_store()
    ingest(store, {"a": 0, "z": 0})
    model = Model({"a": 0, "z": 0})
    last = {"a": 0, "b": 0}
    for now, step in enumerate([*steps, ("compact",)], start=1):
        match step:
            case ("write", document, n, region, skew):
                # The regions' clocks differ, so that an older write may come later.
                last[region] = max(last[region] + 1, 10 * now + skew)
                mutation = live(document, n, last[region], region)
                append(store, mutation)
                model.write(document, n, mutation.time)
            case ("ingest", ids, n):
                ingest(store, dict.fromkeys(sorted(ids), n))
                model.corpus |= dict.fromkeys(ids, n)
            case ("delete", ids):
                delete(store, *ids)
                model.corpus = {d: n for d, n in model.corpus.items() if d not in ids}
            case ("compact",):
                done = compact(store)
                model.compact()
                trim(store)
                assert done.manifest.watermark == log_of(store).head()
        assert documents_of(store) == model.corpus
