"""Chats as other programs send them: with what other models left in them, in any order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cluster.errors import ContextLengthExceeded, InvalidArgument
from cluster.generation.generator import ChatMessage
from cluster.regions.status import RegionSummary
from deployments.http.openai.chat import IGNORED_MESSAGE_KEYS, parse_chat
from tests.support.worlds.fake_service import MODEL, FakeService, in_process

Message = dict[str, Any]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXT = {"type": "text", "text": "B"}


def user(content: object) -> Message:
    return {"role": "user", "content": content}


def assistant(content: object, **more: object) -> Message:
    return {"role": "assistant", "content": content, **more}


def system(content: object) -> Message:
    return {"role": "system", "content": content}


def tool(content: object) -> Message:
    return {"role": "tool", "tool_call_id": "c1", "content": content}


def asked(messages: list[Message], model: str = "raygion") -> tuple[list[tuple[str, str]], str]:
    request = parse_chat(orjson.dumps({"model": model, "messages": messages})).request
    return [(message.role, message.content) for message in request.history], request.question


@pytest.mark.parametrize("key", sorted(IGNORED_MESSAGE_KEYS))
@pytest.mark.parametrize("value", [None, "x", [], {}, [CALL]])
def test_what_other_models_left_in_a_message_changes_nothing(key: str, value: object) -> None:
    messages = [user("Hi"), assistant("Hello", **{key: value}), {**user("And?"), key: value}]
    assert asked(messages) == ([("user", "Hi"), ("assistant", "Hello")], "And?")


@pytest.mark.parametrize(
    ("messages", "history"),
    [
        ([user("A"), assistant(None)], [("user", "A")]),
        ([user("A"), assistant("")], [("user", "A")]),
        ([user("A"), assistant(None, tool_calls=[CALL]), tool("42")], [("user", "A")]),
        (
            [user("A"), assistant(None, tool_calls=[CALL]), tool("42"), assistant("It is 42.")],
            [("user", "A"), ("assistant", "It is 42.")],
        ),
        ([user("A"), {"role": "function", "name": "f", "content": "42"}], [("user", "A")]),
        ([user("A"), tool([{"type": "text", "text": "42"}])], [("user", "A")]),
        ([user("A"), tool([{"type": "image_url", "image_url": {"url": "x"}}])], [("user", "A")]),
        ([user("A"), tool(None)], [("user", "A")]),
        ([user("A"), assistant([{"type": "refusal", "refusal": "No."}])], [("user", "A")]),
        (
            [user("A"), assistant([{"type": "thinking", "thinking": "hm"}, TEXT, TEXT])],
            [("user", "A"), ("assistant", "B\nB")],
        ),
    ],
)
def test_a_chat_with_tools_goes_on(messages: list[Message], history: list[tuple[str, str]]) -> None:
    assert asked([*messages, user("And?")]) == (history, "And?")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Q"), assistant("The capital is")], ([], "Q")),
        ([user("A"), user("Q"), assistant("C")], ([("user", "A")], "Q")),
        ([user("Q"), system("Be brief.")], ([("system", "Be brief.")], "Q")),
        ([user("Q"), assistant(None, tool_calls=[CALL]), tool("42")], ([], "Q")),
        ([system("Write a greeting.")], ([], "Write a greeting.")),
        ([system("Be brief."), system("Greet.")], ([("system", "Be brief.")], "Greet.")),
    ],
)
@pytest.mark.parametrize("model", ["raygion", MODEL])
def test_the_question_is_the_last_thing_that_the_user_said(
    messages: list[Message], expected: tuple[list[tuple[str, str]], str], model: str
) -> None:
    assert asked(messages, model) == expected


def test_a_text_too_long_to_search_for_is_referred_to_the_plain_model() -> None:
    title = [user("### Task: give a title\n" + "USER: hi\n" * 1200)]
    with pytest.raises(InvalidArgument, match=r"own name .* answers without retrieval") as caught:
        asked(title)
    assert caught.value.field == "messages[0].content"
    assert asked(title, MODEL)[1] == title[0]["content"]


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_effort": "low"},
        {"verbosity": "low"},
        {"function_call": "none"},
        {"stop_token_ids": []},
        {"chat_template_kwargs": {}},
        {"stream": True, "stream_options": {"continuous_usage_stats": False}},
    ],
)
async def test_keys_that_change_nothing_are_taken(more: dict[str, Any]) -> None:
    service = FakeService()
    body = {"model": "raygion", "messages": [user("Q")], **more}
    async with in_process(service) as client:
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert service.answers[0].question == "Q"
    assert service.answers[0].history == ()


async def test_a_history_is_passed_on_as_messages() -> None:
    service = FakeService()
    body = {"model": "raygion", "messages": [user("A"), assistant("B"), user("Q")]}
    async with in_process(service) as client:
        await client.post("/v1/chat/completions", json=body)
    assert service.answers[0].history == (
        ChatMessage(role="user", content="A"),
        ChatMessage(role="assistant", content="B"),
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "field"),
    [
        (InvalidArgument("there is no field 'x'", "filter.and[1].x"), "raygion.filter.and[1].x"),
        (InvalidArgument("there is no corpus 'c'", "corpus"), "raygion.corpus"),
        (InvalidArgument("has no generator", "release"), "raygion.release"),
        (ContextLengthExceeded("too long", "question"), "messages"),
        (ContextLengthExceeded("too long", "messages"), "messages"),
        (InvalidArgument("wrong", None), None),
    ],
)
async def test_what_the_region_refuses_is_named_as_in_the_chat(
    error: InvalidArgument, field: str | None, stream: bool
) -> None:
    service = FakeService()
    service.answer_error = error
    body = {"model": "raygion", "messages": [user("Q")], "stream": stream}
    async with in_process(service) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    told = reply.json()["error"]
    assert (reply.status_code, told["code"]) == (400, error.code)
    assert (told["param"], told.get("field")) == (field, field)


@pytest.mark.parametrize(
    ("model", "more", "retrieve", "corpus"),
    [
        ("raygion", {}, True, None),
        ("raygion", {"corpus": "news"}, True, "news"),
        ("raygion/news", {}, True, "news"),
        ("raygion/news", {"corpus": "news", "top_k": 1}, True, "news"),
        (MODEL, {"corpus": "news"}, False, "news"),
        (f"raygion-labs/{MODEL}", {}, False, None),
        ("raygion/", {}, False, None),
    ],
)
def test_a_corpus_may_be_named_by_the_model(
    model: str, more: dict[str, Any], retrieve: bool, corpus: str | None
) -> None:
    body = {"model": model, "messages": [user("Q")], "raygion": more}
    request = parse_chat(orjson.dumps(body)).request
    assert (request.retrieve, request.corpus) == (retrieve, corpus)


def test_a_model_and_a_key_that_name_two_corpora_are_refused() -> None:
    body = {"model": "raygion/news", "messages": [user("Q")], "raygion": {"corpus": "words"}}
    with pytest.raises(InvalidArgument, match="'news'") as caught:
        parse_chat(orjson.dumps(body))
    assert caught.value.field == "raygion.corpus"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_reply_names_the_model_as_the_client_did(stream: bool) -> None:
    body = {"model": "raygion/factbook", "messages": [user("Q")], "stream": stream}
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200
    assert '"model":"raygion/factbook"' in reply.text


async def test_each_of_several_corpora_is_a_model() -> None:
    service = FakeService()
    assert isinstance(service.summary, RegionSummary)
    release = service.summary.resident[0]
    corpora = (release.corpora[0], replace(release.corpora[0], corpus="news"))
    service.says(resident=(replace(release, corpora=corpora),))
    async with in_process(service) as client:
        listed = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["raygion", "raygion/factbook", "raygion/news", MODEL]
        for name in listed:
            assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        assert (await client.get("/v1/models/raygion/words")).status_code == 404
