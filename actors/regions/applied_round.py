"""Waits until a write has come to a majority of the regions, or to all of them."""

from __future__ import annotations

import asyncio

from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.mutations.watermark import Watermark
from cluster.regions.applied import AppliedBy
from cluster.regions.peers import DocumentPeers, PeerServices


class AppliedRounds:
    """Asks all regions that may hold a corpus at once, this one among them. Being asked has each of
    them read the logs.
    """

    def __init__(self, *, region: str, here: PeerServices, peers: DocumentPeers) -> None:
        self._region = region
        self._here = here
        self._peers = peers

    async def await_applied(
        self, corpus: str, watermark: Watermark, deadline: Deadline, *, everywhere: bool
    ) -> None:
        """Returns once a majority of the regions that may hold the corpus, or (`everywhere`) each
        one, has applied all that the logs have up to the watermark. Raises NotYet when too few have
        in time, as soon as that is clear.
        """
        said = AppliedBy(homes=self._peers.homes(corpus), everywhere=everywhere)
        asked = {
            asyncio.ensure_future(self._reached(region, corpus, watermark, deadline)): region
            for region in said.homes
        }
        waiting = set(asked)
        try:
            while not said.is_enough and not said.is_hopeless:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=deadline.remaining_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                for task in done:
                    _note(said, asked[task], task)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not said.is_enough:
            raise said.refusal()

    async def _reached(
        self, region: str, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> None:
        if region == self._region:
            await self._here.reached(corpus, watermark, deadline)
        else:
            await self._peers.reached(region, corpus, watermark, deadline)


def _note(said: AppliedBy, region: str, asked: asyncio.Task[None]) -> None:
    try:
        asked.result()
    except RaygionError as error:
        said.failed[region] = error
    else:
        said.applied.add(region)
