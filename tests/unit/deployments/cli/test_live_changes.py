"""Commands on files say when the logs of live documents have what the corpus does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.store.object_store import open_store
from deployments.cli.main import app
from tests.support.values.mutations import CORPUS
from tests.support.worlds.live_corpus import append, ingest, live

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "regions.yaml").write_text("regions: {a: {}}\n")
    return tmp_path


def raygion(*arguments: str) -> Result:
    done = RUNNER.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done


def test_a_delete_says_that_live_documents_count_until_they_are_compacted(folder: Path) -> None:
    store = open_store(str(folder / ".raygion" / "store"))
    ingest(store, {"a": 1, "b": 1})
    assert "live" not in raygion("delete", CORPUS, "b").output
    append(store, live("a", 2, 10))
    assert "written live" in raygion("delete", CORPUS, "a").output
    assert "live" not in raygion("delete", CORPUS, "a", "--json").output
    told = raygion("compact", CORPUS, "--no-release").output
    assert "From the log: 1 new, 0 replaced, 0 removed." in told
    assert "position 4: 1 documents" in told
    assert "live" not in raygion("delete", CORPUS, "a").stderr


def test_a_corpus_without_documents_is_not_to_be_built(folder: Path) -> None:
    store = open_store(str(folder / ".raygion" / "store"))
    ingest(store, {"a": 1})
    append(store, live("b", 1, 10))
    assert f"Next: raygion build {CORPUS}" in raygion("compact", CORPUS, "--no-release").output
    append(store, live("b", None, 20))
    raygion("delete", CORPUS, "a")
    told = raygion("compact", CORPUS, "--no-release").output
    assert "The next release leaves it out." in told
    assert "raygion build" not in told
