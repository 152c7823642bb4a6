"""The region that chaos breaks: vectors to search and, besides, texts to answer from.

vectors a, b   2 shards x 2 replicas, as in `tests.support.regions.search_region`: exact search
judges each reply texts          XQuAD's paragraphs, 2 x 2, two embedders, two generators: a reply
is right when it
               cites what the answer to the same question did before anything broke
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from actors.documents.source_files import find_source_files
from actors.models.starter_models import STARTER_GENERATOR, starter_generator_folder
from cluster.catalog.model_settings import EmbedderSettings, GeneratorSettings
from cluster.config import Settings
from cluster.releases.entries import ReleaseContents
from deployments.installation import Installation
from tests.support.redis_server import REDIS, redis_server
from tests.support.regions.search_region import (
    CORPUS,
    REGION,
    Reply,
    SearchRegion,
    search_region,
    search_settings,
)
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
XQUAD = ROOT / "tests" / "data" / "xquad_small" / "xquad_small.json"
MODEL_FOLDER = ROOT / ".raygion" / "test-models" / STARTER_GENERATOR
TEXTS = "texts"
TOP_K_TEXTS = 3
GATEWAYS = 2
_QUESTIONS = 8
_ANSWER_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class ChaosRegion:
    search: SearchRegion
    questions: dict[str, tuple[str, ...]]
    """The passages that the answer to each question must cite, as it did before anything broke;
    empty where nothing generates."""


def nodes_of_replicas(region: ChaosRegion) -> list[int]:
    """For each replica of the vectors that runs, the raylet under which it does.

    Replicas are found by what they are: one that moves gets another name.
    """
    found = []
    for pid in region.search.cluster.pids("ray::ShardReplica"):
        with suppress(psutil.Error):  # it has just ended
            found.append(psutil.Process(pid).ppid())
    return found


@contextmanager
def chaos_region(folder: Path, *, local_first: bool, with_answers: bool) -> Iterator[ChaosRegion]:
    """A region of two gateways on two Ray nodes, with all of its parts in order.

    Where there is a Redis to be started, it has the state of the control store.
    """
    with ExitStack() as stack:
        redis = None if REDIS is None else stack.enter_context(redis_server(folder))
        settings = search_settings(
            folder,
            gcs_redis=redis,
            gateways=GATEWAYS,
            gateways_max=GATEWAYS,
            local_first=local_first,
        )
        if with_answers:
            settings = _with_models(settings)
        region = stack.enter_context(search_region(folder, settings))
        questions: dict[str, tuple[str, ...]] = {}
        if with_answers:
            _add_texts(region, settings, folder)
            questions = _citations_of_questions(region)
        wait_until(region.is_whole, "a whole region")
        yield ChaosRegion(region, questions)


def _with_models(settings: Settings) -> Settings:
    generator = GeneratorSettings(
        source=str(starter_generator_folder(MODEL_FOLDER)),
        name=STARTER_GENERATOR,
        replicas=2,
        context_tokens_max=1024,
        # Few, so that a burst of some dozens is too much.
        sequences_max=2,
        queue_max=4,
    )
    corpora = {**settings.corpora, TEXTS: settings.corpora[CORPUS]}
    changes = {
        "corpora": corpora,
        "generator": generator,
        "embedder": EmbedderSettings(replicas=2),
    }
    return settings.model_copy(update=changes)


def _add_texts(region: SearchRegion, settings: Settings, folder: Path) -> None:
    """Commits a release with the texts and the models beside the vectors."""
    paragraphs = json.loads(XQUAD.read_text())["paragraphs"]
    source = folder / "texts.jsonl"
    source.write_text(
        "".join(json.dumps({"id": p["id"], "text": p["text"]}) + "\n" for p in paragraphs)
    )
    whole = region.run(_build_texts, settings, str(source), timeout_s=600)
    for letter, contents in region.contents.items():
        indexes = {**whole.indexes, **contents.indexes}
        region.contents[letter] = whole.model_copy(update={"indexes": indexes})
    number = region.propose("a")
    region.run(_wait_until_serving, number, timeout_s=600)


def ask(client: httpx.Client, question: str) -> Reply:
    """A short answer; its ids are those of the passages that it cites."""
    body = {
        "corpus": TEXTS,
        "question": question,
        "top_k": TOP_K_TEXTS,
        "max_tokens": 24,
        "timeout_ms": _ANSWER_TIMEOUT_MS,
    }
    started_s = time.monotonic()
    try:
        reply = client.post("/v1/answer", json=body)
    except httpx.TransportError as error:
        return Reply(query=0, error=repr(error), took_s=time.monotonic() - started_s)
    took_s = time.monotonic() - started_s
    if not reply.is_success:
        return Reply(query=0, error=f"{reply.status_code} {reply.text}", took_s=took_s)
    found: Mapping[str, object] = reply.json()
    citations, release = found["citations"], found["release"]
    assert isinstance(citations, list)
    assert isinstance(release, int)
    ids = tuple(citation["id"] for citation in citations) if found["answer"] else ()
    return Reply(query=0, release=release, ids=ids, coverage=1.0, took_s=took_s)


def _citations_of_questions(region: SearchRegion) -> dict[str, tuple[str, ...]]:
    """Questions to which the texts have passages, with those that their answers cite."""
    questions = [q["question"] for q in json.loads(XQUAD.read_text())["questions"]]
    cited: dict[str, tuple[str, ...]] = {}
    with region.client() as client:
        for question in questions[:: max(1, len(questions) // (2 * _QUESTIONS))]:
            reply = ask(client, question)
            assert not reply.error
            if reply.ids and len(cited) < _QUESTIONS:
                cited[question] = reply.ids
    assert len(cited) == _QUESTIONS
    return cited


# What runs in the driver's process.


def _build_texts(settings: Settings, source: str) -> ReleaseContents:
    from deployments.hosting import pipeline

    installation = Installation(settings, REGION)
    embedder = pipeline.store_embedder(installation)
    listing = find_source_files([source])
    pipeline.ingest_documents(installation, TEXTS, listing, replace=True)
    pipeline.build(installation, TEXTS, embedder)
    return pipeline.contents_of_next(installation)


def _wait_until_serving(number: int) -> None:
    from actors.coordinator.client import CoordinatorClient

    client = CoordinatorClient()
    client.wait_until_committed(number, 500.0)
    client.wait_until_serving(number, 60.0)
