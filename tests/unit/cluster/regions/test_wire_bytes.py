"""The requests between regions byte for byte: regions of other versions read them."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from cluster.generation.generator import ChatMessage
from cluster.generation.prompt import Truncation
from cluster.query.answers import AnswerRequest
from cluster.query.filters import parse_filter
from cluster.query.read_consistency import read_consistency_of
from cluster.query.request import Embedded
from cluster.query.search import SearchEffort, SearchRequest
from cluster.query.session import SessionToken
from cluster.regions.wire import answer_call, search_call

TRACE = "0af7651916cd43dd8448eb211c80319c"
TOKEN = SessionToken("store", 12).encode()
EUROPE = parse_filter({"region": "europe"})
ALL = SearchRequest(
    corpus="factbook",
    queries=("tea",),
    embedded=Embedded(model="m", vectors=np.ones((1, 2), np.float32)),
    top_k=17,
    filter=EUROPE,
    fields=("region", "year"),
    timeout_s=9.0,
    min_coverage=0.25,
    effort=SearchEffort(ef_search=40, nprobe=3, exact=True),
    release=9,
    user="u",
    trace_id=TRACE,
    forwarded_by="here",
    consistency=read_consistency_of(None, TOKEN, None, release=9),
    not_before=4,
)
OPTIONS = (
    b'"corpus":"factbook","top_k":17,"filter":{"region":{"eq":"europe"}},"timeout_ms":2500,'
    b'"min_coverage":0.25,"release":9,"user":"u","session":"%b"' % TOKEN.encode()
)
VECTORS = b'"embedded":{"model":"m","vectors":"AACAPwAAgD8="}'


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            SearchRequest(queries=("tea",)),
            b'{"top_k":10,"timeout_ms":2500,"min_coverage":1.0,"queries":["tea"]}',
        ),
        (
            SearchRequest(
                vectors=np.ones((1, 2), np.float32),
                consistency=read_consistency_of(None, None, 700),
                user="",
            ),
            b'{"top_k":10,"timeout_ms":2500,"min_coverage":1.0,"consistency":"bounded",'
            b'"max_staleness_ms":700,"vectors":[[1.0,1.0]]}',
        ),
        (
            ALL,
            b'{%b,"fields":["region","year"],"ef_search":40,"nprobe":3,"recall":"exact",'
            b'"queries":["tea"],%b}' % (OPTIONS, VECTORS),
        ),
    ],
)
def test_a_search(request_: SearchRequest, body: bytes) -> None:
    assert search_call(request_, 2.5).content == body


def test_a_search_in_a_url() -> None:
    flat = SearchRequest(vectors=np.ones(2, np.float32), filter=EUROPE, fields=("region", "year"))
    call = search_call(flat, 2.5)
    assert list(call.params.items()) == [
        ("top_k", "10"),
        ("filter", '{"region":{"eq":"europe"}}'),
        ("timeout_ms", "2500"),
        ("min_coverage", "1.0"),
        ("fields", "region,year"),
    ]


def test_an_answer() -> None:
    asked = AnswerRequest(
        question="Why?",
        embedded=ALL.embedded,
        history=(ChatMessage(role="assistant", content="Hi"),),
        corpus=ALL.corpus,
        top_k=ALL.top_k,
        filter=ALL.filter,
        max_tokens=99,
        temperature=0.5,
        stop=("END",),
        truncation=Truncation.DISABLED,
        min_coverage=ALL.min_coverage,
        release=ALL.release,
        user=ALL.user,
        trace_id=TRACE,
        consistency=ALL.consistency,
    )
    call = answer_call(asked, 2.5)
    assert call.content == (
        b'{"question":"Why?",%b,"retrieve":true,"history":[{"role":"assistant","content":"Hi"}],'
        b'"max_tokens":99,"temperature":0.5,"stop":["END"],"truncation":"disabled",%b}'
        % (VECTORS, OPTIONS)
    )
    assert orjson.loads(answer_call(AnswerRequest(question="Why?"), 2.5).content) == {
        "question": "Why?",
        "retrieve": True,
        "history": [],
        "max_tokens": 128,
        "top_k": 3,
        "timeout_ms": 2500,
        "min_coverage": 1.0,
    }
