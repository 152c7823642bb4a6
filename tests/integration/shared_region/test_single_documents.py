"""Single documents of a region that serves: over HTTP by HAProxy, and from the Python client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
import ray

from actors.region_client import Region, connect
from cluster.deltas.document_service import Acknowledgement
from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.mutations.mutation import IfVersion, Mutation
from cluster.mutations.region_writer import Written
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from cluster.query.session import SessionToken
from deployments.http.schemas.documents import DocumentReply, WriteReply
from tests.support.regions.region_fixture import REGION, LiveRegion

pytestmark = pytest.mark.integration

PARAGRAPH = "Warsaw/0"
IDS = ["live/a b/c?", "live/..", "live/%2F", "live/été 東京"]


@pytest.fixture(scope="module", autouse=True)
def _cleared(shared_region: LiveRegion) -> Iterator[None]:
    """Deletes what the tests have written, for those that come after them."""
    yield
    documents = {mutation.document for mutation in written(shared_region)}
    with shared_region.http() as http:
        put(http, *({"id": id, "delete": True} for id in documents), wait="visible")


def written(region: LiveRegion) -> list[Mutation]:
    """All that the region's log of the corpus has."""
    reading = StoreMutationLog(region.installation.store, "xquad").read_after(Watermark())
    return [mutation for batch in reading.batches for mutation in batch.mutations]


def put(http: httpx.Client, *documents: dict[str, Any], **body: Any) -> dict[str, Any]:
    reply = http.put(
        "/v1/documents", json={"corpus": "xquad", "documents": list(documents), **body}
    )
    assert reply.status_code == 200, reply.text
    WriteReply.model_validate(reply.json(), strict=True)
    return dict(reply.json())


def path(id: str) -> str:
    return f"/v1/documents/{quote(id, safe='').replace('.', '%2E')}?corpus=xquad"


def test_a_written_text_has_the_passages_and_vectors_of_a_build(
    http: httpx.Client, shared_region: LiveRegion
) -> None:
    built = shared_region.xquad.passages[PARAGRAPH]
    reply = put(http, {**built, "id": "live/warsaw"}, wait="visible")

    (end,) = reply["documents"]
    mutation = written(shared_region)[-1]
    content = mutation.content
    assert (mutation.document, str(mutation.time)) == ("live/warsaw", end["version"])
    assert content is not None
    assert content.passages == [built["text"]]
    assert content.vectors is not None
    assert content.vectors[0].tobytes() == shared_region.vectors[PARAGRAPH].tobytes()
    token = SessionToken.decode(reply["session"])
    assert token.documents == {"xquad": Watermark.of({REGION: end["position"]})}


def test_a_written_document_is_found_until_it_is_deleted(
    http: httpx.Client, shared_region: LiveRegion
) -> None:
    text = "A heron has nested on the lighthouse of Port Imaginary."

    def found(**options: Any) -> list[str]:
        """The text of the best hit: another version of the document may well be found, too."""
        reply = shared_region.search(http, query=text, top_k=1, **options)
        return [hit["text"] for hit in reply["hits"]]

    put(http, {"id": "live/heron", "text": text, "metadata": {"title": "Herons"}}, wait="visible")
    assert found() == [text]
    assert found(filter={"title": "Herons"}) == [text]
    later = put(http, {"id": "live/heron", "text": "Of ferries.", "metadata": {}})
    assert found(session=later["session"]) != [text]
    put(http, {"id": "live/heron", "text": text}, wait="all")
    assert found() == [text]
    gone = http.delete(path("live/heron") + "&wait=all")
    assert gone.json()["acknowledged"] == "all"
    assert found() != [text]


@pytest.mark.parametrize("id", IDS)
def test_a_document_of_any_id_is_written_read_and_deleted(http: httpx.Client, id: str) -> None:
    (end,) = put(http, {"id": id, "text": "The lift is out.", "metadata": {"title": "Lifts"}})[
        "documents"
    ]
    read = http.get(path(id))
    deleted = http.delete(path(id))
    gone = http.get(path(id))

    assert read.status_code == 200, read.text
    found = read.json()
    DocumentReply.model_validate(found, strict=True)
    assert (found["id"], found["version"], found["passages"]) == (id, end["version"], 1)
    assert (found["embedded"], found["metadata"]) == (True, {"title": "Lifts"})
    assert deleted.json()["documents"][0]["id"] == id
    assert gone.status_code == 404


def test_a_document_that_nobody_has_written_is_as_it_was_built(
    http: httpx.Client, shared_region: LiveRegion
) -> None:
    built = shared_region.xquad.passages[PARAGRAPH]
    found = http.get(path(PARAGRAPH)).json()

    assert (found["id"], found["text"]) == (PARAGRAPH, built["text"])
    assert found["metadata"] == built["metadata"]
    assert (found["version"], found["embedded"]) == (None, True)
    assert http.get(path("Warsaw/none")).status_code == 404


def test_what_is_wrong_fails_alone(http: httpx.Client, shared_region: LiveRegion) -> None:
    before = len(written(shared_region))
    documents: list[Any] = [
        {"id": "live/good", "text": "A good one."},
        {"id": "live/" + "x" * 512, "text": "Of a long id."},
        {"id": "live/typed", "text": "Another type.", "metadata": {"chars": "many"}},
        {"id": "live/vector", "text": "A vector.", "vector": [1.0, 2.0]},
        {"id": "live/version", "text": "Stale.", "if_version": "5.0.eu"},
    ]
    reply = http.put("/v1/documents", json={"corpus": "xquad", "documents": documents})

    assert reply.status_code == 207
    ends = reply.json()["documents"]
    told = [(end["error"]["code"], end["error"].get("field")) for end in ends[1:]]
    assert told == [
        ("invalid_argument", "id"),
        ("invalid_argument", "metadata.chars"),
        ("invalid_argument", "vector"),
        ("conflict", None),
    ]
    assert [mutation.document for mutation in written(shared_region)[before:]] == ["live/good"]


def test_a_request_is_written_once_however_often_it_comes(
    http: httpx.Client, shared_region: LiveRegion
) -> None:
    body = {"corpus": "xquad", "documents": [{"id": "live/once", "text": "Once."}]}
    headers = {"Idempotency-Key": "once"}
    first, second = (http.put("/v1/documents", json=body, headers=headers) for _ in range(2))

    (end,), (again,) = first.json()["documents"], second.json()["documents"]
    assert again == {**end, "repeated": True}
    documents = [mutation.document for mutation in written(shared_region)]
    assert documents.count("live/once") == 1


def test_changes_are_told_as_they_come(http: httpx.Client) -> None:
    put(http, {"id": "live/change", "text": "First."})
    route = "/v1/corpora/xquad/changes"

    def told(after: str | None) -> tuple[list[dict[str, Any]], str]:
        """The changes up to the present, and from where to go on."""
        found: list[dict[str, Any]] = []
        params = {} if after is None else {"after": after}
        with http.stream("GET", route, params=params) as reply:
            name = ""
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = orjson.loads(line.removeprefix("data: "))
                    if name == "current":
                        return found, data["after"]
                    found.append(data)
        raise AssertionError("the stream ended")

    changes, after = told(None)
    assert changes[-1]["id"] == "live/change"
    assert told(after) == ([], after)
    http.delete(path("live/change"))
    later, _ = told(after)
    assert [(change["id"], change.get("deleted")) for change in later] == [("live/change", True)]


@pytest.fixture(scope="module")
def region(shared_region: LiveRegion) -> Region:
    return connect()


def test_the_python_client_writes_and_reads(region: Region) -> None:
    note = {"id": "live/py", "text": "From Python.", "metadata": {"title": "Py"}}
    result = ray.get(region.put.remote("xquad", [note, {"id": "live/no"}], wait="visible"))

    end, error = result.outcomes
    assert isinstance(end, Written)
    assert isinstance(error, InvalidArgument)
    assert (result.acknowledged, result.region) == (Acknowledgement.VISIBLE, REGION)
    found = ray.get(region.document.remote("xquad", "live/py"))
    assert (found.text, found.version) == ("From Python.", end.version)
    stale = ray.get(region.delete.remote("xquad", "live/py", if_version="5.0.eu"))
    with pytest.raises(Conflict):
        stale.check()
    absent = {**note, "if_version": IfVersion.ABSENT}
    assert isinstance(ray.get(region.put.remote("xquad", [absent])).outcomes[0], Conflict)
    ray.get(region.delete.remote("xquad", "live/py", if_version=end.version)).check()
    with pytest.raises(NotFound):
        ray.get(region.document.remote("xquad", "live/py"))
    with pytest.raises(InvalidArgument, match="there is no corpus 'other'"):
        ray.get(region.put.remote("other", [note]))
