"""A document that the demo writes while the regions serve, and how soon it is found and gone."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import RaygionError
from deployments.clients.http_client import HttpRegion
from deployments.terminal import table

NOTE_ID = "demo/note"
_TEXT = "A heron has nested on the lighthouse of Port Imaginary, so boat trips begin an hour later."
_QUESTION = "What nests on the lighthouse of Port Imaginary?"
_FOUND_TIMEOUT_S = 30.0
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNote:
    region: str
    """Region in which the document was written."""
    written_ms: float
    """Time until the write was in the store."""
    found_ms: Mapping[str, float | None]
    """Time from the begin of the write to the end of the first search that found it, for each
    region; None where none did.
    """
    deleted_ms: float
    """Time until the delete was acknowledged by all regions."""
    found_after_delete: tuple[str, ...]
    """Regions in which a search found the document after that."""

    @property
    def is_as_promised(self) -> bool:
        return None not in self.found_ms.values() and not self.found_after_delete


def write_and_find(
    writer: str, regions: Mapping[str, HttpRegion], corpus: str, metadata: Mapping[str, Any]
) -> LiveNote:
    """Writes a document in one region, searches for it in all until each has found it, and deletes
    it. Raises what the region answers to a write.
    """
    started_s = SYSTEM_CLOCK.monotonic_s()
    deadline = Deadline.after(_FOUND_TIMEOUT_S)

    def found_ms(region: HttpRegion) -> float | None:
        while not deadline.expired():
            if _finds(region, corpus):
                return (SYSTEM_CLOCK.monotonic_s() - started_s) * 1000.0
            SYSTEM_CLOCK.sleep(_PAUSE_S)
        return None

    with ThreadPoolExecutor(len(regions)) as threads:
        searches = {name: threads.submit(found_ms, region) for name, region in regions.items()}
        note = {"id": NOTE_ID, "text": _TEXT, "metadata": dict(metadata)}
        written_ms = _write(regions[writer], corpus, note, wait="durable")
        found = {name: search.result() for name, search in searches.items()}
    deleted_ms = _write(regions[writer], corpus, {"id": NOTE_ID, "delete": True}, wait="all")
    return LiveNote(
        region=writer,
        written_ms=written_ms,
        found_ms=found,
        deleted_ms=deleted_ms,
        found_after_delete=tuple(n for n, region in regions.items() if _finds(region, corpus)),
    )


def live_note_table(note: LiveNote) -> Table:
    rows = [
        ("written", note.region, f"{note.written_ms:.0f}"),
        *(
            ("found", name, "never" if took_ms is None else f"{took_ms:.0f}")
            for name, took_ms in note.found_ms.items()
        ),
        ("deleted", "all", f"{note.deleted_ms:.0f}"),
        *(("STILL FOUND", name, "") for name in note.found_after_delete),
    ]
    return table("A document written while all serve", ("", "region", "ms"), rows)


def _write(region: HttpRegion, corpus: str, document: dict[str, Any], *, wait: str) -> float:
    """The milliseconds that the write took."""
    started_s = SYSTEM_CLOCK.monotonic_s()
    body = {"corpus": corpus, "documents": [document], "wait": wait}
    reply = region.write_documents(body, uuid.uuid4().hex)
    if (error := reply.get("error") or reply.get("unmet")) is not None:
        raise RaygionError(f"the demo's document was not written as asked: {error['message']}")
    return (SYSTEM_CLOCK.monotonic_s() - started_s) * 1000.0


def _finds(region: HttpRegion, corpus: str) -> bool:
    found = region.post("/v1/search", {"corpus": corpus, "query": _QUESTION, "top_k": 1})
    return any(hit["id"] == NOTE_ID for hit in found["hits"])
