"""`raygion corpus ...`: what it tells of corpora, and what it takes before one is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from typer.testing import CliRunner

from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.index_versions import BuildPlan
from cluster.catalog.manifests import CorpusManifest
from cluster.config import Settings
from cluster.corpora.overview import CorpusLine, corpus_line, corpus_lines
from cluster.documents.content import store_part
from cluster.documents.deletes import delete_documents, drop_corpus
from cluster.documents.documents import Document
from cluster.documents.passages import passage_table, whole_passage
from cluster.errors import Conflict, InvalidArgument, NotFound, RaygionError
from cluster.mutations.store_log import StoreMutationLog
from cluster.releases.garbage import StoreCollector
from cluster.releases.release_log import read_release_log
from cluster.shards.recall import RecallStratum
from cluster.store.object_store import ObjectStore, open_store
from deployments.cli.main import app
from tests.support.worlds.gc_world import CORPUS, HOUR_MS, ShiftedClock, TimedStore, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two positions, an index of each, of which release 1 has the first."""
    monkeypatch.chdir(tmp_path)
    return filled(open_store(str(tmp_path / "store")))


def filled(store: ObjectStore) -> World:
    world = World(store)
    world.elect()
    world.corpus(1, ["a part"])
    world.propose(1, world.index("first", ["of the first", "of both"]))
    world.commit(1)
    world.corpus(2, ["a part", "another part"])
    world.index("second", ["of the second", "of both"], position=2)
    return world


def corpus(*arguments: str, input: str | None = None) -> str:
    result = CliRunner().invoke(app, ["corpus", *arguments, "--store", "store"], input=input)
    if isinstance(result.exception, RaygionError | click.Abort):
        raise result.exception
    return result.output


def line_of(world: World, settings: Settings | None = None) -> CorpusLine:
    state = read_release_log(world.store)
    return corpus_line(world.catalog, settings or Settings(), state, CORPUS, now_ms=HOUR_MS)


def test_a_corpus_is_told_with_what_was_built_of_it(world: World) -> None:
    line = line_of(world)
    assert (line.corpus, line.position, line.num_documents) == (CORPUS, 2, 2)
    assert line.documents_bytes == len("a part" + "another part")
    assert line.size_bytes == line.documents_bytes + len("of the first of the second of both") - 2
    second, first = line.indexes
    assert (first.position, second.position) == (1, 2)
    assert (first.has_latest_documents, second.has_latest_documents) == (False, True)
    assert (first.releases, second.releases, line.releases) == ((1,), (), (1,))


def test_where_an_index_finds_little_is_told(world: World) -> None:
    manifest = world.catalog.list_indexes(CORPUS)[0][0]
    strata = (
        RecallStratum(
            queries="stored", crowding=1, num_queries=50, recall_at_10=0.97, best_found=0.5
        ),
        RecallStratum(
            queries="moved", crowding=4, num_queries=49, recall_at_10=0.25, best_found=0.375
        ),
        RecallStratum(
            queries="moved", crowding=1, num_queries=49, recall_at_10=0.9, best_found=0.9
        ),
    )
    shard = manifest.shards[0].model_copy(update={"recall_at_10": 0.95, "strata": strata})
    changed = {"shards": (shard,), "recall_at_10": 0.95, "recall_at_10_least": 0.25}
    world.catalog.publish_index(
        manifest.model_copy(update={"version": "f" * 16, "built_at_ms": 9, **changed})
    )
    line, *_ = line_of(world).indexes
    assert [hole.stratum for hole in line.holes] == list(strata[:2])
    words = " ".join(corpus("show", CORPUS).split())
    assert "0.950 0.250" in words
    assert "49 moved quarter 4 0.250 0.375" in words
    assert "0.900" not in words
    told = json.loads(corpus("show", CORPUS, "--json"))["indexes"][0]
    assert told["recall_at_10_least"] == 0.25
    assert told["holes"][0]["stratum"]["best_found"] == 0.5


def test_an_index_is_told_by_whether_it_has_the_present_settings(world: World) -> None:
    latest = world.catalog.existing_corpus(CORPUS)
    version = BuildPlan(latest, Settings().corpus(CORPUS), None).version
    manifest = world.catalog.list_indexes(CORPUS)[0][0]
    world.catalog.publish_index(
        manifest.model_copy(update={"version": version, "corpus_position": 2, "built_at_ms": 9})
    )
    told = {i.version: i.has_present_settings for i in line_of(world).indexes}
    assert told.pop(version)
    assert not any(told.values())
    other = Settings.model_validate({"corpora": {CORPUS: {"shards": 7}}})
    assert not any(i.has_present_settings for i in line_of(world, other).indexes)


def test_the_commands_tell_it(world: World) -> None:
    listed = corpus("list")
    assert CORPUS in listed
    assert "1 (current)" in listed
    told = json.loads(corpus("list", "--json"))
    assert told["current"] == 1
    assert [one["corpus"] for one in told["corpora"]] == [CORPUS]
    assert told["corpora"][0]["releases"] == [1]
    shown = corpus("show", CORPUS)
    assert "brought along" not in shown
    assert "1.000" in shown
    assert json.loads(corpus("show", CORPUS, "--json"))["indexes"][0]["recall_at_10"] == 1.0
    with pytest.raises(NotFound, match="no corpus 'nothing'"):
        corpus("show", "nothing")


def test_without_a_corpus_the_list_is_empty(world: World) -> None:
    drop_corpus(catalog=world.catalog, corpus=CORPUS, log=StoreMutationLog(world.store, CORPUS))
    assert corpus("list") == "There is no corpus yet.\n"
    with pytest.raises(NotFound, match=f"no corpus '{CORPUS}'"):
        corpus("show", CORPUS)


class TestDrop:
    def test_a_loaded_release_keeps_it(self, world: World) -> None:
        with pytest.raises(Conflict, match="used by release 1; propose a release without it"):
            corpus("drop", CORPUS, "--yes")
        assert not world.catalog.existing_corpus(CORPUS).is_dropped

    def test_the_settings_keep_it(self, world: World) -> None:
        latest = world.catalog.existing_corpus(CORPUS)
        drafts = latest.model_copy(update={"corpus": "drafts", "position": 1})
        world.catalog.append_corpus(drafts)
        Path("regions.yaml").write_text("corpora: {drafts: {shards: 1}}")
        with pytest.raises(Conflict, match="used by the settings"):
            corpus("drop", "drafts", "--yes")

    def test_whoever_says_so_drops_it_all_the_same(self, world: World) -> None:
        told = json.loads(corpus("drop", CORPUS, "--force", "--yes", "--json"))
        assert (told["position"], told["documents"], told["releases"]) == (3, 2, [1])
        assert world.catalog.list_corpora() == (CORPUS,), "its positions stay"
        assert world.catalog.latest_corpus(CORPUS) == world.catalog.corpus_at(CORPUS, 3)
        with pytest.raises(NotFound):
            corpus("drop", CORPUS, "--force", "--yes")

    def test_it_says_what_goes_and_asks(self, world: World) -> None:
        assert corpus("drop", CORPUS, "--force", input="n\n").endswith("Aborted.\n")
        world.catalog.existing_corpus(CORPUS)
        told = corpus("drop", CORPUS, "--force", input="y\n")
        assert "drops 2 documents and 2 index versions, 50 bytes in the store" in told
        assert "What release 1 serves goes when that is not kept any more" in told
        with pytest.raises(NotFound):
            world.catalog.existing_corpus(CORPUS)

    def test_machines_say_yes_themselves(self, world: World) -> None:
        with pytest.raises(InvalidArgument, match="--yes"):
            corpus("drop", CORPUS, "--force", "--json")

    def test_what_was_added_meanwhile_goes_as_well(self, world: World) -> None:
        catalog = CatalogWithARival(world)
        log = StoreMutationLog(world.store, CORPUS)
        assert drop_corpus(catalog=catalog, corpus=CORPUS, log=log).position == 4
        with pytest.raises(NotFound):
            delete_documents(
                catalog=catalog, artifacts=world.artifacts, corpus=CORPUS, documents=["a"]
            )


class CatalogWithARival(Catalog):
    """Somebody else adds a position when this one wants to, once."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store)
        self._world: World | None = world

    def append_corpus(self, manifest: CorpusManifest) -> None:
        world, self._world = self._world, None
        if world is not None:
            world.corpus(manifest.position, ["a part", "another part", "a third"])
        super().append_corpus(manifest)


def test_the_collector_removes_what_a_dropped_corpus_had() -> None:
    clock = ShiftedClock()
    store = TimedStore(clock)
    world = filled(store)
    collector = StoreCollector(store, clock)

    def collect() -> set[str]:
        for _ in range(3):
            clock.hours += 2
            collector.collect(keep=1, grace_s=3600)
        return {path for path in store.content if path.startswith(("artifacts", "indexes"))}

    before = collect()
    drop_corpus(catalog=world.catalog, corpus=CORPUS, log=StoreMutationLog(world.store, CORPUS))
    left = collect()
    release = read_release_log(store).proposals[1].release.contents.indexes[CORPUS]
    (manifest,) = (m for m, _ in world.catalog.list_indexes(CORPUS))
    assert manifest.version == release.version, "a release that is served keeps its index"
    assert len(left) == 3 < len(before)
    assert corpus_lines(world.catalog, Settings(), read_release_log(store), HOUR_MS) == ()


def test_ids_to_delete_come_from_a_file_that_windows_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("store")
    documents = [Document(id=id, text="T", metadata={}) for id in ("a", "b b", "c")]
    table = passage_table([whole_passage(document) for document in documents], {}, None)
    Catalog(store).append_corpus(
        CorpusManifest(
            corpus=CORPUS,
            position=1,
            parts=(store_part(Artifacts(store), table),),
            num_documents=3,
            num_passages=3,
            metadata_schema={},
            vector_dimension=None,
            sources=(),
            created_at_ms=1,
        )
    )
    Path("ids.txt").write_bytes(b"\xef\xbb\xbfa\r\nb b\r\n\r\n")
    command = ["delete", CORPUS, "--from", "ids.txt", "--store", "store", "--json"]
    told = json.loads(CliRunner().invoke(app, command).stdout)
    assert (told["deleted"], told["unknown"], told["num_documents"]) == (2, [], 1)
