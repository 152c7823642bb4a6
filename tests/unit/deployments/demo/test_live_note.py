"""The demo's own document, as the regions show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from cluster.errors import RaygionError
from deployments.clients.http_client import HttpRegion
from deployments.demo.live_note import LiveNote, live_note_table, write_and_find
from deployments.terminal import out


@dataclass
class Store:
    documents: dict[str, Any] = field(default_factory=dict)
    waits: list[str] = field(default_factory=list)
    refusal: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeRegion:
    store: Store
    searches_behind: int = 0
    """Searches that do not show yet what is written."""
    forgets_deletes: bool = False
    _last: dict[str, Any] = field(default_factory=dict)

    def write_documents(self, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        self.store.waits.append(body["wait"])
        (document,) = body["documents"]
        if document.get("delete"):
            self.store.documents.pop(document["id"], None)
        else:
            self.store.documents[document["id"]] = document
        return self.store.refusal

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.searches_behind and self.store.documents:
            self.searches_behind -= 1
        elif self.store.documents or not self.forgets_deletes:
            self._last = dict(self.store.documents)
        return {"hits": [{"id": id} for id in self._last]}


def told_of(**regions: FakeRegion) -> LiveNote:
    asked = {name: cast(HttpRegion, region) for name, region in regions.items()}
    return write_and_find("a", asked, "africa", {"region": "africa"})


def test_a_note_is_found_everywhere_and_then_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store()
    note = told_of(a=FakeRegion(store), b=FakeRegion(store, searches_behind=3))

    assert note.is_as_promised
    assert (note.region, note.found_ms.keys()) == ("a", {"a", "b"})
    assert store.waits == ["durable", "all"]
    out.print(live_note_table(note))
    assert "STILL FOUND" not in capsys.readouterr().out


def test_a_region_that_shows_a_deleted_note_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store()
    note = told_of(a=FakeRegion(store), b=FakeRegion(store, forgets_deletes=True))

    assert not note.is_as_promised
    assert note.found_after_delete == ("b",)
    out.print(live_note_table(note))
    assert "STILL FOUND" in capsys.readouterr().out


def test_a_write_that_is_refused_ends_the_story() -> None:
    store = Store(refusal={"unmet": {"message": "region b is away"}})
    with pytest.raises(RaygionError, match="region b is away"):
        told_of(a=FakeRegion(store))
