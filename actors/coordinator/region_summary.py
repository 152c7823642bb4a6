"""A region's report on itself: resident releases, how well they are served, how current it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from actors.coordinator.loading.loaded_release import LoadedRelease
from cluster.regions.overview import RegionsOverview
from cluster.regions.status import CanarySummary, CorpusSummary, RegionSummary, ReleaseSummary
from cluster.releases.entries import LogState
from cluster.releases.release_log import Freshness
from cluster.releases.rollout import Rollout
from cluster.serving.view import CorpusView, Pulse, RegionView, ReleaseView

SWITCHES_PUBLISHED = 16
"""Enough for the current release, the one before and what is due; a view stays small for ever."""
_ABORTED_PUBLISHED = 64


def view_of(
    rollout: Rollout, loaded: Mapping[int, LoadedRelease], now_ms: int, revision: str
) -> RegionView:
    """The view that gateways serve by: the loaded and prepared releases, and when to switch."""
    prepared, canary = rollout.prepared(), rollout.canary(now_ms)
    return RegionView(
        region=rollout.region,
        releases={n: x.view for n, x in sorted(loaded.items()) if n in prepared},
        switches=rollout.state.switches[-SWITCHES_PUBLISHED:],
        canary=None if canary is None or canary.release not in prepared else canary,
        revision=revision,
    )


def summary_of(
    view: RegionView,
    state: LogState,
    regions: RegionsOverview,
    now_ms: int,
    num_serving: Callable[[CorpusView], int],
) -> RegionSummary:
    """`num_serving`: how many replicas of a corpus hold its index version and answer."""
    resident = tuple(_release(release, num_serving) for _, release in sorted(view.releases.items()))
    current = state.current(now_ms)
    return RegionSummary(
        region=view.region,
        release=current,
        resident=resident,
        leader=state.leader,
        epoch=state.epoch,
        log_position=state.position,
        canary=None
        if view.canary is None
        else CanarySummary(release=view.canary.release, percent=view.canary.percent),
        regions=regions.regions,
        healthy=is_healthy(view, current, num_serving),
    )


def is_healthy(
    view: RegionView, current: int | None, num_serving: Callable[[CorpusView], int]
) -> bool:
    """True when the current release is there, and every replica of every release serves."""
    corpora = (corpus for release in view.releases.values() for corpus in release.corpora.values())
    return current in view.releases and all(
        num_serving(corpus) == sum(map(len, corpus.shards)) for corpus in corpora
    )


def _release(release: ReleaseView, num_serving: Callable[[CorpusView], int]) -> ReleaseSummary:
    return ReleaseSummary(
        release=release.number,
        corpora=tuple(
            CorpusSummary(
                corpus=corpus.corpus,
                index_version=corpus.index_version,
                num_passages=corpus.num_passages,
                recall_at_10=corpus.recall_at_10,
                recall_at_10_least=corpus.recall_at_10_least,
                shards=len(corpus.shards),
                replicas=sum(len(shard) for shard in corpus.shards),
                replicas_serving=num_serving(corpus),
            )
            for corpus in release.corpora.values()
        ),
        model=None if release.generator is None else release.generator.model,
    )


def pulse_of(rollout: Rollout, freshness: Freshness, store_id: str) -> Pulse:
    """The pulse: how current the region is, and the last heartbeats of all regions."""
    state = rollout.state
    return Pulse(
        freshness=freshness,
        regions=rollout.heartbeats,
        switches=state.switches[-SWITCHES_PUBLISHED:],
        store_id=store_id,
        last_release=state.next_release - 1,
        aborted=state.aborted(_ABORTED_PUBLISHED),
    )
