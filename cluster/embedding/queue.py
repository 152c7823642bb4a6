"""The choice of the texts that an embedder computes next, so that no request makes the others wait
for all of it.

    fresh   requests of which no text was dealt yet: one text of each ---.
                                                                         >--- pieces, by turns
    begun   requests with texts left: a text of each, round and round ---'

A piece is as long as a model computes without a look at who else has come; what is left of a text
that takes longer is put back. A request that comes while a long one is being computed is fresh: it
is in the next piece, which holds nothing of the long one. Fresh and begun requests take turns where
both wait, so neither starves: the "sparse flow" of FQ-CoDel (RFC 8290), with turns in place of its
quantum.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cluster.errors import InvalidArgument, Overloaded

RequestT = TypeVar("RequestT", bound=Hashable)


@dataclass(slots=True)
class _Lane:
    """The texts of a request that are still to be dealt, the shortest one last."""

    texts: list[tuple[int, int]]
    """Texts that are left, each by its number, with its tokens."""

    @property
    def next_tokens(self) -> int:
        return self.texts[-1][1]


class FairQueue(Generic[RequestT]):
    """Deals the texts of requests out in pieces.

    Guarantees: each text is dealt once, unless its request is dropped before, and once more each
    time that it is put back; a piece has at most `piece_tokens_max` tokens, unless it is a single
    text; a request's texts are dealt shortest first. A request waits for the requests that came
    before it to have one text dealt each, and for as many pieces of begun ones; then every second
    piece at least is of begun requests, which have a text dealt each before any of them has
    another. Not thread-safe.
    """

    def __init__(self, *, piece_tokens_max: int, waiting_max: int) -> None:
        """`waiting_max`: the most texts that may wait."""
        self._piece_tokens_max = piece_tokens_max
        self._waiting_max = waiting_max
        self._num_waiting = 0
        # By request, the next one first.
        self._fresh: dict[RequestT, _Lane] = {}
        self._begun: dict[RequestT, _Lane] = {}
        self._is_begun_next = False

    def add(self, request: RequestT, tokens: Sequence[int]) -> None:
        """Takes a request in that has a text of so many tokens each, one or more.

        A request may have half of the slots that are free, so that whoever sends many texts leaves
        room for those who send one. Raises Overloaded when there are fewer, and InvalidArgument for
        more texts than may ever wait.
        """
        most = self._waiting_max // 2
        if len(tokens) > most:
            raise InvalidArgument(f"must be at most {most}; send several requests", "texts")
        if 2 * len(tokens) > self._waiting_max - self._num_waiting:
            raise Overloaded("too many texts wait already; send fewer, or try again shortly")
        longest_first = sorted(enumerate(tokens), key=lambda text: -text[1])
        self._fresh[request] = _Lane(longest_first)
        self._num_waiting += len(tokens)

    def drop(self, request: RequestT) -> None:
        """Forgets what is still to be dealt of a request, if anything is."""
        for lanes in (self._fresh, self._begun):
            lane = lanes.pop(request, None)
            if lane is not None:
                self._num_waiting -= len(lane.texts)

    def put_back(self, request: RequestT, text: int) -> None:
        """Takes a text in again that was a piece by itself, and of which something is left: the
        rest is the next one of its request, and fills a piece at least.
        """
        lane = self._begun.pop(request, _Lane([]))
        lane.texts.append((text, self._piece_tokens_max))
        self._begun[request] = lane
        self._num_waiting += 1

    def next_piece(self) -> list[tuple[RequestT, int]]:
        """Texts, each by its request and its number there; none when none wait."""
        takes_begun = bool(self._begun) and (self._is_begun_next or not self._fresh)
        self._is_begun_next = bool(self._begun) and not takes_begun
        lanes = self._begun if takes_begun else self._fresh
        piece: list[tuple[RequestT, int]] = []
        left = self._piece_tokens_max
        while lanes:
            request, lane = next(iter(lanes.items()))
            if piece and lane.next_tokens > left:
                break
            del lanes[request]
            text, tokens = lane.texts.pop()
            left -= tokens
            piece.append((request, text))
            if lane.texts:
                self._begun[request] = lane
        self._num_waiting -= len(piece)
        return piece
