"""Models in the store as deltas: picked where it pays, rebuilt to the very bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from actors.models import publishing as models
from actors.models.publishing import publish_model
from actors.models.starter_models import (
    STARTER_EMBEDDER,
    STARTER_GENERATOR,
    starter_embedder_folder,
)
from cluster.artifacts import weight_delta
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile, sha256_of
from cluster.catalog import model_files
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind, ModelManifest
from cluster.catalog.model_settings import STARTER
from cluster.errors import Corrupt
from cluster.store.object_store import ObjectStore
from tests.support.node_cache import node_cache
from tests.support.store_fixtures import address, memory_store, s3_server, store
from tests.support.values.safetensors_files import safetensors

__all__ = ["address", "memory_store", "s3_server", "store"]

LAYERS = 20
LAYER_BYTES = 8000
WEIGHTS = "model.safetensors"
CONFIG = '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}'


def model_folder(folder: Path, tuned: tuple[int, ...] = (), seed: int = 1) -> Path:
    """A model of random layers, those of `tuned` with other weights."""
    rng, other = random.Random(seed), random.Random(f"{seed} {tuned}")
    layers = {f"layers.{n}": ("BF16", [40, 100], rng.randbytes(LAYER_BYTES)) for n in range(LAYERS)}
    for n in tuned:
        layers[f"layers.{n}"] = ("BF16", [40, 100], other.randbytes(LAYER_BYTES))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(CONFIG)
    (folder / WEIGHTS).write_bytes(safetensors(layers))
    (folder / "model.onnx").write_bytes(b"of no use")
    return folder


class Publisher:
    def __init__(self, store: ObjectStore, tmp_path: Path) -> None:
        self.store = store
        self.tmp_path = tmp_path
        self.told: list[str] = []

    def publish(
        self,
        source: Path | str,
        kind: ModelKind = ModelKind.GENERATOR,
        name: str | None = None,
    ) -> tuple[ModelManifest, ArtifactFile]:
        """The manifest, and its weights."""
        manifest = publish_model(
            Catalog(self.store),
            node_cache(self.store, self.tmp_path / "publisher"),
            kind=kind,
            source=str(source),
            name=name,
            scratch=self.tmp_path / "scratch",
            note=self.told.append,
        ).manifest
        return manifest, next(file for file in manifest.files if file.path == WEIGHTS)


@pytest.fixture
def publisher(memory_store: ObjectStore, tmp_path: Path) -> Publisher:
    return Publisher(memory_store, tmp_path)


class Region:
    """A node's cache that counts what it fetches."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.folder = folder
        self.artifacts = Artifacts(store)
        self.cache = ArtifactCache(self.artifacts, folder)

    def fetched(self, manifest: ModelManifest, source: Path) -> int:
        """The bytes fetched for the model, whose files must be those of the source."""
        before = self.artifacts.bytes_fetched
        folder = self.cache.folder_for(manifest.files)
        for file in manifest.files:
            assert (folder / file.path).read_bytes() == (source / file.path).read_bytes()
        return self.artifacts.bytes_fetched - before

    def leftovers(self) -> list[str]:
        return [p.name for p in self.folder.rglob("*") if p.is_file() and p.name.startswith(".")]


def test_a_region_with_the_base_fetches_the_delta_alone(store: ObjectStore, tmp_path: Path) -> None:
    publisher = Publisher(store, tmp_path)
    first, second = model_folder(tmp_path / "v1"), model_folder(tmp_path / "v2", tuned=(7,))
    base, base_weights = publisher.publish(first)
    assert base_weights.delta is None
    tuned, weights = publisher.publish(second)
    assert weights.delta is not None
    assert weights.delta.base.sha256 == base_weights.sha256
    assert weights.delta.base_version == base.version
    assert LAYER_BYTES < weights.delta.delta.size_bytes < 1.5 * LAYER_BYTES
    said = f"delta of {base.version[:8]}, {weights.delta.delta.size_bytes} of {weights.size_bytes}"
    assert any(said in text for text in publisher.told)
    assert not store.exists(blob_path(weights.sha256))
    assert not any("onnx" in file.path for file in tuned.files)

    region = Region(store, tmp_path / "near")
    assert region.fetched(base, first) == sum(f.size_bytes for f in base.files)
    assert region.fetched(tuned, second) == weights.delta.delta.size_bytes
    assert region.fetched(tuned, second) == 0
    # One that was not there for the base fetches it, too.
    late = Region(store, tmp_path / "late")
    assert late.fetched(tuned, second) == (
        len(CONFIG) + weights.delta.base.size_bytes + weights.delta.delta.size_bytes
    )
    assert region.leftovers() == late.leftovers() == []


def test_the_same_model_is_stored_once(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish(model_folder(tmp_path / "v1"))
    manifest, _ = publisher.publish(model_folder(tmp_path / "v2", tuned=(3,)))
    assert publisher.publish(tmp_path / "v2")[0] == manifest
    assert Catalog(publisher.store).find_model(manifest.version) is not None
    assert ModelManifest.from_bytes(manifest.to_bytes(), source="x") == manifest


def test_a_delta_of_a_delta_is_made_against_the_base_of_both(
    publisher: Publisher, tmp_path: Path
) -> None:
    base, base_weights = publisher.publish(model_folder(tmp_path / "v1"))
    publisher.publish(model_folder(tmp_path / "v2", tuned=(1,)))
    manifest, weights = publisher.publish(model_folder(tmp_path / "v3", tuned=(1, 2)))
    assert weights.delta is not None
    assert weights.delta.base.sha256 == base_weights.sha256
    assert weights.delta.base_version == base.version
    region = Region(publisher.store, tmp_path / "region")
    region.fetched(manifest, tmp_path / "v3")


def test_what_does_not_pay_is_stored_whole(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish(model_folder(tmp_path / "v1"))
    assert publisher.publish(model_folder(tmp_path / "v2", seed=2))[1].delta is None
    # Then it is the base of what follows.
    tuned = model_folder(tmp_path / "v3", seed=2, tuned=(1,))
    assert publisher.publish(tuned)[1].delta is not None


def test_models_of_another_kind_or_architecture_are_no_base(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish(model_folder(tmp_path / "v1"))
    as_embedder = model_folder(tmp_path / "v2", tuned=(1,))
    assert publisher.publish(as_embedder, ModelKind.EMBEDDER)[1].delta is None
    other = model_folder(tmp_path / "v3", tuned=(2,))
    (other / "config.json").write_text(CONFIG.replace("llama", "mamba"))
    assert publisher.publish(other)[1].delta is None


def test_without_its_base_in_the_store_a_model_is_stored_whole(
    publisher: Publisher, tmp_path: Path
) -> None:
    _, base_weights = publisher.publish(model_folder(tmp_path / "v1"))
    publisher.store.remove(blob_path(base_weights.sha256))
    assert publisher.publish(model_folder(tmp_path / "v2", tuned=(1,)))[1].delta is None


def test_a_model_that_is_there_whole_after_all_is_fetched_whole(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish(model_folder(tmp_path / "v1"))
    second = model_folder(tmp_path / "v2", tuned=(1,))
    tuned, weights = publisher.publish(second)
    Artifacts(publisher.store).put_file(second / WEIGHTS)
    region = Region(publisher.store, tmp_path / "region")
    assert region.fetched(tuned, second) == weights.size_bytes + len(CONFIG)


def test_a_publisher_without_the_base_shows_that_it_fetches_it(
    memory_store: ObjectStore, tmp_path: Path
) -> None:
    Publisher(memory_store, tmp_path / "one").publish(model_folder(tmp_path / "v1"))
    other = Publisher(memory_store, tmp_path / "other")
    assert other.publish(model_folder(tmp_path / "v2", tuned=(1,)))[1].delta is not None
    assert f"fetching {WEIGHTS} to compare: 0 of 0 MB" in other.told


def test_weights_that_change_while_they_are_compared_are_refused(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish(model_folder(tmp_path / "v1"))
    second = model_folder(tmp_path / "v2", tuned=(1,))

    def write_late(base: Path, full: Path, target: Path) -> int:
        data = bytearray(full.read_bytes())
        data[-1] ^= 1
        full.write_bytes(data)
        return weight_delta.write_delta(base, full, target)

    monkeypatch.setattr(model_files, "write_delta", write_late)
    with pytest.raises(Corrupt, match="changed"):
        publisher.publish(second)
    assert len(Catalog(publisher.store).list_models()) == 1


class TestNames:
    """Models are told apart by their files; a name is what callers ask for, and nothing else."""

    @pytest.fixture
    def starter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A small folder in the place of the starter generator."""
        folder = model_folder(tmp_path / "starter")
        monkeypatch.setattr(models, "starter_generator_folder", lambda *_: folder)
        return folder

    @pytest.mark.parametrize("name", [None, "assistant"])
    def test_a_model_of_the_starters_name_is_not_the_starter(
        self, publisher: Publisher, starter: Path, tmp_path: Path, name: str | None
    ) -> None:
        own = model_folder(tmp_path / "mine" / STARTER_GENERATOR, tuned=(3,))
        tuned, _ = publisher.publish(own, name=name)
        made, weights = publisher.publish(STARTER, name=name)
        assert made.name == tuned.name == (name or STARTER_GENERATOR)
        assert made.fingerprint != tuned.fingerprint
        assert weights.sha256 == sha256_of(starter / WEIGHTS)
        assert publisher.publish(STARTER, name=name)[0] == made
        assert publisher.publish(own, name=name)[0] == tuned

    def test_a_folder_of_the_starter_embedders_name_is_not_the_starter(
        self, publisher: Publisher, tmp_path: Path
    ) -> None:
        own = model_folder(tmp_path / STARTER_EMBEDDER)
        tuned, _ = publisher.publish(own, ModelKind.EMBEDDER)
        made, weights = publisher.publish(STARTER, ModelKind.EMBEDDER)
        assert made.name == tuned.name
        assert weights.sha256 == sha256_of(starter_embedder_folder() / WEIGHTS)
        assert publisher.publish(STARTER, ModelKind.EMBEDDER)[0] == made

    def test_a_generator_is_served_by_the_name_that_the_settings_give(
        self, publisher: Publisher, tmp_path: Path
    ) -> None:
        folder = model_folder(tmp_path / "model")
        first, _ = publisher.publish(folder, name="assistant")
        renamed, _ = publisher.publish(folder, name="helper")
        assert (first.name, renamed.name) == ("assistant", "helper")
        assert (first.files, first.fingerprint) == (renamed.files, renamed.fingerprint)
        assert publisher.publish(folder, name="assistant")[0] == first
        assert publisher.publish(folder, name="helper")[0] == renamed

    def test_a_folder_may_be_an_embedder_and_a_generator(
        self, publisher: Publisher, tmp_path: Path
    ) -> None:
        folder = model_folder(tmp_path / "model")
        generator, _ = publisher.publish(folder)
        embedder, _ = publisher.publish(folder, ModelKind.EMBEDDER)
        assert (generator.kind, generator.dimension) == (ModelKind.GENERATOR, None)
        assert (embedder.kind, embedder.dimension) == (ModelKind.EMBEDDER, 8)
        assert embedder.fingerprint == generator.fingerprint

    def test_the_name_of_an_embedders_folder_does_not_matter(
        self, publisher: Publisher, tmp_path: Path
    ) -> None:
        first, _ = publisher.publish(model_folder(tmp_path / "one"), ModelKind.EMBEDDER)
        second, _ = publisher.publish(model_folder(tmp_path / "two"), ModelKind.EMBEDDER)
        assert second == first


class TestDamage:
    @pytest.fixture
    def tuned(self, publisher: Publisher, tmp_path: Path) -> ModelManifest:
        publisher.publish(model_folder(tmp_path / "v1"))
        return publisher.publish(model_folder(tmp_path / "v2", tuned=(1,)))[0]

    def delta(self, manifest: ModelManifest) -> ArtifactFile:
        return next(f for f in manifest.files if f.path == WEIGHTS).blobs[1]

    def test_a_damaged_delta_is_refused(
        self, publisher: Publisher, tuned: ModelManifest, tmp_path: Path
    ) -> None:
        delta = self.delta(tuned)
        data = bytearray(publisher.store.get(blob_path(delta.sha256)))
        data[len(data) // 2] ^= 1
        publisher.store.put(blob_path(delta.sha256), bytes(data))
        region = Region(publisher.store, tmp_path / "region")
        with pytest.raises(Corrupt, match=delta.sha256):
            region.cache.folder_for(tuned.files)
        assert region.leftovers() == []
        assert not region.cache.holds(tuned.files)

    def test_a_delta_that_makes_other_bytes_is_refused(
        self, publisher: Publisher, tuned: ModelManifest, tmp_path: Path
    ) -> None:
        """It is just what the manifest names, and yet wrong: of another model."""
        other = publisher.publish(model_folder(tmp_path / "v3", tuned=(4,)))[1]
        assert other.delta is not None
        files = tuple(
            file.model_copy(update={"delta": other.delta}) if file.path == WEIGHTS else file
            for file in tuned.files
        )
        region = Region(publisher.store, tmp_path / "region")
        with pytest.raises(Corrupt, match="does not make"):
            region.cache.folder_for(files)
        assert region.leftovers() == []
        assert not region.cache.holds(files)

    def test_a_damaged_base_in_the_cache_is_fetched_again(
        self, publisher: Publisher, tuned: ModelManifest, tmp_path: Path
    ) -> None:
        region = Region(publisher.store, tmp_path / "region")
        base = next(f for f in tuned.files if f.path == WEIGHTS).blobs[0]
        held = region.cache.folder_for([base]) / base.path
        held.chmod(0o644)
        held.write_bytes(bytes(base.size_bytes))
        region.fetched(tuned, tmp_path / "v2")
