"""The corpora and the questions of the benchmark: the demo's corpus, and the English XQuAD."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[1]
FACTBOOK = ROOT / "data" / "factbook" / "factbook.jsonl"
XQUAD_SMALL = ROOT / "tests" / "data" / "xquad_small" / "xquad_small.json"

_ASKED = (
    "What is the capital of {}?",
    "What is the highest point in {}?",
    "Which languages are spoken in {}?",
    "What does {} export?",
    "Which countries border {}?",
    "What is the climate of {} like?",
    "How many people live in {}?",
    "What are the natural resources of {}?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    text: str
    paragraph: str
    """Id of the gold paragraph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    documents: list[dict[str, Any]]
    """Documents as ingestion reads them."""
    questions: tuple[Question, ...]


def factbook_documents(documents_max: int | None) -> list[dict[str, Any]]:
    lines = FACTBOOK.read_bytes().splitlines()
    return [orjson.loads(line) for line in itertools.islice(lines, documents_max)]


def factbook_questions(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Different questions about the countries of these documents, in an order that mixes them."""
    countries = dict.fromkeys(document["metadata"]["country"] for document in documents)
    return [
        _ASKED[(number + turn) % len(_ASKED)].format(country)
        for turn in range(len(_ASKED))
        for number, country in enumerate(countries)
    ]


def read_xquad(path: Path) -> QuestionSet:
    """XQuAD as it is published (SQuAD's nesting), or the small file that ships with the tests."""
    content = json.loads(path.read_text())
    if "paragraphs" in content:
        return QuestionSet(
            documents=content["paragraphs"],
            questions=tuple(
                Question(text=asked["question"], paragraph=asked["paragraph"])
                for asked in content["questions"]
            ),
        )
    documents = []
    questions = []
    for article in content["data"]:
        for number, paragraph in enumerate(article["paragraphs"]):
            id = f"{article['title']}/{number}"
            metadata = {"title": article["title"]}
            documents.append({"id": id, "text": paragraph["context"], "metadata": metadata})
            questions += [Question(text=q["question"], paragraph=id) for q in paragraph["qas"]]
    return QuestionSet(documents=documents, questions=tuple(questions))


def paragraph_of(passage_id: str) -> str:
    """A long paragraph is cut into passages `{id}#0`, `{id}#1`..."""
    return passage_id.partition("#")[0]


def write_jsonl(documents: Sequence[dict[str, Any]], path: Path) -> None:
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
