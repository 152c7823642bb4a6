"""The catalog: manifests are published once, found by name, and verified by hash."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.catalog.catalog import CHANGES_MAX, Catalog
from cluster.catalog.manifests import (
    CorpusManifest,
    IndexManifest,
    ManifestRef,
    ModelKind,
    ModelManifest,
)
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import (
    LossyStore,
    address,
    memory_store,
    s3_server,
    scripted,
    store,
)
from tests.support.values.manifests import index_manifest

__all__ = ["address", "memory_store", "s3_server", "store"]


def corpus(position: int, name: str = "factbook", num_documents: int = 1) -> CorpusManifest:
    return CorpusManifest(
        corpus=name,
        position=position,
        parts=(),
        num_documents=num_documents,
        num_passages=2,
        metadata_schema={},
        vector_dimension=None,
        sources=("here",),
        created_at_ms=0,
    )


def index(version: str, built_at_ms: int = 0) -> IndexManifest:
    return index_manifest(
        corpus="factbook",
        version=version,
        built_at_ms=built_at_ms,
    )


def model(version: str) -> ModelManifest:
    return ModelManifest(
        kind=ModelKind.EMBEDDER, name="minilm", version=version, fingerprint="a" * 64, files=()
    )


def test_positions_of_a_corpus(store: ObjectStore) -> None:
    catalog, other = Catalog(store), Catalog(store)
    assert catalog.latest_corpus("factbook") is None
    assert catalog.list_corpora() == ()
    for position in (1, 2, 3):
        catalog.append_corpus(corpus(position))
        assert other.latest_corpus("factbook") == corpus(position)
    catalog.append_corpus(corpus(1, "another"))
    assert other.corpus_at("factbook", 2) == corpus(2)
    assert other.list_corpora() == ("another", "factbook")
    with pytest.raises(NotFound):
        other.corpus_at("factbook", 4)
    with pytest.raises(Conflict):
        other.append_corpus(corpus(2, num_documents=7))


def test_a_catalog_goes_to_another_process(store: ObjectStore) -> None:
    catalog = Catalog(store)
    catalog.append_corpus(corpus(1))
    assert catalog.latest_corpus("factbook") == corpus(1)
    again: Catalog = pickle.loads(pickle.dumps(catalog))
    catalog.append_corpus(corpus(2))
    assert again.latest_corpus("factbook") == corpus(2)


def test_a_change_of_a_corpus_is_decided_again_on_what_others_made_of_it(
    memory_store: ObjectStore,
) -> None:
    rival = Catalog(memory_store)

    def with_one_more(latest: CorpusManifest | None) -> tuple[CorpusManifest, int]:
        if latest is None:
            rival.append_corpus(corpus(1, num_documents=5))
        before = 0 if latest is None else latest.num_documents
        position = 1 if latest is None else latest.position + 1
        return corpus(position, num_documents=before + 1), before

    changed, before = Catalog(memory_store).change_corpus("factbook", with_one_more)
    assert (changed, before) == (corpus(2, num_documents=6), 5)
    assert rival.latest_corpus("factbook") == changed


def test_a_change_that_changes_nothing_adds_no_position(memory_store: ObjectStore) -> None:
    catalog = Catalog(memory_store)
    catalog.append_corpus(corpus(1))

    def unchanged(latest: CorpusManifest | None) -> tuple[CorpusManifest, str]:
        assert latest is not None
        return latest, "nothing to do"

    assert catalog.change_corpus("factbook", unchanged) == (corpus(1), "nothing to do")
    assert catalog.latest_corpus("factbook") == corpus(1)


def test_a_change_that_is_always_too_late_gives_up(memory_store: ObjectStore) -> None:
    rival = Catalog(memory_store)

    def overtaken(latest: CorpusManifest | None) -> tuple[CorpusManifest, None]:
        position = 1 if latest is None else latest.position + 1
        rival.append_corpus(corpus(position, num_documents=7))
        return corpus(position), None

    with pytest.raises(Conflict, match="others keep changing the corpus 'factbook'"):
        Catalog(memory_store).change_corpus("factbook", overtaken)
    latest = rival.latest_corpus("factbook")
    assert latest is not None
    assert latest.position == CHANGES_MAX


def test_the_first_to_publish_wins(store: ObjectStore) -> None:
    first = Catalog(store).publish_index(index("v1", built_at_ms=1))
    second = Catalog(store).publish_index(index("v1", built_at_ms=2))
    assert (first.reused, second.reused) == (False, True)
    assert (second.manifest, second.ref) == (first.manifest, first.ref)
    assert first.manifest == index("v1", built_at_ms=1)
    assert first.ref == ManifestRef(version="v1", sha256=first.manifest.digest())
    assert Catalog(store).read_index("factbook", first.ref) == first.manifest
    assert Catalog(store).find_index("factbook", "v1") == (first.manifest, first.ref)


def test_all_publishers_get_the_same(store: ObjectStore) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda n: Catalog(store).publish_index(index("v1", n)), range(6)))
    assert len({published.ref for published in made}) == 1
    assert sum(not published.reused for published in made) == 1


def test_a_lost_reply_is_resolved(memory_store: ObjectStore) -> None:
    catalog = Catalog(LossyStore(memory_store, scripted("after", "before", "late")))
    for version in ("a", "b"):
        published = catalog.publish_model(model(version))
        assert (published.manifest, published.reused) == (model(version), False)
    catalog.append_corpus(corpus(1))
    assert catalog.latest_corpus("factbook") == corpus(1)


def test_what_was_not_published_is_not_found(store: ObjectStore) -> None:
    catalog = Catalog(store)
    missing = ManifestRef(version="v1", sha256="0" * 64)
    assert catalog.find_index("factbook", "v1") is None
    assert catalog.find_model("v1") is None
    assert catalog.list_models() == ()
    assert catalog.list_indexes("factbook") == ()
    with pytest.raises(NotFound):
        catalog.read_index("factbook", missing)
    with pytest.raises(NotFound):
        catalog.read_model(missing)


def test_listings(store: ObjectStore) -> None:
    catalog = Catalog(store)
    for version in ("b", "a"):
        catalog.publish_index(index(version))
        catalog.publish_model(model(version))
    assert [ref.version for _, ref in catalog.list_indexes("factbook")] == ["a", "b"]
    assert [found for found, _ in catalog.list_models()] == [model("a"), model("b")]
    for found, ref in catalog.list_models():
        assert catalog.read_model(ref) == found


def test_changed_bytes_are_refused(memory_store: ObjectStore) -> None:
    catalog = Catalog(memory_store)
    ref = catalog.publish_index(index("v1", built_at_ms=1)).ref
    memory_store.put("indexes/factbook/v1.json", index("v1", built_at_ms=2).to_bytes())
    with pytest.raises(Corrupt, match=r"indexes/factbook/v1\.json"):
        catalog.read_index("factbook", ref)
    memory_store.put("indexes/factbook/v1.json", index("v2").to_bytes())
    with pytest.raises(Corrupt, match="v2"):
        catalog.find_index("factbook", "v1")
    memory_store.put("models/v1.json", b"{")
    with pytest.raises(Corrupt, match=r"models/v1\.json"):
        catalog.find_model("v1")
    memory_store.put(f"corpora/factbook/{1:020}.json", corpus(2).to_bytes())
    with pytest.raises(Corrupt, match="position 2"):
        catalog.latest_corpus("factbook")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a", ".hidden", "a" * 200])
def test_names_that_are_none_are_refused(memory_store: ObjectStore, name: str) -> None:
    catalog = Catalog(memory_store)
    for call in (
        lambda: catalog.find_model(name),
        lambda: catalog.find_index("factbook", name),
        lambda: catalog.find_index(name, "v1"),
        lambda: catalog.latest_corpus(name),
    ):
        with pytest.raises(InvalidArgument):
            call()


def test_the_store_path_is_as_documented(memory_store: ObjectStore) -> None:
    catalog = Catalog(memory_store)
    catalog.append_corpus(corpus(1))
    catalog.publish_index(index("v1"))
    catalog.publish_model(model("v1"))
    assert memory_store.exists("corpora/factbook/00000000000000000001.json")
    assert memory_store.exists("indexes/factbook/v1.json")
    assert memory_store.exists("models/v1.json")
