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
    """An embedder as the embedding worker needs it."""

    @property
    def dimension(self) -> int: ...

    def tokens_at_most(self, text: str) -> int:
        """Upper bound on the number of tokens to compute for a text, which is known at once."""
        ...

    def embed_in_pieces(self, texts: Sequence[str]) -> Iterator[Float32Array | None]:
        """float32 [n, d] at last. Before that, None after each piece of the work on a single text
        that is long: others may have their turn then.
        """
        ...


class Embedder:
    """A Hugging Face sentence encoder in a local folder, such as all-MiniLM-L6-v2.

    Vectors have length 1, so that the inner product is the cosine.

    Guarantees: a text's vector has the same bytes whatever texts are embedded with it, in every
    process on processors of one kind with the same libraries. A text is padded to a length that
    follows from its own tokens alone, and shares a batch with texts of that length only; so the
    matrices differ in nothing but their number of rows. That a row of a product does not depend on
    the other rows is no promise of the libraries, so it is tried out when the model is loaded.
    Where it does not hold, each text is computed by itself.
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

    def tokens_at_most(self, text: str) -> int:
        # A token stands for one byte or more, two are added, and of a long text less than a quarter
        # is read twice: to count them is a tenth of a millisecond for a question, and two for a
        # long text.
        return len(text.encode()) * 5 // 4 + 2

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Number of tokens of all texts together, without special tokens. May be asked from another
        thread than the one that embeds.
        """
        return sum(self._tokenizer.count(texts))

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """float32 [n, dimension], row i for question i, of length 1.

        A text of more tokens than the model reads is embedded in windows, which together are all of
        it. Its vector is the direction of the mean of theirs, in which the last one weighs as much
        as all before it: what a long text asks stands last more often than not. An empty text has a
        vector too, which means nothing.
        """
        return self._pooled_windows(texts, _weighing_the_last)

    def embed_in_pieces(self, texts: Sequence[str]) -> Iterator[Float32Array | None]:
        """Same as `embed`, but a single text is computed in pieces of as many windows as a batch
        holds: None after each piece except the last one. Several texts are one piece.
        """
        windows = self._tokenizer.windows(texts)
        every = [window for text in windows for window in text]
        size = max(1, BATCH_TOKENS // self._tokenizer.max_seq_length)
        if len(texts) > 1:
            size = len(every)
        made: list[Float32Array] = []
        for start in range(0, len(every), size):
            if made:
                yield None
            made.append(self.embed_tokens(every[start : start + size]))
        yield _pooled(np.concatenate(made), windows, _weighing_the_last)

    def embed_passages(self, texts: Sequence[str]) -> Float32Array:
        """Same as `embed`, except for texts of several windows: here all windows weigh the same."""
        return self._pooled_windows(texts, lambda of: of.mean(axis=0))

    def _pooled_windows(
        self, texts: Sequence[str], pool: Callable[[Float32Array], Float32Array]
    ) -> Float32Array:
        """float32 [n, dimension]; `pool` as `_pooled` takes it."""
        windows = self._tokenizer.windows(texts)
        of_windows = self.embed_tokens([window for text in windows for window in text])
        return _pooled(of_windows, windows, pool)

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> Float32Array:
        """float32 [n, dimension] for texts of no more tokens than the model reads."""
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)

        def embed(rows: Sequence[int]) -> None:
            vectors[rows] = self._embed_batch([tokens[row] for row in rows])

        batches = list(self._batches([len(text) for text in tokens]))
        if len(batches) == 1:
            embed(batches[0])
        else:
            list(self._threads.map(embed, batches))
        return vectors

    def _batches(self, num_tokens: Sequence[int]) -> Iterator[list[int]]:
        """Texts of so many tokens each, by their numbers, as they are computed together."""
        by_length: dict[int, list[int]] = {}
        for row, length in enumerate(num_tokens):
            by_length.setdefault(self._padded_length(length), []).append(row)
        for length, rows in by_length.items():
            size = max(1, self._batch_tokens // length)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def _padded_length(self, num_tokens: int) -> int:
        """The next multiple of the encoder's step, but no longer than the model reads."""
        step = self._encoder.padding_step
        return min(max(1, -(-num_tokens // step)) * step, self._tokenizer.max_seq_length)

    def _rows_are_independent(self) -> bool:
        """True when texts have the same vectors alone and in batches of several sizes."""
        rng = np.random.default_rng(0)
        step, vocabulary = self._encoder.padding_step, self._tokenizer.vocabulary_size
        for length in map(self._padded_length, _PROBED_TOKENS):
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
        shape = (len(tokens), self._padded_length(len(tokens[0])))
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


def _pooled(
    of_windows: Float32Array,
    windows: Sequence[Sequence[Sequence[int]]],
    pool: Callable[[Float32Array], Float32Array],
) -> Float32Array:
    """float32 [texts, dimension] of length 1, from those of all windows, float32 [n, dimension],
    and the windows of each text; `pool` makes float32 [dimension] of [windows, dimension].
    """
    ends = np.cumsum([len(text) for text in windows], dtype=np.int64)
    vectors = of_windows[ends - 1]
    for row, text in enumerate(windows):
        if len(text) > 1:
            pooled = pool(of_windows[ends[row] - len(text) : ends[row]])
            vectors[row] = pooled / np.linalg.norm(pooled)
    return vectors


def _weighing_the_last(of_windows: Float32Array) -> Float32Array:
    pooled: Float32Array = of_windows[-1] + of_windows[:-1].mean(axis=0)
    return pooled
