"""Writes and reads single documents for the callers of a region, through its documents actor."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from functools import reduce
from typing import Protocol, cast

from ray.exceptions import RayActorError

from actors.mutations.base_documents import BaseDocuments
from actors.runtime.calls import Actor
from actors.runtime.stopwatch import Stopwatch
from cluster.clock import Clock, Deadline
from cluster.deltas.changes import Changes
from cluster.deltas.cursor import BEGINNING, cursor_of
from cluster.deltas.document_service import (
    Acknowledgement,
    StoredDocument,
    WriteRequest,
    WriteResult,
)
from cluster.errors import (
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    RaygionError,
    Unavailable,
)
from cluster.mutations.conflicts import Versions
from cluster.mutations.mutation import Mutation
from cluster.mutations.region_writer import Outcome, Written
from cluster.mutations.requests import DocumentWrite
from cluster.mutations.watermark import Watermark
from cluster.query.session import SessionToken
from cluster.serving.consistency import PinnedRelease, RegionKnowledge
from cluster.serving.view import ReleaseView

_POLL_S = 10.0
_GRACE_S = 2.0
"""Time beyond a request's own in which the actor may say that this is over."""


class KnowledgeSource(Protocol):
    """The knowledge of the region, which `actors.query.view_follower.ViewFollower` implements."""

    @property
    def knowledge(self) -> RegionKnowledge: ...


class AppliedElsewhere(Protocol):
    """Asks regions how far they are, which `actors.regions.applied_round` implements."""

    async def await_applied(
        self, corpus: str, watermark: Watermark, deadline: Deadline, *, everywhere: bool
    ) -> None:
        """Returns once a majority of the regions, or all of them, have applied the logs up to the
        watermark. Raises NotYet when too few have in time.
        """
        ...


class RegionDocuments:
    """A `cluster.deltas.document_service.DocumentService`."""

    def __init__(
        self,
        *,
        region: str,
        views: KnowledgeSource,
        documents: Actor,
        base: BaseDocuments,
        applied: AppliedElsewhere,
        clock: Clock,
    ) -> None:
        """`documents`: the region's documents actor."""
        self._region = region
        self._views = views
        self._documents = documents
        self._base = base
        self._applied = applied
        self._clock = clock

    async def write(self, request: WriteRequest) -> WriteResult:
        """As `DocumentService.write`. Raises OutcomeUnknown when the actor is lost meanwhile."""
        watch = Stopwatch.start(self._clock)
        deadline = Deadline.after(request.timeout_s, self._clock)
        # Refuses a corpus that is not served here before anything is written.
        self._pin().release.corpus(request.corpus)
        writes = tuple(write for write in request.writes if isinstance(write, DocumentWrite))
        ended = iter(await self._written(request.corpus, writes, deadline) if writes else ())
        outcomes = tuple(
            next(ended) if isinstance(write, DocumentWrite) else write for write in request.writes
        )
        watermark = _watermark(outcomes)
        acknowledged, unmet = Acknowledgement.DURABLE, None
        if watermark != Watermark():
            acknowledged, unmet = await self._acknowledged(request, watermark, deadline)
        return WriteResult(
            outcomes=outcomes,
            acknowledged=acknowledged,
            unmet=unmet,
            region=self._region,
            session=_with_documents(self._pin().session, request.corpus, watermark),
            took_ms=watch.total_ms(),
            trace_id=request.trace_id or uuid.uuid4().hex,
        )

    async def document(
        self, corpus: str, document: str, timeout_s: float, trace_id: str = ""
    ) -> StoredDocument:
        release = self._pin().release
        view = release.corpus(corpus)
        deadline = Deadline.after(timeout_s, self._clock)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                kept = await self._documents.call("document", corpus, document)
                if versions := cast(Versions, kept):
                    return self._live(versions[-1], release, trace_id)
                found = await asyncio.to_thread(
                    self._base.find, corpus, view.index_version, document
                )
        except TimeoutError:
            raise DeadlineExceeded("time ran out before the document was read") from None
        if found is None:
            raise _no_document(document)
        return StoredDocument(
            id=found.id,
            text=found.text,
            metadata=found.metadata,
            version=None,
            num_passages=None,
            is_embedded=True,
            region=self._region,
            trace_id=trace_id or uuid.uuid4().hex,
        )

    async def changes(self, corpus: str, after: Watermark) -> AsyncGenerator[Changes, None]:
        self._pin().release.corpus(corpus)
        poll_s, epoch = 0.0, ""
        while True:
            try:
                async with asyncio.timeout(poll_s + _GRACE_S):
                    found = await self._documents.call("feed", corpus, after, poll_s)
            except TimeoutError:
                raise Unavailable("the region's documents actor does not answer") from None
            changes = cast(Changes, found)
            if changes.epoch != epoch:
                # An epoch begins when changes that all indexes hold are dropped.
                await self._check_is_kept(corpus, after)
                epoch = changes.epoch
            # An actor that has just begun may not have come as far again as the reader has.
            after = after.joined(changes.watermark)
            yield Changes(
                epoch=changes.epoch,
                after=changes.after,
                version=changes.version,
                watermark=after,
                read_ms=changes.read_ms,
                changes=changes.changes,
            )
            poll_s = _POLL_S

    async def _check_is_kept(self, corpus: str, after: Watermark) -> None:
        """Raises NotFound where changes behind this may be in all indexes by now, and nowhere else.
        What begins anew wants those alone that indexes do not hold.
        """
        if after == Watermark():
            return
        releases = self._views.knowledge.view.releases.values()
        indexes = {r.corpora[corpus].index_version for r in releases if corpus in r.corpora}
        held = await asyncio.gather(
            *(asyncio.to_thread(self._base.watermark, corpus, version) for version in indexes)
        )
        if held and not reduce(Watermark.common, held) <= after:
            raise NotFound(
                f"not all changes behind {cursor_of(after)} are kept any more, since the index "
                f"holds them: read the documents anew, and then the changes after {BEGINNING}"
            )

    async def _written(
        self, corpus: str, writes: tuple[DocumentWrite, ...], deadline: Deadline
    ) -> tuple[Outcome, ...]:
        remaining_s = deadline.remaining_s()
        try:
            async with asyncio.timeout(remaining_s + _GRACE_S):
                outcomes = await self._documents.call("write", corpus, writes, remaining_s)
        except TimeoutError:
            raise OutcomeUnknown("the documents actor has not answered in time") from None
        except Unavailable as error:
            if isinstance(error.__cause__, RayActorError):
                raise OutcomeUnknown("the documents actor was lost while it wrote") from error
            raise
        return cast("tuple[Outcome, ...]", outcomes)

    async def _acknowledged(
        self, request: WriteRequest, watermark: Watermark, deadline: Deadline
    ) -> tuple[Acknowledgement, RaygionError | None]:
        """How far the writes have come in time, and why not as far as was asked for."""
        reached = Acknowledgement.DURABLE
        try:
            if request.wait is not Acknowledgement.DURABLE:
                await self._visible(request.corpus, watermark, deadline)
                reached = Acknowledgement.VISIBLE
            if request.wait in (Acknowledgement.QUORUM, Acknowledgement.ALL):
                everywhere = request.wait is Acknowledgement.ALL
                await self._applied.await_applied(
                    request.corpus, watermark, deadline, everywhere=everywhere
                )
                reached = request.wait
        except RaygionError as error:
            return reached, error
        return reached, None

    async def _visible(self, corpus: str, watermark: Watermark, deadline: Deadline) -> None:
        remaining_s = deadline.remaining_s()
        try:
            async with asyncio.timeout(remaining_s + _GRACE_S):
                await self._documents.call("await_visible", corpus, watermark, remaining_s)
        except TimeoutError:
            raise DeadlineExceeded("the documents actor has not answered in time") from None

    def _live(self, version: Mutation, release: ReleaseView, trace_id: str) -> StoredDocument:
        content = version.content
        if content is None:
            raise _no_document(version.document)
        return StoredDocument(
            id=version.document,
            text=content.text,
            metadata=content.metadata,
            version=version.time,
            num_passages=len(content.cuts or ()),
            is_embedded=content.embedder in (None, release.embedder),
            region=self._region,
            trace_id=trace_id or uuid.uuid4().hex,
        )

    def _pin(self) -> PinnedRelease:
        """The current release."""
        return self._views.knowledge.pin(None, self._clock.wall_ms())


def _watermark(outcomes: Sequence[Outcome]) -> Watermark:
    """How far a state has come that has all that is written."""
    positions: dict[str, int] = {}
    for outcome in outcomes:
        if isinstance(outcome, Written):
            region = outcome.version.region
            positions[region] = max(outcome.position, positions.get(region, 0))
    return Watermark.of(positions)


def _with_documents(session: str, corpus: str, watermark: Watermark) -> str:
    """The token of a caller who has also seen these writes."""
    if not session or watermark == Watermark():
        return session
    return SessionToken.decode(session).joined({corpus: watermark}).encode()


def _no_document(document: str) -> NotFound:
    return NotFound(f"there is no document {document[:64]!r}")
