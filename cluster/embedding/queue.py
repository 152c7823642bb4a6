"""The choice of the texts that an embedder computes next, so that no request makes the others wait
for all of it, and so that texts of like length are computed together.

    fresh   requests of which nothing was dealt yet: one window of each ---.
                                                                            >--- pieces, by turns
    begun   requests with windows left: one of each, round and round ------'

A window is what the model reads at once of a text: all of it, unless it is long. A piece is as long
as a model computes without a look at who else has come. A request that comes while a long one is
being computed is fresh: it is in the next piece, which holds nothing of the long one. Fresh and
begun requests take turns where both wait, so neither starves: the "sparse flow" of FQ-CoDel
(RFC 8290), with turns in place of its quantum. The request whose turn it is decides the length of
the piece's windows, and others share it by windows of that length.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from cluster.errors import InvalidArgument, Overloaded

RequestT = TypeVar("RequestT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Window(Generic[RequestT]):
    """A window of a text, named by its request and its number among the windows of that."""

    request: RequestT
    number: int


@dataclass(slots=True)
class _Lane:
    """The windows of a request that are still to be dealt, the shortest one last."""

    windows: list[tuple[int, int]]
    """Windows that are left, each by its number, with its length."""
    begins_text: frozenset[int]
    """Windows with which a text begins."""

    @property
    def next_length(self) -> int:
        return self.windows[-1][1]

    @property
    def num_waiting(self) -> int:
        return sum(number in self.begins_text for number, _ in self.windows)


class FairQueue(Generic[RequestT]):
    """Deals the windows of requests out in pieces.

    Guarantees: each window is dealt once, unless its request is dropped before; a piece has windows
    of one length, and at most `piece_tokens_max` tokens, unless it is a single window; a request's
    windows are dealt shortest first. A request waits for the requests that came before it to have
    one window dealt each, and for as many pieces of begun ones; then every second piece at least is
    of begun requests, each of which has its turn before any of them has another. Not thread-safe.
    """

    def __init__(self, *, piece_tokens_max: int, waiting_max: int) -> None:
        """`waiting_max`: the most texts that may wait; one does until its first window is dealt."""
        self._piece_tokens_max = piece_tokens_max
        self._waiting_max = waiting_max
        self._num_waiting = 0
        # By request, the next one first.
        self._fresh: dict[RequestT, _Lane] = {}
        self._begun: dict[RequestT, _Lane] = {}
        self._is_begun_next = False

    def check_room(self, num_texts: int) -> None:
        """Raises what `add` does for so many texts."""
        most = self._waiting_max // 2
        if num_texts > most:
            raise InvalidArgument(f"must be at most {most}; send several requests", "texts")
        if 2 * num_texts > self._waiting_max - self._num_waiting:
            raise Overloaded("too many texts wait already; send fewer, or try again shortly")

    def add(self, request: RequestT, lengths: Sequence[Sequence[int]]) -> None:
        """Takes a request in: for each of its texts the lengths of its windows, one or more, in
        tokens as the model computes them. Windows are numbered through, text by text.

        A request may have half of the slots that are free, so that whoever sends many texts leaves
        room for those who send one. Raises Overloaded when there are fewer, and InvalidArgument for
        more texts than may ever wait.
        """
        self.check_room(len(lengths))
        begins_text = frozenset(accumulate((len(text) for text in lengths[:-1]), initial=0))
        numbered = enumerate(length for text in lengths for length in text)
        longest_first = sorted(numbered, key=lambda window: -window[1])
        self._fresh[request] = _Lane(longest_first, begins_text)
        self._num_waiting += len(lengths)

    def drop(self, request: RequestT) -> None:
        """Forgets what is still to be dealt of a request, if anything is."""
        for lanes in (self._fresh, self._begun):
            lane = lanes.pop(request, None)
            if lane is not None:
                self._num_waiting -= lane.num_waiting

    def next_piece(self) -> list[Window[RequestT]]:
        """Windows of one length; none when none wait."""
        takes_begun = bool(self._begun) and (self._is_begun_next or not self._fresh)
        self._is_begun_next = bool(self._begun) and not takes_begun
        lanes = self._begun if takes_begun else self._fresh
        if not lanes:
            return []
        length = next(iter(lanes.values())).next_length
        size = max(1, self._piece_tokens_max // length)
        piece: list[Window[RequestT]] = []
        while alike := [name for name, lane in lanes.items() if lane.next_length == length]:
            for request in alike[: size - len(piece)]:
                piece.append(self._dealt(request, lanes))
            if len(piece) == size:
                break
        return piece

    def _dealt(self, request: RequestT, lanes: dict[RequestT, _Lane]) -> Window[RequestT]:
        """The request's next window; what is left of it goes to the end of those that are begun."""
        lane = lanes.pop(request)
        number, _ = lane.windows.pop()
        self._num_waiting -= number in lane.begins_text
        if lane.windows:
            self._begun[request] = lane
        return Window(request, number)
