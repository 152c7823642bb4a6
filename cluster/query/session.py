"""Session tokens: "not older than what I saw", opaque to the caller, honoured by every region."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from cluster.errors import InvalidArgument
from cluster.mutations.watermark import Watermark

TOKEN_CHARS_MAX = 8192
"""Longest token that is read: some 100 corpora that 3 regions write, or 15 that 32 regions write.
"""
_VERSION = 1
_VERSION_WITH_DOCUMENTS = 2
_POSITION_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A record of what the bearer has seen."""

    store_id: str
    """Id of the store whose logs the positions belong to."""
    position: int
    """Position in the release log of the switch that was in force: releases may go back, positions
    never do.
    """
    documents: Mapping[str, Watermark] = field(default_factory=dict, hash=False)
    """How far into the logs of documents, by corpus; no watermark is empty."""

    def joined(self, documents: Mapping[str, Watermark]) -> SessionToken:
        """The token of a bearer who has seen these documents, too."""
        return SessionToken(self.store_id, self.position, joined(self.documents, documents))

    def encode(self) -> str:
        """A text which `decode` refuses if it is longer than `TOKEN_CHARS_MAX`: nothing that was
        seen is left out.
        """
        payload: list[object] = [_VERSION, self.store_id, self.position]
        if self.documents:
            # Each region's name once, however many corpora there are.
            regions = sorted({region for seen in self.documents.values() for region in seen})
            positions = {
                corpus: [seen[region] for region in regions]
                for corpus, seen in sorted(self.documents.items())
            }
            payload = [_VERSION_WITH_DOCUMENTS, *payload[1:], regions, positions]
        return base64.urlsafe_b64encode(orjson.dumps(payload)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> SessionToken:
        """Raises InvalidArgument for a text that is no token, and for one that is too long."""
        if len(text) > TOKEN_CHARS_MAX:
            raise InvalidArgument(
                f"is no session token, or one of too many corpora: over {TOKEN_CHARS_MAX} "
                "characters; leave it out, and keep a token for each group of corpora",
                "session",
            )
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            payload = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except ValueError as error:
            raise InvalidArgument("is no session token", "session") from error
        match payload:
            case [int(version), str(store_id), int(position)] if (
                version == _VERSION and position >= 0 and not isinstance(position, bool)
            ):
                return cls(store_id, position)
            case [int(version), str(store_id), int(position), list(regions), dict(positions)] if (
                version == _VERSION_WITH_DOCUMENTS and _are_positions([position])
            ):
                return cls(store_id, position, _documents(regions, positions))
        raise _of_no_version()


def joined(
    documents: Mapping[str, Watermark], others: Mapping[str, Watermark]
) -> Mapping[str, Watermark]:
    """What whoever has seen both has seen of each corpus."""
    if not others:
        return documents
    return {
        corpus: documents.get(corpus, Watermark()).joined(others.get(corpus, Watermark()))
        for corpus in documents.keys() | others.keys()
    }


def _documents(regions: list[object], positions: Mapping[str, object]) -> dict[str, Watermark]:
    names = [region for region in regions if isinstance(region, str) and region]
    if len(set(names)) != len(regions) or "" in positions:
        raise _of_no_version()
    documents = {}
    for corpus, numbers in positions.items():
        if not isinstance(numbers, list) or len(numbers) != len(names):
            raise _of_no_version()
        if not _are_positions(numbers) or not any(numbers):
            raise _of_no_version()
        documents[corpus] = Watermark.of(dict(zip(names, numbers, strict=True)))
    return documents


def _are_positions(numbers: list[object]) -> bool:
    return all(type(number) is int and 0 <= number <= _POSITION_MAX for number in numbers)


def _of_no_version() -> InvalidArgument:
    return InvalidArgument("is no session token of this version; leave it out", "session")
