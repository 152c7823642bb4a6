"""The verdict on a replica or region that a request asked, by the error of the request.

A request without an error has succeeded. What an error tells depends on what the caller sees and
decides, so each kind of caller has its own verdict:

                       region,           region,           replica           generator
                       by a client       by a region
    Unavailable        failed            failed            failed            failed
    Overloaded         failed            inconclusive      failed            inconclusive
    DeadlineExceeded   failed            failed (*)        failed            as in the last row
    time share is over -                 -                 failed (*)        -
    a fault of its own failed            (Unavailable)     inconclusive      inconclusive
    another refusal    succeeded         succeeded         inconclusive (**) inconclusive
    the caller leaves  inconclusive      inconclusive      inconclusive      succeeded once it has
                                                                             begun, else failed (*)

    (*)  `inconclusive` when the caller was in a hurry: too little time to tell
    (**) `failed` when another replica may do better (`retryable`)
"""

from __future__ import annotations

from enum import Enum, auto

from cluster.errors import OWN_FAULTS, DeadlineExceeded, Overloaded, RaygionError, Unavailable

PEER_PATIENCE_S = 1.0
"""A region that took longer than this, and all the time that there was, has failed to answer. With
less time, the caller was in too much of a hurry to tell.
"""
_AWAY = frozenset({Unavailable.code, Overloaded.code, DeadlineExceeded.code}) | OWN_FAULTS
"""Codes that tell of a region's own state."""


class Verdict(Enum):
    SUCCEEDED = auto()
    """It works, a refusal included."""
    FAILED = auto()
    """It cannot be reached, broke off, or says that it cannot serve."""
    INCONCLUSIVE = auto()
    """The request ended in a way that tells nothing of it."""


def client_verdict(error: BaseException, took_s: float) -> Verdict:
    """Of a region, by a client that can ask another one."""
    if not isinstance(error, RaygionError):
        return Verdict.INCONCLUSIVE
    return Verdict.FAILED if error.code in _AWAY else Verdict.SUCCEEDED


def peer_verdict(error: BaseException, took_s: float) -> Verdict:
    """Of a region, by another region."""
    match error:
        case Overloaded():
            return Verdict.INCONCLUSIVE
        case DeadlineExceeded():
            return Verdict.INCONCLUSIVE if took_s < PEER_PATIENCE_S else Verdict.FAILED
        case Unavailable():
            return Verdict.FAILED
        case RaygionError():
            return Verdict.SUCCEEDED
    return Verdict.INCONCLUSIVE


def replica_verdict(error: BaseException, *, hurried: bool) -> Verdict:
    """Of one of several replicas. TimeoutError: the request's share of the time is over; `hurried`:
    that share was too small to tell, or the attempt was called off.
    """
    match error:
        case TimeoutError():
            return Verdict.INCONCLUSIVE if hurried else Verdict.FAILED
        case RaygionError(retryable=True):
            return Verdict.FAILED
    return Verdict.INCONCLUSIVE


def generator_verdict(error: BaseException, *, begun: bool, hurried: bool) -> Verdict:
    """Of the replica of a generator; `begun`: its first token came. Whoever closes or cancels the
    stream leaves like a caller whose time is over.
    """
    match error:
        case Unavailable():
            return Verdict.FAILED
        case RaygionError() if not isinstance(error, DeadlineExceeded):
            return Verdict.INCONCLUSIVE
    if begun:
        return Verdict.SUCCEEDED
    return Verdict.INCONCLUSIVE if hurried else Verdict.FAILED
