"""Searches by quorum: all regions are asked at once, and what a majority says is the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from cluster.clock import Deadline
from cluster.errors import InvalidArgument, NotYet, RaygionError, Unavailable
from cluster.logs.alerts import QUORUM_DIFFERS
from cluster.logs.events import EventLog
from cluster.query.read_consistency import EVENTUAL
from cluster.query.search import SearchRequest, SearchResult
from cluster.query.session import SessionToken
from cluster.query.terms import BASE
from cluster.regions.divergence import FoundDifference, Inquiry, compared
from cluster.regions.quorum import (
    Vote,
    agreed,
    common_release,
    comparable,
    diverging,
    has_moving_documents,
    majority,
    seen_by,
    vote_of,
)

log = EventLog(__name__)

_ROUNDS_MAX = 2

Ask = Callable[[str, SearchRequest, Deadline], Awaitable[SearchResult]]


@dataclass(slots=True)
class _Ballot:
    """The replies of one round."""

    regions: tuple[str, ...]
    results: dict[str, SearchResult] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)
    errors: dict[str, RaygionError] = field(default_factory=dict)

    def take(self, region: str, asked: asyncio.Task[SearchResult]) -> None:
        try:
            self.results[region] = asked.result()
        except RaygionError as error:
            self.errors[region] = error
        else:
            self.votes[region] = vote_of(self.results[region])

    def agreed(self) -> tuple[str, ...]:
        return agreed(self.votes, len(self.regions))

    def is_over(self) -> bool:
        """Whether no further reply is waited for."""
        return bool(self.agreed()) or has_moving_documents(self.votes, len(self.regions))

    def difference(self, request: SearchRequest) -> FoundDifference | None:
        """A difference between regions that answered one release from all shards: a region that
        lost a shard cannot be compared.
        """
        whole = {r: result for r, result in self.results.items() if result.coverage >= 1.0}
        pair = diverging({region: self.votes[region] for region in whole})
        if pair is None:
            return None
        vote = self.votes[pair[0]]
        inquiry = Inquiry(
            name=f"search {request.trace_id or 'a client'} by quorum",
            corpus=request.corpus or "",
            request=_of_base(request, vote.release),
        )
        voters = {r: found for r, found in whole.items() if comparable(self.votes[r], vote)}
        found = compared(inquiry, voters).found
        assert found is not None, "votes differ where some query's do"
        return found

    def refusal(self) -> RaygionError:
        needed = majority(len(self.regions))
        wrong = [
            error
            for region in self.regions
            if isinstance(error := self.errors.get(region), InvalidArgument)
        ]
        # Where some region has an answer, the request itself is not what is wrong.
        if wrong and not self.votes:
            return wrong[0]
        if len(self.votes) < needed:
            return Unavailable(
                f"{len(self.votes)} of {len(self.regions)} regions answer, "
                f"and a majority is {needed}"
            )
        releases = ", ".join(f"{r}: {vote.release}" for r, vote in sorted(self.votes.items()))
        return NotYet(f"no majority of the regions answers alike (by release: {releases})")


def _of_base(request: SearchRequest, release: int) -> SearchRequest:
    return replace(request, release=release, documents=BASE, consistency=EVENTUAL)


class QuorumRounds:
    """Asks all regions that may have the corpus, and once more while they differ."""

    def __init__(
        self,
        *,
        region: str,
        ask: Ask,
        holders: Callable[[SearchRequest], tuple[str, ...]],
        pause_s: float,
        sleep: Callable[[float], Awaitable[None]],
        differed: Callable[[FoundDifference], None],
    ) -> None:
        """`differed` gets each difference between regions that answer by one release."""
        self._region = region
        self._ask = ask
        self._holders = holders
        self._pause_s = pause_s
        self._sleep = sleep
        self._differed = differed

    async def search(self, request: SearchRequest, deadline: Deadline) -> SearchResult:
        """Raises NotYet when the regions that answer differ, Unavailable when too few answer,
        InvalidArgument.
        """
        ballot, regions = await self._agreement(request, deadline)
        return ballot.results[regions[0]]

    async def agree(
        self, request: SearchRequest, deadline: Deadline
    ) -> tuple[SearchResult, tuple[str, ...]]:
        """What is found, and the regions that find the same by that release. Raises the errors of
        `search`.
        """
        ballot, regions = await self._agreement(request, deadline)
        return ballot.results[regions[0]], regions

    async def _agreement(
        self, request: SearchRequest, deadline: Deadline
    ) -> tuple[_Ballot, tuple[str, ...]]:
        """The regions that agree, this one first where it is among them."""
        regions = self._holders(request)
        half = Deadline.after(deadline.remaining_s() / 2, deadline.clock)
        first = await self._round(request, regions, half)
        if found := first.agreed():
            return first, self._this_one_first(found)
        release = common_release(first.votes, len(regions))
        seen = seen_by(first.results.values())
        if release is None or seen is None:
            if deadline.remaining_s() <= self._pause_s:
                raise first.refusal()
            await self._sleep(self._pause_s)
            last = await self._round(request, regions, deadline)
            found = last.agreed()
        else:
            last, found = await self._agreement_on_base(request, release, seen, regions, deadline)
        if not found:
            raise last.refusal()
        return last, self._this_one_first(found)

    async def _agreement_on_base(
        self,
        request: SearchRequest,
        release: int,
        seen: SessionToken,
        regions: tuple[str, ...],
        deadline: Deadline,
    ) -> tuple[_Ballot, tuple[str, ...]]:
        """Answers that have all that a majority of the regions had of the documents. While these
        change, hardly two regions have come equally far; so the regions that answer by the release,
        and find the same in its base as a majority does, agree.
        """
        last, base = await asyncio.gather(
            self._round(
                replace(request, consistency=request.consistency.having_seen(seen)),
                regions,
                deadline,
            ),
            self._round(_of_base(request, release), regions, deadline),
        )
        if found := last.agreed():
            return last, found
        alike = [r for r in base.agreed() if r in last.votes and last.votes[r].release == release]
        if diverging({region: last.votes[region] for region in alike}) is not None:
            return last, ()
        return last, tuple(alike)

    def _this_one_first(self, regions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(regions, key=lambda region: region != self._region))

    async def _round(
        self, request: SearchRequest, regions: tuple[str, ...], deadline: Deadline
    ) -> _Ballot:
        """Ends as soon as a majority agrees, or cannot while documents change."""
        ballot = _Ballot(regions)
        asked = {
            asyncio.ensure_future(self._ask(region, request, deadline)): region
            for region in regions
        }
        waiting = set(asked)
        try:
            while waiting and not ballot.is_over():
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=deadline.remaining_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                for task in done:
                    ballot.take(asked[task], task)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if (found := ballot.difference(request)) is not None:
            log.alert(
                QUORUM_DIFFERS,
                difference=found.difference,
                release=found.difference.release,
                corpus=found.difference.corpus,
            )
            self._differed(found)
        return ballot
