"""OpenAI's own Python client against the interface, over a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from cluster import errors
from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage
from cluster.generation.prompt import Truncated
from cluster.query.answers import AnswerOutcome
from cluster.query.filters import Compare, Comparison
from deployments.http.openai.asking import IGNORED_KEYS
from deployments.http.openai.chat import NEUTRAL_VALUES, ChatBody, parse_chat
from deployments.http.openai.replies import ChatReply, ModelsReply
from deployments.http.settings import HttpSettings
from tests.support.worlds.fake_service import (
    CITATION,
    MODEL,
    FakeService,
    app_of,
    in_process,
    on_loopback,
)

KEY = "a-key"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "The capital of Iceland?"}]
CHAT: dict[str, Any] = {"model": "raygion", "messages": ASK}


@pytest.fixture
async def url(service: FakeService) -> AsyncIterator[str]:
    async with on_loopback(app_of(service, HttpSettings(api_keys=(KEY,)))) as base:
        yield f"{base}/v1"


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as found:
        yield found


async def test_the_client_chats_with_retrieval(service: FakeService, client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="raygion",
        messages=[{"role": "system", "content": "Be brief."}, *ASK],
        max_tokens=50,
        temperature=0.5,
        stop="###",
        seed=3,
        user="somebody",
        n=1,
        top_p=1,
        extra_body={"raygion": {"filter": {"region": "europe"}, "top_k": 2, "release": 7}},
    )
    assert reply.choices[0].message.content == "Reykjavik [1]"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "raygion"
    assert reply.created > 1_700_000_000
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (11, 14)
    assert reply.model_extra is not None
    source = reply.model_extra["raygion"]
    assert (source["release"], source["region"], source["coverage"]) == (7, "north", 1.0)
    assert source["citations"][0]["id"] == CITATION.id
    (cited,) = reply.choices[0].message.annotations or ()
    assert (cited.type, cited.url_citation.title) == ("url_citation", CITATION.id)
    assert (cited.url_citation.start_index, cited.url_citation.end_index) == (10, 13)
    (asked,) = service.answers
    assert (asked.question, asked.retrieve) == ("The capital of Iceland?", True)
    assert asked.history == (ChatMessage(role="system", content="Be brief."),)
    assert (asked.max_tokens, asked.temperature, asked.stop, asked.seed) == (50, 0.5, ("###",), 3)
    assert asked.filter == Compare("region", Comparison.EQ, "europe")
    assert (asked.top_k, asked.release) == (2, 7)


async def test_the_client_knows_the_trace_id(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="raygion", messages=ASK)
    extra = raw.parse().model_extra
    assert extra is not None
    assert raw.request_id == extra["raygion"]["trace_id"]
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("gpt-4")
    assert refused.value.request_id
    assert refused.value.request_id == refused.value.body["trace_id"]  # type: ignore[index]


async def test_the_plain_model_answers_without_retrieval(
    service: FakeService, client: AsyncOpenAI
) -> None:
    reply = await client.chat.completions.create(model=MODEL, messages=ASK)
    assert reply.model == MODEL
    assert service.answers[0].retrieve is False
    assert reply.model_extra is not None
    assert reply.model_extra["raygion"]["citations"] == []


@pytest.mark.parametrize("model", ["raygion", MODEL])
async def test_the_client_streams(client: AsyncOpenAI, model: str) -> None:
    stream = await client.chat.completions.create(
        model=model, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.model_extra is not None
    assert first.model_extra["raygion"]["release"] == 7
    assert "".join(c.choices[0].delta.content or "" for c in middle) == "Reykjavik [1]"
    assert all(c.choices[0].finish_reason is None for c in [first, *middle])
    assert last.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 3
    assert len({c.id for c in chunks}) == 1
    assert {c.model for c in chunks} == {model}


@pytest.mark.parametrize("outcome", AnswerOutcome)
async def test_the_client_is_told_how_an_answer_came_about(
    service: FakeService, client: AsyncOpenAI, outcome: AnswerOutcome
) -> None:
    truncated = Truncated(history_messages=12, passages=1)
    service.came_about = {"outcome": outcome, "truncated": truncated}
    whole = await client.chat.completions.create(model="raygion", messages=ASK)
    stream = await client.chat.completions.create(model="raygion", messages=ASK, stream=True)
    first, *_ = [chunk async for chunk in stream]
    for made in (whole, first):
        assert made.model_extra is not None
        source = made.model_extra["raygion"]
        assert source["outcome"] == outcome
        assert source["truncated"] == {
            "history_messages": 12,
            "passages": 1,
            "passages_shortened": 0,
        }


@pytest.mark.parametrize("how", [None, "auto", "disabled"])
def test_a_chat_says_whether_its_prompt_may_be_cut(how: str | None) -> None:
    for model, by_default in (("raygion", "auto"), (MODEL, "disabled")):
        body = {**CHAT, "model": model, "raygion": {"truncation": how}}
        asked = parse_chat(orjson.dumps(body)).request
        assert asked.prompt_truncation() == (how or by_default)


def test_long_conversations_are_taken() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 1000
    asked = parse_chat(orjson.dumps({**CHAT, "messages": [*messages, *ASK]})).request
    assert len(asked.history) == 2000


async def test_the_stream_helper_of_the_client_works(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="raygion", messages=ASK) as stream:
        completion = await stream.get_final_completion()
    message = completion.choices[0].message
    whole = await client.chat.completions.create(model="raygion", messages=ASK)
    assert message.content == "Reykjavik [1]"
    assert message.annotations
    assert message.annotations == whole.choices[0].message.annotations


async def test_a_stream_ends_with_done_and_has_usage_only_when_asked() -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all("usage" not in orjson.loads(chunk.removeprefix("data: ")) for chunk in chunks)


async def test_the_synchronous_client_works_too(url: str) -> None:
    def chat() -> list[str]:
        with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            whole = client.chat.completions.create(model="raygion", messages=ASK)
            stream = client.chat.completions.create(model="raygion", messages=ASK, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return [whole.choices[0].message.content or "", text]

    assert await asyncio.to_thread(chat) == ["Reykjavik [1]"] * 2


async def test_a_reply_can_be_sent_back_as_the_next_history(
    service: FakeService, client: AsyncOpenAI
) -> None:
    reply = await client.chat.completions.create(model="raygion", messages=ASK)
    said: Any = reply.choices[0].message.model_dump()
    await client.chat.completions.create(
        model="raygion", messages=[*ASK, said, {"role": "user", "content": "And of Norway?"}]
    )
    assert [message.role for message in service.answers[1].history] == ["user", "assistant"]


async def test_the_client_lists_the_models(service: FakeService, client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["raygion", MODEL]


async def test_a_release_that_only_searches_has_no_models(
    service: FakeService, client: AsyncOpenAI
) -> None:
    release = service.summary.resident[0]  # type: ignore[union-attr]
    service.says(resident=(type(release)(release=7, corpora=release.corpora, model=None),))
    assert [model.id async for model in client.models.list()] == []


@pytest.mark.parametrize("stream", [True, False])
async def test_unknown_models_are_refused_before_anything_is_generated(
    service: FakeService, client: AsyncOpenAI, stream: bool
) -> None:
    with pytest.raises(openai.NotFoundError, match=f"there are: raygion, {MODEL}") as refused:
        await client.chat.completions.create(model="gpt-4", messages=ASK, stream=stream)
    assert refused.value.code == "not_found"
    assert refused.value.type == "invalid_request_error"
    assert (service.num_tokens, service.completed) == (0, 0)
    assert service.stopped.is_set()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errors.InvalidArgument("is unknown", "corpus"), openai.BadRequestError),
        (errors.ContextLengthExceeded("too long", "corpus"), openai.BadRequestError),
        (errors.Overloaded("full"), openai.InternalServerError),
        (errors.DeadlineExceeded("late"), openai.InternalServerError),
        (ValueError("/secret/path"), openai.InternalServerError),
    ],
)
async def test_errors_reach_the_client(
    service: FakeService, client: AsyncOpenAI, error: Exception, raised: type[openai.APIStatusError]
) -> None:
    service.answer_error = error
    for stream in (True, False):
        with pytest.raises(raised) as told:
            await client.chat.completions.create(model="raygion", messages=ASK, stream=stream)
        assert "secret" not in str(told.value)
        if isinstance(error, errors.RaygionError):
            assert told.value.code == error.code
            assert error.message in told.value.message
        if isinstance(error, errors.InvalidArgument):
            assert told.value.param == "raygion.corpus"


async def test_a_broken_stream_raises_in_the_client(
    service: FakeService, client: AsyncOpenAI
) -> None:
    service.token_error = errors.Unavailable("the replica is gone")
    stream = await client.chat.completions.create(model="raygion", messages=ASK, stream=True)
    with pytest.raises(openai.APIError, match="the replica is gone") as told:
        _ = [chunk async for chunk in stream]
    assert told.value.code == "unavailable"


async def test_a_wrong_key_is_an_authentication_error(url: str) -> None:
    async with AsyncOpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_the_client_comes_back_when_the_region_was_full(
    service: FakeService, url: str
) -> None:
    service.answer_error = errors.Overloaded("full", 0.1)

    async def give_way(request: Any) -> None:
        if len(service.answers) == 1:
            service.answer_error = None

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [give_way]})
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=1, http_client=http) as client:
        reply = await client.chat.completions.create(model="raygion", messages=ASK)
    assert reply.choices[0].message.content == "Reykjavik [1]"
    assert len(service.answers) == 2


def test_what_changes_nothing_is_ignored() -> None:
    body = {**CHAT, **dict.fromkeys(IGNORED_KEYS, "anything"), "unheard_of": None}
    for key, values in NEUTRAL_VALUES.items():
        for value in (*values, None):
            asked = parse_chat(orjson.dumps({**body, key: value}))
            assert asked.request.question == "The capital of Iceland?"


def test_no_key_is_both_known_and_ignored() -> None:
    assert not (IGNORED_KEYS | NEUTRAL_VALUES.keys()) & ChatBody.known_keys
    assert not IGNORED_KEYS & NEUTRAL_VALUES.keys()


@pytest.mark.parametrize(
    ("changes", "max_tokens"),
    [
        ({}, 256),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": None, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 7, "max_completion_tokens": 7}, 7),
        # It is a bound: whoever wants no shorter answer says a large number.
        ({"max_tokens": 32_768}, 32_768),
        ({"max_tokens": 65_535}, 32_768),
        ({"max_completion_tokens": 131_072}, 32_768),
    ],
)
def test_the_longest_answer(changes: dict[str, Any], max_tokens: int) -> None:
    assert parse_chat(orjson.dumps({**CHAT, **changes})).request.max_tokens == max_tokens


def test_text_parts_are_joined_and_developers_are_the_system() -> None:
    parts = [{"type": "text", "text": "The capital"}, {"type": "text", "text": "of Iceland?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    asked = parse_chat(orjson.dumps({**CHAT, "messages": messages})).request
    assert asked.question == "The capital\nof Iceland?"
    assert asked.history == (ChatMessage(role="system", content="Be brief."),)


def test_a_long_message_is_fine_for_the_plain_model_only() -> None:
    messages = [{"role": "user", "content": "a" * 9000}]
    body = {"model": MODEL, "messages": messages}
    assert len(parse_chat(orjson.dumps(body)).request.question) == 9000
    with pytest.raises(InvalidArgument, match="8192"):
        parse_chat(orjson.dumps({**body, "model": "raygion"}))


async def test_the_described_replies_are_the_real_ones() -> None:
    async with in_process(FakeService()) as client:
        chat = await client.post("/v1/chat/completions", json=CHAT)
        models = await client.get("/v1/models")
    ChatReply.model_validate_json(chat.content, strict=True)
    ModelsReply.model_validate_json(models.content, strict=True)


async def test_the_openapi_page_is_complete() -> None:
    async with in_process(FakeService()) as client:
        page = (await client.get("/openapi.json")).json()
        assert (await client.get("/docs")).status_code == 200
        assert page["paths"].keys() == {
            *("/v1/search", "/v1/answer", "/v1/chat/completions", "/v1/completions"),
            *("/v1/embeddings", "/v1/models", "/v1/models/{name}", "/v1/status"),
            *("/v1/documents", "/v1/documents/{id}", "/v1/corpora/{corpus}/changes"),
            *("/healthz", "/readyz", "/metrics"),
        }
        schemas = page["components"]["schemas"]
        for reference in _references(page):
            assert reference.removeprefix("#/components/schemas/") in schemas
        for path, method in [
            (path, method)
            for path, methods in page["paths"].items()
            for method in methods.keys() & {"post", "put"}
        ]:
            content = page["paths"][path][method]["requestBody"]["content"]["application/json"]
            assert content["schema"]["$ref"].startswith("#/components/schemas/")
            for example in content["examples"].values():
                reply: httpx.Response = await client.request(method, path, json=example["value"])
                assert reply.status_code == 200


def _references(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(value) for value in node))
    return set()
