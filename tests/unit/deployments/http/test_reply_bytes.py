"""The replies byte for byte: which keys they have, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pyarrow as pa
import pytest

from cluster.generation.prompt import Truncated
from cluster.query.answers import AnswerOutcome
from cluster.query.search import SearchRequest, SearchResult
from cluster.regions.wire import ARROW_TYPE
from tests.support.worlds.fake_service import FakeService, in_process

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HIT = (
    b'{"id":"iceland#0","score":0.75,"text":"Reykjavik is the capital.","metadata":{"area":103000}}'
)
CITATION = b'{"id":"iceland#0","text":"Reykjavik is the capital.","score":0.75}'
PLACE = b'"release":7,"region":"north","coverage":1.0'
ORIGIN = (
    b'"trace_id":"0af7651916cd43dd8448eb211c80319c","served_by":"south","staleness_ms":140,'
    b'"session":"a-token"'
)
RETRIEVED = (
    b'{"citations":[%b],%b,"model":"SmolLM2-135M-Instruct",%b,'
    b'"outcome":"answered","truncated":null}' % (CITATION, PLACE, ORIGIN)
)
ANSWER = (
    b'{"answer":"Reykjavik [1]","citations":[%b],%b,'
    b'"usage":{"prompt_tokens":11,"completion_tokens":3},"finish_reason":"stop",'
    b'"model":"SmolLM2-135M-Instruct","took_ms":2.0,%b,"outcome":"answered","truncated":null}'
    % (CITATION, PLACE, ORIGIN)
)
SOURCE = b'{%b,"citations":[%b],%b,"outcome":"answered","truncated":null}' % (
    PLACE,
    CITATION,
    ORIGIN,
)
QUESTION = {"question": "What is the capital of Iceland?"}
CHAT = {"model": "raygion", "messages": [{"role": "user", "content": QUESTION["question"]}]}


async def body_of(route: str, asked: dict[str, Any], service: FakeService | None = None) -> bytes:
    async with in_process(service or FakeService()) as client:
        reply = await client.post(route, json=asked, headers={"traceparent": TRACEPARENT})
    assert reply.status_code == 200
    return reply.content


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"query": "tea"}, b'"hits":[%b]' % HIT),
        ({"query": "tea", "include": []}, b'"hits":[{"id":"iceland#0","score":0.75}]'),
        ({"queries": ["a", "b"]}, b'"results":[{"hits":[%b]},{"hits":[%b]}]' % (HIT, HIT)),
    ],
)
async def test_a_search(asked: dict[str, Any], found: bytes) -> None:
    body = await body_of("/v1/search", asked)
    assert body == b'{%b,%b,"took_ms":1.235,%b}' % (found, PLACE, ORIGIN)


class WithFallback(FakeService):
    async def search(self, request: SearchRequest) -> SearchResult:
        return replace(await super().search(request), fell_back=(True, False))


async def test_a_search_in_an_index_with_a_fallback() -> None:
    one = await body_of("/v1/search", {"query": "tea"}, WithFallback())
    assert one.startswith(b'{"hits":[%b],"fallback":true,"release":7,' % HIT)
    two = await body_of("/v1/search", {"queries": ["a", "b"], "include": []}, WithFallback())
    assert two.startswith(
        b'{"results":[{"hits":[{"id":"iceland#0","score":0.75}],"fallback":true},'
        b'{"hits":[{"id":"iceland#0","score":0.75}],"fallback":false}],"release":7,'
    )


async def test_the_metadata_of_an_arrow_stream() -> None:
    async with in_process(FakeService()) as client:
        headers = {"traceparent": TRACEPARENT, "accept": ARROW_TYPE}
        reply = await client.post("/v1/search", json={"queries": ["a", "b"]}, headers=headers)
    metadata = pa.ipc.open_stream(reply.content).schema.metadata
    assert metadata is not None
    assert list(metadata.items()) == [
        (b"release", b"7"),
        (b"region", b"north"),
        (b"coverage", b"1.0"),
        (b"took_ms", b"1.235"),
        (b"trace_id", b"0af7651916cd43dd8448eb211c80319c"),
        (b"served_by", b"south"),
        (b"staleness_ms", b"140"),
        (b"session", b"a-token"),
        (b"queries", b"2"),
    ]


async def test_an_answer_whole_and_streamed() -> None:
    assert await body_of("/v1/answer", QUESTION) == ANSWER
    events = [b"event: retrieved\ndata: %b\n\n" % RETRIEVED]
    for token in (b"Reykja", b"vik", b" [1]"):
        events.append(b'event: token\ndata: {"text":"%b"}\n\n' % token)
    events.append(b"event: done\ndata: %b\n\n" % ANSWER)
    assert await body_of("/v1/answer", {**QUESTION, "stream": True}) == b"".join(events)


async def test_an_answer_that_tells_how_it_came_about() -> None:
    service = FakeService()
    service.came_about = {
        "outcome": AnswerOutcome.NOTHING_FOUND,
        "truncated": Truncated(history_messages=3, passages_shortened=1),
    }
    body = await body_of("/v1/answer", QUESTION, service)
    assert body == ANSWER.replace(
        b'"outcome":"answered","truncated":null',
        b'"outcome":"nothing_found",'
        b'"truncated":{"history_messages":3,"passages":0,"passages_shortened":1}',
    )


async def test_a_citation_with_a_title() -> None:
    service = FakeService()
    service.citation = replace(service.citation, title="Iceland")
    titled = CITATION.removesuffix(b"}") + b',"title":"Iceland"}'
    assert await body_of("/v1/answer", QUESTION, service) == ANSWER.replace(CITATION, titled)
    chat = await body_of("/v1/chat/completions", CHAT, service)
    assert chat.endswith(b',"raygion":%b}' % SOURCE.replace(CITATION, titled))
    assert b'"url":"raygion:iceland%230","title":"Iceland"}' in chat


async def test_the_source_of_a_chat_whole_and_streamed() -> None:
    whole = await body_of("/v1/chat/completions", CHAT)
    assert whole.endswith(b',"raygion":%b}' % SOURCE)
    streamed = await body_of("/v1/chat/completions", {**CHAT, "stream": True})
    first = streamed.partition(b"\n\n")[0]
    assert first.endswith(b',"raygion":%b}' % SOURCE)
    assert list(orjson.loads(whole)) == [
        *("id", "object", "created", "model", "choices", "usage", "raygion"),
    ]
