"""The choice of an embedder's runtime: the fastest one on this machine whose vectors are those of
PyTorch in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actors.models.encoders.encoder import Encoder
from actors.models.encoders.measured_texts import PASSAGES, QUESTIONS
from actors.models.encoders.openvino_encoder import OpenvinoEncoder, write_graph
from actors.models.encoders.torch_encoder import TorchEncoder
from cluster.arrays import Float32Array
from cluster.catalog.manifests import Runtime, RuntimeTrial
from cluster.clock import SYSTEM_CLOCK
from cluster.embedding.tokenizer import EmbedderTokenizer
from cluster.errors import InvalidArgument, RaygionError
from cluster.logs.events import EventLog
from cluster.progress import Note

log = EventLog(__name__)

COSINE_MIN = 0.99999
"""A runtime is taken only if each of its vectors has a higher cosine with that of PyTorch."""
_UNUSUAL = ("", "tea", "日本の首都は東京です。", " ".join(PASSAGES))
"""Texts on which vectors are compared besides: none, a word, another script, and a long one."""
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeChoice:
    runtime: Runtime
    trials: tuple[RuntimeTrial, ...]


@dataclass(slots=True)
class _Measured:
    """What one runtime made of the texts, and how long it took: the least time of each text."""

    encoder: Encoder
    vectors: dict[str, Float32Array]
    seconds: dict[str, float]


def choose_runtime(
    folder: Path, runtimes: Sequence[Runtime], made: Path, note: Note
) -> RuntimeChoice:
    """Measures the model in a folder with each of these runtimes, and takes the fastest one. The
    files that the model's version needs for OpenVINO are in `made`, an empty folder, afterwards.

    A runtime that cannot take the model over, or that makes other vectors, is not taken. Raises
    InvalidArgument or Unavailable where none is left, and InvalidArgument for a folder that is no
    sentence encoder.
    """
    num_threads = torch.get_num_threads()
    try:
        encoders = _encoders(folder, runtimes, made, note)
        note(f"measuring {' and '.join(encoders)}")
        trials = _trials(encoders, EmbedderTokenizer.of_folder(folder))
    finally:
        # Encoders compute by one thread; the rest of this process may not.
        torch.set_num_threads(num_threads)
    fit = [trial for trial in trials if trial.runtime in runtimes and trial.cosine_min > COSINE_MIN]
    if not fit:
        worst = min(trial.cosine_min for trial in trials)
        raise InvalidArgument(
            f"the vectors of {' and '.join(runtimes)} have a cosine of {worst:.6f} with those of "
            f"PyTorch, and {COSINE_MIN} is asked for: leave embedder.runtime out",
            "embedder.runtime",
        )
    fastest = min(fit, key=lambda trial: trial.question_ms / trial.passages_per_s)
    return RuntimeChoice(runtime=fastest.runtime, trials=trials)


def _encoders(
    folder: Path, runtimes: Sequence[Runtime], made: Path, note: Note
) -> dict[Runtime, Encoder]:
    """PyTorch, with which the others are compared, and those of the others that can be had."""
    reference = TorchEncoder(folder)
    encoders: dict[Runtime, Encoder] = {Runtime.TORCH: reference}
    if Runtime.OPENVINO in runtimes:
        note("making a graph for OpenVINO")
        try:
            write_graph(reference.model, made)
            encoders[Runtime.OPENVINO] = OpenvinoEncoder(made, num_streams=1)
        except RaygionError as error:
            if Runtime.TORCH not in runtimes:
                raise
            log.warning("embedder.no_openvino", "PyTorch is taken: {error}", error=error)
    return encoders


def _trials(
    encoders: dict[Runtime, Encoder], tokenizer: EmbedderTokenizer
) -> tuple[RuntimeTrial, ...]:
    texts = (*QUESTIONS, *PASSAGES, *_UNUSUAL)
    tokens = [windows[0] for windows in tokenizer.windows(texts)]
    measured = {runtime: _Measured(encoder, {}, {}) for runtime, encoder in encoders.items()}
    for _ in range(_ROUNDS):
        # By turns, so that whatever else the machine does delays all of them.
        for one in measured.values():
            for text, of_text in zip(texts, tokens, strict=True):
                _measure(one, text, of_text)
    return tuple(
        RuntimeTrial(
            runtime=runtime,
            question_ms=round(1e3 * float(np.mean([one.seconds[q] for q in QUESTIONS])), 2),
            passages_per_s=round(len(PASSAGES) / sum(one.seconds[p] for p in PASSAGES), 1),
            cosine_min=min(
                float(one.vectors[text] @ measured[Runtime.TORCH].vectors[text]) for text in texts
            ),
        )
        for runtime, one in measured.items()
    )


def _measure(one: _Measured, text: str, tokens: Sequence[int]) -> None:
    ids = np.array([tokens], dtype=np.int64)
    started_s = SYSTEM_CLOCK.monotonic_s()
    (one.vectors[text],) = one.encoder.encode(ids, np.ones_like(ids))
    took_s = SYSTEM_CLOCK.monotonic_s() - started_s
    one.seconds[text] = min(took_s, one.seconds.get(text, took_s))
