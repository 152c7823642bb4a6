"""What an error tells of the one that was asked: one table of all callers."""

from __future__ import annotations

import asyncio

import pytest

from cluster.balance.verdicts import (
    PEER_PATIENCE_S,
    Verdict,
    client_verdict,
    generator_verdict,
    peer_verdict,
    replica_verdict,
)
from cluster.errors import (
    Conflict,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    RaygionError,
    Unauthenticated,
    Unavailable,
)

SUCCEEDED, FAILED, INCONCLUSIVE = Verdict.SUCCEEDED, Verdict.FAILED, Verdict.INCONCLUSIVE
PATIENT_S, HURRIED_S = PEER_PATIENCE_S, PEER_PATIENCE_S / 2

# For each error: a region by a client, a region by a region, a replica, a generator before its
# first token and after it. Callers that waited long enough to tell.
TABLE = [
    (Unavailable("away"), FAILED, FAILED, FAILED, FAILED, FAILED),
    (Overloaded("full"), FAILED, INCONCLUSIVE, FAILED, INCONCLUSIVE, INCONCLUSIVE),
    (DeadlineExceeded("late"), FAILED, FAILED, FAILED, FAILED, SUCCEEDED),
    (RaygionError("a bug"), FAILED, SUCCEEDED, INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
    (Corrupt("bytes"), FAILED, SUCCEEDED, INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
    (Unauthenticated("key"), FAILED, SUCCEEDED, INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
    (InvalidArgument("top_k"), SUCCEEDED, SUCCEEDED, INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
    (NotFound("corpus"), SUCCEEDED, SUCCEEDED, INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE),
    (Conflict("not yet"), SUCCEEDED, SUCCEEDED, FAILED, INCONCLUSIVE, INCONCLUSIVE),
    (asyncio.CancelledError(), INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE, FAILED, SUCCEEDED),
    (GeneratorExit(), INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE, FAILED, SUCCEEDED),
]


@pytest.mark.parametrize(
    ("error", "client", "peer", "replica", "waiting", "begun"),
    TABLE,
    ids=[type(row[0]).__name__ for row in TABLE],
)
def test_each_caller_has_its_own_verdict(
    error: BaseException,
    client: Verdict,
    peer: Verdict,
    replica: Verdict,
    waiting: Verdict,
    begun: Verdict,
) -> None:
    assert client_verdict(error, PATIENT_S) is client
    assert peer_verdict(error, PATIENT_S) is peer
    assert replica_verdict(error, hurried=False) is replica
    assert generator_verdict(error, begun=False, hurried=False) is waiting
    assert generator_verdict(error, begun=True, hurried=False) is begun


def test_who_is_in_a_hurry_cannot_tell_that_it_is_slow() -> None:
    late = DeadlineExceeded("late")
    assert peer_verdict(late, HURRIED_S) is INCONCLUSIVE
    assert generator_verdict(late, begun=False, hurried=True) is INCONCLUSIVE
    assert replica_verdict(TimeoutError(), hurried=True) is INCONCLUSIVE
    assert replica_verdict(TimeoutError(), hurried=False) is FAILED


def test_a_replica_that_breaks_off_has_failed_whoever_is_in_a_hurry() -> None:
    broken = Unavailable("away")
    assert peer_verdict(broken, HURRIED_S) is FAILED
    assert replica_verdict(broken, hurried=True) is FAILED
    assert generator_verdict(broken, begun=True, hurried=True) is FAILED
