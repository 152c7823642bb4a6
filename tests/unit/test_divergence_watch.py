"""Three regions behind real HTTP servers are asked the same, and one of them may say another thing.

gateway's watch ---> turn? ---> ledger (in place of the front actor)
      '---> service here, peers over HTTP ---> compared ---> /metrics, /v1/status
"""

from __future__ import annotations

import logging
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import pytest

from actors.divergence_watch import DivergenceWatch, watches
from actors.regional_service import RegionalService
from cluster.clock import SYSTEM_CLOCK
from cluster.config import Settings, load_settings
from cluster.consistency import Known
from cluster.demand import Consistency, Demand
from cluster.divergence import VECTORS, DivergenceLedger, Found, Probe, Turn
from cluster.divergence_report import DivergenceReport, Outcome
from cluster.errors import InvalidArgument, RaygionError, Unavailable
from cluster.manifests import Metric
from cluster.prompt import PromptTemplate
from cluster.region_view import CorpusView, Freshness, Pulse, RegionView, ReleaseView
from cluster.releases import Switch
from cluster.search import Hit, SearchRequest, SearchResult
from deployments.http_app import build_http_app
from deployments.http_settings import HttpSettings
from tests.fakes import SimClock
from tests.unit.fake_service import FakeService, on_loopback, until
from tests.unit.region_servers import nobody, peers_of, settings_of

RELEASE, DIMENSION = 7, 3
DOCUMENTS = np.random.default_rng(2).standard_normal((6, DIMENSION)).astype(np.float32)
NAMES = ("a", "b", "c")
CORPUS = CorpusView(
    corpus="tea",
    index_version="1",
    dimension=DIMENSION,
    metric=Metric.COSINE,
    metadata_schema={},
    has_embedder=True,
    num_passages=len(DOCUMENTS),
    recall_at_10=1.0,
    shards=(("r",),),
)
Fault = Callable[[SearchResult], SearchResult]


class Engine(FakeService):
    """Finds by exact search; a fault changes what it says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.fault: Fault = lambda result: result

    async def search(self, request: SearchRequest) -> SearchResult:
        self.searches.append(request)
        if self.search_error is not None:
            raise self.search_error
        if request.vectors is not None:
            vectors = request.vectors.reshape(-1, DIMENSION)
        else:
            texts = request.queries or ()
            vectors = np.array([[len(text), 1, 0] for text in texts], dtype=np.float32)
        result = SearchResult(
            results=tuple(_hits(vector) for vector in vectors),
            release=request.release or RELEASE,
            region=self.name,
            coverage=1.0,
            took_ms=1.0,
            trace_id=request.trace_id,
            served_by=self.name,
            staleness_ms=0,
            session="",
        )
        return self.fault(result)


def _hits(vector: Any) -> tuple[Hit, ...]:
    scores = (DOCUMENTS.astype(np.float64) @ vector.astype(np.float64)).astype(np.float32)
    best = np.argsort(-scores)[:3]
    return tuple(
        Hit(id=f"d{row}", score=scores[row].item(), text=f"text {row}", metadata={}) for row in best
    )


def last_bit(result: SearchResult, query: int = 1) -> SearchResult:
    """Another score of one hit, in the last bit."""
    hits = list(result.results[query])
    score = float(np.nextafter(np.float32(hits[2].score), np.float32(np.inf)))
    hits[2] = replace(hits[2], score=score)
    results = (*result.results[:query], tuple(hits), *result.results[query + 1 :])
    return replace(result, results=results)


@dataclass
class Views:
    known: Known

    @property
    def view(self) -> RegionView:
        return self.known.view

    async def refresh(self) -> None:
        raise AssertionError("a pinned search needs no reading of the log")


def views() -> Views:
    release = ReleaseView(
        number=RELEASE,
        corpora={CORPUS.corpus: CORPUS},
        embedders=(),
        generator=None,
        prompt=PromptTemplate(),
    )
    switches = (Switch(position=1, release=RELEASE, at_ms=0),)
    view = RegionView(region="a", releases={RELEASE: release}, switches=switches)
    now_ms = SYSTEM_CLOCK.wall_ms()
    pulse = Pulse(
        freshness=Freshness(read_ms=now_ms, position=1),
        switches=switches,
        store_id="store",
        last_release=RELEASE,
    )
    return Views(Known(view, pulse))


@dataclass
class Desk:
    """The front actor."""

    ledger: DivergenceLedger
    error: RaygionError | None = None
    calls: list[str] = field(default_factory=list)

    async def call(self, method: str, *args: object) -> Turn | DivergenceReport | None:
        self.calls.append(method)
        if self.error is not None:
            raise self.error
        match method, args:
            case "divergence_turn", (int() | None as release,):
                return self.ledger.turn(release)
            case "divergence_probed", (Probe() as probe,):
                self.ledger.take(probe)
                return self.ledger.report
            case "divergence_found", (Found() as found,):
                self.ledger.quorum(found)
                return None
        raise AssertionError(f"{method} is no method of the front actor")


class World:
    """Region `a` compares; `b` and `c` are asked over HTTP."""

    def __init__(self) -> None:
        self.engines = {name: Engine(name) for name in NAMES}
        self.clock = SimClock()
        self.desk = Desk(DivergenceLedger(60.0, clock=self.clock, rng=random.Random(1)))
        self.views = views()
        self.service: RegionalService
        self.watches: list[DivergenceWatch] = []
        self.url = ""

    def probed(self) -> dict[str, int]:
        """Searches that each engine was asked for."""
        return {name: len(engine.searches) for name, engine in self.engines.items()}

    async def step(self, *, later: bool = True) -> DivergenceReport:
        if later:
            self.clock.sleep(100.0)
        await self.watches[0].step()
        return self.watches[0].report

    async def metrics(self) -> dict[str, float]:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.url}/metrics")).text
        lines = re.findall(r"^(raygion_divergence\S*) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in lines}

    async def status(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            told: dict[str, Any] = (await client.get(f"{self.url}/v1/status")).json()
        return told["divergence"]


def metrics_of(differs: int, **probes: int) -> dict[str, float]:
    counted = {
        f'raygion_divergence_probes_total{{outcome="{outcome}"}}': float(probes.get(outcome, 0))
        for outcome in Outcome
    }
    return counted | {'raygion_divergence{corpus="tea"}': float(differs)}


@asynccontextmanager
async def world(
    *, away: str = "", questions: tuple[str, ...] = (), gateways: int = 1
) -> AsyncIterator[World]:
    made = World()
    async with AsyncExitStack() as stack:
        urls = {
            name: stack.enter_context(nobody())
            if name == away
            else await stack.enter_async_context(
                on_loopback(build_http_app(made.engines[name], HttpSettings()))
            )
            for name in NAMES[1:]
        }
        regions = settings_of(urls).model_dump()["regions"]
        settings = Settings.model_validate(
            {
                "regions": {"a": {}} | {name: regions[name] for name in urls},
                "divergence": {"questions": questions, "every_s": 60},
            }
        )
        peers = await stack.enter_async_context(peers_of(settings, "a"))
        quorum_found: deque[Found] = deque(maxlen=8)
        made.service = RegionalService(
            region="a",
            engine=made.engines["a"],
            views=made.views,
            peers=peers,
            clock=SYSTEM_CLOCK,
            skew_max_ms=0,
            differed=quorum_found.append,
        )
        made.watches = [
            DivergenceWatch(
                settings=settings,
                region="a",
                service=made.service,
                peers=peers,
                views=made.views,
                quorum_found=quorum_found,
                ledger=made.desk,
                clock=SYSTEM_CLOCK,
                rng=random.Random(number),
            )
            for number in range(gateways)
        ]
        app = build_http_app(
            made.engines["a"], HttpSettings(), divergence=lambda: made.watches[0].report
        )
        made.url = await stack.enter_async_context(on_loopback(app))
        yield made


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
        InvalidArgument("release 7 is not served here", "release"),
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
            vectors=vectors, demand=Demand(level=Consistency.QUORUM), trace_id="5"
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
        made.views.known = Known(RegionView(region="a"))
        assert (await made.step()).at_ms is None
    assert made.probed() == {name: 0 for name in NAMES}


async def test_the_watch_goes_on_when_the_front_actor_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as made:
        (watch,) = made.watches
        watch._ask_s = 0.001
        made.desk.error = Unavailable("front does not answer")
        with caplog.at_level(logging.WARNING):
            watch.start()
            await until(lambda: len(made.desk.calls) > 3)
        made.desk.error = None
        await until(lambda: watch.report.at_ms is not None)
        watch.stop()
    assert caplog.text.count("regions are not compared at the moment") == 1


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
