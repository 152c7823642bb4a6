"""A region of the benchmark's own: its corpora built, served over HTTP, and gone at the end."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from actors.documents.source_files import find_source_files
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from bench.data import write_jsonl
from cluster.arrays import Float32Array
from cluster.catalog.catalog import Published
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import IndexManifest, ModelKind, ModelManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.regions.settings import EndpointSettings, RegionSettings, StoreSettings
from deployments.hosting import pipeline, region_host, release_commands
from deployments.hosting.interrupts import uninterrupted
from deployments.installation import Installation
from deployments.nodes.local_cluster import find_local_cluster
from deployments.terminal import Step, Steps

_NAME = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVectors:
    """All passages of a corpus with their vectors as the index holds them, ascending by id."""

    ids: list[str]
    texts: list[str]
    vectors: Float32Array


class BenchRegion:
    """A region in this process's hands. Corpora are added first, then served."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.installation = installation
        self._folder = folder
        self._indexes: dict[str, IndexManifest] = {}

    @property
    def host(self) -> str:
        return self.installation.region_settings.http.host

    @property
    def port(self) -> int:
        return self.installation.region_settings.http.port

    def index(self, corpus: str) -> IndexManifest:
        return self._indexes[corpus]

    def add_texts(self, corpus: str, documents: Sequence[dict[str, Any]]) -> None:
        """Documents that the region cuts and embeds."""
        source = self._folder / f"{corpus}.jsonl"
        write_jsonl(documents, source)
        with _shown(f"Embed and build {corpus}") as step:
            embedder = pipeline.store_embedder(self.installation, step)
            self._build(corpus, source, embedder, step)

    def add_vectors(self, corpus: str, stored: StoredVectors) -> None:
        """Passages that bring their vectors along, so that they are embedded only once."""
        source = self._folder / f"{corpus}.parquet"
        width = stored.vectors.shape[1]
        flat = pa.array(stored.vectors.reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        columns = [pa.array(stored.ids), pa.array(stored.texts), vectors]
        pq.write_table(pa.table(columns, names=["id", "text", "vector"]), source)
        with _shown(f"Build {corpus}") as step:
            self._build(corpus, source, None, step)

    def serve(self) -> None:
        """Starts the services and commits a release of everything that was added."""
        installation = self.installation
        with _shown("Serve a release") as step:
            contents = pipeline.contents_of_next(installation, step)
            region_host.start_services(installation, step.note)
            release_commands.propose(installation, contents, commit=True, note=step.note)

    def shard_folders(self, corpus: str) -> list[Path]:
        """The files of each shard, as the region's replicas on this machine map them."""
        cache = self.installation.cache
        return [cache.folder_for(shard.files) for shard in self.index(corpus).shards]

    def stored_vectors(self, corpus: str) -> StoredVectors:
        dimension = self.index(corpus).dimension
        shards = [
            ShardDocuments.open(folder / DOCUMENTS_FILE, dimension)
            for folder in self.shard_folders(corpus)
        ]
        ids = [id.decode() for s in shards for id in s.ids(np.arange(s.num_rows)).tolist()]
        texts = [str(text) for s in shards for text in s.texts.to_pylist()]
        vectors = np.concatenate([s.vectors for s in shards])
        order = sorted(range(len(ids)), key=lambda row: ids[row].encode())
        return StoredVectors(
            ids=[ids[row] for row in order],
            texts=[texts[row] for row in order],
            vectors=np.ascontiguousarray(vectors[order]),
        )

    def embedder(self) -> ModelManifest:
        """The embedder of the release."""
        return self._model(ModelKind.EMBEDDER)

    def generator(self) -> ModelManifest:
        """The language model of the release."""
        return self._model(ModelKind.GENERATOR)

    def generator_folder(self) -> Path:
        """The very files that the region's generator runs from."""
        return self.installation.cache.folder_for(self.generator().files)

    def pids(self) -> list[int]:
        """The processes of the region that run now."""
        found = find_local_cluster(self.installation.run_folder)
        return [] if found is None else found.pids()

    def gateway_urls(self) -> list[str]:
        """The URL of each gateway process, where HAProxy reaches it."""
        found = find_local_cluster(self.installation.run_folder)
        assert found is not None, "the region runs"
        pids = found.pids("ray::ServeReplica:gateway")
        sockets = [s for pid in pids for s in psutil.Process(pid).net_connections("tcp")]
        listening = {s.laddr.port for s in sockets if s.status == psutil.CONN_LISTEN}
        return [
            f"http://{self.host}:{port}" for port in found.ports.replicas_http if port in listening
        ]

    def _model(self, kind: ModelKind) -> ModelManifest:
        return next(m for m, _ in self.installation.catalog.list_models() if m.kind is kind)

    def _build(
        self, corpus: str, source: Path, embedder: Published[ModelManifest] | None, step: Step
    ) -> None:
        listing = find_source_files([str(source)])
        pipeline.ingest_documents(self.installation, corpus, listing, replace=False, progress=step)
        built = pipeline.build(self.installation, corpus, embedder, step)
        self._indexes[corpus] = built.manifest


@contextmanager
def running_region(
    corpora: Mapping[str, CorpusSettings], *, with_generator: bool = False, gateways: int = 1
) -> Iterator[BenchRegion]:
    """A Ray cluster with nothing on it yet; every process and file of it is gone after the block.

    One for each process: what Ray Serve reads from the environment, it reads once.
    """
    with tempfile.TemporaryDirectory(prefix="rgb-") as temp:
        folder = Path(temp)
        settings = Settings(
            store=StoreSettings(url=str(folder / "store")),
            regions={
                _NAME: RegionSettings(http=EndpointSettings(port=_free_port(), gateways=gateways))
            },
            corpora=dict(corpora),
            generator=GeneratorSettings() if with_generator else GeneratorSettings(source=None),
            state_folder=folder / "state",
        )
        installation = Installation(settings, _NAME)
        try:
            with _shown("Ray cluster"):
                region_host.start_cluster(installation)
                region_host.join(installation)
            yield BenchRegion(installation, folder)
        finally:
            with uninterrupted():
                region_host.leave()
                region_host.stop_region(installation)


@contextmanager
def _shown(title: str) -> Iterator[Step]:
    """A step with a spinner, which turns no longer once measuring begins."""
    steps = Steps(quiet=False)
    with steps.shown(), steps.step(title) as step:
        yield step


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
