"""A region's own way to a store in a folder, which can be closed and opened while the region runs.

    folder/link -> the store         open
    folder/link -> folder/link       closed: a link that leads to itself

Through a closed link every read and every write fails with an error of the operating system, as it
does when a mount is gone; nothing looks empty.
"""

from __future__ import annotations

from pathlib import Path


class StoreLink:
    def __init__(self, link: Path, store: Path) -> None:
        """Makes the link, open; what another one left there is replaced."""
        self.path = link.absolute()
        self._store = store.absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        self._lead_to(self._store)

    def close(self) -> None:
        """Closes the way to the store; operations on an open file still come to their end."""
        self._lead_to(self.path)

    def _lead_to(self, target: Path) -> None:
        made = self.path.with_name(f"{self.path.name}.new")
        made.unlink(missing_ok=True)
        made.symlink_to(target)
        # In one step, so that there is no moment without a link.
        made.replace(self.path)
