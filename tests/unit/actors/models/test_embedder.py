from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.models.embedder import Embedder
from actors.models.embedding_worker import EmbeddingWorker
from actors.models.encoders import torch_encoder
from actors.models.encoders.openvino_encoder import write_graph
from actors.models.encoders.torch_encoder import SentenceModel, computes_bfloat16
from actors.models.publishing import publish_model
from actors.models.starter_models import starter_embedder_folder
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind, ModelManifest, Precision, Runtime
from cluster.errors import InvalidArgument
from cluster.store.object_store import open_store
from tests.support.node_cache import node_cache

TEXTS = [
    "Paris is the capital of France.",
    "Berlin is the capital of Germany, a country in the middle of Europe with many neighbours.",
    "wheat, sugar beets, milk",
    "日本の首都は東京です。",
    "word " * 400,
    "",
    " \n",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return starter_embedder_folder()


@pytest.fixture(scope="module")
def torch_embedder(folder: Path) -> Embedder:
    return Embedder(folder, num_threads=1)


@pytest.fixture(scope="module")
def openvino_embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    copy = tmp_path_factory.mktemp("openvino") / "model"
    shutil.copytree(folder, copy)
    write_graph(SentenceModel(folder), copy)
    return Embedder(copy, num_threads=2, runtime=Runtime.OPENVINO)


@pytest.fixture(scope="module", params=Runtime)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    embedder: Embedder = request.getfixturevalue(f"{request.param}_embedder")
    return embedder


def test_vectors_are_normalised_and_mean_something(embedder: Embedder) -> None:
    vectors = embedder.embed(
        ["What is the capital of France?", "Which crops are grown?", TEXTS[0], TEXTS[2]]
    )
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, embedder.dimension) == (4, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    scores = vectors[:2] @ vectors[2:].T
    assert scores.argmax(axis=1).tolist() == [0, 1]
    assert scores[0, 0] > 0.7


def test_vectors_are_those_of_the_published_model(embedder: Embedder) -> None:
    # The similarity that the model's authors print for this pair on its page of examples.
    first, second = embedder.embed(["That is a happy person", "That is a very happy person"])
    assert first @ second == pytest.approx(0.943, abs=0.002)


WORDS = st.sampled_from(["tea", "Paris", "wheat", "日本", "unbelievable", "1,234.5", "\n", "é"])
SOME_TEXTS = st.lists(
    st.one_of(
        st.sampled_from(TEXTS),
        st.lists(WORDS, max_size=40).map(" ".join),
        st.integers(0, 300).map(lambda n: "word " * n),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=10, deadline=None)
@given(texts=SOME_TEXTS, data=st.data())
def test_a_vector_does_not_depend_on_its_neighbours(
    embedder: Embedder, texts: list[str], data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(texts) - 1))
    together = embedder.embed(texts)
    assert np.isfinite(together).all()
    assert embedder.embed([texts[row]])[0].tobytes() == together[row].tobytes()
    assert embedder.embed(texts[row:])[0].tobytes() == together[row].tobytes()


def test_a_vector_is_the_same_beside_texts_of_every_length(embedder: Embedder) -> None:
    every = ["word " * num_words for num_words in (0, 1, 5, 6, 7, 30, 61, 62, 63, 128, 253, 254)]
    mixed = embedder.embed(every + TEXTS + every[::-1])
    for row in range(len(every)):
        alone = embedder.embed([every[row]])[0]
        assert alone.tobytes() == mixed[row].tobytes() == mixed[-1 - row].tobytes()


@contextmanager
def each_batch(see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """`see` gets the vectors of all tokens of each batch, [texts, padded length, dimension], as
    they go into the model, and may change them.
    """

    def hook(module: torch.nn.Module, _: object, vectors: torch.Tensor) -> None:
        # Those of words, which are many, and not those of their positions.
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 20_000:
            see(vectors)

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_where_products_depend_on_the_batch_there_are_no_batches(folder: Path) -> None:
    sizes: list[int] = []

    def spoil(vectors: torch.Tensor) -> None:
        sizes.append(len(vectors))
        vectors[:, :, 0] += 1e-3 * len(vectors)

    with each_batch(spoil):
        embedder = Embedder(folder, num_threads=1)
        assert max(sizes) > 1, "it was tried out"
        sizes.clear()
        together = embedder.embed(TEXTS * 2)
        assert max(sizes) == 1
        assert together[0].tobytes() == embedder.embed(TEXTS[:1])[0].tobytes()


@pytest.mark.skipif(not computes_bfloat16(), reason="this processor does not compute in bfloat16")
def test_bfloat16_is_close_to_float32_and_as_independent(
    torch_embedder: Embedder, folder: Path
) -> None:
    other = Embedder(folder, num_threads=1, precision=Precision.BFLOAT16)
    vectors = other.embed(TEXTS)
    assert (vectors * torch_embedder.embed(TEXTS)).sum(axis=1)[:5].min() > 0.999
    for row, text in enumerate(TEXTS):
        assert other.embed([text])[0].tobytes() == vectors[row].tobytes()


def test_all_of_a_long_text_counts(embedder: Embedder) -> None:
    """In a batch as alone, and whether the end or the beginning tells two texts apart."""
    filling = "We spoke about the plans for the coming year and about who does what. " * 40
    asked = "When do penguins hatch?", "What is the capital of France?"
    texts = [asked[0], *(filling + question for question in asked), asked[1] + filling, asked[1]]
    vectors = embedder.embed(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    for row, text in enumerate(texts):
        assert embedder.embed([text])[0].tobytes() == vectors[row].tobytes()
    short, other = vectors[0], vectors[4]
    assert short @ vectors[1] > short @ vectors[2] + 0.01
    assert other @ vectors[2] > other @ vectors[1] + 0.01
    passages = embedder.embed_passages(texts)
    assert passages[[0, 4]].tobytes() == vectors[[0, 4]].tobytes()
    assert short @ vectors[1] > short @ passages[1] + 0.01, "a question stands last"


def test_bfloat16_is_refused_by_a_processor_without_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_encoder, "computes_bfloat16", lambda: False)
    with pytest.raises(InvalidArgument, match="AVX512_BF16") as refused:
        Embedder(folder, num_threads=1, precision=Precision.BFLOAT16)
    assert refused.value.field == "embedder.precision"


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def copied_with_pooling(folder: Path, target: Path, **modes: bool) -> Path:
    shutil.copytree(folder, target)
    settings = {"word_embedding_dimension": 384, **modes}
    pooling = target / "1_Pooling" / "config.json"
    pooling.unlink()
    pooling.write_text(json.dumps(settings))
    return target


def test_pooling_is_as_the_model_says(
    torch_embedder: Embedder, folder: Path, tmp_path: Path
) -> None:
    target = copied_with_pooling(folder, tmp_path / "cls", pooling_mode_cls_token=True)
    by_cls = Embedder(target, num_threads=1)
    similarity = float(by_cls.embed(TEXTS[:1])[0] @ torch_embedder.embed(TEXTS[:1])[0])
    assert similarity < 0.99
    target = copied_with_pooling(folder, tmp_path / "max", pooling_mode_max_tokens=True)
    with pytest.raises(InvalidArgument, match="pooling_mode_max_tokens"):
        Embedder(target, num_threads=1)


def test_nothing_is_padded_beyond_what_a_model_reads(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "short")
    path = tmp_path / "short" / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text()) | {"model_max_length": 77}
    path.unlink()
    path.write_text(json.dumps(tokenizer))
    embedder = Embedder(tmp_path / "short", num_threads=1)
    lengths: set[int] = set()
    with each_batch(lambda vectors: lengths.add(vectors.shape[1])):
        embedder.embed(["word", "word " * 60, "word " * 400])
    assert lengths == {8, 64, 72, 77}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no sentence encoder"):
        Embedder(tmp_path, num_threads=1)


def published(folder: Path, precision: Precision = Precision.FLOAT32) -> ModelManifest:
    """The starter embedder in a store below the folder."""
    return publish_model(
        Catalog(open_store(str(folder / "store"))),
        node_cache(open_store(str(folder / "store")), folder / "cache"),
        kind=ModelKind.EMBEDDER,
        source="starter",
        name=None,
        scratch=folder / "scratch",
        precision=precision,
    ).manifest


async def test_a_worker_takes_its_model_from_the_store(
    tmp_path: Path, torch_embedder: Embedder
) -> None:
    model = published(tmp_path)
    store = open_store(str(tmp_path / "store"))
    assert Catalog(store).list_models()[0][0] == model
    worker = EmbeddingWorker(model, node_cache(store, tmp_path / "cache"))
    vectors = torch_embedder.embed(TEXTS[:2])
    assert (await worker.embed(TEXTS[:2], 30.0)).tobytes() == vectors.tobytes()
    counted = await worker.embed_counted(TEXTS[:2], 30.0)
    assert counted.vectors.tobytes() == vectors.tobytes()
    assert counted.num_tokens == torch_embedder.count_tokens(TEXTS[:2])
    wrong = model.model_copy(update={"dimension": 5})
    with pytest.raises(InvalidArgument, match="384 numbers, not of 5"):
        EmbeddingWorker(wrong, node_cache(store, tmp_path / "cache"))


def test_a_precision_makes_a_model_version_of_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    float32, bfloat16 = published(tmp_path), published(tmp_path, Precision.BFLOAT16)
    assert b"precision" not in float32.to_bytes(), "versions from before there was a choice stay"
    assert bfloat16.files == float32.files
    assert bfloat16.fingerprint != float32.fingerprint
    assert published(tmp_path, Precision.BFLOAT16) == bfloat16
    monkeypatch.setattr(torch_encoder, "computes_bfloat16", lambda: False)
    with pytest.raises(InvalidArgument, match="AVX512_BF16"):
        EmbeddingWorker(
            bfloat16,
            node_cache(open_store(str(tmp_path / "store")), tmp_path / "cache"),
        )
