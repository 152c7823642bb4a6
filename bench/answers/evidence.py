"""How well the score of the best hit tells questions that a corpus answers from others.

    python -m bench.answers.evidence --xquad xquad.en.json

Both corpora are searched exactly, with the starter embedder: the demo's factbook, and XQuAD (the
small file of the tests unless another one is given). Each is asked the questions made for it, those
made for the other one, and some of everyday life. `score_min: auto` was chosen from this table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.models.embedder import Embedder
from actors.models.starter_models import starter_embedder_folder
from bench.data import XQUAD_SMALL, factbook_documents, factbook_questions, read_xquad
from bench.markdown import table
from cluster.arrays import Float32Array

SCORES_MIN = (0.2, 0.25, 0.28, 0.3, 0.31, 0.33, 0.35, 0.4)
TOP_K = 3
EVERYDAY = (
    "How do I bake a pizza?",
    "What is a prime number?",
    "Who wrote the opera Carmen?",
    "What is the vacation policy for employees in their first year?",
    "How do I reset my password?",
    "Why is the sky blue?",
    "How many calories are in an apple?",
    "What's the best way to learn guitar?",
    "Explain quantum entanglement in simple terms.",
    "Write a Python function that reverses a list.",
    "What time does the store open on Sunday?",
    "How do I remove a coffee stain from a shirt?",
    "Which laptop should I buy for video editing?",
    "What are the rules of chess?",
    "Can dogs eat chocolate?",
    "Who won the world cup in 1998?",
    "What is the meaning of life?",
    "Hello",
    "thanks, that helps",
    "What is the refund policy?",
    "How do I install Docker on Ubuntu?",
    "Tell me a joke.",
    "asdkjh qweoiu zxmcnb",
)


def measure(xquad: Path) -> str:
    """The table, in Markdown: the share of each set of questions that finds nothing."""
    embedder = Embedder(starter_embedder_folder(), num_threads=2)
    documents = factbook_documents(None)
    judged = read_xquad(xquad)
    corpora = {
        "factbook": embedder.embed([document["text"] for document in documents]),
        "XQuAD": embedder.embed([document["text"] for document in judged.documents]),
    }
    asked = {
        "factbook": embedder.embed(factbook_questions(documents)),
        "XQuAD": embedder.embed([question.text for question in judged.questions]),
        "everyday life": embedder.embed(EVERYDAY),
    }
    ids = [document["id"] for document in judged.documents]
    gold = np.array([ids.index(question.paragraph) for question in judged.questions])
    rows: list[Sequence[str]] = []
    for corpus, passages in corpora.items():
        for questions, vectors in asked.items():
            best = (vectors @ passages.T).max(axis=1)
            name = f"{corpus}: {len(vectors):,} questions of {questions}"
            rows.append([name, *(_percent(best < least) for least in SCORES_MIN)])
    lost = [_lost(asked["XQuAD"] @ corpora["XQuAD"].T, gold, least) for least in SCORES_MIN]
    rows.append([f"XQuAD: gold passage among the first {TOP_K}, but below", *lost])
    return table(("nothing found, at a least score of", *map(str, SCORES_MIN)), rows)


def _lost(
    scores: Float32Array, gold: np.ndarray[tuple[int], np.dtype[np.int64]], least: float
) -> str:
    """The share of questions whose gold passage would have been read, and is not."""
    own = scores[np.arange(len(gold)), gold]
    in_top = (scores > own[:, None]).sum(axis=1) < TOP_K
    return _percent(in_top & (own < least))


def _percent(which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> str:
    return f"{100 * float(which.mean()):.1f} %"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--xquad", type=Path, default=XQUAD_SMALL)
    print(measure(parser.parse_args().xquad))
