"""Chats as other programs send them: with what other models left in them, in any order."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cluster.errors import ContextLengthExceeded, InvalidArgument
from cluster.generation import ChatMessage
from deployments.openai_schema import IGNORED_MESSAGE_KEYS, parse_chat
from tests.unit.fake_service import MODEL, FakeService, in_process

Message = dict[str, Any]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXT = {"type": "text", "text": "B"}
VALUES: dict[str, object] = {"annotations": [], "tool_calls": [CALL], "reasoning_content": "hm"}


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
