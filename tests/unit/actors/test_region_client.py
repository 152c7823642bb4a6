"""The arguments of the Python client, without a cluster behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.region_client import Region
from cluster.deltas.document_service import Acknowledgement, WriteRequest
from cluster.errors import InvalidArgument
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.requests import DocumentWrite
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


class Front:
    """Takes down what the region is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.write = self.document = SimpleNamespace(remote=self._take)

    def _take(self, *asked: object) -> None:
        self.asked.append(asked)


def test_documents_are_checked_before_they_are_sent() -> None:
    front = Front()
    region = Region(front)
    good, bad = {"id": "a", "text": "t"}, {"id": "b"}

    region.put.remote("tickets", [good, bad], wait="all", timeout_s=2.5, key="k")
    region.delete.remote("tickets", "a", if_version=HybridTime(5, 0, "eu"), key="d")
    region.document.remote("tickets", "a")

    (put,), (delete,), document = front.asked
    assert isinstance(put, WriteRequest)
    assert (put.corpus, put.wait, put.timeout_s) == ("tickets", Acknowledgement.ALL, 2.5)
    write, error = put.writes
    assert isinstance(write, DocumentWrite)
    assert (write.id, write.text, write.key) == ("a", "t", "k/0")
    assert isinstance(error, InvalidArgument)
    (gone,) = delete.writes
    assert (gone.id, gone.text, gone.key, str(gone.if_version)) == ("a", None, "d", "5.0.eu")
    assert document == ("tickets", "a", 10.0)
    with pytest.raises(InvalidArgument, match="durable, visible, quorum, all"):
        region.put.remote("tickets", [good], wait="later")
    assert len(front.asked) == 3
