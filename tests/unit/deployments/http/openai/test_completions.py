"""`/v1/completions`, by OpenAI's own Python client and by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from cluster import errors
from cluster.errors import InvalidArgument
from cluster.generation.generator import Sampling
from deployments.http.openai.asking import IGNORED_KEYS
from deployments.http.openai.chat import parse_chat
from deployments.http.openai.completions import (
    NEUTRAL_VALUES,
    PROMPTS_MAX,
    CompletionsBody,
    CompletionsReply,
    parse_completions,
)
from tests.support.waiting import until
from tests.support.worlds.fake_service import CITATION, MODEL, FakeService, in_process

ROUTE = "/v1/completions"
QUESTION = "The capital of Iceland?"
ASKED: dict[str, Any] = {"model": "raygion", "prompt": QUESTION}


async def asked(service: FakeService, body: dict[str, Any]) -> httpx.Response:
    async with in_process(service) as client:
        return await client.post(ROUTE, json=body)


async def test_the_client_asks_a_corpus(service: FakeService, client: AsyncOpenAI) -> None:
    reply = await client.completions.create(
        model="raygion/factbook",
        prompt=QUESTION,
        max_tokens=50,
        temperature=0.5,
        top_p=0.9,
        stop="###",
        seed=3,
        n=1,
        best_of=1,
        echo=False,
        suffix=None,
        user="somebody",
        extra_body={"raygion": {"top_k": 2, "release": 7}},
    )
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason, choice.index) == ("Reykjavik [1]", "stop", 0)
    assert (reply.object, reply.model) == ("text_completion", "raygion/factbook")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (11, 14)
    source = (choice.model_extra or {})["raygion"]
    assert (source["release"], source["citations"][0]["id"]) == (7, CITATION.id)
    (request,) = service.answers
    assert (request.question, request.corpus, request.retrieve) == (QUESTION, "factbook", True)
    assert (request.max_tokens, request.stop, request.seed) == (50, ("###",), 3)
    assert (request.top_k, request.release, request.user) == (2, 7, "somebody")


async def test_the_plain_model_completes_without_retrieval(
    service: FakeService, client: AsyncOpenAI
) -> None:
    reply = await client.completions.create(model=MODEL, prompt="word " * 3000)
    assert (reply.choices[0].model_extra or {})["raygion"]["citations"] == []
    assert not service.answers[0].retrieve
    with pytest.raises(openai.NotFoundError, match=f"there are: raygion, {MODEL}"):
        await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hi")


async def test_the_client_streams(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="raygion", prompt=[QUESTION], stream=True, stream_options={"include_usage": True}
    )
    first, *middle, last, usage = [chunk async for chunk in stream]
    assert (first.choices[0].model_extra or {})["raygion"]["release"] == 7
    assert "".join(chunk.choices[0].text for chunk in [first, *middle, last]) == "Reykjavik [1]"
    assert [chunk.choices[0].finish_reason for chunk in [*middle, last]] == [None] * 3 + ["stop"]
    assert (usage.choices, usage.usage and usage.usage.completion_tokens) == ([], 3)
    assert len({chunk.id for chunk in (first, last, usage)}) == 1


async def test_several_prompts_are_answered_side_by_side(service: FakeService) -> None:
    service.gate.clear()
    asking = asyncio.create_task(asked(service, {**ASKED, "prompt": ["tea?", "salt?", "iron?"]}))
    await until(lambda: len(service.answers) == 3)
    service.gate.set()
    reply = CompletionsReply.model_validate_json((await asking).content, strict=True)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [request.question for request in service.answers] == ["tea?", "salt?", "iron?"]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (33, 9)


async def test_an_error_of_one_prompt_ends_all(service: FakeService) -> None:
    service.token_error = errors.Overloaded("full")
    reply = await asked(service, {**ASKED, "prompt": ["tea?", "salt?"]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")


async def test_sources_are_listed_under_the_text_if_asked(service: FakeService) -> None:
    reply = await asked(service, {**ASKED, "raygion": {"list_sources": True}})
    text = reply.json()["choices"][0]["text"]
    assert text == f"Reykjavik [1]\n\nSources:\n[1] {CITATION.id}"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt[0]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", " \n"]}, "prompt[1]"),
        ({"prompt": ["a"] * (PROMPTS_MAX + 1)}, "prompt"),
        ({"prompt": "a" * 8193}, "prompt[0]"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt"),
        ({"prompt": ["a", 2]}, "prompt[1]"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "."}, "suffix"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"raygion": {"top_k": 0}}, "raygion.top_k"),
        ({"raygion": {"min_score": 3}}, "raygion.min_score"),
        ({"model": None}, "model"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    reply = await asked(FakeService(), {**ASKED, **wrong})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (InvalidArgument("is empty", "question"), "prompt"),
        (InvalidArgument("is too long", "messages"), "prompt"),
        (InvalidArgument("is unknown", "corpus"), "raygion.corpus"),
        (InvalidArgument("is out of bounds", "seed"), "seed"),
    ],
)
async def test_what_the_region_refuses_is_named_as_in_the_body(
    service: FakeService, error: InvalidArgument, field: str
) -> None:
    service.answer_error = error
    reply = await asked(service, ASKED)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_what_changes_nothing_is_ignored() -> None:
    assert not (IGNORED_KEYS | NEUTRAL_VALUES.keys()) & CompletionsBody.known_keys
    body = {**ASKED, **dict.fromkeys(IGNORED_KEYS, "anything"), "logprobs": None}
    for key, values in NEUTRAL_VALUES.items():
        for value in (*values, None):
            (request,) = parse_completions(orjson.dumps({**body, key: value})).requests
            assert request.question == QUESTION


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 65_535, "stop": ["a", "b"], "temperature": 1.5},
        {"presence_penalty": 0.5, "frequency_penalty": -1, "seed": 7, "top_p": 0.5},
        {"user": "u", "raygion": {"corpus": "c", "truncation": "disabled", "timeout_ms": 70}},
    ],
)
def test_a_prompt_asks_for_what_a_chat_of_one_message_does(options: dict[str, Any]) -> None:
    chat = {"model": "raygion", "messages": [{"role": "user", "content": QUESTION}], **options}
    (request,) = parse_completions(orjson.dumps({**ASKED, **options}), "t").requests
    assert request == parse_chat(orjson.dumps(chat), "t").request
    assert request.sampling().keys() == Sampling().sampling().keys()


async def test_each_prompt_counts_as_an_answer(service: FakeService) -> None:
    service.gate.clear()
    async with in_process(service, answers_in_flight_max=4) as client:

        def ask(num_prompts: int) -> asyncio.Task[httpx.Response]:
            body = {**ASKED, "prompt": ["tea?"] * num_prompts}
            return asyncio.create_task(client.post(ROUTE, json=body))

        three = ask(3)
        await until(lambda: len(service.answers) == 3)
        refused = await ask(2)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert len(service.answers) == 3, "nothing was looked up for it"
        one = ask(1)
        await until(lambda: len(service.answers) == 4)
        assert (await ask(1)).status_code == 503
        service.gate.set()
        assert [(await task).status_code for task in (three, one)] == [200, 200]
        assert (await ask(4)).status_code == 200, "all are given back"
        never = (await ask(5)).json()["error"]
        assert (never["code"], never["param"]) == ("invalid_argument", "prompt")
        assert "writes 4 answers at once" in never["message"]


async def test_completions_are_admitted_and_counted_as_answers_are(service: FakeService) -> None:
    service.gate.clear()
    async with in_process(service, answers_in_flight_max=1) as client:
        first = asyncio.create_task(client.post(ROUTE, json=ASKED))
        await until(lambda: service.answers)
        refused = await client.post(ROUTE, json=ASKED)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        service.gate.set()
        assert (await first).status_code == 200
        metrics = (await client.get("/metrics")).text
    for status in (200, 503):
        assert f'raygion_http_requests_total{{route="{ROUTE}",status="{status}"}} 1.0' in metrics
