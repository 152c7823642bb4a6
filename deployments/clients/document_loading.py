"""Documents of a JSONL file on their way to a region, in batches that are sent until each document
has an end.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster import exact_json
from cluster.clock import Backoff
from cluster.errors import (
    DeadlineExceeded,
    OutcomeUnknown,
    Overloaded,
    RaygionError,
    Unavailable,
)
from deployments.installation import NotRunning

BATCH_MAX = 200
BATCH_BYTES_MAX = 4 * 2**20
BATCH_TIMEOUT_MS = 120_000
_LATER = (Overloaded, Unavailable, DeadlineExceeded, OutcomeUnknown)
"""Errors after which the same batch, with the same key, may well be written."""
_LATER_CODES = frozenset({error.code for error in _LATER} | {"clock_ahead"})
_BACKOFF = Backoff(initial_s=0.5, wait_max_s=10.0)


class WritingRegion(Protocol):
    def write_documents(self, body: Mapping[str, object], key: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A document that is not written."""

    line: int
    """In the file, from 1."""
    id: str | None
    code: str
    message: str


@dataclass(slots=True)
class Loading:
    """What has become of a file so far."""

    region: WritingRegion
    corpus: str
    wait: str
    pause: Callable[[float], None]
    """Waits for so many seconds."""
    rng: random.Random
    lines: int = 0
    """Lines that have an end: whoever goes on leaves them out."""
    written: int = 0
    refused: list[Refused] = field(default_factory=list)
    unmet: str = ""
    """Why some of what is written has not come as far as `wait` asks; empty where all has."""

    def load(self, lines: Iterable[bytes], skip: int = 0) -> Iterator[int]:
        """Writes the documents of these lines but for the first `skip`; gives how many lines have
        an end, after each batch.

        Raises the last error when a batch could not be sent, and NotRunning at once where no region
        answers to the first one.
        """
        self.lines = skip
        for batch in _batches(lines, skip):
            documents: list[tuple[int, object]] = []
            for number, line in batch:
                try:
                    documents.append((number, exact_json.loads(line)))
                except ValueError as error:
                    self._refuse(number, None, "invalid_argument", f"is not valid JSON: {error}")
            if documents:
                self._write(documents)
            self.lines = batch[-1][0]
            yield self.lines

    def _write(self, documents: list[tuple[int, object]]) -> None:
        body = {
            "corpus": self.corpus,
            "documents": [document for _, document in documents],
            "wait": self.wait,
            "timeout_ms": BATCH_TIMEOUT_MS,
        }
        reply = self._reply(body, uuid.uuid4().hex)
        for (number, _), end in zip(documents, reply["documents"], strict=True):
            if (error := end.get("error")) is None:
                self.written += 1
            else:
                self._refuse(number, end["id"], error["code"], error["message"])
        if "unmet" in reply:
            self.unmet = reply["unmet"]["message"]

    def _reply(self, body: Mapping[str, object], key: str) -> dict[str, Any]:
        attempt = 0
        while True:
            error: RaygionError | None = None
            try:
                reply = self.region.write_documents(body, key)
            except _LATER as failure:
                if isinstance(failure, NotRunning) and not self.written:
                    raise
                error = failure
            else:
                ends = [end.get("error") for end in reply["documents"]]
                if not any(end and end["code"] in _LATER_CODES for end in ends):
                    return reply
            attempt += 1
            if attempt == _BACKOFF.attempts_max:
                if error is not None:
                    raise error
                return reply
            hint_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
            self.pause(max(hint_s, _BACKOFF.wait_s(attempt - 1, self.rng)))

    def _refuse(self, line: int, id: str | None, code: str, message: str) -> None:
        self.refused.append(Refused(line=line, id=id, code=code, message=message))


def _batches(lines: Iterable[bytes], skip: int) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines that are not blank, as many as go into a request."""
    batch: list[tuple[int, bytes]] = []
    size_bytes = 0
    for number, line in enumerate(lines, 1):
        if number <= skip or not line.strip():
            continue
        if batch and (len(batch) == BATCH_MAX or size_bytes + len(line) > BATCH_BYTES_MAX):
            yield batch
            batch, size_bytes = [], 0
        batch.append((number, line))
        size_bytes += len(line)
    if batch:
        yield batch
