"""Which index of each corpus the next release names, whatever was built in between."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.builds.build import build_index
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import ChunkSettings, CorpusSettings
from cluster.documents.deletes import drop_corpus
from cluster.errors import NotFound
from cluster.mutations.store_log import StoreMutationLog
from cluster.releases.garbage import StoreCollector
from cluster.shards.index_parameters import AutoIndex, IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from tests.support.node_cache import node_cache
from tests.support.worlds.next_release_world import World, embedder

ASKED = [
    CorpusSettings(),
    CorpusSettings(index=NamedIndex(kind=IndexKind.FLAT)),
    CorpusSettings(index=NamedIndex(metric=Metric.L2)),
    CorpusSettings(index=NamedIndex(hnsw_m=16)),
    CorpusSettings(index=AutoIndex()),
    CorpusSettings(index=AutoIndex(target_recall=0.99)),
    CorpusSettings(shards=3),
    CorpusSettings(partition_by="team"),
    CorpusSettings(partition_by="year"),
    CorpusSettings(chunks=ChunkSettings(tokens_max=100)),
    CorpusSettings(chunks=ChunkSettings(tokens_max=100, overlap_tokens=0)),
]
"""Settings that lead to other indexes."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("between", ASKED[1:])
def test_settings_that_went_back_count_again(world: World, between: CorpusSettings) -> None:
    world.embedder = embedder("a")
    world.ingest()
    first = world.build()
    world.asked["docs"] = between
    second = world.build()
    assert world.taken() == {"docs": second.version}
    world.asked["docs"] = CorpusSettings()
    assert world.build() == first
    assert (world.taken(), world.told()) == ({"docs": first.version}, "")


def test_an_embedder_that_went_back_counts_again(world: World) -> None:
    built = []
    for name in "aba":
        world.embedder = embedder(name)
        if not built:
            world.ingest()
        built.append(world.build())
        assert (world.taken(), world.told()) == ({"docs": built[-1].version}, "")
    assert built[2] == built[0] != built[1]


def test_what_a_build_found_stays_until_it_is_proposed(world: World, tmp_path: Path) -> None:
    world.ingest()
    first = world.build()
    world.asked["docs"] = CorpusSettings(shards=3)
    world.build()
    collector = StoreCollector(world.store, world.clock)
    world.clock.hours += 2
    assert collector.collect(keep=1, grace_s=3600).waiting_objects == 1
    world.clock.hours += 2
    world.asked.clear()
    found = build_index(
        Catalog(world.store),
        node_cache(world.store, tmp_path),
        "docs",
        CorpusSettings(),
        None,
    )
    assert (found.manifest, found.reused) == (first, True)
    collector.collect(keep=1, grace_s=3600)
    assert (world.taken(), world.told()) == ({"docs": first.version}, "")


choices = st.tuples(st.sampled_from(ASKED), st.sampled_from("ab"), st.booleans())


@hypothesis_settings(max_examples=60, deadline=None)
@given(history=st.lists(choices, min_size=1, max_size=8))
def test_after_a_build_the_release_has_what_was_built(
    history: list[tuple[CorpusSettings, str, bool]],
) -> None:
    world = World()
    world.embedder = embedder("a")
    world.ingest()
    for number, (asked, name, grows) in enumerate(history):
        if grows:
            world.ingest(documents=2 + number)
        world.asked["docs"], world.embedder = asked, embedder(name)
        built = world.build()
        assert (world.taken(), world.told()) == ({"docs": built.version}, "")


def test_documents_that_went_back_count_with_the_settings(world: World) -> None:
    world.ingest(documents=1)
    world.build()
    world.asked["docs"] = CorpusSettings(shards=3)
    first = world.build()
    world.ingest(documents=2)
    world.build()
    world.ingest(documents=1)
    assert (world.taken(), world.told()) == ({"docs": first.version}, "")


def test_an_index_without_deleted_documents_belongs_to_the_settings_of_its_base(
    world: World,
) -> None:
    world.ingest(documents=2)
    base = world.build()
    sha256, size_bytes = Artifacts(world.store).put_bytes(b"which ones")
    deleted = ArtifactFile(path="tombstones", sha256=sha256, size_bytes=size_bytes)
    world.ingest(documents=1, deleted=deleted)
    derived = world.build(base=base)
    assert (world.taken(), world.told()) == ({"docs": derived.version}, "")
    world.asked["docs"] = CorpusSettings(shards=3)
    assert (world.taken(), "present settings" in world.told()) == ({"docs": derived.version}, True)
    other = world.build()
    assert (world.taken(), world.told()) == ({"docs": other.version}, "")
    world.asked.clear()
    assert (world.taken(), world.told()) == ({"docs": derived.version}, "")


def test_the_latest_documents_go_before_the_present_settings(world: World) -> None:
    world.ingest(documents=1)
    world.build()
    world.ingest(documents=2)
    world.asked["docs"] = CorpusSettings(shards=3)
    newer = world.build()
    world.asked.clear()
    assert world.taken() == {"docs": newer.version}
    assert "not built with the present settings" in world.told()
    assert "`raygion build docs`" in world.told()


def test_the_present_settings_go_before_age(world: World) -> None:
    world.ingest(documents=1)
    asked = world.build()
    world.asked["docs"] = CorpusSettings(shards=3)
    world.build()
    world.asked.clear()
    world.ingest(documents=2)
    assert world.taken() == {"docs": asked.version}
    assert "has changed since index" in world.told()


def test_where_nothing_has_the_latest_documents_later_ones_go_before_the_settings(
    world: World,
) -> None:
    world.ingest(documents=1)
    world.build()
    world.ingest(documents=2)
    world.asked["docs"] = CorpusSettings(shards=3)
    later = world.build()
    world.asked.clear()
    world.ingest(documents=3)
    assert world.taken() == {"docs": later.version}


def test_a_corpus_that_was_dropped_is_left_out(world: World) -> None:
    for corpus in ("docs", "faq"):
        world.ingest(corpus)
        world.build(corpus)
    world.serve()
    drop_corpus(catalog=world.catalog, corpus="faq", log=StoreMutationLog(world.store, "faq"))
    assert world.taken().keys() == {"docs"}
    assert world.told() == "corpus 'faq' has no documents any more; it is left out"
    world.ingest("faq", documents=5)
    with pytest.raises(NotFound, match="`raygion build faq`"):
        world.following()


def test_what_is_served_is_carried_on_before_what_was_built_last(world: World) -> None:
    world.ingest()
    served = world.build()
    world.serve()
    world.asked["docs"] = CorpusSettings(shards=3)
    world.build()
    world.asked["docs"] = CorpusSettings(shards=5)
    assert world.taken() == {"docs": served.version}
    assert "the current release's index" in world.told()


def test_a_corpus_that_was_never_built_is_left_out(world: World) -> None:
    world.ingest("docs")
    built = world.build("docs")
    world.ingest("drafts")
    assert world.taken() == {"docs": built.version}
    assert world.told() == (
        "corpus 'drafts' was not built; run `raygion build drafts`; it is left out"
    )


def test_a_corpus_that_changed_is_carried_on(world: World) -> None:
    world.ingest("docs")
    world.ingest("faq")
    docs, faq = world.build("docs"), world.build("faq")
    world.serve()
    world.ingest("faq", documents=5)
    assert world.taken() == {"docs": docs.version, "faq": faq.version}
    assert "corpus 'faq' has changed since the current release's index" in world.told()


def test_the_positions_since_a_build_are_read_side_by_side(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ingest()
    built = world.build()
    between = [f"{world.ingest(documents=n).position:020}.json" for n in (2, 3, 4, 5)]
    world.ingest(documents=6)
    # Whoever reads one of them waits for somebody who reads another one.
    two, get = threading.Barrier(2, timeout=10.0), world.store.get

    def get_with_another(path: str) -> bytes:
        if path.rpartition("/")[2] in between:
            two.wait()
        return get(path)

    monkeypatch.setattr(world.store, "get", get_with_another)
    assert world.taken() == {"docs": built.version}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (("docs", "drafts"), "'drafts' was not built; run `raygion build drafts`"),
        (("drafts",), "'drafts' was not built; run `raygion build drafts`"),
        (("docs", "empty"), "'empty' has no documents; add some with `raygion ingest`"),
    ],
)
def test_a_named_corpus_that_cannot_take_part_is_an_error(
    world: World, named: tuple[str, ...], message: str
) -> None:
    for corpus in ("docs", "drafts"):
        world.ingest(corpus)
    world.ingest("empty", documents=0)
    world.build("docs")
    with pytest.raises(NotFound, match=message):
        world.following(*named)


def test_only_what_is_named_takes_part(world: World) -> None:
    for corpus in ("docs", "faq"):
        world.ingest(corpus)
        world.build(corpus)
    world.serve()
    assert world.taken("faq").keys() == {"faq"}


def rebuilt_with_another_embedder(world: World) -> None:
    """One of two corpora that are served."""
    world.embedder = embedder("a")
    for corpus in ("docs", "faq"):
        world.ingest(corpus)
        world.build(corpus)
    world.serve()
    world.embedder = embedder("b")
    world.build("docs")


def test_a_served_corpus_of_another_embedder_stops_the_release_until_it_is_built(
    world: World,
) -> None:
    rebuilt_with_another_embedder(world)
    with pytest.raises(NotFound, match=r"`raygion build faq`.*`--corpora`"):
        world.following()
    assert world.taken("docs").keys() == {"docs"}
    faq = world.build("faq")
    assert world.taken()["faq"] == faq.version


def test_when_nothing_is_built_the_command_is_named(world: World) -> None:
    with pytest.raises(NotFound, match="no corpus yet"):
        world.following()
    world.ingest(documents=0)
    with pytest.raises(NotFound, match="every corpus is empty"):
        world.following()
    world.ingest()
    with pytest.raises(NotFound, match="`raygion build docs`"):
        world.following()


def test_what_was_deleted_before_a_new_start_does_not_come_back(world: World) -> None:
    world.ingest(documents=3)
    world.build()
    world.ingest(documents=0)
    world.ingest(documents=1)
    with pytest.raises(NotFound, match="`raygion build docs`"):
        world.following()
    fresh = world.build()
    assert world.taken() == {"docs": fresh.version}
