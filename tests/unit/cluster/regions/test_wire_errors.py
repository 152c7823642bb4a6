"""Errors over HTTP: what a caller, and what another region, is told of them."""

from __future__ import annotations

import orjson
import pytest

from cluster import errors
from cluster.errors import OWN_FAULTS, InvalidArgument, Overloaded, RaygionError, Unavailable
from cluster.regions import wire
from cluster.regions.wire import parse_error, parse_sent_error

KINDS = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RaygionError)
    ),
    key=lambda kind: kind.__name__,
)


def body(code: str, message: str = "no", field: str | None = None) -> bytes:
    told = {"code": code, "message": message, "retryable": False, "field": field}
    return orjson.dumps({"error": told})


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_is_told_the_error_that_was_raised(kind: type[RaygionError]) -> None:
    told = parse_sent_error(body(kind.code))
    assert type(told) is kind
    assert str(told) == "no"


def test_the_field_is_named_once() -> None:
    told = parse_sent_error(body("invalid_argument", "top_k: must be over 0", "top_k"))
    assert isinstance(told, InvalidArgument)
    assert (told.field, told.message, str(told)) == (
        "top_k",
        "must be over 0",
        "top_k: must be over 0",
    )


def test_a_full_region_says_when_to_come_back() -> None:
    told = parse_sent_error(body("overloaded"), "7")
    assert isinstance(told, Overloaded)
    assert told.retry_after_s == 7.0
    a_date = parse_sent_error(body("overloaded"), "Mon, 30 Nov 2026 15:00:00 GMT")
    assert isinstance(a_date, Overloaded)
    assert a_date.retry_after_s == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_another_region_may_answer_what_is_no_fault_of_the_request(
    kind: type[RaygionError],
) -> None:
    told = parse_error(body(kind.code))
    if kind.code in OWN_FAULTS:
        assert type(told) is Unavailable
        assert str(told) == f"the region failed ({kind.code}): no"
    else:
        assert type(told) is kind


def test_a_code_of_a_later_version_is_a_fault_of_the_region() -> None:
    told = parse_sent_error(body("teapot", "short and stout"))
    assert (type(told), str(told)) == (RaygionError, "short and stout (teapot)")
    assert type(parse_error(body("teapot"))) is Unavailable


@pytest.mark.parametrize("told", [b"", b"<html>", b"[]", b"{}", b'{"error":"no"}', b"null"])
def test_what_no_region_sends_is_no_error_of_a_region(told: bytes) -> None:
    with pytest.raises(ValueError, match="not an error body"):
        parse_sent_error(told)
    assert str(parse_error(told)) == "the reply is not what a region sends"


def test_an_error_without_a_code_of_its_own_takes_no_other_errors_place() -> None:
    class NotRunningHere(Unavailable):
        pass

    assert NotRunningHere not in set(wire.kinds_on_wire(RaygionError))
