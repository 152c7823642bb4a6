"""Three regions are asked the same over HTTP, and one of them may say another thing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.region.front import Front
from actors.regions.divergence_watch import watches
from cluster.catalog.catalog import Catalog
from cluster.config import Settings, load_settings
from cluster.errors import InvalidArgument, NotFound, RaygionError, Unavailable
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.search import SearchRequest
from cluster.regions.divergence import VECTORS, Inquiry, Probe, compared
from cluster.regions.divergence_report import ProbeVerdict
from cluster.releases.events import DocumentsStatus, RegionStatus
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import RegionView
from cluster.store.local_store import LocalStore
from tests.support.node_cache import node_cache
from tests.support.waiting import until
from tests.support.worlds.divergence_world import (
    DIMENSION,
    DOCUMENTS,
    NAMES,
    RELEASE,
    Engine,
    last_bit,
    world,
)


def metrics_of(differs: int, **probes: int) -> dict[str, float]:
    counted = {
        f'raygion_divergence_probes_total{{outcome="{outcome}"}}': float(probes.get(outcome, 0))
        for outcome in ProbeVerdict
    }
    return counted | {'raygion_divergence{corpus="tea"}': float(differs)}


async def test_regions_that_are_alike_raise_no_alert() -> None:
    async with world(questions=("Who grows tea?",)) as made:
        assert (await made.status())["at_ms"] is None
        for _ in range(3):
            report = await made.step()
            assert not report.differs
        assert await made.metrics() == metrics_of(differs=0, alike=3)
        told = await made.status()
    assert told["at_ms"] is not None
    assert (told["release"], told["differs"], told["differences"]) == (RELEASE, False, [])
    assert told["corpora"] == [{"corpus": "tea", "regions": list(NAMES), "outcome": "alike"}]
    # Vectors and texts, each as one search, and nobody sends them on.
    assert made.probed() == {name: 6 for name in NAMES}
    for engine in made.engines.values():
        assert all(asked.release == RELEASE and asked.forwarded_by for asked in engine.searches)
        assert engine.searches[0].vectors is not None
        assert engine.searches[0].vectors.size == VECTORS * DIMENSION


async def test_embedders_that_round_differently_are_no_difference() -> None:
    async with world(questions=("Who grows tea?", "Who drinks it?")) as made:
        for number, engine in enumerate(made.engines.values()):
            engine.rounding = number * 1e-6
        assert not (await made.step()).differs
        made.engines["c"].fault = last_bit
        report = await made.step()
        assert "text of the settings [1]" in {found.question for found in report.differences}
        made.engines["c"].fault = lambda result: result
        assert not (await made.step()).differs, "what differed is asked for the same vector again"


async def test_another_score_in_the_last_bit_is_found_at_the_first_probe() -> None:
    async with world() as made:
        made.engines["c"].fault = last_bit
        report = await made.step()
        (found,) = report.differences
        assert (found.corpus, found.release) == ("tea", RELEASE)
        assert found.question == "vector of probe 1 [1]"
        assert sorted(found.answers.values()) == [("a", "b"), ("c",)]
        assert await made.metrics() == metrics_of(differs=1, differ=1)
        told = await made.status()
        assert told["differs"]
        assert told["differences"][0]["question"] == found.question
        assert sorted(told["differences"][0]["answers"].values()) == [["a", "b"], ["c"]]


async def test_what_differed_is_asked_again_until_it_agrees() -> None:
    async with world() as made:
        made.engines["b"].fault = last_bit
        assert (await made.step()).differs
        # By now it is only that question, asked alone.
        made.engines["b"].fault = lambda result: (
            last_bit(result, 0) if len(result.results) == 1 else result
        )
        assert len((await made.step()).differences) == 1
        made.engines["b"].search_error = Unavailable("busy")
        assert (await made.step()).differs
        made.engines["b"].search_error = None
        made.engines["b"].fault = lambda result: result
        report = await made.step()
        assert not report.differs
        assert report.probes == {"differ": 2, "alike": 2}
        assert (await made.metrics())['raygion_divergence{corpus="tea"}'] == 0.0


@pytest.mark.parametrize(
    "error",
    [
        NotFound("release 7 is not served here"),
        Unavailable("this region lacks shards"),
    ],
    ids=["not held", "not able"],
)
async def test_a_region_that_does_not_say_is_no_difference(error: RaygionError) -> None:
    async with world() as made:
        made.engines["c"].search_error = error
        report = await made.step()
        assert not report.differs
        assert report.corpora[0].regions == ("a", "b")
        made.engines["a"].search_error = error
        report = await made.step()
        assert (report.differs, report.probes) == (False, {"alike": 1, "too_few": 1})


async def test_a_region_that_is_away_is_no_difference_and_the_others_are_compared() -> None:
    async with world(away="c") as made:
        assert (await made.step()).corpora[0].regions == ("a", "b")
        made.engines["b"].fault = last_bit
        report = await made.step()
        assert sorted(report.differences[0].answers.values()) == [("a",), ("b",)]


async def test_texts_compare_the_embedders() -> None:
    async with world(questions=("Who grows tea?", "Who drinks it?")) as made:
        made.engines["b"].fault = lambda result: (
            last_bit(result) if len(result.results) == 2 else result
        )
        (found,) = (await made.step()).differences
        assert found.question == "text of the settings [1]"


async def test_gateways_take_turns_and_show_the_same() -> None:
    async with world(gateways=2) as made:
        made.engines["b"].fault = last_bit
        for _ in range(3):
            for watch in made.watches:
                await watch.step()
        assert made.probed() == {name: 1 for name in NAMES}
        first, second = (watch.report for watch in made.watches)
        assert first == second
        assert first.differs


async def test_what_a_search_by_quorum_finds_is_counted_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as made:
        await made.step()
        # With no two alike, it waits for all.
        made.engines["b"].fault = lambda result: last_bit(result, 0)
        made.engines["c"].fault = lambda result: last_bit(last_bit(result, 0), 0)
        vectors = DOCUMENTS[:1]
        asked = SearchRequest(
            vectors=vectors,
            consistency=ReadConsistency(level=ConsistencyLevel.QUORUM),
            trace_id="5",
        )
        with caplog.at_level(logging.ERROR), pytest.raises(RaygionError):
            await made.service.search(asked)
        assert "ALERT: regions answer release 7 differently" in caplog.text
        report = await made.step(later=False)
        assert {each.question for each in report.differences} == {"search 5 by quorum [0]"}
        assert report.probes["quorum_differ"] >= 1
        assert (await made.metrics())['raygion_divergence{corpus="tea"}'] == 1.0
        for name in ("b", "c"):
            made.engines[name].fault = lambda result: result
        assert not (await made.step()).differs


async def test_without_a_release_nothing_is_asked() -> None:
    async with world() as made:
        made.views.knowledge = RegionKnowledge(RegionView(region="a"), skew_max_ms=0)
        assert (await made.step()).at_ms is None
    assert made.probed() == {name: 0 for name in NAMES}


async def test_the_watch_goes_on_when_the_front_actor_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(every_s=0.002) as made:
        (watch,) = made.watches
        made.desk.error = Unavailable("front does not answer")
        with caplog.at_level(logging.WARNING):
            watch.start()
            await until(lambda: len(made.desk.calls) > 3)
        made.desk.error = None
        await until(lambda: watch.report.at_ms is not None)
        watch.stop()
    assert caplog.text.count("regions are not compared at the moment") == 1


def test_the_front_actor_keeps_what_was_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate({"regions": {"a": {}, "b": {}}})
    front = Front(
        settings,
        "a",
        Catalog(LocalStore(tmp_path / "store")),
        node_cache(LocalStore(tmp_path / "store"), tmp_path / "cache"),
    )
    assert [front.divergence_turn(RELEASE).number for _ in range(2)] == [1, None]
    request = SearchRequest(vectors=DOCUMENTS[:1], release=RELEASE)
    inquiry = Inquiry(name="vector", corpus="tea", request=request)
    here, there = (Engine(name).answer_to(request) for name in "ab")
    with caplog.at_level(logging.ERROR):
        probe = Probe(
            release=RELEASE,
            at_ms=1,
            comparisons=(compared(inquiry, {"a": here, "b": last_bit(there, 0)}),),
        )
        assert front.divergence_probed(probe).differs
    assert caplog.text.count("ALERT: regions answer release 7 differently: corpus 'tea'") == 1
    assert front.divergence_turn(RELEASE).report.differs


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"regions": {"a": {}, "b": {}}}, True),
        ({"regions": {"a": {}, "b": {}}, "divergence": {"every_s": 0}}, False),
    ],
)
def test_it_takes_two_regions(given: dict[str, Any], expected: bool) -> None:
    assert watches(Settings.model_validate(given)) == expected


def test_questions_are_checked_where_they_are_set() -> None:
    with pytest.raises(InvalidArgument, match=r"divergence\.questions"):
        load_settings(overrides={"divergence": {"questions": [""]}})


def heartbeat(region: str, position: int, digest: str) -> RegionStatus:
    documents = {"tea": DocumentsStatus(watermark={"a": position}, documents_digest=digest)}
    return RegionStatus(
        region=region, position=1, prepared=(), current=RELEASE, at_ms=1, documents=documents
    )


async def test_live_documents_are_compared_by_what_heartbeats_say_of_them() -> None:
    async with world() as made:
        known = made.views.knowledge

        def hear(*heartbeats: RegionStatus) -> None:
            regions = {status.region: status for status in heartbeats}
            made.views.knowledge = replace(known, pulse=replace(known.pulse, regions=regions))

        await made.step()
        assert "divergence_documents" not in made.desk.calls, "nothing is written"
        hear(heartbeat("a", 4, "x"), heartbeat("b", 4, "y"), heartbeat("c", 5, "z"))
        report = await made.step()
        assert report.differs
        (difference,) = report.differences
        assert difference.answers == {"x": ("a",), "y": ("b",)}
        assert (await made.metrics())['raygion_divergence{corpus="tea"}'] == 1.0
        assert made.desk.documents_alerts == [difference]
        hear(heartbeat("a", 6, "x"), heartbeat("b", 6, "x"), heartbeat("c", 5, "z"))
        assert not (await made.step()).differs
        assert made.desk.documents_alerts == [difference]
