"""A whole region on this machine, brought up the way the command line does it.

    XQuAD's paragraphs -> embedded, 2 shards x 2 replicas ---------+-> release 1 -> HTTP, vLLM
                              `-> their vectors, 1, 3 and 8 shards -+

Everything is real: Ray Data and MiniLM build the shards, SmolLM2 writes the answers, HAProxy takes
the requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.coordinator.client import CoordinatorClient
from actors.documents.source_files import find_source_files
from actors.models.starter_models import STARTER_GENERATOR, starter_generator_folder
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from cluster.arrays import Float32Array
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.corpus_settings import ChunkSettings, CorpusSettings, LongPassages
from cluster.catalog.manifests import IndexManifest, ManifestRef
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.regions.settings import EndpointSettings, RegionSettings, StoreSettings
from cluster.releases.entries import ReleaseContents
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from deployments.hosting import pipeline, region_host, release_commands
from deployments.installation import Installation
from deployments.terminal import Steps
from tests.support.regions.ports import region_port

ROOT = Path(__file__).resolve().parents[3]
XQUAD = ROOT / "tests" / "data" / "xquad_small" / "xquad_small.json"
MODEL_FOLDER = ROOT / ".raygion" / "test-models" / STARTER_GENERATOR
"""Unpacked once for this checkout: it takes 20 s."""

REGION = "testland"
BODY_BYTES_MAX = 4 * 1024 * 1024
SEQUENCES_MAX = 2
"""Few, so that a test can take all of them and see when one comes free."""
CONTEXT_TOKENS_MAX = 2048
FLAT = NamedIndex(kind=IndexKind.FLAT, metric=Metric.COSINE)
PARTITIONED = "vectors-titles"
"""A corpus partitioned by the titles of the passages."""
READY_MADE = {"vectors-one": 1, "vectors-three": 3, "vectors-eight": 8, PARTITIONED: 3}
"""Corpora that bring their vectors, those of `xquad`, cut into as many shards."""
SHARDS = {"xquad": 2, **READY_MADE}
TINY = "tiny"
"""A corpus that release 1 does not have; one replica of each shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    id: str
    question: str
    paragraph: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Xquad:
    """The small English XQuAD: passages with metadata, and questions with the gold passage."""

    passages: dict[str, dict[str, Any]]
    questions: tuple[Question, ...]

    @classmethod
    def load(cls) -> Xquad:
        data = json.loads(XQUAD.read_text())
        passages = {
            p["id"]: {
                "id": p["id"],
                "text": p["text"],
                "metadata": {**p["metadata"], "chars": len(p["text"])},
            }
            for p in data["paragraphs"]
        }
        questions = tuple(
            Question(**{**q, "answers": tuple(q["answers"])}) for q in data["questions"]
        )
        return cls(passages=passages, questions=questions)

    def write(self, path: Path) -> Path:
        """As JSON lines, the way a team would bring them."""
        path.write_text("".join(json.dumps(p) + "\n" for p in self.passages.values()))
        return path


@dataclass(frozen=True)
class LiveRegion:
    """The region that the tests share. Who changes the current release takes it back."""

    installation: Installation
    xquad: Xquad
    release: int
    contents: ReleaseContents

    @property
    def url(self) -> str:
        return self.installation.url

    @property
    def coordinator(self) -> CoordinatorClient:
        return CoordinatorClient()

    def index(self, corpus: str) -> IndexManifest:
        """What release 1 serves of the corpus."""
        return self.installation.catalog.read_index(corpus, self.contents.indexes[corpus])

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def search(self, client: httpx.Client, **body: object) -> dict[str, Any]:
        """The reply of `/v1/search`, which must be a success."""
        return posted(client, "/v1/search", {"corpus": "xquad", **body})

    @cached_property
    def vectors(self) -> dict[str, Float32Array]:
        """The stored vector of each paragraph, read from the artifacts of `xquad`."""
        return stored_vectors(self.installation, self.index("xquad"))


def posted(client: httpx.Client, path: str, body: dict[str, object]) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    parsed: dict[str, Any] = reply.json()
    return parsed


def stored_vectors(installation: Installation, index: IndexManifest) -> dict[str, Float32Array]:
    """float32 [d] for each passage id, from all shards of an index version."""
    vectors: dict[str, Float32Array] = {}
    for shard in index.shards:
        cache = ArtifactCache(Artifacts(installation.store), installation.scratch_folder / "read")
        folder = cache.folder_for(shard.files)
        documents = ShardDocuments.open(folder / DOCUMENTS_FILE, index.dimension)
        ids = documents.ids(np.arange(documents.num_rows)[None])[0].tolist()
        vectors.update(zip((i.decode() for i in ids), documents.vectors.copy(), strict=True))
    return vectors


def settings_in(folder: Path) -> Settings:
    """Of an installation that keeps everything in `folder`."""
    corpora = {
        name: CorpusSettings(
            shards=shards,
            replicas=2 if name == "xquad" else 1,
            index=FLAT,
            # The gold passage of a question is a whole paragraph.
            chunks=ChunkSettings(tokens_max=4000, long_passages=LongPassages.AVERAGE),
            partition_by="title" if name == PARTITIONED else None,
            # Questions of the tests need not have anything to do with what is to be found.
            score_min=None,
        )
        for name, shards in SHARDS.items()
    }
    corpora[TINY] = CorpusSettings(shards=2, replicas=1, index=FLAT)
    # One gateway, however busy, so that its metrics tell of all requests.
    http = EndpointSettings(port=region_port(), body_bytes_max=BODY_BYTES_MAX, gateways_max=1)
    return Settings(
        store=StoreSettings(url=str(folder / "store")),
        regions={REGION: RegionSettings(http=http)},
        corpora=corpora,
        generator=GeneratorSettings(
            source=str(MODEL_FOLDER),
            name=STARTER_GENERATOR,
            context_tokens_max=CONTEXT_TOKENS_MAX,
            sequences_max=SEQUENCES_MAX,
        ),
        state_folder=folder,
    )


@contextmanager
def live_region(folder: Path) -> Iterator[LiveRegion]:
    """Brings the region up in `folder`, with release 1 committed; ends all of it afterwards."""
    starter_generator_folder(MODEL_FOLDER)
    installation = Installation(settings_in(folder), REGION)
    xquad = Xquad.load()
    steps = Steps(quiet=True)
    try:
        with steps.step("cluster"):
            region_host.start_cluster(installation)
            region_host.join(installation)
        with steps.step("indexes"):
            contents = _build_all(installation, xquad, steps)
        with steps.step("services"):
            client = region_host.start_services(installation, lambda _: None)
        with steps.step("release"):
            release = release_commands.propose(
                installation, contents, commit=True, note=lambda _: None
            )
            client.wait_until_serving(release, region_host.PREPARE_TIMEOUT_S)
        print("\nregion up:", {step: round(s, 1) for step, s in steps.seconds.items()})
        yield LiveRegion(installation, xquad, release, contents)
    finally:
        try:
            region_host.leave()
        finally:
            region_host.stop_region(installation)


def build(installation: Installation, corpus: str) -> tuple[IndexManifest, ManifestRef]:
    """Builds the latest position of a corpus as the settings say."""
    embedder = pipeline.store_embedder(installation)
    built = pipeline.build(installation, corpus, embedder)
    return built.manifest, built.ref


def ingest(installation: Installation, corpus: str, source: Path) -> None:
    listing = find_source_files([str(source)])
    pipeline.ingest_documents(installation, corpus, listing, replace=False)


def _build_all(installation: Installation, xquad: Xquad, steps: Steps) -> ReleaseContents:
    folder = installation.settings.state_folder
    with steps.step("ingest xquad"):
        ingest(installation, "xquad", xquad.write(folder / "xquad.jsonl"))
    with steps.step("build xquad"):
        index, _ = build(installation, "xquad")
    vectors = write_vectors(xquad, stored_vectors(installation, index), folder / "vectors.parquet")
    for corpus in READY_MADE:
        with steps.step(f"ingest {corpus}"):
            ingest(installation, corpus, vectors)
        with steps.step(f"build {corpus}"):
            build(installation, corpus)
    with steps.step("contents"):
        return pipeline.contents_of_next(installation)


def write_vectors(xquad: Xquad, vectors: dict[str, Float32Array], path: Path) -> Path:
    """The passages with ready-made vectors as Parquet, metadata as columns of their own."""
    passages = list(xquad.passages.values())
    stacked = np.stack([vectors[p["id"]] for p in passages])
    columns: dict[str, Any] = {
        "id": [p["id"] for p in passages],
        "text": [p["text"] for p in passages],
        "title": [p["metadata"]["title"] for p in passages],
        "chars": [p["metadata"]["chars"] for p in passages],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(stacked.ravel()), stacked.shape[1]),
    }
    pq.write_table(pa.table(columns), path)
    return path
