"""How tokens are to be drawn travels unchanged: from a chat, between regions, to the model."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, GenerationRequest, Sampling
from cluster.query.answers import AnswerRequest
from cluster.regions.wire import answer_call, generate_call
from cluster.search.checks import check_answer
from deployments.http.openai.chat import parse_chat
from deployments.http.region_routes import GenerateBody, RegionAnswerBody
from deployments.http.schemas.json_body import parse_body

CHAT = {"model": "raygion", "messages": [{"role": "user", "content": "Why?"}]}
DRAWN: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "top_p": 0.95},
    {"presence_penalty": 0.5},
    {"frequency_penalty": -0.3, "seed": 7},
    {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0},
]


def generation(**drawn: Any) -> GenerationRequest:
    said = (ChatMessage(role="user", content="Why?"),)
    return GenerationRequest(messages=said, max_tokens=8, request_id="r", **drawn)


@pytest.mark.parametrize("drawn", DRAWN)
def test_a_chat_says_how(drawn: dict[str, Any]) -> None:
    asked = parse_chat(orjson.dumps({**CHAT, **drawn})).request
    assert asked.sampling() == {**Sampling().sampling(), **drawn}


@pytest.mark.parametrize("drawn", DRAWN)
def test_another_region_draws_in_the_same_way(drawn: dict[str, Any]) -> None:
    answer = answer_call(AnswerRequest(question="Why?", **drawn), 5.0)
    asked = parse_body(RegionAnswerBody, answer.content or b"").to_request("")
    generate = generate_call(1, generation(**drawn), 5.0)
    wanted = parse_body(GenerateBody, generate.content or b"").to_request()
    assert asked.sampling() == wanted.sampling() == {**Sampling().sampling(), **drawn}


def test_a_region_of_an_older_version_is_told_nothing_that_it_does_not_know() -> None:
    sent = orjson.loads(generate_call(1, generation(temperature=0.5), 5.0).content or b"")
    assert sent.keys() & Sampling().sampling().keys() == {"temperature"}


@pytest.mark.parametrize("drawn", DRAWN)
def test_the_model_is_told_how(drawn: dict[str, Any]) -> None:
    from deployments.serve.generator import _to_completion_request

    request = generation(**drawn, stop=("###",))
    told = _to_completion_request(request, [1, 2], "m", "attempt")
    assert {key: getattr(told, key) for key in drawn} == drawn
    assert told.stop == ["###"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_p", 0.0), ("top_p", 1.01), ("presence_penalty", 2.1), ("frequency_penalty", -2.1)],
)
def test_what_no_model_can_do_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_answer(AnswerRequest(question="Why?", **{field: value}))
    assert caught.value.field == field
