"""A sentence encoder: texts in, vectors out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from actors.models.encoders.encoder import Encoder
from cluster.arrays import Float32Array
from cluster.catalog.manifests import Precision, Runtime
from cluster.embedding.tokenizer import EmbedderTokenizer
from cluster.logs.events import EventLog

log = EventLog(__name__)

BATCH_TOKENS = 512
"""Tokens of one batch, padding included. Measured on one core of an AMD EPYC in float32: a text of
25 tokens takes 14 ms alone and 7.5 ms in such a batch, one of 122 tokens 42 ms and 36 ms; larger
batches gain nothing.
"""
_PROBED_TOKENS = (8, 32, 128)


class TextEmbedder(Protocol):
    """An embedder as the embedding worker needs it. May be called from several threads at once."""

    @property
    def dimension(self) -> int: ...

    def windows(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """The tokens of each text, in as many windows as the model needs to read all of it."""
        ...

    def padded_length(self, num_tokens: int) -> int:
        """Length to which a window of so many tokens is padded; windows of one length are quicker
        together.
        """
        ...

    def embed_windows(self, windows: Sequence[Sequence[int]]) -> Float32Array:
        """float32 [n, dimension], row i for window i."""
        ...


class Embedder:
    """A Hugging Face sentence encoder in a local folder, such as all-MiniLM-L6-v2.

    Vectors have length 1, so that the inner product is the cosine.

    Guarantees: a text's vector has the same bytes whatever texts are embedded with it, in every
    process on processors of one kind with the same libraries. A text is padded to a length that
    follows from its own tokens alone, and shares a batch with texts of that length only; so the
    matrices differ in nothing but their number of rows. That a row of a product does not depend on
    the other rows is no promise of the libraries, so it is tried out when the model is loaded.
    Where it does not hold, each text is computed by itself. May be called from several threads at
    once.
    """

    def __init__(
        self,
        model_folder: str | Path,
        *,
        num_threads: int,
        precision: Precision = Precision.FLOAT32,
        runtime: Runtime = Runtime.TORCH,
    ) -> None:
        """`num_threads`: batches that are computed at once, by one thread each.

        Raises InvalidArgument for a folder that is no such model, and for a precision that this
        processor does not compute in; Unavailable where the runtime is not installed.
        """
        folder = Path(model_folder)
        self._encoder = _encoder(folder, num_threads, precision, runtime)
        self._tokenizer = EmbedderTokenizer.of_folder(folder)
        config = json.loads((folder / "config.json").read_text())
        self._padding_token = int(config.get("pad_token_id") or 0)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="embed")
        self._batch_tokens = BATCH_TOKENS if self._rows_are_independent() else 0

    @property
    def dimension(self) -> int:
        return self._encoder.dimension

    def windows(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """See `EmbedderTokenizer.windows`."""
        return self._tokenizer.windows(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Number of tokens of all texts together, without special tokens."""
        return sum(self._tokenizer.count(texts))

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """float32 [n, dimension], row i for question i, of length 1.

        A text of more tokens than the model reads is embedded in windows, which together are all of
        it. Its vector is the direction of the mean of theirs, in which the last one weighs as much
        as all before it: what a long text asks stands last more often than not. An empty text has a
        vector too, which means nothing.
        """
        return self._embed(texts, pooled_questions)

    def embed_passages(self, texts: Sequence[str]) -> Float32Array:
        """Same as `embed`, except for texts of several windows: here all windows weigh the same."""
        return self._embed(texts, pooled_passages)

    def _embed(
        self, texts: Sequence[str], pool: Callable[[Float32Array, Sequence[int]], Float32Array]
    ) -> Float32Array:
        windows = self._tokenizer.windows(texts)
        of_windows = self.embed_windows([window for text in windows for window in text])
        return pool(of_windows, [len(text) for text in windows])

    def embed_windows(self, windows: Sequence[Sequence[int]]) -> Float32Array:
        """float32 [n, dimension] for tokens, of which none are more than the model reads."""
        vectors = np.empty((len(windows), self.dimension), dtype=np.float32)

        def embed(rows: Sequence[int]) -> None:
            vectors[rows] = self._embed_batch([windows[row] for row in rows])

        batches = list(self._batches([len(window) for window in windows]))
        if len(batches) == 1:
            embed(batches[0])
        else:
            list(self._threads.map(embed, batches))
        return vectors

    def _batches(self, num_tokens: Sequence[int]) -> Iterator[list[int]]:
        """Windows of so many tokens each, by their numbers, as they are computed together."""
        by_length: dict[int, list[int]] = {}
        for row, length in enumerate(num_tokens):
            by_length.setdefault(self.padded_length(length), []).append(row)
        for length, rows in by_length.items():
            size = max(1, self._batch_tokens // length)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def padded_length(self, num_tokens: int) -> int:
        """The next multiple of the encoder's step, but no longer than the model reads."""
        step = self._encoder.padding_step
        return min(max(1, -(-num_tokens // step)) * step, self._tokenizer.max_seq_length)

    def _rows_are_independent(self) -> bool:
        """True when texts have the same vectors alone and in batches of several sizes."""
        rng = np.random.default_rng(0)
        step, vocabulary = self._encoder.padding_step, self._tokenizer.vocabulary_size
        for length in map(self.padded_length, _PROBED_TOKENS):
            size_max = BATCH_TOKENS // length
            shortest = (length - 1) // step * step + 1
            texts = [
                rng.integers(vocabulary, size=tokens).tolist()
                for tokens in rng.integers(shortest, length, size=size_max, endpoint=True)
            ]
            first = self._embed_batch(texts[:1])[0]
            for size in sorted({2, 1 + size_max // 2, size_max}):
                last = self._embed_batch(texts[size - 1 : size])[0]
                together = self._embed_batch(texts[:size])
                if not np.array_equal(together[[0, -1]], np.stack([first, last])):
                    log.warning(
                        "embedder.no_batches",
                        "this processor's products depend on the batch: no batches",
                    )
                    return False
        return True

    def _embed_batch(self, tokens: Sequence[Sequence[int]]) -> Float32Array:
        """float32 [n, dimension] for texts of one padded length."""
        shape = (len(tokens), self.padded_length(len(tokens[0])))
        ids = np.full(shape, self._padding_token, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return self._encoder.encode(ids, mask)


def _encoder(folder: Path, num_threads: int, precision: Precision, runtime: Runtime) -> Encoder:
    # Each library takes seconds and hundreds of megabytes: only the one that is used is imported.
    match runtime:
        case Runtime.TORCH:
            from actors.models.encoders.torch_encoder import TorchEncoder

            return TorchEncoder(folder, precision)
        case Runtime.OPENVINO:
            from actors.models.encoders.openvino_encoder import OpenvinoEncoder

            return OpenvinoEncoder(folder, num_threads)


def pooled_questions(of_windows: Float32Array, num_windows: Sequence[int]) -> Float32Array:
    """The vectors of questions, as `Embedder.embed` says, from those of all their windows, float32
    [n, dimension]; `num_windows` has how many are of each text.
    """
    return _pooled(of_windows, num_windows, lambda of: of[-1] + of[:-1].mean(axis=0))


def pooled_passages(of_windows: Float32Array, num_windows: Sequence[int]) -> Float32Array:
    """The vectors of passages, as `Embedder.embed_passages` says; see `pooled_questions`."""
    return _pooled(of_windows, num_windows, lambda of: of.mean(axis=0))


def _pooled(
    of_windows: Float32Array,
    num_windows: Sequence[int],
    pool: Callable[[Float32Array], Float32Array],
) -> Float32Array:
    """float32 [texts, dimension] of length 1; `pool` makes float32 [dimension] of those of the
    windows of one text, [windows, dimension].
    """
    ends = np.cumsum(num_windows, dtype=np.int64)
    vectors = of_windows[ends - 1]
    for row, windows in enumerate(num_windows):
        if windows > 1:
            pooled = pool(of_windows[ends[row] - windows : ends[row]])
            vectors[row] = pooled / np.linalg.norm(pooled)
    return vectors
