from __future__ import annotations

import json
from pathlib import Path

from bench.quality.passages import Asked, AskedSet, measures, ranks_of, sampled, xquad_articles

PASSAGES = [("a", "x"), ("b", "Oslo is new"), ("a", "Oslo is old"), ("c", "y")]


def test_documents_stand_where_their_best_passage_does() -> None:
    assert ranks_of(PASSAGES, Asked(query="", documents=frozenset("c"))) == [3]
    assert sorted(ranks_of(PASSAGES, Asked(query="", documents=frozenset("ab")))) == [0, 1]


def test_a_passage_without_the_answer_does_not_count() -> None:
    asked = Asked(query="", documents=frozenset("a"), answers=frozenset(["is old", "Oslo"]))
    assert ranks_of(PASSAGES, asked) == [2]
    nowhere = Asked(query="", documents=frozenset("a"), answers=frozenset(["Rome"]))
    assert ranks_of(PASSAGES, nowhere) == [4]


def test_measures_are_means_over_the_questions() -> None:
    assert measures([0, 1, 9, 10]) == ("0.250", "0.750", "0.400")


def test_articles_are_read_whole_and_questions_from_everywhere(tmp_path: Path) -> None:
    paragraphs = [
        {
            "context": f"Text {n}.",
            "qas": [{"question": f"Q{n}?", "answers": [{"text": f"A{n}"}]}],
        }
        for n in range(4)
    ]
    path = tmp_path / "xquad.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    judged = xquad_articles(path)
    assert judged.texts == {"t": "Text 0.\n\nText 1.\n\nText 2.\n\nText 3."}
    assert judged.asked[1] == Asked(
        query="Q1?", documents=frozenset(["t"]), answers=frozenset(["A1"])
    )
    assert [a.query for a in sampled(judged, 2).asked] == ["Q0?", "Q2?"]
    assert sampled(judged, None) == judged == AskedSet(texts=judged.texts, asked=judged.asked)
