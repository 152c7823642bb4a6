"""A sentence encoder on PyTorch: texts in, vectors out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers

from cluster.errors import InvalidArgument
from cluster.search import Float32Array

TOKENS_MAX = 256
"""Longer texts are cut: all-MiniLM-L6-v2 was trained on no more."""
BATCH_TEXTS = 16
"""Measured on one core of an AMD EPYC, passages of some 110 tokens a second: 33 in float32 and 57
in bfloat16 with 8 or 16 texts; 24 and 46 with 64, whose activations leave the cache."""


class Precision(StrEnum):
    """What the matrix products are computed in; everything else is float32."""

    FLOAT32 = "float32"
    """A text's vector depends on its neighbours in a batch by some 1e-7."""
    BFLOAT16 = "bfloat16"
    """Twice as fast where the processor has it. Vectors have a cosine of at least 0.9999 with those
    of float32, and depend on their neighbours by some 1e-3 (cosine 0.99998)."""


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    MEAN = "mean"
    CLS = "cls"


class TextEmbedder(Protocol):
    """What the embedding worker needs of an embedder."""

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Float32Array: ...


def fastest_precision() -> Precision:
    """The precision to embed a whole corpus with on this processor."""
    # PyTorch tells it nowhere else; an older one without the question gets the safe answer.
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return Precision.BFLOAT16 if has_bfloat16() else Precision.FLOAT32


class Embedder:
    """A Hugging Face sentence encoder in a local folder, such as all-MiniLM-L6-v2.

    Pools as `1_Pooling/config.json` says (mean where there is none) and normalises to length 1, so
    that the inner product is the cosine. Not for several threads at once. Raises InvalidArgument
    for a folder that is no such model.
    """

    def __init__(
        self,
        model_folder: str | Path,
        *,
        num_threads: int,
        precision: Precision = Precision.FLOAT32,
    ) -> None:
        folder = Path(model_folder)
        self._pooling = _pooling_of(folder)
        self._precision = precision
        # The setting is the process's own, and the process is this embedder's.
        torch.set_num_threads(num_threads)
        transformers.utils.logging.disable_progress_bar()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            self._model: Any = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                f"{folder} is no sentence encoder with a tokenizer and safetensors: {error}",
                "embedder",
            ) from error
        self._tokens_max = min(TOKENS_MAX, int(self._tokenizer.model_max_length))
        self._padding_token = int(self._tokenizer.pad_token_id or 0)

    @property
    def dimension(self) -> int:
        return int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """float32 [n, dimension], row i for text i, of length 1.

        Texts are cut after `TOKENS_MAX` tokens. The same call gives the same bytes on the same
        machine. An empty text has a vector too, which means nothing.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        tokens: list[list[int]] = self._tokenizer(
            list(texts), truncation=True, max_length=self._tokens_max
        )["input_ids"]
        # Texts of like length travel together, so that little is computed for padding.
        order = sorted(range(len(texts)), key=lambda row: len(tokens[row]))
        for start in range(0, len(order), BATCH_TEXTS):
            rows = order[start : start + BATCH_TEXTS]
            vectors[rows] = self._embed_batch([tokens[row] for row in rows])
        return vectors

    def _embed_batch(self, tokens: Sequence[Sequence[int]]) -> Float32Array:
        """float32 [n, dimension] for texts that fit into memory together."""
        shape = (len(tokens), max(1, *(len(text) for text in tokens)))
        ids = torch.full(shape, self._padding_token, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        bfloat16 = self._precision is Precision.BFLOAT16
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        with torch.inference_mode():
            pooled = self._pooled(states.float(), mask)
            vectors: Float32Array = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling is Pooling.CLS:
            return states[:, 0]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def _pooling_of(folder: Path) -> Pooling:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return Pooling.MEAN
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidArgument(f"{path} is not JSON: {error}", "embedder") from error
    modes = {name for name, value in settings.items() if "_mode_" in name and value is True}
    match sorted(modes):
        case ["pooling_mode_mean_tokens"]:
            return Pooling.MEAN
        case ["pooling_mode_cls_token"]:
            return Pooling.CLS
        case _:
            raise InvalidArgument(
                f"{path} asks for {', '.join(sorted(modes)) or 'no pooling'}; "
                "mean and cls are supported",
                "embedder",
            )
