"""Which vectors can be compared: those that one embedder made, of one length.

A search looks into one space, that of its release's embedder. It sees the changes of documents
whose vectors are of that space, and those that leave nothing to compare. Of a document that another
embedder has embedded since, it sees what the base has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from cluster.mutations.mutation import Content


@dataclass(frozen=True, slots=True)
class Space:
    """The vectors of one embedder."""

    embedder: str | None
    """Its model version; None for vectors that callers bring."""
    dimension: int


class Reach(Enum):
    """The spaces in which a change is seen, where that is not a single one."""

    EVERYWHERE = "everywhere"
    NOWHERE = "nowhere"


SeenIn: TypeAlias = Space | Reach


def seen_in(content: Content | None) -> SeenIn:
    """The spaces that see that a document has become this; None: that it was deleted."""
    if content is None or content.cuts == ():
        return Reach.EVERYWHERE
    if content.vectors is None:
        return Reach.NOWHERE
    return Space(content.embedder, content.vectors.shape[1])


def sees(space: Space, seen: SeenIn) -> bool:
    """Whether searches of the space see a change that is seen in these."""
    return seen is Reach.EVERYWHERE or seen == space
