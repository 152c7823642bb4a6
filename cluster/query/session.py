"""Session tokens: "not older than what I saw", opaque to the caller, honoured by every region."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import orjson

from cluster.errors import InvalidArgument

_VERSION = 1
_TOKEN_CHARS_MAX = 512


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A record of what the bearer has seen."""

    store_id: str
    """Id of the store whose release log the position belongs to."""
    position: int
    """Position in the release log of the switch that was in force: releases may go back, positions
    never do.
    """

    def encode(self) -> str:
        payload = orjson.dumps([_VERSION, self.store_id, self.position])
        return base64.urlsafe_b64encode(payload).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> SessionToken:
        """Raises InvalidArgument for a text that is no token."""
        if len(text) > _TOKEN_CHARS_MAX:
            raise InvalidArgument("is no session token", "session")
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
        raise InvalidArgument("is no session token of this version; leave it out", "session")
