"""Citations as OpenAI's annotations."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam

from cluster.query.answers import Citation
from deployments.http.openai.annotations import AnnotationReply, annotations_of
from tests.support.worlds.fake_service import MODEL, FakeService, in_process


def cited(*ids: str) -> list[Citation]:
    return [Citation(id=id, text="...", score=0.5) for id in ids]


def positions(text: str, *ids: str) -> list[tuple[Any, ...]]:
    found = [
        AnnotationReply.model_validate(a).url_citation for a in annotations_of(text, cited(*ids))
    ]
    return [(a.title, a.start_index, a.end_index) for a in found]


@pytest.mark.parametrize(
    ("text", "ids", "found"),
    [
        ("It is Oslo [1].", ["a"], [("a", 11, 14)]),
        ("It is Oslo.", ["a", "b"], [("a", 0, 11), ("b", 0, 11)]),
        ("Oslo [2][1], said [2].", ["a", "b"], [("a", 8, 11), ("b", 5, 8), ("b", 18, 21)]),
        # Neither names a passage: there is no third one, and no model counts from 0.
        ("Oslo [3] [0] [01]", ["a"], [("a", 0, 17)]),
        ("Ørsted \U0001f9f2 [1]", ["a"], [("a", 9, 12)]),
        ("", ["a"], [("a", 0, 0)]),
        ("Nothing found [1].", [], []),
    ],
)
def test_a_citation_stands_where_the_answer_names_it(
    text: str, ids: list[str], found: list[tuple[Any, ...]]
) -> None:
    assert positions(text, *ids) == found


@pytest.mark.parametrize(
    ("passage_id", "url"),
    [
        ("iceland#0", "raygion:iceland%230"),
        ("a b/ü", "raygion:a%20b%2F%C3%BC"),
        ("https://example.org/a?b=1&c=%20#0", "https://example.org/a?b=1&c=%20#0"),
        ("http://example.org/ü\n", "http://example.org/%C3%BC%0A"),
        ("https://", "raygion:https%3A%2F%2F"),
        ("javascript:alert(1)", "raygion:javascript%3Aalert%281%29"),
    ],
)
def test_the_url_is_the_id_of_the_passage(passage_id: str, url: str) -> None:
    (found,) = annotations_of("", cited(passage_id))
    assert AnnotationReply.model_validate(found).url_citation.url == url


@pytest.mark.parametrize(("title", "shown"), [("Iceland", "Iceland"), (None, "a"), ("", "a")])
def test_the_title_is_that_of_the_passage_or_else_its_id(title: str | None, shown: str) -> None:
    (found,) = annotations_of("", [Citation(id="a", text="...", score=0.5, title=title)])
    assert AnnotationReply.model_validate(found).url_citation.title == shown


@given(st.text(alphabet="[]0123 a"), st.lists(st.text(), max_size=4))
def test_every_citation_is_found_within_the_text(text: str, ids: list[str]) -> None:
    found = positions(text, *ids)
    assert [title for title, _, _ in found if title in ids] == [title for title, _, _ in found]
    assert set(ids) == {title for title, _, _ in found}
    assert all(0 <= start <= end <= len(text) for _, start, end in found)


async def test_a_stream_tells_them_once_with_its_last_delta() -> None:
    body = {"model": "raygion", "messages": [{"role": "user", "content": "?"}], "stream": True}
    async with in_process(service := FakeService()) as client:
        service.tokens = (" ", "Reykja", "vik", " [", "1]")
        reply = await client.post("/v1/chat/completions", json=body)
    *chunks, _, _ = reply.text.split("\n\n")
    deltas = [orjson.loads(chunk.removeprefix("data: "))["choices"][0]["delta"] for chunk in chunks]
    assert ["annotations" in delta for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    # In the text as it was streamed, which may begin with white space.
    (found,) = deltas[-1]["annotations"]
    streamed = "".join(delta.get("content", "") for delta in deltas)
    place = found["url_citation"]
    assert streamed[place["start_index"] : place["end_index"]] == "[1]"


async def test_the_plain_model_cites_nothing() -> None:
    body = {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "?"}]}
    async with in_process(FakeService()) as client:
        whole = await client.post("/v1/chat/completions", json=body)
        streamed = await client.post("/v1/chat/completions", json={**body, "stream": True})
    assert whole.json()["choices"][0]["message"]["annotations"] == []
    assert "annotations" not in streamed.text


ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "?"}]
LISTED = "Reykjavik [1]\n\nSources:\n[1] iceland#0"


@pytest.mark.parametrize("stream", [False, True])
async def test_sources_are_listed_under_the_text_if_asked(
    client: AsyncOpenAI, stream: bool
) -> None:
    async def message_of(model: str) -> ChatCompletionMessage:
        chats, extra = client.chat.completions, {"raygion": {"list_sources": True}}
        if not stream:
            reply = await chats.create(model=model, messages=ASKED, extra_body=extra)
            return reply.choices[0].message
        async with chats.stream(model=model, messages=ASKED, extra_body=extra) as events:
            return (await events.get_final_completion()).choices[0].message

    message = await message_of("raygion")
    assert message.content == LISTED
    marks = [a.url_citation for a in message.annotations or ()]
    assert [LISTED[m.start_index : m.end_index] for m in marks] == ["[1]", "[1]"]
    assert (await message_of(MODEL)).content == "Reykjavik [1]", "it cites nothing"
