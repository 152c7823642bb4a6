"""The Python client: `connect()` gives a handle whose methods return Ray object refs.

region = connect("127.0.0.1:6379")
result = ray.get(region.search.remote("Which countries border France?", top_k=3))
print(result.hits[0].text, result.release)

answer = ray.get(region.answer.remote("What is the capital of Chad?"))
print(answer.answer, [citation.id for citation in answer.citations])

note = {"id": "T-1", "text": "The lift is out.", "metadata": {"state": "open"}}
written = ray.get(region.put.remote("tickets", [note], wait="visible"))
ray.get(region.search.remote("lift", corpus="tickets", session=written.session))
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import numpy as np
import numpy.typing as npt
import ray

from actors.runtime import names
from actors.runtime.calls import NAMESPACE
from actors.runtime.cluster_join import not_joined, prepare_to_join
from cluster.deltas.document_service import (
    READ_TIMEOUT_S,
    WRITE_TIMEOUT_S,
    Acknowledgement,
    StoredDocument,
    WriteRequest,
    WriteResult,
)
from cluster.documents.write_checks import parse_writes
from cluster.errors import InvalidArgument, Unavailable
from cluster.generation.prompt import truncation_of
from cluster.mutations.hybrid_clock import HybridTime
from cluster.query.answers import ANSWER_TOP_K_DEFAULT, AnswerRequest, AnswerResult
from cluster.query.filters import Filter, parse_filter
from cluster.query.read_consistency import read_consistency_of
from cluster.query.search import TOP_K_DEFAULT, SearchRequest, SearchResult
from cluster.regions.status import RegionSummary
from cluster.vectors.checks import check_vectors

P = ParamSpec("P")
T = TypeVar("T")


class RemoteMethod(Generic[P, T]):
    """One method of a region. `remote(...)` checks the arguments here and returns an object ref."""

    def __init__(self, call: Callable[P, ray.ObjectRef[T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ray.ObjectRef[T]:
        return self._call(*args, **kwargs)


class Region:
    """A region's handle.

    `ray.get` on what the methods return gives `SearchResult`, `AnswerResult`, `RegionSummary`,
    `WriteResult` and `StoredDocument`, or raises an error of `cluster.errors`, the same as over
    HTTP.
    """

    def __init__(self, front: Any) -> None:
        self._front = front
        self.search = RemoteMethod(self._search)
        self.answer = RemoteMethod(self._answer)
        self.status = RemoteMethod(self._status)
        self.put = RemoteMethod(self._put)
        self.delete = RemoteMethod(self._delete)
        self.document = RemoteMethod(self._document)

    def _search(
        self,
        query: str | Sequence[str] | None = None,
        *,
        vectors: npt.ArrayLike | None = None,
        corpus: str | None = None,
        top_k: int = TOP_K_DEFAULT,
        filter: Mapping[str, object] | None = None,
        fields: Sequence[str] | None = None,
        timeout_s: float = 5.0,
        min_coverage: float = 1.0,
        release: int | None = None,
        documents: str | None = None,
        user: str = "",
        consistency: str | None = None,
        session: str | None = None,
        max_staleness_ms: int | None = None,
    ) -> ray.ObjectRef[SearchResult]:
        """Searches for one text, several texts, or `vectors` (float32 [n, d], or [d] for one).

        While a canary release is tried, the same `user` is served by the same release. `session` is
        that of an earlier result: nothing older than that one answers. `documents` of "base", with
        a `release`, leaves out what was written one by one since that release was built.
        """
        queries = (query,) if isinstance(query, str) else None if query is None else tuple(query)
        given = None if vectors is None else check_vectors(np.atleast_2d(np.asarray(vectors)))
        request = SearchRequest(
            queries=queries,
            vectors=given,
            corpus=corpus,
            top_k=top_k,
            filter=_parsed(filter),
            fields=None if fields is None else tuple(fields),
            timeout_s=timeout_s,
            min_coverage=min_coverage,
            release=release,
            documents=documents,
            user=user,
            consistency=read_consistency_of(
                consistency, session, max_staleness_ms, release=release
            ),
        )
        return cast("ray.ObjectRef[SearchResult]", self._front.search.remote(request))

    def _answer(
        self,
        question: str,
        *,
        corpus: str | None = None,
        top_k: int = ANSWER_TOP_K_DEFAULT,
        filter: Mapping[str, object] | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        truncation: str | None = None,
        timeout_s: float = 60.0,
        min_coverage: float = 1.0,
        release: int | None = None,
        documents: str | None = None,
        user: str = "",
        consistency: str | None = None,
        session: str | None = None,
        max_staleness_ms: int | None = None,
    ) -> ray.ObjectRef[AnswerResult]:
        """Answers a question from the passages found for it.

        Where these do not all fit into the model's context, `truncation` of "disabled" refuses the
        question; by default ("auto") the weakest are left out, and `truncated` of the result says
        how many. `outcome` of the result is "nothing_found" where no passage was evidence.
        """
        request = AnswerRequest(
            question=question,
            corpus=corpus,
            top_k=top_k,
            filter=_parsed(filter),
            max_tokens=max_tokens,
            temperature=temperature,
            truncation=None if truncation is None else truncation_of(truncation),
            timeout_s=timeout_s,
            min_coverage=min_coverage,
            release=release,
            documents=documents,
            user=user,
            consistency=read_consistency_of(
                consistency, session, max_staleness_ms, release=release
            ),
        )
        return cast("ray.ObjectRef[AnswerResult]", self._front.answer.remote(request))

    def _put(
        self,
        corpus: str,
        documents: Sequence[Mapping[str, object]],
        *,
        wait: str = "durable",
        timeout_s: float = WRITE_TIMEOUT_S,
        key: str | None = None,
    ) -> ray.ObjectRef[WriteResult]:
        """Writes up to 1,000 documents, each as a whole: `id`, `text`, `metadata`, or `vector` in a
        corpus of vectors; with `delete` of True it deletes the document.

        The result has the end of each document: a version, or the error of one that is wrong, which
        fails no other; `check()` raises the first one. `wait`: `durable`, `visible`, `quorum` or
        `all`. `key`: an idempotency key, with which the same call may be made again.
        """
        request = WriteRequest(
            corpus=corpus,
            writes=tuple(parse_writes(documents, key)),
            wait=_acknowledgement(wait),
            timeout_s=timeout_s,
        )
        return cast("ray.ObjectRef[WriteResult]", self._front.write.remote(request))

    def _delete(
        self,
        corpus: str,
        id: str,
        *,
        if_version: HybridTime | str | None = None,
        wait: str = "durable",
        timeout_s: float = WRITE_TIMEOUT_S,
        key: str | None = None,
    ) -> ray.ObjectRef[WriteResult]:
        """Deletes a document; one that does not exist is no error. `if_version`: the version that
        it must have. Else as `put`.
        """
        document: dict[str, object] = {"id": id, "delete": True}
        if if_version is not None:
            document["if_version"] = str(if_version)
        return self._put(corpus, [document], wait=wait, timeout_s=timeout_s, key=key)

    def _document(
        self, corpus: str, id: str, *, timeout_s: float = READ_TIMEOUT_S
    ) -> ray.ObjectRef[StoredDocument]:
        """The document as it is now: written last, or else as it was built."""
        answer = self._front.document.remote(corpus, id, timeout_s)
        return cast("ray.ObjectRef[StoredDocument]", answer)

    def _status(self) -> ray.ObjectRef[RegionSummary]:
        """The region's summary: its releases, and how well they are served."""
        return cast("ray.ObjectRef[RegionSummary]", self._front.status.remote())


def connect(address: str | None = None, *, token_file: str | Path | None = None) -> Region:
    """The handle of the region that runs on the Ray cluster at `address` (`host:port`, `auto`).

    Joins the cluster unless this process is in it already (then `address` may be left out).
    `token_file` holds the cluster's secret; without it Ray looks where it is told by its own
    environment. Raises Unavailable when there is no cluster at the address, or no region on it;
    InvalidArgument when there is no secret.
    """
    if not ray.is_initialized():
        _join(address or "auto", token_file)
    try:
        return Region(ray.get_actor(names.FRONT, namespace=NAMESPACE))
    except ValueError as error:
        raise Unavailable(
            "no region runs on this Ray cluster; start one with `raygion up`"
        ) from error


def _join(address: str, token_file: str | Path | None) -> None:
    prepare_to_join(address, token_file)
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise not_joined(address, error) from error


def _acknowledgement(wait: str) -> Acknowledgement:
    try:
        return Acknowledgement(wait)
    except ValueError:
        raise InvalidArgument(f"must be one of {', '.join(Acknowledgement)}", "wait") from None


def _parsed(filter: Mapping[str, object] | None) -> Filter | None:
    return None if filter is None else parse_filter(dict(filter))
