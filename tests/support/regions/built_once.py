"""What the first small region of a process has built, for the stores of the regions after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cluster.releases.entries import ReleaseContents


@dataclass
class BuiltOnce:
    contents: dict[str, ReleaseContents] = field(default_factory=dict)
    """By the letter of the vectors."""
    _files: dict[Path, bytes] = field(default_factory=dict)

    def read(self, store: Path) -> None:
        files = (path for path in store.rglob("*") if path.is_file())
        self._files = {path.relative_to(store): path.read_bytes() for path in files}

    def write(self, store: Path) -> None:
        for path, data in self._files.items():
            (store / path).parent.mkdir(parents=True, exist_ok=True)
            (store / path).write_bytes(data)


BUILT = BuiltOnce()
