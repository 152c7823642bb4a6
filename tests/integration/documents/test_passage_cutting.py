"""Documents are cut for the embedder that embeds them, through a real build with the starter
embedder: what stands last in a long text is found as what stands first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.builds.build import build_index
from actors.documents.ingest import ingest
from actors.documents.source_files import find_source_files
from actors.models.embedder import Embedder
from actors.models.publishing import publish_model
from actors.models.starter_models import starter_embedder_folder
from actors.shards.index import ShardIndex
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import ChunkSettings, CorpusSettings, LongPassages
from cluster.catalog.manifests import IndexManifest, ModelKind, ModelManifest
from cluster.documents.passages import Passage, passage_table, write_part
from cluster.errors import InvalidArgument
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.store.object_store import ObjectStore, open_store
from tests.support.node_cache import node_cache
from tests.support.regions.local_ray import local_ray

pytestmark = [
    pytest.mark.integration,
    # Ray's own code warns of its own deprecations.
    pytest.mark.filterwarnings("default::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("default::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]

CORPUS = "docs"
CHINESE = "本公司历史悠久，产品种类繁多，客户遍布各地，员工认真负责，服务周到细致"
DENSE = " ".join(f"{n * 0x9E3779B1 % 2**32:08x}-{n * 0x9E37 % 2**16:04x}" for n in range(70))
PENGUINS = "Penguins of Antarctica hatch in winter."
INVOICES = "Invoices are paid within thirty days."
DOCUMENTS = {
    "penguins": f"{DENSE}. {PENGUINS}",
    "invoices": f"{DENSE}. {INVOICES}",
    "chinese": CHINESE * 25 + "。紧急联系电话是八八六五四三二一。",
    "canteen": "The canteen opens at noon and closes at two.",
    "bicycles#1": "Bicycles may be parked in the yard behind the office.",
}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(starter_embedder_folder(), num_threads=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray():
        yield


class Built:
    """A store with the documents, and what a build with the starter embedder makes of them."""

    def __init__(self, folder: Path) -> None:
        self.store: ObjectStore = open_store(str(folder / "store"))
        self._cache = folder / "cache"
        self.model: ModelManifest = publish_model(
            Catalog(self.store),
            node_cache(self.store, self._cache),
            kind=ModelKind.EMBEDDER,
            source="starter",
            name=None,
            scratch=folder / "scratch",
        ).manifest
        file = folder / "docs.jsonl"
        rows = ({"id": id, "text": text} for id, text in DOCUMENTS.items())
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ingest(
            catalog=Catalog(self.store),
            artifacts=Artifacts(self.store),
            corpus=CORPUS,
            listing=find_source_files([str(file)]),
        )

    def build(self, chunks: ChunkSettings) -> IndexManifest:
        flat = NamedIndex(kind=IndexKind.FLAT)
        settings = CorpusSettings(shards=1, index=flat, chunks=chunks)
        return build_index(
            Catalog(self.store),
            node_cache(self.store, self._cache),
            CORPUS,
            settings,
            self.model,
        ).manifest

    def index(self, manifest: IndexManifest) -> ShardIndex:
        (shard,) = manifest.shards
        folder = node_cache(self.store, self._cache).folder_for(shard.files)
        return ShardIndex.open(folder, manifest.parameters, manifest.dimension)


@pytest.fixture(scope="module")
def built(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("cut"))


def found(index: ShardIndex, embedder: Embedder, query: str, top_k: int) -> list[str]:
    asked = ShardQuery(
        corpus=CORPUS, index_version="", vectors=embedder.embed([query]), top_k=top_k
    )
    return [id.decode() for id in index.search(asked).ids[0].tolist()]


def test_what_stands_last_in_a_long_text_is_found(built: Built, embedder: Embedder) -> None:
    manifest = built.build(ChunkSettings())
    index = built.index(manifest)
    assert (manifest.num_documents, manifest.num_averaged) == (len(DOCUMENTS), None)
    assert found(index, embedder, PENGUINS, 1)[0].startswith("penguins#")
    assert found(index, embedder, INVOICES, 1)[0].startswith("invoices#")
    assert found(index, embedder, "紧急联系电话是八八六五四三二一", 1)[0].startswith("chinese#")
    every = found(index, embedder, "office", manifest.num_passages)
    assert {"canteen", "bicycles#1#0"} < set(every)
    assert len(every) == manifest.num_passages > len(DOCUMENTS) + 3


def test_other_chunks_are_another_version_of_the_same_corpus(built: Built) -> None:
    shorter = built.build(ChunkSettings(tokens_max=64, overlap_tokens=0))
    assert shorter.num_passages > built.build(ChunkSettings()).num_passages
    assert shorter.version != built.build(ChunkSettings()).version


def test_passages_longer_than_the_embedder_reads_are_refused_or_counted(
    built: Built, embedder: Embedder
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        built.build(ChunkSettings(tokens_max=4000))
    assert caught.value.field == "chunks.tokens_max"
    assert "3 of 5 passages are longer than the 254 tokens" in caught.value.message
    assert "'penguins' (" in caught.value.message
    whole = built.build(ChunkSettings(tokens_max=4000, long_passages=LongPassages.AVERAGE))
    assert (whole.num_passages, whole.num_averaged) == (5, 3)
    best = found(built.index(whole), embedder, PENGUINS, 2)
    assert best[0] == "penguins", "the end of a text counts in its vector"


def test_an_overlap_of_more_than_half_a_passage_is_refused(built: Built) -> None:
    with pytest.raises(InvalidArgument, match="more than half of the 254 tokens"):
        built.build(ChunkSettings(overlap_tokens=128))


def test_a_corpus_of_an_older_version_is_built(built: Built, embedder: Embedder) -> None:
    """Its parts hold passages of documents that were cut at a number of characters."""
    catalog, artifacts = Catalog(built.store), Artifacts(built.store)
    older = catalog.latest_corpus(CORPUS)
    assert older is not None
    texts = {"old#0": DOCUMENTS["penguins"], "old#1": "The end of an old document."}
    passages = [
        Passage(id=id, document="old", text=text, metadata={}) for id, text in texts.items()
    ]
    sha256, size_bytes = artifacts.put_bytes(write_part(passage_table(passages, {}, None)))
    part = older.parts[0].model_copy(
        update={"path": f"{sha256}.parquet", "sha256": sha256, "size_bytes": size_bytes}
    )
    changes = {"parts": (part,), "position": 2, "num_documents": 1, "num_passages": 2}
    catalog.append_corpus(older.model_copy(update=changes))
    manifest = built.build(ChunkSettings())
    index = built.index(manifest)
    ids = found(index, embedder, PENGUINS, manifest.num_passages)
    assert manifest.num_documents == 1
    assert sorted(ids) == [f"old#{n}" for n in range(len(ids))]
    assert len(ids) > 2
