"""Writes on their way to the log: cut as a build cuts, embedded once, and each failing alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from actors.models.starter_models import starter_embedder_folder
from actors.mutations.preparing import TOGETHER_MAX, Preparing
from cluster.arrays import Float32Array
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind, ModelManifest
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.documents.chunking import Chunker
from cluster.documents.documents import Document
from cluster.documents.passages import cut_passages, passage_table, whole_passage
from cluster.documents.write_checks import parse_writes
from cluster.embedding.tokenizer import TOKENIZER_FILES, EmbedderTokenizer
from cluster.errors import InvalidArgument, Overloaded, RaygionError, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.metadata import ColumnType
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import IfVersion, Write
from cluster.mutations.requests import DocumentWrite
from cluster.serving.view import CorpusView, ReleaseView
from cluster.store.object_store import ObjectStore
from cluster.vectors.metric import Metric

LONG = "\n\n".join(
    f"Paragraph {n}. " + "The ferry leaves at nine in the morning. " * 30 for n in range(9)
)


def corpus(name: str, *, has_embedder: bool) -> CorpusView:
    return CorpusView(
        corpus=name,
        index_version="v",
        dimension=2,
        metric=Metric.COSINE,
        metadata_schema={"year": ColumnType.INT},
        has_embedder=has_embedder,
        num_passages=1,
        recall_at_10=1.0,
        shards=(),
    )


class FakeEmbedders:
    """Gives each passage its length as its vector. Fails on passages that hold `poison`."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: RaygionError | None = None

    async def embed_passages(self, texts: Sequence[str], deadline: Deadline) -> Float32Array:
        self.asked.append(list(texts))
        if self.error is not None:
            raise self.error
        if any("poison" in text for text in texts):
            raise Unavailable("the embedder failed")
        return np.array(
            [[len(text), np.nan if "numberless" in text else 1] for text in texts],
            dtype=np.float32,
        )


@pytest.fixture
def embedders() -> FakeEmbedders:
    return FakeEmbedders()


@pytest.fixture
def preparing(store: ObjectStore, tmp_path: Path, embedders: FakeEmbedders) -> Preparing:
    return made(store, tmp_path, embedders)


def made(store: ObjectStore, scratch: Path, embedders: FakeEmbedders, **settings: Any) -> Preparing:
    artifacts, catalog = Artifacts(store), Catalog(store)
    folder = scratch / "model"
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if (starter_embedder_folder() / name).is_file():
            shutil.copy(starter_embedder_folder() / name, folder)
    model = ModelManifest(
        kind=ModelKind.EMBEDDER,
        name="starter",
        version="m1",
        fingerprint="0" * 64,
        files=artifacts.put_folder(folder),
        dimension=2,
    )
    catalog.publish_model(model)
    release = ReleaseView(
        number=1,
        corpora={
            "texts": corpus("texts", has_embedder=True),
            "words": corpus("words", has_embedder=False),
        },
        embedders=("e",),
        embedder="m1",
        generator=None,
        prompt=PromptTemplate(),
    )
    return Preparing(
        settings=Settings.model_validate(settings),
        catalog=catalog,
        artifacts=artifacts,
        release=lambda: release,
        embedders=lambda _: cast(Any, embedders),
    )


async def prepare(
    preparing: Preparing, *documents: dict[str, object], corpus: str = "texts"
) -> list[Write | RaygionError]:
    writes = [write for write in parse_writes(documents) if isinstance(write, DocumentWrite)]
    assert len(writes) == len(documents)
    return await preparing.prepared(corpus, writes, Deadline.after(30.0))


def text(id: str, text: str, **others: object) -> dict[str, object]:
    return {"id": id, "text": text, **others}


async def test_texts_are_cut_as_a_build_cuts_them(
    preparing: Preparing, embedders: FakeEmbedders
) -> None:
    texts = {"short": " A short one. ", "long": LONG, "odd": "中" * 900 + "\n# Heading\nScrap."}
    tokenizer = EmbedderTokenizer.of_folder(starter_embedder_folder())
    chunker = Chunker.of(Settings().corpus("texts").chunks, tokenizer)
    table = passage_table(
        [whole_passage(Document(id=id, text=of, metadata={})) for id, of in texts.items()], {}, None
    )
    built = cut_passages(table, chunker.chunks)

    prepared = await prepare(preparing, *(text(id, of) for id, of in texts.items()))

    passages: list[str] = []
    for write, (id, of) in zip(prepared, texts.items(), strict=True):
        assert isinstance(write, Write)
        assert write.content is not None
        assert (write.document, write.content.text) == (id, of)
        assert write.content.embedder == "m1"
        passages += write.content.passages
        lengths = [len(passage) for passage in write.content.passages]
        assert write.content.vectors is not None
        assert write.content.vectors[:, 0].tolist() == lengths
    assert passages == built.column("text").to_pylist()
    assert [one for asked in embedders.asked for one in asked] == passages


async def test_a_write_keeps_what_its_caller_demands(preparing: Preparing) -> None:
    demands: dict[str, object] = {"key": "k", "if_version": "5.0.eu", "timestamp_ms": 7}

    upsert, delete = await prepare(
        preparing,
        text("a", "t", metadata={"year": 2024.0, "team": "red"}, **demands),
        {"id": "b", "delete": True, "if_version": "absent"},
    )

    assert isinstance(upsert, Write)
    assert upsert.content is not None
    assert (upsert.key, upsert.timestamp_ms) == ("k", 7)
    assert upsert.if_version == HybridTime(5, 0, "eu")
    assert upsert.content.metadata == {"year": 2024, "team": "red"}
    assert delete == Write(document="b", content=None, if_version=IfVersion.ABSENT)


async def test_a_vector_of_the_callers_is_one_passage_and_nothing_is_embedded(
    preparing: Preparing, embedders: FakeEmbedders
) -> None:
    full, empty = await prepare(
        preparing, text("a", LONG, vector=[3, 4]), {"id": "b", "vector": [0, 1]}, corpus="words"
    )

    assert isinstance(full, Write)
    assert isinstance(empty, Write)
    assert full.content is not None
    assert empty.content is not None
    assert full.content.passages == [LONG]
    assert full.content.vectors is not None
    assert full.content.vectors.tolist() == [[3, 4]]
    assert full.content.embedder is None
    assert empty.content.passages == [""]
    assert embedders.asked == []


async def test_a_poisonous_text_fails_alone(preparing: Preparing) -> None:
    prepared = await prepare(
        preparing,
        text("a", "good"),
        text("b", "poison"),
        text("c", "numberless"),
        text("d", "good", metadata={"year": "late"}),
        text("e", "good"),
    )

    assert [type(one) for one in prepared] == [
        Write,
        Unavailable,
        InvalidArgument,
        InvalidArgument,
        Write,
    ]


async def test_a_text_on_which_the_splitter_fails_fails_alone(
    preparing: Preparing, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: Callable[[Chunker, str], list[tuple[int, int]]] = Chunker.spans

    def failing(self: Chunker, of: str) -> list[tuple[int, int]]:
        if "odd" in of:
            raise RuntimeError("a bug of the splitter")
        return spans(self, of)

    monkeypatch.setattr(Chunker, "spans", failing)
    good, bad = await prepare(preparing, text("a", "good"), text("b", "odd"))

    assert isinstance(good, Write)
    assert isinstance(bad, RaygionError)
    assert "cannot be cut" in bad.message


async def test_an_embedder_that_is_away_is_not_asked_for_each_document(
    preparing: Preparing, embedders: FakeEmbedders
) -> None:
    embedders.error = Unavailable("no embedder answers")

    prepared = await prepare(preparing, *(text(str(n), "good") for n in range(200)))

    assert all(isinstance(one, Unavailable) for one in prepared)
    assert len(embedders.asked) < 10


async def test_an_embedder_without_room_is_not_asked_once_more(
    preparing: Preparing, embedders: FakeEmbedders
) -> None:
    embedders.error = Overloaded("full", 3.0)

    prepared = await prepare(preparing, text("a", "good"), text("b", "good"))

    assert [type(one) for one in prepared] == [Overloaded, Overloaded]
    assert len(embedders.asked) == 1


async def test_many_passages_go_to_the_embedder_in_calls_of_bounded_size(
    preparing: Preparing, embedders: FakeEmbedders
) -> None:
    count = TOGETHER_MAX + 10
    several = [text(str(n), f"Text {n}") for n in range(count)]
    whole = text("book", "\n\n".join("word " * 240 for _ in range(count)))

    prepared = await prepare(preparing, *several, whole)

    assert all(isinstance(one, Write) for one in prepared)
    assert max(map(len, embedders.asked)) <= TOGETHER_MAX
    assert sum(map(len, embedders.asked)) > 2 * TOGETHER_MAX


async def test_passages_longer_than_the_embedder_reads_are_refused_as_a_build_refuses_them(
    store: ObjectStore, tmp_path: Path, embedders: FakeEmbedders
) -> None:
    preparing = made(
        store, tmp_path, embedders, corpora={"texts": {"chunks": {"tokens_max": 1000}}}
    )

    short, long = await prepare(preparing, text("a", "short"), text("b", LONG))

    assert isinstance(short, Write)
    assert isinstance(long, InvalidArgument)
    assert "the embedder reads 254" in long.message


async def test_fields_that_the_log_has_brought_keep_their_type(preparing: Preparing) -> None:
    preparing.learn("texts", [{"team": "red"}])

    good, bad = await prepare(
        preparing,
        text("a", "t", metadata={"team": "blue"}),
        text("b", "t", metadata={"team": 7}),
    )

    assert isinstance(good, Write)
    assert isinstance(bad, InvalidArgument)
    assert bad.field == "metadata.team"


async def test_a_corpus_that_is_not_served_is_refused_as_a_whole(preparing: Preparing) -> None:
    with pytest.raises(InvalidArgument, match="there is no corpus 'other'; there is: texts, words"):
        await prepare(preparing, text("a", "t"), corpus="other")
