"""The format between regions over HTTP: requests become bodies, replies become values again.

Scores and vectors arrive as they were, bit for bit: JSON's shortest form of a number names exactly
one float.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
from pydantic import TypeAdapter

from cluster.errors import OWN_FAULTS, InvalidArgument, Overloaded, RaygionError, Unavailable
from cluster.generation.generator import GenerationChunk, GenerationRequest, Sampling
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.query.answers import AnswerEvent, AnswerRequest, AnswerResult, Retrieved, Token
from cluster.query.provenance import Provenance
from cluster.query.request import Embedded
from cluster.query.search import Hit, MergedHits, SearchRequest, SearchResult

SEARCH = "/v1/search"
ANSWER = "/v1/regions/answer"
GENERATE = "/v1/regions/generate"
NUDGE = "/v1/regions/nudge"
REACHED = "/v1/regions/reached"
FORWARDED_BY = "x-raygion-forwarded-by"
FLOAT32_TYPE = "application/vnd.raygion.float32"
ARROW_TYPE = "application/vnd.apache.arrow.stream"
JSON_TYPE = "application/json"

T = TypeVar("T")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = "0000000000000001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request to another region."""

    path: str
    content: bytes
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def search_call(request: SearchRequest, remaining_s: float) -> Call:
    """The search as a call that may take `remaining_s`."""
    options = _search_options(request, remaining_s)
    headers = _headers(request.trace_id)
    if not request.passages:
        headers["accept"] = ARROW_TYPE
    vectors = request.vectors
    if vectors is not None and vectors.ndim == 1:
        headers["content-type"] = FLOAT32_TYPE
        flat = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        return Call(path=SEARCH, content=flat, params=_in_url(options), headers=headers)
    if vectors is None:
        options["queries"] = request.queries
        if request.embedded is not None:
            options["embedded"] = _embedded(request.embedded)
    else:
        # Not as bare numbers, which the other region would cut into rows of its index's length.
        options["vectors"] = np.ascontiguousarray(vectors, dtype=np.float32)
    content = orjson.dumps(options, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call(path=SEARCH, content=content, headers=headers)


def answer_call(request: AnswerRequest, remaining_s: float) -> Call:
    body = {
        "question": request.question,
        "embedded": None if request.embedded is None else _embedded(request.embedded),
        "retrieve": request.retrieve,
        "history": request.history,
        "max_tokens": request.max_tokens,
        **_sampling(request),
        "truncation": request.truncation,
        **request.to_json(_timeout_ms(remaining_s)),
    }
    return Call(path=ANSWER, content=_dumped(body), headers=_headers(request.trace_id))


def generate_call(release: int, request: GenerationRequest, remaining_s: float) -> Call:
    body = {
        "release": release,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        **_sampling(request),
        "request_id": request.request_id,
        "begun": request.begun,
        "timeout_ms": _timeout_ms(remaining_s),
    }
    return Call(path=GENERATE, content=_dumped(body), headers=_headers(""))


def reached_call(corpus: str, watermark: Watermark, remaining_s: float) -> Call:
    body = {
        "corpus": corpus,
        "watermark": watermark.as_dict(),
        "timeout_ms": _timeout_ms(remaining_s),
    }
    return Call(path=REACHED, content=_dumped(body), headers=_headers(""))


def position_json(position: DocumentsPosition) -> bytes:
    return orjson.dumps(
        {
            "epoch": position.epoch,
            "version": position.version,
            "watermark": position.watermark.as_dict(),
            "read_ms": position.read_ms,
        }
    )


def parse_position(body: bytes) -> DocumentsPosition:
    """Raises Unavailable for a body that is no position of a region."""
    try:
        told = orjson.loads(body)
        return DocumentsPosition(
            epoch=told["epoch"],
            version=int(told["version"]),
            watermark=Watermark.of({r: int(n) for r, n in told["watermark"].items()}),
            read_ms=int(told["read_ms"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unavailable("the reply is not what a region sends") from error


def _sampling(request: Sampling) -> dict[str, Any]:
    """The options that differ from the defaults: a region of an older version refuses keys that it
    does not know.
    """
    usual = Sampling().sampling()
    return {key: value for key, value in request.sampling().items() if value != usual[key]}


def parse_search(content_type: str, body: bytes) -> SearchResult:
    """Raises Unavailable for a body that is no reply of a region."""
    try:
        return _from_arrow(body) if content_type == ARROW_TYPE else _from_json(body)
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise Unavailable("the reply is not what a region sends") from error


def parse_answer_event(name: str, data: bytes) -> AnswerEvent:
    """Raises the error of an `error` event, and Unavailable for an event that no answer has."""
    match name:
        case "retrieved":
            return _parsed_reply(_RETRIEVED, data)
        case "token":
            return _parsed(_TOKEN, data)
        case "done":
            return _parsed_reply(_RESULT, data)
    raise parse_error(data) if name == "error" else Unavailable(f"an unknown event {name!r} came")


def parse_chunk(name: str, data: bytes) -> GenerationChunk:
    """Raises the error of an `error` event, and Unavailable for any event but a piece of text."""
    if name == "chunk":
        return _parsed(_CHUNK, data)
    raise parse_error(data) if name == "error" else Unavailable(f"an unknown event {name!r} came")


def parse_error(body: bytes, retry_after: str | None = None) -> RaygionError:
    """The error that a region's error body tells another region. What the region has itself to
    blame for, or this one for its key, is Unavailable here.
    """
    try:
        error = parse_sent_error(body, retry_after)
    except ValueError:
        return Unavailable("the reply is not what a region sends")
    if error.code in OWN_FAULTS:
        return Unavailable(f"the region failed ({error.code}): {error.message}")
    return error


def parse_sent_error(body: bytes, retry_after: str | None = None) -> RaygionError:
    """The error that a region's error body tells, by its code; a code that this version does not
    know is `internal`. Raises ValueError for a body that no region sends.
    """
    try:
        sent = orjson.loads(body)["error"]
        code, message, path = str(sent["code"]), str(sent["message"]), sent.get("field")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError("this is not an error body") from error
    kind = _BY_CODE.get(code)
    if kind is None:
        return RaygionError(f"{message} ({code})")
    if issubclass(kind, InvalidArgument):
        # On the wire the message begins with the field, which `str` will say again.
        named = None if path is None else str(path)
        return kind(message.removeprefix(f"{named}: "), named)
    if issubclass(kind, Overloaded):
        return kind(message, _seconds(retry_after))
    return kind(message)


def _seconds(retry_after: str | None) -> float:
    # A proxy on the way may write a date there.
    return float(retry_after) if retry_after and retry_after.isdecimal() else 1.0


_RETRIEVED = TypeAdapter(Retrieved)
_TOKEN = TypeAdapter(Token)
_RESULT = TypeAdapter(AnswerResult)
_CHUNK = TypeAdapter(GenerationChunk)
_PROVENANCE = TypeAdapter(Provenance)


def kinds_on_wire(root: type[RaygionError]) -> Iterator[type[RaygionError]]:
    """Kinds of errors with a code of their own: on the wire, another kind has its parent's."""
    if "code" in vars(root):
        yield root
    for kind in root.__subclasses__():
        yield from kinds_on_wire(kind)


_BY_CODE = {kind.code: kind for kind in kinds_on_wire(RaygionError)}


def _parsed(adapter: TypeAdapter[T], data: bytes) -> T:
    try:
        return adapter.validate_json(data)
    except ValueError as error:
        raise Unavailable("an event is not what a region sends") from error


def _parsed_reply(adapter: TypeAdapter[T], data: bytes) -> T:
    """The event with a provenance, whose facts stand in JSON among the others."""
    try:
        fields = orjson.loads(data)
        return adapter.validate_python({**fields, "provenance": fields})
    except (ValueError, TypeError) as error:
        raise Unavailable("an event is not what a region sends") from error


def _from_json(body: bytes) -> SearchResult:
    reply = orjson.loads(body)
    results = reply["results"]
    return SearchResult(
        results=tuple(
            tuple(
                Hit(id=hit["id"], score=hit["score"], text=hit["text"], metadata=hit["metadata"])
                for hit in each["hits"]
            )
            for each in results
        ),
        fell_back=tuple(each["fallback"] for each in results if "fallback" in each),
        took_ms=float(reply["took_ms"]),
        provenance=_PROVENANCE.validate_python(reply),
    )


def _from_arrow(body: bytes) -> SearchResult:
    table = pa.ipc.open_stream(body).read_all()
    header = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    queries = table["query"].to_numpy()
    counts = np.bincount(queries, minlength=int(header["queries"]))
    shape = (len(counts), int(counts.max(initial=0)))
    # Best first for each query, and no gaps: a hit's column counts the hits of its query before it.
    columns = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    ids = np.array(table["id"].cast(pa.binary()).to_pylist(), dtype=np.bytes_)
    hits = MergedHits(
        scores=np.full(shape, -np.inf, dtype=np.float32),
        rows=np.full(shape, -1, dtype=np.int64),
        ids=np.zeros(shape, dtype=ids.dtype if len(ids) else "S1"),
        shards=np.full(shape, -1, dtype=np.int32),
    )
    hits.scores[queries, columns] = table["score"].to_numpy()
    hits.rows[queries, columns] = 0
    hits.ids[queries, columns] = ids
    fell_back = tuple(orjson.loads(header.get("fallback", "[]")))
    return SearchResult(
        results=(),
        arrays=hits,
        fell_back=fell_back,
        took_ms=float(header["took_ms"]),
        # All values are texts here, and become numbers where the fields are.
        provenance=_PROVENANCE.validate_python(header),
    )


def _embedded(embedded: Embedded) -> dict[str, str]:
    vectors = np.ascontiguousarray(embedded.vectors, dtype="<f4").tobytes()
    return {"model": embedded.model, "vectors": base64.b64encode(vectors).decode()}


def _search_options(request: SearchRequest, remaining_s: float) -> dict[str, Any]:
    options = request.to_json(_timeout_ms(remaining_s))
    options["fields"] = None if request.fields is None else list(request.fields)
    options["ef_search"] = request.effort.ef_search
    options["nprobe"] = request.effort.nprobe
    options["recall"] = "exact" if request.effort.exact else None
    return _given(options)


def _in_url(options: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: str(value) for name, value in options.items()}
    if "filter" in options:
        texts["filter"] = orjson.dumps(options["filter"]).decode()
    if "fields" in options:
        texts["fields"] = ",".join(options["fields"])
    return texts


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _dumped(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(_given(body))


def _timeout_ms(remaining_s: float) -> int:
    return max(1, int(remaining_s * 1000))


def _headers(trace_id: str) -> dict[str, str]:
    headers = {"content-type": JSON_TYPE, "accept": JSON_TYPE}
    if _TRACE_ID.fullmatch(trace_id):
        headers["traceparent"] = f"00-{trace_id}-{_SPAN_ID}-01"
    return headers
