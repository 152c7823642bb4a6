"""The files of artifacts: named by the hash of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cluster.records import Record, is_none

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def sha256_of(path: Path) -> str:
    """Hex digest of a local file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Blob(Record):
    """Bytes in the store."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class FileDelta(Record):
    """The recipe for a file that is stored as differences (`cluster.artifacts.weight_delta`)."""

    base: Blob
    """A file of another model version, stored in full."""
    base_version: str
    delta: Blob
    """Changes to the base."""


class ArtifactFile(Record):
    """One file of an artifact: its path inside the artifact's folder and the content that it must
    have.
    """

    path: str
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]
    delta: FileDelta | None = Field(default=None, exclude_if=is_none)
    """Recipe of the file; None where it is stored whole."""

    @property
    def blobs(self) -> tuple[ArtifactFile, ...]:
        """The blobs in the store that it is made of, each as a file stored whole."""
        if self.delta is None:
            return (self,)
        return tuple(
            ArtifactFile(path=f"{self.path} ({what})", sha256=b.sha256, size_bytes=b.size_bytes)
            for what, b in (("base", self.delta.base), ("delta", self.delta.delta))
        )
