"""The neural network of a sentence encoder, whichever library computes it."""

from __future__ import annotations

from typing import Protocol

from cluster.arrays import Float32Array, Int64Array


class Encoder(Protocol):
    """Tokens in, vectors of length 1 out. May be called from several threads at once."""

    @property
    def dimension(self) -> int: ...

    @property
    def padding_step(self) -> int:
        """Texts are padded to a multiple of so many tokens, and are computed with others of that
        length. Longer steps bring more texts together, and more padding that is computed in vain.
        """
        ...

    def encode(self, ids: Int64Array, mask: Int64Array) -> Float32Array:
        """float32 [n, dimension] for token ids, int64 [n, length]; `mask`, of the same shape, is 1
        for the tokens that count and 0 for the padding after them.
        """
        ...
