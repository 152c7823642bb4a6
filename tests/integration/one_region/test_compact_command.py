"""`raygion compact`: what was written live is built, released and found as before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.regions.workspace import DOCUMENTS, Workspace

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    yield made
    if made.cluster is not None:
        made.cluster.stop()


def put(http: httpx.Client, **texts: str | None) -> None:
    """Writes documents so that a search sees them; None deletes."""
    documents: list[dict[str, Any]] = [
        {"id": id, "delete": True} if text is None else {"id": id, "text": text}
        for id, text in texts.items()
    ]
    body = {"corpus": "notes", "documents": documents, "wait": "visible"}
    reply = http.put("/v1/documents", json=body)
    assert reply.is_success, reply.text


def found(http: httpx.Client, **more: object) -> dict[str, tuple[str, float]]:
    """All documents, with their texts and scores."""
    body = {"query": "tin", "top_k": 20, **more}
    reply = http.post("/v1/search", json=body)
    assert reply.is_success, reply.text
    return {hit["id"]: (hit["text"], hit["score"]) for hit in reply.json()["hits"]}


def test_what_was_written_live_is_built_and_released(workspace: Workspace) -> None:
    does, reads = workspace.does, workspace.reads
    assert "raygion ingest" in workspace.refuses("compact", "notes")
    does("up")
    does("ingest", "notes", "documents")
    # It also prints what it has measured of the embedder.
    assert workspace.run("build", "notes").returncode == 0
    assert reads("release", "propose", "--commit")["release"] == 1
    url = f"http://127.0.0.1:{workspace.port}"
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        put(http, tin="Tin comes from Indonesia.", mn=None)
        live = found(http)
        assert "tin" in live
        assert "mn" not in live
        assert len(live) == len(DOCUMENTS)

        done = reads("compact", "notes")
        assert (done["new"], done["removed"], done["release"]) == (1, 1, 2)
        assert (done["watermark"], done["num_documents"]) == ({"here": 1}, len(DOCUMENTS))
        assert found(http) == live
        assert found(http, release=2, documents="base") == live, "the index itself has them"
        assert "mn" in found(http, release=1, documents="base")

        # The same documents at a later watermark are the same files under another version.
        put(http, brief="It is gone soon.")
        put(http, brief=None)
        later = reads("compact", "notes")
        assert (later["watermark"], later["new"], later["replaced"]) == ({"here": 3}, 0, 0)
        assert later["release"] == 3
        assert later["index"] != done["index"]
        assert found(http) == live
        # Nothing new: no position, no build, no release.
        again = reads("compact", "notes")
        assert (again["position"], again["release"]) == (later["position"], None)

        put(http, zinc="Zinc is mined in Peru.")
        assert "Next: raygion build notes" in does("compact", "notes", "--no-release")
        assert reads("release", "rollback") == {"release": 2}
        assert found(http).keys() == {*live, "zinc"}, "a rollback loses no document"
