"""The trace id of a request: whose it is, and where a reply says it."""

from __future__ import annotations

import re
import uuid

import pytest

from deployments.http.edge import trace_id_of
from tests.support.worlds.fake_service import FakeService, in_process

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        (TRACEPARENT, True),
        (f"cc-{TRACE}-b7ad6b7169203331-01-more", True),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", False),
        (f"ff-{TRACE}-b7ad6b7169203331-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", False),
        (TRACE, False),
        ("", False),
    ],
)
def test_only_a_valid_traceparent_is_taken_over(header: str, taken: bool) -> None:
    trace_id = trace_id_of(header.encode())
    assert (trace_id == TRACE) == taken
    assert re.fullmatch("[0-9a-f]{32}", trace_id)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (TRACE, True),
        (TRACE.upper(), True),
        (str(uuid.UUID(TRACE)), True),
        (f" {TRACE}", False),
        (f"{TRACE}\n", False),
        (TRACE[1:], False),
        (f"{TRACE[:8]}-{TRACE[8:]}", False),
        ("req_123", False),
        (str(uuid.UUID(int=0)), False),
        ("", False),
    ],
)
def test_a_request_id_that_is_a_uuid_becomes_the_trace_id(sent: str, taken: bool) -> None:
    trace_id = trace_id_of(b"", sent.encode())
    assert (trace_id == TRACE) == taken
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    assert trace_id.strip("0")


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/healthz"])
async def test_the_request_id_of_a_reply_is_its_trace_id(path: str) -> None:
    async with in_process(FakeService()) as client:
        plain = await client.get(path)
        named = await client.get(path, headers={"x-request-id": str(uuid.UUID(TRACE))})
        # A trace that the request belongs to goes first.
        both = {"x-request-id": "f" * 32, "traceparent": TRACEPARENT}
        traced = await client.get(path, headers=both)
    assert re.fullmatch("[0-9a-f]{32}", plain.headers["x-request-id"])
    assert named.headers["x-trace-id"] == traced.headers["x-trace-id"] == TRACE
    for reply in (plain, named, traced):
        assert reply.headers.get_list("x-request-id") == [reply.headers["x-trace-id"]]
