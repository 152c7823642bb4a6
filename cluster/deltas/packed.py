"""Changes on their way to another process, by columns: pickled one by one, a hundred thousand
documents would keep both processes busy for many seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from cluster.arrays import Float32Array, Int64Array
from cluster.metadata import Metadata
from cluster.mutations.mutation import Content, Cut

_NONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedContents:
    """Contents of documents, and None for those that have none."""

    texts: list[str | None]
    metadata: list[Metadata]
    embedders: list[str | None]
    num_cuts: Int64Array
    """int64 [n]: passages of each document; -1 where its text has not been cut."""
    cuts: Int64Array
    """int64 [2 * passages]: begin and end of each passage in turn."""
    dimensions: Int64Array
    """int64 [n]: dimension of each document's vectors; -1 where it has none."""
    vectors: Float32Array
    """float32, one-dimensional: all numbers of all vectors, one after the other."""

    @classmethod
    def of(cls, contents: Sequence[Content | None]) -> PackedContents:
        cuts = [None if content is None else content.cuts for content in contents]
        vectors = [None if content is None else content.vectors for content in contents]
        return cls(
            texts=[None if content is None else content.text for content in contents],
            metadata=[{} if content is None else content.metadata for content in contents],
            embedders=[None if content is None else content.embedder for content in contents],
            num_cuts=_numbers(_NONE if each is None else len(each) for each in cuts),
            cuts=_numbers(chain.from_iterable(chain.from_iterable(each or () for each in cuts))),
            dimensions=_numbers(_NONE if each is None else each.shape[1] for each in vectors),
            vectors=_joined([each.ravel() for each in vectors if each is not None]),
        )

    def contents(self) -> Iterator[Content | None]:
        """The vectors are views of those that are packed here."""
        places = iter(self.cuts.tolist())
        begin = 0
        for text, metadata, embedder, num_cuts, dimension in zip(
            self.texts,
            self.metadata,
            self.embedders,
            self.num_cuts.tolist(),
            self.dimensions.tolist(),
            strict=True,
        ):
            if text is None:
                yield None
                continue
            cuts: tuple[Cut, ...] = tuple((next(places), next(places)) for _ in range(num_cuts))
            vectors = None
            if dimension != _NONE:
                end = begin + num_cuts * dimension
                vectors = self.vectors[begin:end].reshape(num_cuts, dimension)
                begin = end
            yield Content(
                text=text,
                metadata=metadata,
                cuts=None if num_cuts == _NONE else cuts,
                vectors=vectors,
                embedder=embedder,
            )


def _numbers(numbers: Iterable[int]) -> Int64Array:
    return np.fromiter(numbers, dtype=np.int64)


def _joined(arrays: Sequence[Float32Array]) -> Float32Array:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.float32)
