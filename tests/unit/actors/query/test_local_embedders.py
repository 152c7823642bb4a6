"""Models in the gateway's own process: opened when their files are here, let go when not needed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.models.embedding_worker import EmbeddingQueue, EmbeddingWorker
from actors.models.publishing import publish_model
from actors.query.local_embedders import LocalEmbedder, LocalEmbedders
from actors.query.replica_sets import ReplicaSets
from actors.runtime.calls import NamedActor
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind, ModelManifest, Runtime
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import DeadlineExceeded, NotFound, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.serving.view import RegionView, ReleaseView
from cluster.store.object_store import ObjectStore, open_store
from tests.support.node_cache import node_cache

QUESTIONS = ["Who grows tea?", "日本の首都は？", "", "word " * 300]


class Models:
    """The starter embedder in a store, with OpenVINO and with PyTorch, on a node that has its
    files.
    """

    def __init__(self, folder: Path) -> None:
        self.store: ObjectStore = open_store(str(folder / "store"))
        self.cache: ArtifactCache = node_cache(self.store, folder / "cache")
        self.openvino = publish_model(
            Catalog(self.store),
            self.cache,
            kind=ModelKind.EMBEDDER,
            source="starter",
            name=None,
            scratch=folder / "scratch",
            runtimes=(Runtime.OPENVINO,),
        ).manifest
        other = {"runtime": Runtime.TORCH, "version": "0" * 16}
        self.torch = self.openvino.model_copy(update=other)
        Catalog(self.store).publish_model(self.torch)
        for model in (self.openvino, self.torch):
            self.cache.folder_for(model.run_files)

    def followed(self, **options: Any) -> LocalEmbedders:
        return LocalEmbedders(Catalog(self.store), self.cache, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def view_of(*models: ModelManifest) -> RegionView:
    releases = {
        number: ReleaseView(
            number=number,
            corpora={},
            embedders=(f"embedder/{model.version}/0",),
            embedder=model.version,
            generator=None,
            prompt=PromptTemplate(),
        )
        for number, model in enumerate(models, start=1)
    }
    return RegionView(region="here", releases=releases)


async def until_opened() -> None:
    opening = [task for task in asyncio.all_tasks() if task.get_name().startswith("open ")]
    await asyncio.gather(*opening)


async def opened(models: Models) -> LocalEmbedder:
    local = models.followed()
    local.follow(view_of(models.openvino))
    await until_opened()
    found = local.embedder(models.openvino.version)
    assert found is not None
    return found


async def test_its_vectors_have_the_bytes_of_an_actors(models: Models) -> None:
    local = await opened(models)
    actor = EmbeddingWorker(models.openvino, models.cache)
    one_by_one = [await local.embed([text], 60.0) for text in QUESTIONS]
    at_once = await asyncio.gather(*(local.embed([text], 60.0) for text in QUESTIONS))
    expected = await actor.embed(QUESTIONS, 60.0)
    assert np.concatenate(one_by_one).tobytes() == expected.tobytes()
    assert np.concatenate(at_once).tobytes() == expected.tobytes()
    counted, told = (
        await local.embed_counted(QUESTIONS, 60.0),
        await actor.embed_counted(QUESTIONS, 60.0),
    )
    assert counted.vectors.tobytes() == told.vectors.tobytes()
    assert counted.num_tokens == told.num_tokens
    assert local.num_texts == 0


async def test_only_what_runs_without_pytorch_and_has_room_is_opened(
    models: Models, tmp_path: Path
) -> None:
    size_bytes = sum(file.size_bytes for file in models.openvino.run_files)
    for local in (
        models.followed(bytes_max=size_bytes - 1),
        LocalEmbedders(Catalog(models.store), node_cache(models.store, tmp_path)),
    ):
        local.follow(view_of(models.openvino))
        await until_opened()
        assert local.embedder(models.openvino.version) is None
    assert not node_cache(models.store, tmp_path).holds(models.openvino.run_files)
    local = models.followed(bytes_max=size_bytes)
    local.follow(view_of(models.torch, models.openvino))
    await until_opened()
    assert local.embedder(models.torch.version) is None
    assert local.embedder(models.openvino.version) is not None
    assert local.embedder(None) is None


async def test_a_question_is_embedded_here_as_soon_as_the_model_is_open(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    async def call(actor: NamedActor, method: str, *args: object) -> object:
        calls.append(actor.name)
        raise Unavailable("it was killed")

    monkeypatch.setattr(NamedActor, "call", call)
    view = view_of(models.openvino)
    routes = ReplicaSets(SYSTEM_CLOCK, random.Random(0), None, models.followed())
    routes.follow(view)
    with pytest.raises(Unavailable, match="it was killed"):
        await routes.embedders(view.releases[1]).embed(["Who grows tea?"], Deadline.after(60.0))
    assert calls == list(view.releases[1].embedders)
    await until_opened()
    embedders = routes.embedders(view.releases[1])
    assert (await embedders.embed(["Who grows tea?"], Deadline.after(60.0))).shape == (1, 384)
    with pytest.raises(Unavailable, match="it was killed"):
        await embedders.embed(["Who grows tea?"] * 8, Deadline.after(60.0))


async def test_a_model_is_let_go_with_its_last_release_and_requests_under_way_end(
    models: Models,
) -> None:
    local = models.followed()
    local.follow(view_of(models.openvino, models.torch))
    await until_opened()
    embedder = local.embedder(models.openvino.version)
    assert embedder is not None
    under_way = asyncio.create_task(embedder.embed(["word " * 300], 60.0))
    await asyncio.sleep(0)
    local.follow(view_of(models.torch))
    assert local.embedder(models.openvino.version) is None
    assert (await under_way).shape == (1, 384)
    local.follow(view_of(models.openvino))
    local.follow(view_of())
    await until_opened()
    assert local.embedder(models.openvino.version) is None, "it was opened too late"


async def test_what_cannot_be_opened_is_tried_again_with_the_next_view(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, view = models.followed(), view_of(models.openvino)
    with monkeypatch.context() as broken:
        broken.setattr(EmbeddingWorker, "__init__", failing(RuntimeError("no memory")))
        local.follow(view)
        await until_opened()
        assert local.embedder(models.openvino.version) is None
    local.follow(view)
    await until_opened()
    assert local.embedder(models.openvino.version) is not None


async def test_errors_of_the_library_are_one_that_lets_an_actor_be_asked(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = await opened(models)
    with pytest.raises(DeadlineExceeded):
        await local.embed(["word " * 300], 0.0)
    for raised, expected in (
        (RuntimeError("no memory"), Unavailable),
        (NotFound("gone"), NotFound),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(EmbeddingQueue, "_embed", failing(raised))
            with pytest.raises(expected):
                await local.embed(["Who grows tea?"], 60.0)
    assert local.num_texts == 0


def failing(error: Exception) -> Any:
    def fail(*_: object) -> object:
        raise error

    return fail
