"""Follows the changes of a corpus's documents: a long poll on the region's documents actor for what
comes after what has been taken in.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import cast

from actors.runtime.calls import Actor
from cluster.clock import Backoff
from cluster.deltas.changes import Changes
from cluster.logs.events import EventLog

log = EventLog(__name__)
_BACKOFF = Backoff(initial_s=0.1, wait_max_s=2.0)
_POLL_S = (20.0, 30.0)
"""A poll without news ends after a random time in this range."""
_CALL_S = 10.0
"""Time that a call may take besides."""


class ChangesFollower:
    """While the actor is away, what was taken in stays as it is."""

    def __init__(
        self,
        documents: Actor,
        corpus: str,
        take: Callable[[Changes], Awaitable[None]],
        rng: random.Random,
        *,
        read_s: float | None = None,
    ) -> None:
        """`take` gets changes that follow one another, or everything anew. `read_s`: the time after
        which a poll of a corpus with documents ends without news, to tell how current they are;
        None for whoever need not know.
        """
        self._documents = documents
        self._corpus = corpus
        self._take = take
        self._rng = rng
        self._read_s = read_s
        self._process = uuid.uuid4().hex
        self._epoch, self._version = "", 0
        self._task: asyncio.Task[None] | None = None
        self.attempted = asyncio.Event()
        """Set once a first poll has ended, whether or not the actor answered."""

    def start(self) -> None:
        """Needs the running event loop. Asks for everything anew when it has started already."""
        self.stop()
        self._epoch, self._version = "", 0
        self._task = asyncio.create_task(self._follow(), name=f"documents of {self._corpus}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        attempt = 0
        while True:
            try:
                await self._poll()
                attempt = 0
            except Exception as error:
                # Whatever it is: who stops following serves the old documents for ever.
                if attempt == 0:
                    log.warning(
                        "documents.no_changes",
                        "no changes of the documents of {corpus} ({error}); asking on",
                        corpus=self._corpus,
                        error=error,
                    )
                if isinstance(error, ValueError):
                    self._epoch, self._version = "", 0
                await asyncio.sleep(_BACKOFF.wait_s(attempt, self._rng))
                attempt += 1
            finally:
                self.attempted.set()

    async def _poll(self) -> None:
        poll_s = self._rng.uniform(*_POLL_S)
        if self._version and self._read_s is not None:
            poll_s = self._read_s
        async with asyncio.timeout(poll_s + _CALL_S):
            changes = cast(
                Changes,
                await self._documents.call(
                    "follow", self._corpus, self._epoch, self._version, poll_s, self._process
                ),
            )
        await self._take(changes)
        self._epoch, self._version = changes.epoch, changes.version
