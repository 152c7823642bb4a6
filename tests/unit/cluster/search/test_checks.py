"""Every bad request is refused by the name of the field that is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, GenerationRequest
from cluster.metadata import ColumnType
from cluster.query.answers import AnswerRequest
from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort, SearchRequest
from cluster.query.terms import TIMEOUT_S_MAX, TOP_K_MAX
from cluster.search.checks import (
    BATCH_MAX,
    CONVERSATION_CHARS_MAX,
    HITS_MAX,
    MAX_TOKENS_MAX,
    MESSAGES_MAX,
    PROMPT_CHARS_MAX,
    TEXT_CHARS_MAX,
    check_answer,
    check_generation,
    check_hits,
    check_retrieval,
    check_search,
    in_rows,
)
from cluster.serving.view import CorpusView
from cluster.vectors.metric import Metric

CORPUS = CorpusView(
    corpus="c",
    index_version="1",
    dimension=4,
    metric=Metric.COSINE,
    metadata_schema={"region": ColumnType.STRING, "year": ColumnType.INT},
    has_embedder=True,
    num_passages=10,
    recall_at_10=1.0,
    shards=(("r",),),
)
TEXT = SearchRequest(queries=("what?",))
VECTOR = SearchRequest(vectors=np.ones((2, 4), dtype=np.float32))


def vectors(shape: tuple[int, ...], value: float = 1.0) -> np.ndarray[Any, Any]:
    return np.full(shape, value, dtype=np.float32)


@pytest.mark.parametrize(
    "request_",
    [
        TEXT,
        VECTOR,
        replace(TEXT, top_k=1),
        replace(TEXT, top_k=TOP_K_MAX),
        replace(TEXT, timeout_s=TIMEOUT_S_MAX),
        replace(TEXT, min_coverage=0.0),
        replace(TEXT, documents="base", release=1),
        replace(TEXT, queries=("q",) * BATCH_MAX),
        replace(TEXT, queries=("q" * TEXT_CHARS_MAX,)),
        replace(TEXT, fields=()),
        replace(TEXT, fields=("region", "year")),
        replace(VECTOR, vectors=vectors((BATCH_MAX, 4))),
        replace(TEXT, filter=parse_filter({"region": "Europe"})),
    ],
)
def test_good_searches_raise_nothing(request_: SearchRequest) -> None:
    check_search(request_, CORPUS)


BAD_COMMON: list[tuple[dict[str, Any], str]] = [
    ({"top_k": 0}, "top_k"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": TOP_K_MAX + 1}, "top_k"),
    ({"timeout_s": 0.0}, "timeout_ms"),
    ({"timeout_s": -1.0}, "timeout_ms"),
    ({"timeout_s": TIMEOUT_S_MAX + 1}, "timeout_ms"),
    ({"timeout_s": math.nan}, "timeout_ms"),
    ({"timeout_s": math.inf}, "timeout_ms"),
    ({"min_coverage": -0.1}, "min_coverage"),
    ({"documents": "base"}, "documents"),
    ({"documents": "live", "release": 1}, "documents"),
    ({"min_coverage": 1.1}, "min_coverage"),
    ({"min_coverage": math.nan}, "min_coverage"),
    ({"user": "a\ud800"}, "user"),
]
BAD_SEARCH: list[tuple[dict[str, Any], str]] = [
    ({"queries": None}, "query"),
    ({"queries": ("q",), "vectors": vectors((1, 4))}, "query"),
    ({"queries": ()}, "queries"),
    ({"queries": ("q",) * (BATCH_MAX + 1)}, "queries"),
    ({"queries": ("good", " \n\t")}, "query"),
    ({"queries": ("good", "\ud800")}, "query"),
    ({"queries": ("q" * (TEXT_CHARS_MAX + 1),)}, "query"),
    ({"fields": ("region", "nowhere")}, "fields"),
    ({"queries": None, "vectors": vectors((1, 3))}, "vectors"),
    ({"queries": None, "vectors": vectors((0, 4))}, "vectors"),
    ({"queries": None, "vectors": vectors((1, 4), math.nan)}, "vectors"),
    ({"queries": None, "vectors": vectors((1, 4), math.inf)}, "vectors"),
    ({"queries": None, "vectors": vectors((BATCH_MAX + 1, 4))}, "vectors"),
]


@pytest.mark.parametrize(("changes", "field"), BAD_COMMON + BAD_SEARCH)
def test_bad_searches_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_search(replace(TEXT, **changes), CORPUS)
    assert caught.value.field is not None
    assert caught.value.field.startswith(field)


def test_a_filter_on_an_unknown_field_or_of_a_wrong_type_is_refused() -> None:
    for filter_json in ({"nowhere": 1}, {"year": "late"}):
        with pytest.raises(InvalidArgument) as caught:
            check_search(replace(TEXT, filter=parse_filter(filter_json)), CORPUS)
        assert (caught.value.field or "").startswith("filter")


def test_a_corpus_without_embedder_takes_vectors_only() -> None:
    corpus = replace(CORPUS, has_embedder=False)
    check_search(VECTOR, corpus)
    with pytest.raises(InvalidArgument, match="no embedder"):
        check_search(TEXT, corpus)


QUESTION = AnswerRequest(question="why?")
GOOD_SAMPLING: list[dict[str, Any]] = [
    {"max_tokens": 1},
    {"max_tokens": MAX_TOKENS_MAX},
    {"temperature": 2.0},
    {"seed": 2**63 - 1},
    {"seed": -(2**63)},
    {"stop": ("a", "b", "c", "d" * 256)},
]
BAD_SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": MAX_TOKENS_MAX + 1}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"seed": 2**63}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"stop": ("a",) * 5}, "stop"),
    ({"stop": ("",)}, "stop"),
    ({"stop": ("x" * 257,)}, "stop"),
    ({"stop": ("\udfff",)}, "stop"),
]


def said(*contents: str) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role="user", content=content) for content in contents)


PROMPT = GenerationRequest(messages=said("why?"), max_tokens=16, temperature=0.0, request_id="r")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"question": "q" * TEXT_CHARS_MAX},
        {"question": "q" * CONVERSATION_CHARS_MAX, "retrieve": False},
        {"history": said(*[""] * (MESSAGES_MAX - 1))},
        {"history": said("x" * (CONVERSATION_CHARS_MAX - 4))},
        *GOOD_SAMPLING,
    ],
)
def test_good_questions_raise_nothing(changes: dict[str, Any]) -> None:
    check_answer(replace(QUESTION, **changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *BAD_COMMON,
        ({"question": " \n"}, "question"),
        ({"question": ""}, "question"),
        ({"question": "why\udfff?"}, "question"),
        ({"question": "q" * (TEXT_CHARS_MAX + 1)}, "question"),
        ({"question": "q" * (CONVERSATION_CHARS_MAX + 1), "retrieve": False}, "messages"),
        ({"history": said(*[""] * MESSAGES_MAX)}, "messages"),
        ({"history": said("x" * (CONVERSATION_CHARS_MAX - 3))}, "messages"),
        ({"history": said("why\udfff?")}, "messages"),
        ({"history": (ChatMessage(role="tool", content="a"),)}, "messages"),  # type: ignore[arg-type]
        *BAD_SAMPLING,
    ],
)
def test_bad_questions_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_answer(replace(QUESTION, **changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": said(*[""] * (MESSAGES_MAX + 1))},
        {"messages": said("x" * (PROMPT_CHARS_MAX - 5)), "begun": "y" * 5},
        *GOOD_SAMPLING,
    ],
)
def test_good_prompts_raise_nothing(changes: dict[str, Any]) -> None:
    check_generation(replace(PROMPT, **changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": ()}, "messages"),
        ({"messages": said(*[""] * (MESSAGES_MAX + 2))}, "messages"),
        ({"messages": said("x" * (PROMPT_CHARS_MAX - 5)), "begun": "y" * 6}, "messages"),
        ({"messages": said("\udfff")}, "messages"),
        ({"begun": "\udfff"}, "messages"),
        *BAD_SAMPLING,
    ],
)
def test_bad_prompts_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_generation(replace(PROMPT, **changes))
    assert caught.value.field == field


def test_a_request_asks_for_no_more_hits_than_fit_into_a_reply() -> None:
    check_hits(HITS_MAX // TOP_K_MAX, TOP_K_MAX)
    with pytest.raises(InvalidArgument) as refused:
        check_hits(HITS_MAX // TOP_K_MAX + 1, TOP_K_MAX)
    assert refused.value.field == "top_k"


def test_a_question_needs_a_corpus_with_an_embedder() -> None:
    check_retrieval(CORPUS)
    with pytest.raises(InvalidArgument) as refused:
        check_retrieval(replace(CORPUS, has_embedder=False))
    assert refused.value.field == "question"


def test_flat_vectors_are_cut_into_rows_of_the_index() -> None:
    flat = replace(VECTOR, vectors=np.arange(8, dtype=np.float32))
    rows = in_rows(flat, CORPUS).vectors
    assert rows is not None
    assert rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert in_rows(VECTOR, CORPUS) is VECTOR
    for size in (0, 3, 9):
        with pytest.raises(InvalidArgument) as refused:
            in_rows(replace(VECTOR, vectors=np.ones(size, dtype=np.float32)), CORPUS)
        assert refused.value.field == "vectors"


@pytest.mark.parametrize(
    ("field", "value"), [("ef_search", 0), ("ef_search", 10_001), ("nprobe", 0), ("nprobe", 65_537)]
)
def test_effort_is_bounded(field: str, value: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_search(replace(VECTOR, effort=SearchEffort(**{field: value})), CORPUS)
    assert refused.value.field == field
