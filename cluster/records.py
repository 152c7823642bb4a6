"""The base of every value that is stored or sent as JSON: frozen, closed to unknown keys, with one
canonical form.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import Corrupt


class Record(BaseModel):
    """A frozen value with one JSON form, so that equal values have equal bytes and hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """Canonical JSON: keys sorted, no white space, UTF-8."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)

    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str) -> Self:
        """Parses what `to_bytes` wrote. Raises Corrupt, naming `source`, for anything else."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise Corrupt(f"{source} is not a valid {cls.__name__}: {reason}") from error


# Names become parts of paths, of actor names and of URLs, so they are kept to what is safe in all
# three.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


def is_none(value: object) -> bool:
    """True for the value of a field to be left out. A field that was added to a manifest later is
    left out when it is None, so that older manifests keep their bytes and their hashes.
    """
    return value is None
