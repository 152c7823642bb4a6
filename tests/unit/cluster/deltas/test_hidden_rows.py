"""Which rows of a base are hidden at which version, for which embedder's searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.deltas.hidden_rows import HiddenRows, hiding_changes
from cluster.deltas.space import Space
from tests.support.values.changing_documents import Step, changes_of, content_of

SPACE, OTHER = Space("embedder", 3), Space("other", 3)
NUM_ROWS = 5
ROWS: Mapping[str, Sequence[int]] = {"a": [0], "b": [1, 2], "c": [3, 4]}
EMBEDDED = content_of([[1, 0, 0]])
EMBEDDED_ELSEWHERE = content_of([[1, 0, 0]], embedder="other")


def new_rows() -> HiddenRows:
    return HiddenRows(NUM_ROWS, lambda document: ROWS.get(document, ()))


def take(hidden: HiddenRows, step: Step, after: int, version: int, **since: int) -> None:
    changes = changes_of(step, after=after, version=version, since=since)
    hidden.take(hiding_changes(changes), version)


def hidden_at(hidden: HiddenRows, version: int, space: Space = SPACE) -> list[int]:
    live = hidden.live_at(version, space)
    return [] if live is None else [row for row in range(NUM_ROWS) if not live[row]]


def test_rows_are_hidden_from_the_version_on_that_changed_their_document() -> None:
    hidden = new_rows()
    take(hidden, {"a": None, "new": EMBEDDED}, 0, 1)
    take(hidden, {"b": EMBEDDED}, 1, 2)
    take(hidden, {"a": EMBEDDED, "b": None}, 2, 3)
    assert [hidden_at(hidden, version) for version in range(4)] == [[], [0], [0, 1, 2], [0, 1, 2]]


def test_who_jumps_over_versions_knows_what_they_hid() -> None:
    hidden = new_rows()
    take(hidden, {}, 0, 1)
    take(hidden, {"a": None, "b": EMBEDDED, "c": None}, 1, 5, a=2, b=4, c=5)
    at = [hidden_at(hidden, version) for version in range(1, 6)]
    assert at == [[], [0], [0], [0, 1, 2], [0, 1, 2, 3, 4]]


def test_a_document_of_another_embedder_shows_as_the_base_has_it() -> None:
    hidden = new_rows()
    take(hidden, {"a": EMBEDDED, "b": EMBEDDED_ELSEWHERE}, 0, 1)
    take(hidden, {"a": EMBEDDED_ELSEWHERE, "b": None}, 1, 2)
    take(hidden, {"b": EMBEDDED}, 2, 3)
    assert [hidden_at(hidden, version) for version in (1, 2, 3)] == [[0], [1, 2], [1, 2]]
    at = [hidden_at(hidden, version, OTHER) for version in (1, 2, 3)]
    assert at == [[1, 2], [0, 1, 2], [0]]


def test_rows_that_were_hidden_long_ago_take_no_memory() -> None:
    hidden = new_rows()
    take(hidden, {"c": None}, 0, 1)
    for version in range(2, 40_000):
        take(hidden, {"a": EMBEDDED if version % 2 else EMBEDDED_ELSEWHERE}, version - 1, version)
    assert hidden_at(hidden, 39_998) == [3, 4]
    assert hidden_at(hidden, 39_999) == [0, 3, 4]
    assert hidden_at(hidden, 39_999, OTHER) == [3, 4]
    assert hidden.num_remembered < 20_000
