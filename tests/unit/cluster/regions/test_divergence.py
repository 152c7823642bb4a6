"""What regions are asked, which answers count, what differs and for how long that stands."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.generation.prompt import PromptTemplate
from cluster.query.search import Hit, MergedHits, SearchRequest, SearchResult
from cluster.regions.divergence import (
    STANDING_MAX,
    VECTORS,
    DivergenceLedger,
    FoundDifference,
    Inquiry,
    Probe,
    RegionComparison,
    compared,
    drawn_vectors,
    inquiries_of,
)
from cluster.regions.divergence_report import Difference, ProbeVerdict
from cluster.regions.quorum import vote_of
from cluster.serving.view import CorpusView, ReleaseView
from cluster.vectors.checks import NORM_MAX, norms
from cluster.vectors.metric import Metric
from tests.support.fakes import SimClock, provenance_of

RELEASE = 7
EVERY_S = 60.0


def corpus(name: str = "tea", **changed: Any) -> CorpusView:
    view = CorpusView(
        corpus=name,
        index_version="1",
        dimension=5,
        metric=Metric.COSINE,
        metadata_schema={},
        has_embedder=False,
        num_passages=9,
        recall_at_10=1.0,
        shards=(("r",),),
    )
    return replace(view, **changed)


def release_of(*corpora: CorpusView) -> ReleaseView:
    return ReleaseView(
        number=RELEASE,
        corpora={view.corpus: view for view in corpora},
        embedders=(),
        generator=None,
        prompt=PromptTemplate(),
    )


def hit(id: str = "a", score: float = 0.1, text: str = "tea") -> Hit:
    return Hit(id=id, score=float(np.float32(score)), text=text, metadata={})


def answer(*results: tuple[Hit, ...], release: int = RELEASE) -> SearchResult:
    return SearchResult(results=results, provenance=provenance_of(release=release), took_ms=1.0)


def arrays(ids: list[list[bytes]]) -> SearchResult:
    given = np.array(ids)
    scores = np.where(given == b"", np.float32(-np.inf), np.float32(0.5)).astype(np.float32)
    rows = np.where(given == b"", -1, 0)
    merged = MergedHits(scores=scores, rows=rows, ids=given, shards=rows.astype(np.int32))
    return replace(answer(), arrays=merged)


VECTORS_ASKED = SearchRequest(corpus="tea", vectors=np.eye(3, 5, dtype=np.float32), release=RELEASE)
INQUIRY = Inquiry(name="vector", corpus="tea", request=VECTORS_ASKED)
SAME = answer((hit("a"), hit("b")), (hit("c"),), ())


# What is asked.


def test_each_corpus_is_asked_vectors_and_texts_where_it_has_an_embedder() -> None:
    release = release_of(corpus("tea"), corpus("coffee", has_embedder=True))
    asked = inquiries_of(release, 3, ("Who grows tea?", "Who drinks it?"), ())
    assert [(i.corpus, i.name) for i in asked] == [
        ("coffee", "vector of probe 3"),
        ("coffee", "text of the settings"),
        ("tea", "vector of probe 3"),
    ]
    assert all(i.request.release == RELEASE and i.request.corpus == i.corpus for i in asked)
    # Live documents come to regions at different moments.
    assert {i.request.documents for i in asked} == {"base"}
    assert asked[1].request.queries == ("Who grows tea?", "Who drinks it?")
    assert inquiries_of(release, 3, (), ())[1].corpus == "tea"


def test_what_differed_is_asked_again_while_its_release_is_current() -> None:
    again = replace(INQUIRY, again=True)
    old = replace(again, request=replace(VECTORS_ASKED, release=RELEASE - 1))
    assert inquiries_of(release_of(), 1, (), (again, old)) == [again]


@given(
    dimension=st.integers(1, 64),
    metric=st.sampled_from(Metric),
    release=st.integers(1, 10**9),
    turn=st.integers(1, 10**9),
)
def test_vectors_are_of_the_index_and_the_same_again(
    dimension: int, metric: Metric, release: int, turn: int
) -> None:
    view = corpus(dimension=dimension, metric=metric)
    drawn = drawn_vectors(view, release, turn)
    assert (drawn.shape, drawn.dtype) == ((VECTORS, dimension), np.float32)
    lengths = norms(drawn)
    assert np.isfinite(lengths).all()
    assert (lengths > 0).all()
    assert (lengths < NORM_MAX).all()
    if metric is Metric.COSINE:
        assert np.allclose(lengths, 1.0, atol=1e-6)
    assert drawn.tobytes() == drawn_vectors(view, release, turn).tobytes()
    for other in (
        drawn_vectors(view, release + 1, turn),
        drawn_vectors(view, release, turn + 1),
        drawn_vectors(replace(view, corpus="coffee"), release, turn),
    ):
        # In one dimension there are only two directions.
        assert dimension == 1 or drawn.tobytes() != other.tobytes()


# What the answers say.


LAST_BIT = float(np.nextafter(np.float32(0.1), np.float32(1)))


@pytest.mark.parametrize(
    ("answers", "differs"),
    [
        ({}, None),
        ({"a": SAME}, None),
        ({"a": SAME, "b": SAME, "c": SAME}, None),
        ({"a": SAME, "b": replace(SAME.received_by("b"), took_ms=9.0)}, None),
        ({"a": SAME, "b": answer((hit("b"), hit("a")), (hit("c"),), ())}, 0),
        ({"a": SAME, "b": answer((hit("a"), hit("b", LAST_BIT)), (hit("c"),), ())}, 0),
        ({"a": SAME, "b": answer(SAME.results[0], (hit("c", text="te"),), ())}, 1),
        ({"a": SAME, "b": answer(*SAME.results[:2], (hit(),))}, 2),
        ({"a": SAME, "b": answer(*SAME.results[:2])}, 2),
        ({"a": SAME, "b": replace(SAME, provenance=provenance_of(release=8))}, 0),
        (
            {"a": arrays([[b"a", b"b"], [b"c", b""]]), "b": arrays([[b"a", b"b"], [b"c", b""]])},
            None,
        ),
        # Padding is no answer.
        (
            {"a": arrays([[b"a", b"b"], [b"", b""]]), "b": arrays([[b"a", b"b", b""], [b""] * 3])},
            None,
        ),
        ({"a": arrays([[b"a", b"b"], [b"c", b""]]), "b": arrays([[b"a", b"b"]])}, 1),
    ],
)
def test_the_first_difference_is_named(
    answers: Mapping[str, SearchResult], differs: int | None
) -> None:
    comparison = compared(INQUIRY, answers)
    assert comparison.regions == answers.keys()
    if differs is None:
        assert comparison.found is None
        return
    assert comparison.found is not None
    difference, again = comparison.found.difference, comparison.found.again
    assert (difference.corpus, difference.release) == ("tea", RELEASE)
    assert difference.question == f"vector [{differs}]"
    assert sorted(difference.answers.values()) == [("a",), ("b",)]
    assert again is not None
    assert again.request.vectors is not None
    assert again.request.vectors.tolist() == [np.eye(3, 5)[differs].tolist()]
    assert (again.name, again.again, again.release) == (difference.question, True, RELEASE)


def test_those_who_say_the_same_are_told_together() -> None:
    other = answer((hit("z"),), (hit("c"),), ())
    found = compared(INQUIRY, {"c": SAME, "a": SAME, "b": other}).found
    assert found is not None
    assert sorted(found.difference.answers.values()) == [("a", "c"), ("b",)]
    told = str(found.difference)
    assert "release 7" in told
    assert "'tea', vector [0]" in told
    assert "a, c (" in told


@pytest.mark.parametrize(
    ("request_", "again"),
    [
        (SearchRequest(queries=("x", "y", "z"), release=RELEASE), ("y",)),
        (SearchRequest(vectors=np.zeros(15, dtype=np.float32), release=RELEASE), None),
    ],
    ids=["texts", "flat vectors"],
)
def test_the_question_is_cut_out_where_it_can_be(
    request_: SearchRequest, again: tuple[str, ...] | None
) -> None:
    other = answer(SAME.results[0], (), ())
    found = compared(replace(INQUIRY, request=request_), {"a": SAME, "b": other}).found
    assert found is not None
    assert (found.again and found.again.request.queries) == again


HITS = st.lists(
    st.builds(
        hit,
        id=st.text(max_size=2),
        score=st.sampled_from([0.1, LAST_BIT, -0.0, 0.0]),
        text=st.sampled_from(["", "tea", "te"]),
    ),
    max_size=2,
).map(tuple)
ANSWERS = st.lists(HITS, min_size=1, max_size=3).map(lambda results: answer(*results))
IDS = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=2).map(lambda i: (*i, b"", b"")[:2])
ARRAYS = st.lists(IDS, min_size=1, max_size=3).map(lambda ids: arrays([list(row) for row in ids]))


@given(
    answers=st.dictionaries(st.sampled_from("abcd"), ANSWERS)
    | st.dictionaries(st.sampled_from("abcd"), ARRAYS)
)
def test_regions_differ_exactly_when_their_votes_do(answers: dict[str, SearchResult]) -> None:
    found = compared(INQUIRY, answers).found
    assert (found is not None) == (len({vote_of(said) for said in answers.values()}) > 1)
    if found is not None:
        assert found.difference.regions == answers.keys()


# What is remembered.


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def ledger(clock: SimClock) -> DivergenceLedger:
    return DivergenceLedger(EVERY_S, clock=clock, rng=random.Random(1))


def difference(name: str = "q", regions: str = "ab", corpus: str = "tea") -> FoundDifference:
    inquiry = Inquiry(name=name, corpus=corpus, request=VECTORS_ASKED, again=True)
    said = {f"digest {region}": (region,) for region in regions}
    return FoundDifference(
        difference=Difference(corpus=corpus, release=RELEASE, question=name, answers=said),
        again=inquiry,
    )


def comparison(
    regions: str,
    found: FoundDifference | None = None,
    *,
    asked: FoundDifference | None = None,
    corpus: str = "tea",
) -> RegionComparison:
    inquiry = replace(INQUIRY, corpus=corpus)
    if asked is not None:
        assert asked.again is not None
        inquiry = asked.again
    return RegionComparison(inquiry=inquiry, regions=frozenset(regions), found=found)


def probe(*comparisons: RegionComparison, release: int = RELEASE) -> Probe:
    return Probe(release=release, at_ms=5, comparisons=comparisons)


def test_one_gateway_probes_at_a_time(ledger: DivergenceLedger, clock: SimClock) -> None:
    assert ledger.turn(None).number is None
    assert ledger.turn(RELEASE).number == 1
    clock.sleep(EVERY_S * 0.89)
    assert ledger.turn(RELEASE).number is None
    clock.sleep(EVERY_S * 0.22)
    assert [ledger.turn(RELEASE).number for _ in range(3)] == [2, None, None]
    # Another release is probed at once.
    assert [ledger.turn(RELEASE + 1).number for _ in range(2)] == [3, None]


def test_a_report_says_who_was_compared(ledger: DivergenceLedger) -> None:
    assert ledger.report.at_ms is None
    alone = comparison("a", corpus="coffee")
    assert ledger.take(probe(comparison("abc"), comparison("ab"), alone)) == []
    report = ledger.report
    assert (report.differs, report.at_ms, report.release) == (False, 5, RELEASE)
    told = [(line.corpus, line.regions, line.outcome) for line in report.corpora]
    assert told == [
        ("coffee", ("a",), ProbeVerdict.TOO_FEW),
        ("tea", ("a", "b"), ProbeVerdict.ALIKE),
    ]
    assert report.probes == {ProbeVerdict.TOO_FEW: 1, ProbeVerdict.ALIKE: 1}


def test_a_difference_is_new_once_and_asked_again(ledger: DivergenceLedger) -> None:
    found = difference()
    assert ledger.take(probe(comparison("ab", found))) == [found.difference]
    assert ledger.turn(RELEASE).again == (found.again,)
    changed = difference(regions="abc")
    assert ledger.take(probe(comparison("abc"), comparison("abc", changed, asked=found))) == []
    assert ledger.report.differences == (changed.difference,)
    assert ledger.report.probes == {ProbeVerdict.DIFFER: 2}
    # The ledger's words go to gateways in other processes.
    assert pickle.loads(pickle.dumps(ledger.report)) == ledger.report


@pytest.mark.parametrize(
    ("next_probe", "stands"),
    [
        (probe(comparison("ab", asked=difference())), False),
        (probe(comparison("abc", asked=difference())), False),
        (probe(comparison("a", asked=difference())), True),
        (probe(comparison("ac", asked=difference())), True),
        (probe(comparison("abc")), True),
        (probe(comparison("abc"), release=RELEASE + 1), False),
        (probe(), True),
    ],
    ids=[
        "agree",
        "all agree",
        "one is silent",
        "another agrees",
        "other questions",
        "next",
        "none",
    ],
)
def test_a_difference_stands_until_it_is_refuted(
    ledger: DivergenceLedger, next_probe: Probe, stands: bool
) -> None:
    ledger.take(probe(comparison("ab", difference())))
    assert ledger.report.differs
    assert ledger.take(next_probe) == []
    assert ledger.report.differs == stands


def test_a_probe_that_a_switch_overtook_counts_and_changes_nothing(
    ledger: DivergenceLedger,
) -> None:
    found = difference()
    ledger.turn(RELEASE)
    ledger.take(probe(comparison("ab", found)))
    before = ledger.report
    late = difference("late")
    assert ledger.take(probe(comparison("ab", late), release=RELEASE - 1)) == [late.difference]
    assert replace(ledger.report, probes=before.probes) == before
    assert ledger.report.probes == {ProbeVerdict.DIFFER: 2}


def test_what_a_quorum_finds_counts_as_well(ledger: DivergenceLedger) -> None:
    ledger.take(probe(comparison("ab")))
    ledger.quorum(difference("search by quorum", corpus=""))
    report = ledger.report
    assert report.differs
    # The only corpus was meant.
    assert [d.corpus for d in report.differences] == ["tea"]
    assert report.probes == {ProbeVerdict.ALIKE: 1, ProbeVerdict.QUORUM_DIFFER: 1}
    (again,) = ledger.turn(RELEASE).again
    ledger.take(probe(replace(comparison("ab"), inquiry=again)))
    assert not ledger.report.differs


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=60))
def test_memory_is_bounded_and_an_alert_is_never_lost(
    steps: list[tuple[int, bool, bool]],
) -> None:
    ledger = DivergenceLedger(EVERY_S, clock=SimClock(), rng=random.Random(1))
    standing: set[str] = set()
    for number, differs, by_quorum in steps:
        found = difference(f"q{number}")
        if differs and by_quorum:
            ledger.quorum(found)
        else:
            ledger.take(probe(comparison("ab", found if differs else None, asked=found)))
        if not differs:
            standing.discard(f"q{number}")
        elif len(standing) < STANDING_MAX:
            standing.add(f"q{number}")
        told = ledger.report.differences
        assert {each.question for each in told} == standing
        assert ledger.report.differs == bool(standing)
