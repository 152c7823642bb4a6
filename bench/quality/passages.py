"""Measures what cutting for the embedder is worth, and how long questions are best read.

    python -m bench.quality.passages cut --xquad xquad.en.json xquad.zh.json --musique Q.json
    CORPUS.json python -m bench.quality.passages windows --xquad xquad.en.json

The starter embedder and exact search, without a cluster. `cut`: documents are found by their best
passage; XQuAD's are whole articles, of which the passage must also hold the answer. `windows`: each
question stands behind some pages of another corpus.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from semantic_text_splitter import MarkdownSplitter

from actors.models.embedder import Embedder
from actors.models.starter_models import starter_embedder_folder
from bench.data import factbook_documents, read_xquad
from bench.markdown import table
from bench.quality.evaluation_sets import JudgedSet, hotpotqa, musique
from cluster.arrays import Float32Array
from cluster.documents.chunking import Chunker
from cluster.embedding.tokenizer import EmbedderTokenizer

TOP_K = 10
TOKENS_READ = (500, 1000, 2000)
"""Tokens of the best passages that a prompt holds: more short passages than long ones."""
TOKENS_MAX = (128, 254)
UNREAD = "1,000 characters, the rest unread"
PAGES = (0, 1, 3, 6)
"""Pages of the other corpus before a question."""
PAGE_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    query: str
    documents: frozenset[str]
    answers: frozenset[str] = frozenset()
    """Answers of which the passage must hold one; empty: any passage of the documents will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSet:
    texts: Mapping[str, str]
    asked: Sequence[Asked]


class Bench:
    def __init__(self) -> None:
        self.embedder = Embedder(starter_embedder_folder(), num_threads=1)
        self.tokenizer = EmbedderTokenizer.of_folder(starter_embedder_folder())

    def ways(self) -> dict[str, Callable[[str], list[str]]]:
        """The ways to cut, by name. Of the first one's passages only 256 tokens are embedded."""
        by_tokens = {
            f"at most {n} tokens": Chunker(self.tokenizer, n, n // 10).chunks for n in TOKENS_MAX
        }
        return {
            "1,000 characters, the rest unread": MarkdownSplitter(1000, 100).chunks,
            **by_tokens,
        }

    def first_windows(self, texts: Sequence[str]) -> Float32Array:
        """float32 [n, d]: each text's first window."""
        return self.embedder.embed_windows([w[0] for w in self.tokenizer.windows(texts)])

    def cut(self, name: str, judged: AskedSet) -> list[Sequence[object]]:
        queries = self.embedder.embed([asked.query for asked in judged.asked])
        rows: list[Sequence[object]] = []
        for way, chunks in self.ways().items():
            passages = [(id, p) for id, text in judged.texts.items() for p in chunks(text)]
            texts = [text for _, text in passages]
            counts = np.array(self.tokenizer.count(texts))
            lost = np.maximum(counts - self.tokenizer.tokens_max, 0).sum() / counts.sum()
            vectors = (
                self.first_windows(texts) if way == UNREAD else self.embedder.embed_passages(texts)
            )
            found_in: list[list[float]] = []
            for asked, ranked in zip(
                judged.asked, np.argsort(-(queries @ vectors.T), axis=1), strict=True
            ):
                until = np.append(np.cumsum(counts[ranked]), np.inf)
                found = np.array(ranks_of([passages[row] for row in ranked], asked))
                within = (found < TOP_K, *(until[found] <= tokens for tokens in TOKENS_READ))
                found_in.append([float(share.mean()) for share in within])
            shares = [f"{share:.3f}" for share in np.mean(found_in, axis=0)]
            rows.append([name, way, f"{len(passages):,}", f"{100 * float(lost):.1f} %", *shares])
        return rows

    def windows(self, judged: AskedSet) -> list[Sequence[object]]:
        chunks = Chunker(self.tokenizer, self.tokenizer.tokens_max, 25).chunks
        passages = [(id, p) for id, text in judged.texts.items() for p in chunks(text)]
        vectors = self.embedder.embed_passages([text for _, text in passages])
        pages = _pages()
        rows: list[Sequence[object]] = []
        for num_pages in PAGES:
            texts = [
                "\n\n".join([*(pages[(7 * n + i) % len(pages)] for i in range(num_pages)), a.query])
                for n, a in enumerate(judged.asked)
            ]
            for way, scores in self._scores(texts, vectors).items():
                found = [
                    ranks_of([passages[row] for row in ranked], asked)[0]
                    for ranked, asked in zip(np.argsort(-scores, axis=1), judged.asked, strict=True)
                ]
                rows.append([num_pages, way, *measures(found)])
        return rows

    def _scores(self, texts: Sequence[str], vectors: Float32Array) -> dict[str, Float32Array]:
        """float32 [queries, passages] for each way to read a long query, by name."""
        windows = self.tokenizer.windows(texts)
        flat = self.embedder.embed_windows([window for text in windows for window in text])
        ends = np.cumsum([len(text) for text in windows])
        of_text = np.split(flat, ends[:-1])
        mean = np.stack([w.mean(axis=0) for w in of_text])
        return {
            "first window": np.stack([w[0] for w in of_text]) @ vectors.T,
            "last window": np.stack([w[-1] for w in of_text]) @ vectors.T,
            "mean of windows": mean @ vectors.T,
            "mean, the last for half": self.embedder.embed(texts) @ vectors.T,
            "best of windows": np.stack([(w @ vectors.T).max(axis=0) for w in of_text]),
        }


def sampled(judged: AskedSet, questions_max: int | None) -> AskedSet:
    """At most `questions_max` questions, from everywhere in the set."""
    if questions_max is None:
        return judged
    step = -(-len(judged.asked) // questions_max)
    return AskedSet(texts=judged.texts, asked=judged.asked[::step])


def xquad_articles(path: Path) -> AskedSet:
    texts: dict[str, str] = {}
    asked: list[Asked] = []
    for article in json.loads(path.read_text())["data"]:
        title = article["title"]
        texts[title] = "\n\n".join(p["context"] for p in article["paragraphs"])
        for question in (q for p in article["paragraphs"] for q in p["qas"]):
            answers = frozenset(answer["text"] for answer in question["answers"])
            asked.append(
                Asked(query=question["question"], documents=frozenset([title]), answers=answers)
            )
    return AskedSet(texts=texts, asked=asked)


def paragraphs(path: Path) -> AskedSet:
    data = read_xquad(path)
    return AskedSet(
        texts={document["id"]: document["text"] for document in data.documents},
        asked=[Asked(query=q.text, documents=frozenset([q.paragraph])) for q in data.questions],
    )


def of_judged(judged: JudgedSet) -> AskedSet:
    relevant: dict[str, set[str]] = {}
    for query, document in judged.relevant:
        relevant.setdefault(query, set()).add(document)
    return AskedSet(
        texts={document["id"]: document["text"] for document in judged.documents},
        asked=[
            Asked(query=q["text"], documents=frozenset(relevant[q["id"]])) for q in judged.queries
        ],
    )


def ranks_of(passages: Sequence[tuple[str, str]], asked: Asked) -> list[int]:
    """The ranks, from 0, of what is asked for: of each document the rank of its best passage, or
    the rank of the first passage with an answer.
    """
    if asked.answers:
        for rank, (id, text) in enumerate(passages):
            if id in asked.documents and any(answer in text for answer in asked.answers):
                return [rank]
        return [len(passages)]
    first: dict[str, int] = {}
    for rank, (id, _) in enumerate(passages):
        first.setdefault(id, rank)
    return [first[document] for document in asked.documents]


def measures(found: Sequence[int]) -> tuple[str, str, str]:
    """Recall at 1 and at TOP_K, and the mean reciprocal rank, of questions with one right
    document.
    """
    ranks = np.array(found)
    reciprocal = np.where(ranks < TOP_K, 1 / (1 + ranks), 0.0)
    return (
        f"{(ranks < 1).mean():.3f}",
        f"{(ranks < TOP_K).mean():.3f}",
        f"{reciprocal.mean():.3f}",
    )


def _pages() -> list[str]:
    text = "\n\n".join(document["text"] for document in factbook_documents(400))
    return MarkdownSplitter(PAGE_CHARS).chunks(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cut", "windows"))
    parser.add_argument("--xquad", type=Path, nargs="*", default=())
    parser.add_argument("--questions", type=int, help="at most, of each XQuAD file")
    pair = ("QUESTIONS", "CORPUS")
    parser.add_argument("--musique", type=Path, nargs=2, metavar=pair)
    parser.add_argument("--hotpotqa", type=Path, nargs=2, metavar=pair)
    given = parser.parse_args()
    bench = Bench()
    if given.what == "windows":
        rows: list[Sequence[object]] = []
        for path in given.xquad:
            rows += bench.windows(sampled(paragraphs(path), given.questions))
        names = ("R@1", f"R@{TOP_K}", f"RR@{TOP_K}")
        print(table(("pages before it", "read by", *names), rows))
        return
    sets = {p.stem: sampled(xquad_articles(p), given.questions) for p in given.xquad}
    if given.musique is not None:
        sets["MuSiQue"] = of_judged(musique(*given.musique))
    if given.hotpotqa is not None:
        sets["HotpotQA"] = of_judged(hotpotqa(*given.hotpotqa))
    rows = [row for name, judged in sets.items() for row in bench.cut(name, judged)]
    read = (f"R in {tokens:,} tokens" for tokens in TOKENS_READ)
    found = (f"R@{TOP_K}", *read)
    print(table(("set", "passages of", "passages", "tokens unread", *found), rows))


if __name__ == "__main__":
    main()
