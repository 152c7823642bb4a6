"""`raygion store gc`: what it says and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import InvalidArgument
from cluster.store.object_store import open_store
from deployments.cli.main import app
from tests.support.worlds.gc_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    world = World(open_store(str(tmp_path / "store")))
    world.elect()
    world.corpus(1, ["part"])
    world.propose(1, world.index("first", ["of the first"]))
    world.commit(1)
    return world


def collected(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["store", "gc", "--store", "store", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_it_says_what_it_did(world: World) -> None:
    world.blob("of nothing")
    report = json.loads(collected("--keep", "1", "--json"))
    assert report == {
        "kept_releases": [1],
        "removed_objects": 0,
        "removed_bytes": 0,
        "waiting_objects": 0,
        "waiting_bytes": 0,
        "dry_run": False,
    }
    assert "Removed 0 objects, 0 bytes." in collected("--keep", "2")
    assert "Would remove 0 objects" in collected("--keep", "2", "--grace", "90m", "--dry-run")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--keep", "0"], "keep"),
        (["--keep", "1", "--grace", "tomorrow"], "grace"),
        (["--keep", "1", "--grace", "1m"], "grace"),
        (["--keep", "1", "--grace", "-1h"], "grace"),
    ],
)
def test_too_little_is_refused(world: World, arguments: list[str], field: str) -> None:
    before = world.store.list_names("gc/marks")
    with pytest.raises(InvalidArgument) as caught:
        collected(*arguments)
    assert caught.value.field == field
    assert world.store.list_names("gc/marks") == before
