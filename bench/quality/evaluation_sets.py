"""Writes question sets in the files that `raygion ingest` and `raygion eval` read.

    python -m bench.quality.evaluation_sets FOLDER --xquad xquad.en.json
    python -m bench.quality.evaluation_sets FOLDER --musique musique_train.json
    musique_train_corpus.json python -m bench.quality.evaluation_sets FOLDER --hotpotqa
    hotpotqa_train.json hotpotqa_train_corpus.json

Makes `{set}.jsonl`, `{set}.queries.jsonl` and `{set}.qrels.tsv`. XQuAD comes from
deepmind/xquad; MuSiQue and HotpotQA, with all paragraphs of their questions as the corpus,
from OSU-NLP-Group/HippoRAG, branch `legacy`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data import read_xquad, write_jsonl


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSet:
    documents: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    """`id` and `text`"""
    relevant: list[tuple[str, str]]
    """Query id and document id."""

    def write(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(self.documents, folder / f"{name}.jsonl")
        write_jsonl(self.queries, folder / f"{name}.queries.jsonl")
        lines = [f"{query}\t{document}\t1\n" for query, document in self.relevant]
        (folder / f"{name}.qrels.tsv").write_text("".join(lines))


def xquad(path: Path) -> JudgedSet:
    """A question's paragraph is its only relevant document."""
    data = read_xquad(path)
    return JudgedSet(
        documents=data.documents,
        queries=[{"id": str(n), "text": asked.text} for n, asked in enumerate(data.questions)],
        relevant=[(str(n), asked.paragraph) for n, asked in enumerate(data.questions)],
    )


def musique(questions: Path, corpus: Path) -> JudgedSet:
    """Several paragraphs have one title, so that title and text together name one."""
    paragraphs = [(p["title"], p["text"]) for p in json.loads(corpus.read_text())]
    ids = {paragraph: str(number) for number, paragraph in enumerate(paragraphs)}
    asked = json.loads(questions.read_text())
    return JudgedSet(
        documents=[_document(ids[title, text], title, text) for title, text in paragraphs],
        queries=[{"id": q["id"], "text": q["question"]} for q in asked],
        relevant=[
            (q["id"], ids[p["title"], p["paragraph_text"]])
            for q in asked
            for p in q["paragraphs"]
            if p["is_supporting"]
        ],
    )


def hotpotqa(questions: Path, corpus: Path) -> JudgedSet:
    texts = {t: "".join(sentences) for t, sentences in json.loads(corpus.read_text()).items()}
    ids = {title: str(number) for number, title in enumerate(texts)}
    asked = json.loads(questions.read_text())
    return JudgedSet(
        documents=[_document(ids[title], title, text) for title, text in texts.items()],
        queries=[{"id": q["_id"], "text": q["question"]} for q in asked],
        relevant=[
            (q["_id"], ids[title])
            for q in asked
            for title in dict.fromkeys(title for title, _ in q["supporting_facts"])
        ],
    )


def _document(id: str, title: str, text: str) -> dict[str, Any]:
    return {"id": id, "text": f"{title}\n{text}", "metadata": {"title": title}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Question sets for `raygion eval`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--xquad", type=Path)
    pair = ("QUESTIONS", "CORPUS")
    parser.add_argument("--musique", type=Path, nargs=2, metavar=pair)
    parser.add_argument("--hotpotqa", type=Path, nargs=2, metavar=pair)
    given = parser.parse_args()
    if given.xquad is not None:
        xquad(given.xquad).write(given.folder, "xquad")
    if given.musique is not None:
        musique(*given.musique).write(given.folder, "musique")
    if given.hotpotqa is not None:
        hotpotqa(*given.hotpotqa).write(given.folder, "hotpotqa")


if __name__ == "__main__":
    main()
