"""A delta of the real starter generator: one layer's weights change, and little travels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from actors.models.publishing import publish_model
from actors.models.starter_models import starter_generator_folder
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import sha256_of
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind, ModelManifest
from cluster.store.object_store import ObjectStore, open_store
from tests.support.node_cache import node_cache
from tests.support.regions.region_fixture import MODEL_FOLDER

pytestmark = pytest.mark.integration
WEIGHTS = "model.safetensors"
LAYER = "model.layers.7."


def tuned_model(folder: Path) -> int:
    """The starter generator with other weights in one layer; gives that layer's bytes."""
    shutil.copytree(starter_generator_folder(MODEL_FOLDER), folder, copy_function=os.link)
    (folder / WEIGHTS).unlink()
    tensors = load_file(MODEL_FOLDER / WEIGHTS)
    generator = torch.Generator().manual_seed(1)
    layer_bytes = 0
    for name, tensor in tensors.items():
        if name.startswith(LAYER):
            noise = torch.randn(tensor.shape, generator=generator) * 1e-2
            tensors[name] = (tensor.float() + noise).to(tensor.dtype)
            layer_bytes += tensor.numel() * tensor.element_size()
    with safe_open(MODEL_FOLDER / WEIGHTS, "pt") as file:
        save_file(tensors, folder / WEIGHTS, metadata=file.metadata())
    return layer_bytes


def published(store: ObjectStore, folder: Path, tmp_path: Path, told: list[str]) -> ModelManifest:
    model = publish_model(
        Catalog(store),
        node_cache(store, tmp_path / "publisher"),
        kind=ModelKind.GENERATOR,
        source=str(folder),
        name="starter",
        scratch=tmp_path / "scratch",
        note=told.append,
    )
    assert not model.reused
    return model.manifest


def test_of_a_changed_layer_only_that_layer_travels(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    told: list[str] = []
    layer_bytes = tuned_model(tmp_path / "tuned")
    base = published(store, MODEL_FOLDER, tmp_path, told)
    tuned = published(store, tmp_path / "tuned", tmp_path, told)
    weights = next(file for file in tuned.files if file.path == WEIGHTS)
    assert weights.delta is not None
    assert weights.delta.delta.size_bytes <= layer_bytes
    assert weights.delta.delta.size_bytes < 0.05 * weights.size_bytes
    assert any(f"delta of {base.version[:8]}" in text for text in told)

    artifacts = Artifacts(store)
    region = ArtifactCache(artifacts, tmp_path / "region")
    region.folder_for(base.files)
    before = artifacts.bytes_fetched
    folder = region.folder_for(tuned.files)
    assert artifacts.bytes_fetched - before == weights.delta.delta.size_bytes
    assert sha256_of(folder / WEIGHTS) == sha256_of(tmp_path / "tuned" / WEIGHTS)
    print(f"{weights.delta.delta.size_bytes} of {weights.size_bytes} bytes")
