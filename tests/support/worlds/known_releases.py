"""What a region knows of switches and releases, and what it decides by that."""

from __future__ import annotations

from cluster.generation.prompt import PromptTemplate
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.session import SessionToken
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge, decide
from cluster.serving.decisions import RELEASE_LOG, Decision, Reading
from cluster.serving.view import Pulse, RegionView, ReleaseView

STORE, NOW, SKEW = "store", 1000, 100
NO, DONE, FAILED = Reading.NOT_ASKED, Reading.DONE, Reading.FAILED


def release(number: int) -> ReleaseView:
    return ReleaseView(
        number=number, corpora={}, embedders=(), generator=None, prompt=PromptTemplate()
    )


def known(
    *switches: tuple[int, int, int],
    resident: tuple[int, ...] = (1, 2),
    read_ms: int = 900,
    position: int | None = None,
    last_release: int = 2,
) -> RegionKnowledge:
    """Switches are (position, release, moment)."""
    tail = tuple(Switch(release=r, at_ms=at, position=p) for p, r, at in switches)
    reached = position if position is not None else (tail[-1].position if tail else 0)
    return RegionKnowledge(
        RegionView(region="a", releases={n: release(n) for n in resident}, switches=tail),
        Pulse(
            freshness=Freshness(read_ms=read_ms, position=reached),
            switches=tail,
            store_id=STORE,
            last_release=last_release,
            aborted={7: "bad recall"},
        ),
        skew_max_ms=SKEW,
    )


def demand(
    level: str, *, floor: int | None = None, within_ms: int | None = None, store: str = STORE
) -> ReadConsistency:
    token = None if floor is None else SessionToken(store, floor)
    return ReadConsistency(level=ConsistencyLevel(level), session=token, max_staleness_ms=within_ms)


def decided(
    asked: ReadConsistency,
    what: RegionKnowledge,
    reading: Reading = NO,
    *,
    now_ms: int = NOW,
    named: int | None = None,
) -> Decision:
    return decide(
        asked, release=named, knowledge=what, readings={RELEASE_LOG: reading}, now_ms=now_ms
    )
