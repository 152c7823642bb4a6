"""The runtime that an embedder's version is given, and what becomes of it in the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from actors.models.embedding_worker import EmbeddingWorker
from actors.models.encoders import openvino_encoder, runtime_choice
from actors.models.encoders.openvino_encoder import GRAPH, WEIGHTS, OpenvinoEncoder
from actors.models.encoders.runtime_choice import COSINE_MIN, choose_runtime
from actors.models.publishing import publish_model
from actors.models.starter_models import starter_embedder_folder
from cluster.arrays import Float32Array, Int64Array
from cluster.catalog.catalog import Catalog, Published
from cluster.catalog.manifests import ModelKind, ModelManifest, Runtime
from cluster.catalog.model_settings import EmbedderSettings
from cluster.errors import InvalidArgument, Unavailable
from cluster.progress import UNSEEN
from cluster.store.object_store import open_store
from tests.support.node_cache import node_cache

ANY = EmbedderSettings().runtimes


def published(folder: Path, *runtimes: Runtime) -> Published[ModelManifest]:
    """The starter embedder in a store below the folder."""
    store = open_store(str(folder / "store"))
    return publish_model(
        Catalog(store),
        node_cache(store, folder / "cache"),
        kind=ModelKind.EMBEDDER,
        source="starter",
        name=None,
        scratch=folder / "scratch",
        runtimes=runtimes,
    )


def skewed(self: OpenvinoEncoder, ids: Int64Array, mask: Int64Array) -> Float32Array:
    """Vectors that are a little off, as those of a coarser precision are."""
    vectors = np.zeros((len(ids), self.dimension), dtype=np.float32)
    vectors[:, 0] = 1.0
    return vectors


async def test_the_fastest_runtime_is_stored_with_what_it_needs(tmp_path: Path) -> None:
    model = published(tmp_path, *ANY).manifest
    by_runtime = {trial.runtime: trial for trial in model.trials}
    assert set(by_runtime) == set(Runtime)
    costs = {r: trial.question_ms / trial.passages_per_s for r, trial in by_runtime.items()}
    assert model.runtime is min(costs, key=lambda runtime: costs[runtime])
    assert all(trial.cosine_min > COSINE_MIN for trial in model.trials)
    paths = {file.path for file in model.files}
    assert ({GRAPH, WEIGHTS} <= paths) is (model.runtime is Runtime.OPENVINO)
    assert "model.safetensors" in paths
    again = published(tmp_path, *ANY)
    assert again.reused
    assert again.manifest == model


async def test_an_embedder_opens_the_graph_of_its_version(tmp_path: Path) -> None:
    model = published(tmp_path, Runtime.OPENVINO).manifest
    cache = node_cache(open_store(str(tmp_path / "store")), tmp_path / "cache")
    vectors = await EmbeddingWorker(model, cache).embed(["Who grows tea?"], 60.0)
    assert not [file for file in model.run_files if file.path.endswith(".safetensors")]
    other = published(tmp_path, Runtime.TORCH).manifest
    assert other.run_files == other.files
    assert other.fingerprint != model.fingerprint
    expected = await EmbeddingWorker(other, cache).embed(["Who grows tea?"], 60.0)
    assert float(vectors[0] @ expected[0]) > COSINE_MIN


def test_a_version_that_is_there_is_taken_unmeasured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_choice, "choose_runtime", None)
    torch = published(tmp_path, Runtime.TORCH)
    assert b"runtime" not in torch.manifest.to_bytes(), "as before there was a choice"
    kept = published(tmp_path, *ANY)
    assert kept.reused
    assert kept.manifest == torch.manifest


def test_a_runtime_with_other_vectors_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenvinoEncoder, "encode", skewed)
    model = published(tmp_path, *ANY).manifest
    assert model.runtime is Runtime.TORCH
    assert min(trial.cosine_min for trial in model.trials) < COSINE_MIN
    assert not {GRAPH, WEIGHTS} & {file.path for file in model.files}
    with pytest.raises(InvalidArgument, match=r"leave embedder\.runtime out"):
        published(tmp_path, Runtime.OPENVINO)


def test_a_model_that_openvino_cannot_take_over_stays_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an operation is unknown")

    monkeypatch.setattr(openvino_encoder.imported_openvino(), "convert_model", fail)
    folder = starter_embedder_folder()
    made = tmp_path / "made"
    made.mkdir()
    choice = choose_runtime(folder, ANY, made, UNSEEN.note)
    assert [trial.runtime for trial in choice.trials] == [choice.runtime] == [Runtime.TORCH]
    with pytest.raises(InvalidArgument, match="an operation is unknown"):
        choose_runtime(folder, [Runtime.OPENVINO], made, UNSEEN.note)


def test_where_openvino_is_missing_its_versions_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Unavailable, match="pip install openvino"):
        OpenvinoEncoder(tmp_path, 1)


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no graph"):
        OpenvinoEncoder(tmp_path, 1)


def test_openvino_sends_nothing_to_its_makers(tmp_path: Path) -> None:
    """With the package that does so installed, it is not imported."""
    (tmp_path / "openvino_telemetry.py").write_text("print('sends')")
    program = (
        "from actors.models.encoders.openvino_encoder import imported_openvino; imported_openvino()"
    )
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    run = [sys.executable, "-c"]
    assert subprocess.run([*run, path + program], check=True, capture_output=True).stdout == b""
    importing = subprocess.run([*run, path + "import openvino"], capture_output=True)
    assert b"sends" in importing.stdout, "it would be, otherwise"


def test_bfloat16_is_computed_by_torch_alone() -> None:
    assert EmbedderSettings(precision="bfloat16").runtimes == (Runtime.TORCH,)
    assert EmbedderSettings(runtime="openvino").runtimes == (Runtime.OPENVINO,)
    with pytest.raises(ValidationError, match=r"leave embedder\.runtime out"):
        EmbedderSettings(precision="bfloat16", runtime="openvino")
