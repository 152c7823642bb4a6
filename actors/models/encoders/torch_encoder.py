"""A sentence encoder on PyTorch, from a Hugging Face folder."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import transformers

from cluster.arrays import Float32Array, Int64Array
from cluster.catalog.manifests import Precision
from cluster.errors import InvalidArgument


class Pooling(StrEnum):
    """The way in which the vectors of a text's tokens become one vector."""

    MEAN = "mean"
    CLS = "cls"


class SentenceModel(torch.nn.Module):
    """The model of a folder with the pooling that `1_Pooling/config.json` asks for (mean where
    there is none), and vectors of length 1.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InvalidArgument for a folder that is no such model."""
        super().__init__()
        self._pooling = _pooling_of(folder)
        transformers.utils.logging.disable_progress_bar()
        try:
            self.model: Any = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                f"{folder} is no sentence encoder with safetensors: {error}",
                "embedder",
            ) from error
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = self._pooled(states.float(), attention_mask)
        return torch.nn.functional.normalize(pooled, dim=1)

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling is Pooling.CLS:
            return states[:, 0]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


class TorchEncoder:
    """Implements `Encoder`; each thread that calls it computes by itself."""

    padding_step = 8
    """Also the least length: matrices of fewer rows are multiplied in another way."""

    def __init__(self, folder: Path, precision: Precision = Precision.FLOAT32) -> None:
        """Raises InvalidArgument as `SentenceModel` does, and for a precision that this processor
        does not compute in.
        """
        if precision is Precision.BFLOAT16 and not computes_bfloat16():
            raise InvalidArgument(
                "this processor does not compute in bfloat16: take a machine with AVX512_BF16, or "
                "float32, which is another model version",
                "embedder.precision",
            )
        # The setting is the process's own, and the process is this embedder's.
        torch.set_num_threads(1)
        self.model = SentenceModel(folder)
        self._autocasts = precision is Precision.BFLOAT16

    @property
    def dimension(self) -> int:
        return int(self.model.model.config.hidden_size)

    def encode(self, ids: Int64Array, mask: Int64Array) -> Float32Array:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=self._autocasts),
        ):
            made = self.model(torch.from_numpy(ids), torch.from_numpy(mask))
        vectors: Float32Array = made.numpy()
        return vectors


def computes_bfloat16() -> bool:
    """True when this processor multiplies matrices of bfloat16 itself."""
    # PyTorch tells it nowhere else; an older one without the question gets the safe answer.
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


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
