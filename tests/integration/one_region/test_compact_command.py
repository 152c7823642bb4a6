"""`raygion compact`: what is in the log of live documents is built, released and found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.mutations.batch import Batch
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation
from cluster.mutations.store_log import StoreMutationLog
from cluster.store.object_store import ObjectStore, open_store
from tests.support.regions.workspace import DOCUMENTS, Workspace

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    yield made
    if made.cluster is not None:
        made.cluster.stop()


def write(store: ObjectStore, texts: dict[str, str | None]) -> None:
    """What a region's writer appends; None deletes."""
    log = StoreMutationLog(store, "notes")
    position, now_ms = log.head()["here"] + 1, SYSTEM_CLOCK.wall_ms()
    mutations = [
        Mutation(
            document=document,
            time=HybridTime(now_ms, counter, "here"),
            content=None if text is None else Content(text=text, metadata={}),
        )
        for counter, (document, text) in enumerate(texts.items())
    ]
    batch = Batch(
        corpus="notes", region="here", first=position, last=position, mutations=tuple(mutations)
    )
    log.append(batch, deadline=Deadline.after(10))


def test_live_documents_are_built_and_released(workspace: Workspace) -> None:
    does, reads = workspace.does, workspace.reads
    assert "raygion ingest" in workspace.refuses("compact", "notes")
    does("up")
    does("ingest", "notes", "documents")
    # It also prints what it has measured of the embedder.
    assert workspace.run("build", "notes").returncode == 0
    assert reads("release", "propose", "--commit")["release"] == 1
    store = open_store(str(workspace.folder / ".raygion" / "store"))

    write(store, {"tin": "Tin comes from Indonesia.", "mn": None})
    done = reads("compact", "notes")
    assert (done["new"], done["removed"], done["release"]) == (1, 1, 2)
    assert (done["watermark"], done["num_documents"]) == ({"here": 1}, len(DOCUMENTS))
    assert "Tin comes" in does("search", "tin in Indonesia", "--top-k", "1")
    assert "Ulaanbaatar" not in does("search", "capital of Mongolia", "--top-k", "9")

    # Nothing new: no position, no build, no release.
    again = reads("compact", "notes")
    assert again["release"] is None
    assert (again["position"], again["index"]) == (done["position"], done["index"])
    # The same documents at a later watermark are the same files under another version.
    write(store, {"tin": "Tin comes from Indonesia.", "brief": "It is gone already."})
    write(store, {"brief": None})
    later = reads("compact", "notes")
    assert (later["watermark"], later["new"], later["replaced"]) == ({"here": 3}, 0, 0)
    assert later["release"] == 3
    assert later["index"] != done["index"]
    assert "Tin comes" in does("search", "tin in Indonesia", "--top-k", "1")

    write(store, {"zinc": "Zinc is mined in Peru."})
    assert "Next: raygion build notes" in does("compact", "notes", "--no-release")
    assert reads("release", "rollback") == {"release": 2}
