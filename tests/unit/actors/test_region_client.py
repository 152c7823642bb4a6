"""The arguments of the Python client, without a cluster behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.region_client import Region
from cluster.query.filters import parse_filter
from cluster.query.read_consistency import read_consistency_of
from cluster.query.request import Request
from cluster.query.session import SessionToken

OPTIONS: dict[str, Any] = {
    "corpus": "factbook",
    "top_k": 7,
    "filter": {"region": "europe"},
    "timeout_s": 2.5,
    "min_coverage": 0.5,
    "release": 3,
    "documents": "base",
    "user": "u",
}
TOKEN = SessionToken("store", 12).encode()


def asked(method: str, **options: Any) -> Request:
    """What the region is asked."""
    received: list[Request] = []
    front = SimpleNamespace(**{method: SimpleNamespace(remote=received.append)})
    getattr(Region(front), method).remote("Who grows tea?", **options)
    return received[0]


@pytest.mark.parametrize("method", ["search", "answer"])
def test_there_is_an_argument_for_each_term_of_a_request(method: str) -> None:
    terms = asked(method, **OPTIONS, session=TOKEN).terms()
    demand = read_consistency_of(None, TOKEN, None, release=3)
    assert terms == OPTIONS | {"filter": parse_filter(OPTIONS["filter"]), "consistency": demand}
    bounded = asked(method, consistency="bounded", max_staleness_ms=700)
    assert bounded.consistency == read_consistency_of("bounded", None, 700)
