"""docs/http-api.md says what is so: its examples work, its tables are complete."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import orjson
import pytest

from cluster import errors
from cluster.documents.write_checks import KNOWN_KEYS as WRITE_KEYS
from cluster.query.provenance import Provenance
from deployments.http.openai.asking import IGNORED_KEYS, RetrievalBody
from deployments.http.openai.chat import NEUTRAL_VALUES, ChatBody
from deployments.http.openai.completions import NEUTRAL_VALUES as NEUTRAL_IN_COMPLETIONS
from deployments.http.openai.completions import CompletionsBody
from deployments.http.openai.embeddings import (
    EmbeddingOptions,
    EmbeddingsBody,
    EmbeddingsReply,
)
from deployments.http.schemas.answer import AnswerBody
from deployments.http.schemas.documents import DeleteQuery, DocumentReply, PutBody, WriteReply
from deployments.http.schemas.replies import (
    AnswerReply,
    BatchSearchReply,
    ChatSourceReply,
    EmbeddingsSourceReply,
    ErrorReply,
    SearchReply,
    StatusReply,
)
from deployments.http.schemas.search import SearchBody
from tests.support.worlds.fake_service import FakeService, app_of, in_process

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "http-api.md").read_text()
CLIENTS = (DOCS / "openai.md").read_text()
POSTS = re.findall(r"curl -sN? http://127\.0\.0\.1:8000(/\S+) -d '(.*?)'", PAGE, re.DOTALL)
GETS = re.findall(r"curl -s http://127\.0\.0\.1:8000(/\S+)\n", PAGE)
REPLIES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def section(title: str) -> str:
    return PAGE.split(f"\n{title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize(("route", "body"), POSTS)
async def test_the_requests_work(route: str, body: str) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post(route, content=body)
    assert reply.status_code == 200


@pytest.mark.parametrize("page", ["http-api.md", "documents.md"])
async def test_the_requests_for_documents_work(page: str) -> None:
    asked = re.findall(
        r"curl -s(?: -X (\w+))? '?http://127\.0\.0\.1:8000(/v1/documents\S*?)'?(?: -d '(.*)')?\n",
        (DOCS / page).read_text(),
    )
    assert sorted(method or "GET" for method, *_ in asked) == ["DELETE", "GET", "PUT"]
    async with in_process(FakeService()) as client:
        for method, path, body in asked:
            reply = await client.request(method or "GET", path, content=body)
            assert reply.status_code == 200


async def test_the_reads_work() -> None:
    assert len(POSTS) >= 6
    async with in_process(FakeService()) as client:
        for route in GETS:
            assert (await client.get(route)).status_code == 200


def test_the_replies_have_the_real_form() -> None:
    search, batch, answer, embeddings, written, document, status, error = map(orjson.loads, REPLIES)
    SearchReply.model_validate(search, strict=True)
    assert search.keys() - {"hits"} == batch.keys() - {"results"}
    AnswerReply.model_validate(answer, strict=True)
    EmbeddingsReply.model_validate(embeddings, strict=True)
    WriteReply.model_validate(written, strict=True)
    DocumentReply.model_validate(document, strict=True)
    StatusReply.model_validate(status, strict=True)
    ErrorReply.model_validate(error, strict=True)


def test_every_fact_of_the_provenance_is_in_the_schemas_and_on_the_page() -> None:
    facts = {fact.name for fact in fields(Provenance)}
    described = (SearchReply, BatchSearchReply, AnswerReply, ChatSourceReply, EmbeddingsSourceReply)
    for model in described:
        assert facts - model.model_fields.keys() == set()
    search, _, answer, *_ = map(orjson.loads, REPLIES)
    assert facts - search.keys() == facts - answer.keys() == set()
    chat = section("## OpenAI-compatible chat")
    assert {fact for fact in facts if f"`{fact}`" not in chat} == set()


def test_the_tables_name_every_field() -> None:
    for title, keys in (
        ("## POST /v1/search", SearchBody.known_keys),
        ("## POST /v1/answer", AnswerBody.known_keys),
        ("## OpenAI-compatible chat", ChatBody.known_keys | IGNORED_KEYS | NEUTRAL_VALUES.keys()),
        ("## OpenAI-compatible chat", RetrievalBody.known_keys),
        ("## OpenAI-compatible chat", CompletionsBody.known_keys | NEUTRAL_IN_COMPLETIONS.keys()),
        ("## POST /v1/embeddings", EmbeddingsBody.known_keys | EmbeddingOptions.known_keys),
        ("## Documents", PutBody.known_keys | DeleteQuery.known_keys | WRITE_KEYS),
    ):
        assert {key for key in keys if f"`{key}`" not in section(title)} == set()


def test_the_page_on_openais_clients_says_what_becomes_of_each_key() -> None:
    rows = dict(re.findall(r"^\| (taken|ignored|taken if .*?) \| (.*) \|$", CLIENTS, re.MULTILINE))
    named = [set(re.findall(r"`(\w+)`", row)) for row in rows.values()]
    assert named == [ChatBody.known_keys, IGNORED_KEYS, NEUTRAL_VALUES.keys()]


def test_the_tables_name_every_route_and_error() -> None:
    app = app_of(FakeService())
    for path in app.openapi()["paths"]:
        assert path in PAGE
    raised: list[type[errors.RaygionError]] = [errors.RaygionError]
    raised += errors.RaygionError.__subclasses__()
    for error in raised:
        (row,) = [
            line
            for line in section("## Errors").splitlines()
            if line.startswith(f"| {error.http_status} ") and f"`{error.code}`" in line
        ]
        assert f"| {'yes' if error.retryable else 'no'} |" in row
