"""OpenAI's own Python client, pointed at the region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from actors.models.starter_models import STARTER_GENERATOR
from cluster.query.evidence import EvidenceSettings
from tests.support.regions.region_fixture import REGION, LiveRegion

pytestmark = pytest.mark.integration

QUESTION = "What is the Saxon Garden in Polish?"
PARAGRAPH = "Warsaw/0"
XQUAD: dict[str, Any] = {"raygion": {"corpus": "xquad"}}
ASKED: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(shared_region: LiveRegion) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{shared_region.url}/v1", api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


def test_it_lists_the_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert (names[0], names[-1]) == ("raygion", STARTER_GENERATOR)
    corpora = names[1:-1]
    assert "raygion/xquad" in corpora
    assert all(name.startswith("raygion/") for name in corpora)


def test_a_corpus_is_chatted_with_by_the_name_of_the_model_alone(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="raygion/xquad", messages=ASKED, max_tokens=16)
    assert reply.model == "raygion/xquad"
    assert (reply.model_extra or {})["raygion"]["citations"][0]["id"] == PARAGRAPH


def test_it_chats_with_retrieval(client: openai.OpenAI, shared_region: LiveRegion) -> None:
    reply = client.chat.completions.create(
        model="raygion", messages=ASKED, extra_body=XQUAD, max_tokens=48
    )
    assert reply.object == "chat.completion"
    assert reply.model == "raygion"
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    source = (reply.model_extra or {})["raygion"]
    assert source["citations"][0]["id"] == PARAGRAPH
    assert (source["release"], source["region"]) == (shared_region.release, REGION)


def test_a_prompt_is_completed_as_a_chat_of_one_message_is_answered(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="raygion/xquad", messages=ASKED, max_tokens=16)
    reply = client.completions.create(model="raygion/xquad", prompt=QUESTION, max_tokens=16)
    assert reply.choices[0].text == chat.choices[0].message.content
    assert reply.usage == chat.usage
    assert (reply.choices[0].model_extra or {})["raygion"]["citations"][0]["id"] == PARAGRAPH
    with client.completions.create(
        model="raygion/xquad", prompt=QUESTION, max_tokens=16, stream=True
    ) as stream:
        assert "".join(c.choices[0].text for c in stream).strip() == reply.choices[0].text


def test_it_streams_what_it_would_have_answered_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="raygion", messages=ASKED, extra_body=XQUAD, max_tokens=48
    )
    stream = client.chat.completions.create(
        model="raygion",
        messages=ASKED,
        extra_body=XQUAD,
        max_tokens=48,
        stream=True,
        stream_options={"include_usage": True},
    )
    with stream:
        chunks = list(stream)
    assert (chunks[0].model_extra or {})["raygion"]["citations"][0]["id"] == PARAGRAPH
    assert chunks[0].choices[0].delta.role == "assistant"
    text = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert len([piece for piece in text if piece]) > 2
    assert "".join(text).strip() == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].usage == whole.usage


def test_it_chats_with_the_plain_model_and_its_conversation(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=STARTER_GENERATOR,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "My name is Quentin."},
            {"role": "assistant", "content": "Nice to meet you, Quentin!"},
            {"role": "user", "content": [{"type": "text", "text": "What is my name?"}]},
        ],
        max_tokens=24,
        seed=7,
        stop=["\n\n"],
    )
    assert "Quentin" in (reply.choices[0].message.content or "")
    assert (reply.model_extra or {})["raygion"]["citations"] == []


def chat(client: openai.OpenAI, messages: Any, **raygion: Any) -> tuple[Any, dict[str, Any]]:
    extra = {"raygion": {"corpus": "xquad", **raygion}}
    reply = client.chat.completions.create(
        model="raygion", messages=messages, extra_body=extra, max_tokens=16
    )
    return reply, (reply.model_extra or {})["raygion"]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_reaches_the_model(client: openai.OpenAI, role: str) -> None:
    plain, _ = chat(client, ASKED)
    told, source = chat(client, [{"role": role, "content": "Answer in Latin. " * 10}, *ASKED])
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens + 30
    assert source["citations"][0]["id"] == PARAGRAPH
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [{"role": role, "content": "Answer in Latin. " * 800}, *ASKED])
    assert caught.value.code == "context_length_exceeded"


def test_a_long_conversation_keeps_its_passages(client: openai.OpenAI) -> None:
    notes = [
        {"role": role, "content": f"Note number {i}, please."}
        for i in range(200)
        for role in ("user", "assistant")
    ]
    _, alone = chat(client, ASKED)
    _, source = chat(client, [*notes, *ASKED])
    assert source["citations"] == alone["citations"]
    assert alone["truncated"] is None
    assert 0 < source["truncated"]["history_messages"] < len(notes)
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [*notes, *ASKED], truncation="disabled")
    assert caught.value.code == "context_length_exceeded"


def test_without_evidence_the_answer_says_so(client: openai.OpenAI) -> None:
    reply, source = chat(client, ASKED, filter={"title": "Atlantis"})
    assert (source["outcome"], source["citations"]) == ("nothing_found", [])
    assert reply.choices[0].message.content == EvidenceSettings().nothing_found
    assert (reply.choices[0].finish_reason, reply.usage.total_tokens) == ("stop", 0)


def test_embeddings_are_the_vectors_that_a_search_looks_for(
    client: openai.OpenAI, shared_region: LiveRegion
) -> None:
    texts = [QUESTION, "tea", "word " * 400]
    made = client.embeddings.create(model="raygion/xquad", input=texts)
    assert (made.model_extra or {})["raygion"]["release"] == shared_region.release
    assert 400 + len(QUESTION.split()) < made.usage.prompt_tokens < 440

    def hits(**asked: Any) -> Any:
        body = {"corpus": "xquad", "include": [], **asked}
        reply = httpx.post(f"{shared_region.url}/v1/search", json=body)
        return [each["hits"] for each in reply.json()["results"]]

    assert hits(vectors=[each.embedding for each in made.data]) == hits(queries=texts)


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=f"raygion, {STARTER_GENERATOR}"):
        client.chat.completions.create(model="gpt-9", messages=ASKED)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="raygion", messages=ASKED, extra_body={"raygion": {"corpus": "nowhere"}}
        )
    assert (caught.value.code, caught.value.param) == ("invalid_argument", "raygion.corpus")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="raygion", messages=ASKED, n=3)
    assert caught.value.param == "n"
    with pytest.raises(openai.InternalServerError) as timed_out:
        client.chat.completions.create(
            model="raygion",
            messages=ASKED,
            extra_body={"raygion": {"corpus": "xquad", "timeout_ms": 1}},
        )
    assert timed_out.value.status_code == 504
