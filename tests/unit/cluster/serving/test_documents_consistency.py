"""What a region does with a demand on releases and live documents, from tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import InvalidArgument, NotYet, RaygionError, Unavailable
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.session import SessionToken
from cluster.serving.consistency import RegionKnowledge, decide
from cluster.serving.decisions import (
    RELEASE_LOG,
    Decision,
    Elsewhere,
    Log,
    Reading,
    Refresh,
    Serve,
)
from cluster.serving.documents import DocumentsKnowledge, LiveDocuments
from cluster.serving.view import ReleaseView
from tests.support.values.corpus_views import corpus_view
from tests.support.worlds.known_releases import DONE, FAILED, NO, NOW, SKEW, STORE, known, release

TEA, COFFEE = "tea", "coffee"
HERE = Watermark.of({"a": 4, "b": 2})
SEEN = {TEA: HERE}
AHEAD = {TEA: Watermark.of({"a": 4, "b": 3})}
FRESH = DocumentsKnowledge(watermark=HERE, read_ms=950)
STALE = DocumentsKnowledge(watermark=HERE, read_ms=500)


def of_corpora(*names: str) -> ReleaseView:
    return replace(release(1), corpora={name: corpus_view(name) for name in names})


def region(*corpora: str) -> RegionKnowledge:
    """Release 1, read at 900, so that its staleness is 100 and the skew."""
    at = known((3, 1, 0), resident=(1,), last_release=1)
    return replace(at, view=replace(at.view, releases={1: of_corpora(*corpora)}))


def demand(
    level: str, *, seen: dict[str, Watermark] | None = None, within_ms: int | None = None
) -> ReadConsistency:
    token = None if seen is None else SessionToken(STORE, 3, seen)
    return ReadConsistency(level=ConsistencyLevel(level), session=token, max_staleness_ms=within_ms)


def decided(
    asked: ReadConsistency,
    documents: DocumentsKnowledge | None,
    readings: dict[Log, Reading] | None = None,
    *,
    name: str | None = TEA,
    corpora: tuple[str, ...] = (TEA, COFFEE),
    named_release: int | None = None,
) -> Decision:
    return decide(
        asked,
        release=named_release,
        documents=LiveDocuments(corpus=name, known={} if documents is None else {TEA: documents}),
        knowledge=region(*corpora),
        readings=readings or {},
        now_ms=NOW,
    )


def serve(staleness_ms: int = 200, floor: dict[str, Watermark] | None = None) -> Serve:
    return Serve(release=1, position=3, staleness_ms=staleness_ms, documents_floor=floor or {})


@pytest.mark.parametrize(
    ("asked", "documents", "reading", "then"),
    [
        (demand("eventual"), FRESH, NO, serve(200)),
        (demand("eventual"), STALE, NO, serve(600)),
        # A corpus without a log costs nothing.
        (demand("eventual"), None, NO, serve(200)),
        (demand("session", seen={}), None, NO, serve(200)),
        (demand("session", seen=SEEN), FRESH, NO, serve(200, SEEN)),
        (demand("session", seen=SEEN), None, NO, Refresh((TEA,))),
        (demand("session", seen=AHEAD), FRESH, NO, Refresh((TEA,))),
        (demand("session", seen=AHEAD), FRESH, FAILED, Unavailable),
        # Beyond the ends of the logs: nobody was ever given that.
        (demand("session", seen=AHEAD), FRESH, DONE, InvalidArgument),
        (demand("session", seen=SEEN), None, DONE, InvalidArgument),
        (demand("session", seen={TEA: Watermark.of({"a": 2**62})}), FRESH, DONE, InvalidArgument),
        (demand("session", seen={TEA: Watermark.of({"c": 1})}), FRESH, DONE, InvalidArgument),
        # Of another corpus, nothing is checked and nothing forgotten.
        (demand("session", seen={COFFEE: HERE}), FRESH, NO, serve(200, {COFFEE: HERE})),
        (demand("bounded", within_ms=600), STALE, NO, serve(600)),
        (demand("bounded", within_ms=599), STALE, NO, Refresh((TEA,))),
        (demand("bounded", within_ms=599), STALE, DONE, NotYet),
        (demand("bounded", within_ms=599), STALE, FAILED, Unavailable),
        (demand("bounded", within_ms=150), FRESH, NO, Refresh()),
        (demand("bounded", within_ms=150), STALE, NO, Refresh((RELEASE_LOG, TEA))),
        (demand("bounded", within_ms=600, seen=AHEAD), STALE, NO, Refresh((TEA,))),
        (demand("quorum", seen=SEEN), FRESH, NO, replace(serve(200, SEEN), exactly=True)),
        (demand("quorum", seen=AHEAD), FRESH, NO, Refresh((TEA,))),
    ],
)
def test_decisions(
    asked: ReadConsistency,
    documents: DocumentsKnowledge | None,
    reading: Reading,
    then: Decision | type[RaygionError],
) -> None:
    readings: dict[Log, Reading] = {TEA: reading}
    if then is InvalidArgument:
        with pytest.raises(InvalidArgument, match="the log of 'tea' in") as refused:
            decided(asked, documents, readings)
        assert refused.value.field == "session"
        return
    found = decided(asked, documents, readings)
    if isinstance(then, type):
        assert isinstance(found, Elsewhere)
        assert isinstance(found.error, then)
    else:
        assert found == then


STRONG = demand("strong")


@pytest.mark.parametrize(
    ("documents", "readings", "then"),
    [
        (FRESH, {}, Refresh((RELEASE_LOG, TEA))),
        # Somewhere the corpus's first document may just have been written.
        (None, {}, Refresh((RELEASE_LOG, TEA))),
        (FRESH, {TEA: DONE}, Refresh()),
        (FRESH, {RELEASE_LOG: DONE}, Refresh((TEA,))),
        (FRESH, {RELEASE_LOG: DONE, TEA: DONE}, replace(serve(200, SEEN), exactly=True)),
        (None, {RELEASE_LOG: DONE, TEA: DONE}, replace(serve(200), exactly=True)),
        (FRESH, {RELEASE_LOG: DONE, TEA: FAILED}, Unavailable),
        (FRESH, {RELEASE_LOG: FAILED, TEA: DONE}, Unavailable),
    ],
)
def test_a_strong_answer_reads_all_logs_at_once(
    documents: DocumentsKnowledge | None,
    readings: dict[Log, Reading],
    then: Decision | type[RaygionError],
) -> None:
    found = decided(STRONG, documents, readings)
    if isinstance(then, type):
        assert isinstance(found, Elsewhere)
        assert isinstance(found.error, then)
    else:
        assert found == then


@pytest.mark.parametrize(
    ("name", "corpora", "then"),
    [
        (None, (TEA,), Refresh((TEA,))),
        (COFFEE, (TEA, COFFEE), Refresh((COFFEE,))),
        # The engine says what is wrong with these.
        (None, (TEA, COFFEE), Serve),
        ("cocoa", (TEA, COFFEE), Serve),
    ],
)
def test_the_corpus_is_the_one_that_is_searched(
    name: str | None, corpora: tuple[str, ...], then: Decision | type[Serve]
) -> None:
    found = decided(STRONG, FRESH, {RELEASE_LOG: DONE}, name=name, corpora=corpora)
    assert isinstance(found, then) if isinstance(then, type) else found == then


def test_a_named_release_has_live_documents_which_never_go_back() -> None:
    asked = demand("eventual", seen=AHEAD)
    assert decided(asked, FRESH, named_release=1) == Refresh((TEA,))
    newer = replace(FRESH, watermark=AHEAD[TEA])
    served = decided(asked, newer, named_release=1)
    assert served == replace(serve(200, AHEAD), exactly=True)


def test_who_asks_for_no_live_documents_needs_no_log() -> None:
    asked = demand("session", seen=AHEAD)
    found = decide(asked, knowledge=region(TEA), readings={}, now_ms=NOW)
    assert found == serve(200, AHEAD)


def pinned(seen: dict[str, Watermark]) -> tuple[SessionToken, int]:
    """What a reply says by a view of the documents."""
    at = region(TEA).pin(None, NOW, documents_floor=seen)
    made = at.with_documents(TEA, STALE, STALE.staleness_ms(NOW, SKEW))
    return SessionToken.decode(made.session), made.staleness_ms


def test_a_reply_tells_how_far_it_had_come_and_what_was_seen_before() -> None:
    other = {COFFEE: Watermark.of({"b": 9})}
    assert pinned({}) == (SessionToken(STORE, 3, SEEN), 600)
    assert pinned(other) == (SessionToken(STORE, 3, SEEN | other), 600)
    assert pinned({TEA: Watermark.of({"a": 1})})[0].documents == SEEN
    with pytest.raises(NotYet, match="'tea'"):
        pinned(AHEAD)


def test_a_reply_without_documents_is_what_it_was() -> None:
    at = region(TEA).pin(None, NOW)
    none = DocumentsKnowledge(watermark=Watermark(), read_ms=NOW)
    assert at.with_documents(TEA, none, none.staleness_ms(NOW, SKEW)).session == at.session
    assert at.session == SessionToken(STORE, 3).encode()
    with pytest.raises(NotYet):
        region(TEA).pin(None, NOW, documents_floor=SEEN).with_documents(TEA, none, 0)
