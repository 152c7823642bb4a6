"""Errors keep what they say on their way through pickle, and tell callers what to do."""

from __future__ import annotations

import copy
import pickle

import pytest

import cluster.errors as errors
from cluster.errors import ClockAhead, InvalidArgument, LogUnreadable, Overloaded, RaygionError

CLASSES = sorted(
    (c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RaygionError)),
    key=lambda c: c.__name__,
)
SPECIAL = [
    InvalidArgument("must be positive", "top_k"),
    InvalidArgument("no field"),
    Overloaded("the queue is full", 2.5),
    Overloaded("the queue is full"),
    ClockAhead("set the clock", 250),
    LogUnreadable("entry 7 is damaged", 7),
]
RETRYABLE = {
    *("Conflict", "NotYet", "Overloaded", "ClockAhead", "Unavailable", "DeadlineExceeded"),
}


@pytest.mark.parametrize(
    "error", [*(c("what is wrong") for c in CLASSES), *SPECIAL], ids=lambda e: repr(e)
)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_every_error_survives_pickling(error, through) -> None:
    again = through(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert (again.code, again.retryable, again.http_status) == (
        error.code,
        error.retryable,
        error.http_status,
    )


def test_the_tree_is_the_one_in_the_docstring() -> None:
    assert len(CLASSES) == 17
    assert all(issubclass(c, RaygionError) for c in CLASSES)
    assert all(c.__name__ in (errors.__doc__ or "") for c in CLASSES)
    assert {c.__name__ for c in CLASSES if c.retryable} == RETRYABLE
    codes = [c.code for c in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error_class", [c for c in CLASSES if c is not RaygionError])
def test_the_docstring_names_the_http_status(error_class: type[RaygionError]) -> None:
    line = next(x for x in (errors.__doc__ or "").splitlines() if f" {error_class.__name__} " in x)
    assert line.rstrip().endswith(f"({error_class.http_status})")


def test_an_invalid_argument_names_its_field() -> None:
    assert str(InvalidArgument("must be positive", "top_k")) == "top_k: must be positive"
    assert str(InvalidArgument("must be positive")) == "must be positive"
