"""What an answer tells of itself, and of the search whose passages it was made from."""

from __future__ import annotations

from dataclasses import replace

from cluster.mutations.watermark import Watermark
from cluster.query.provenance import Provenance
from cluster.query.session import SessionToken

TOKEN = SessionToken("store", 6)
ANSWER = Provenance(
    release=2,
    region="here",
    coverage=1.0,
    trace_id="t",
    served_by="here",
    staleness_ms=300,
    session=TOKEN.encode(),
)


def test_an_answer_is_as_current_and_as_complete_as_its_passages() -> None:
    documents = {"tea": Watermark.of({"a": 3})}
    # Pinned a moment later, when another release was current.
    later = SessionToken("store", 9, documents).encode()
    found = replace(ANSWER, coverage=0.5, staleness_ms=700, session=later)
    made = ANSWER.with_passages(found)
    assert (made.coverage, made.staleness_ms) == (0.5, 700)
    assert SessionToken.decode(made.session) == SessionToken("store", 6, documents)
    assert ANSWER.with_passages(replace(found, staleness_ms=100)).staleness_ms == 300


def test_an_answer_from_the_releases_own_documents_has_the_token_of_its_release() -> None:
    assert ANSWER.with_passages(ANSWER) == ANSWER
    assert ANSWER.with_passages(replace(ANSWER, session="")) == ANSWER
    assert replace(ANSWER, session="").with_passages(ANSWER).session == ""
