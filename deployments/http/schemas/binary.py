"""The binary form of `/v1/search`: vectors as raw float32 in, hits as an Arrow stream out.

    POST /v1/search?corpus=...&top_k=10     Content-Type: application/vnd.raygion.float32
    body: n x d numbers, float32, little-endian, row after row; d is the index's, so n is implied

With `Accept: application/vnd.apache.arrow.stream` the reply holds no texts and no metadata: a table
`query` (int32, row of the request), `id` (string), `score` (float32), best first for each query,
with the provenance, took_ms, queries (how many there were) and, where the index has one, fallback
(as JSON, for each query) in the metadata of its schema. A fixed-size list of columns, so that every
Arrow library reads it in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from cluster import exact_json
from cluster.arrays import BytesArray
from cluster.errors import InvalidArgument
from cluster.query.search import MergedHits, SearchRequest, SearchResult
from deployments.http.schemas.json_body import query_fields, validated_query
from deployments.http.schemas.replies import with_provenance
from deployments.http.schemas.search import ReplyForm, SearchOptions


def parse_binary(
    query_string: bytes, body: bytes, trace_id: str = "", *, passages: bool = True
) -> tuple[SearchRequest, ReplyForm]:
    """Raises InvalidArgument. What needs the index's dimension is checked against the index."""
    if not body or len(body) % 4:
        raise InvalidArgument("must be float32 numbers of 4 bytes each", "body")
    vectors = np.frombuffer(body, dtype="<f4").astype(np.float32, copy=False)
    options = _options(query_string)
    request = options.to_request(None, vectors, trace_id, passages=passages)
    return request, ReplyForm(is_batch=True, include=options.included())


def _options(query_string: bytes) -> SearchOptions:
    if not query_string:
        return SearchOptions()
    given: dict[str, object] = {**query_fields(query_string)}
    for name in given.keys() & {"fields", "include"}:
        given[name] = [part for part in str(given[name]).split(",") if part]
    if "filter" in given:
        try:
            given["filter"] = exact_json.loads(str(given["filter"]).encode())
        except ValueError as error:
            raise InvalidArgument(f"is not valid JSON: {error}", "filter") from None
    return validated_query(SearchOptions, given)


def render_arrow(result: SearchResult, hits: MergedHits) -> memoryview:
    """The hits of a request without passages. Not a copy of what Arrow wrote."""
    found = hits.rows >= 0
    queries = np.nonzero(found)[0].astype(np.int32)
    facts = with_provenance(result, took_ms=f"{result.took_ms:.3f}")
    metadata = {name: str(fact) for name, fact in facts.items()}
    metadata["queries"] = str(len(hits.rows))
    if result.fell_back:
        metadata["fallback"] = orjson.dumps(result.fell_back).decode()
    batch = pa.record_batch(
        [pa.array(queries), _strings(hits.ids[found]), pa.array(hits.scores[found])],
        names=["query", "id", "score"],
    ).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _strings(ids: BytesArray) -> pa.Array[Any]:
    return pa.array(ids.tolist(), type=pa.binary()).cast(pa.string())
