"""Tests keep to the house's rules, by which they stay tests of behaviour: no test is a library of
another, none reaches for what is private, changes a number of the product, or sleeps.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]

BOUND = "whether what is kept has a bound, or goes again, shows nowhere else"
RAYS = "Ray Serve tells this to nobody, and the tests of serve_private notice when it changes"
REACHES = {
    ("unit/actors/mutations/test_log_thread.py", "_start_anew"): "only a lost store leads there",
    ("unit/actors/mutations/test_log_thread.py", "_writer"): BOUND,
    ("unit/actors/query/test_answering.py", "_tokenizers"): BOUND,
    ("unit/cluster/artifacts/test_cache_space.py", "_pins"): "a process ends to give up all",
    ("unit/cluster/store/test_object_store_contract.py", "_strip_protocol"): "fsspec's own hook",
    ("unit/deployments/serve/test_autoscaling.py", "_aggregated_metrics_value"): RAYS,
    ("unit/deployments/serve/test_controller.py", "_schedule_replica"): RAYS,
    ("unit/deployments/serve/test_draining.py", "_bound_deployment"): RAYS,
    ("unit/deployments/serve/test_draining.py", "_deployment_config"): RAYS,
    ("unit/deployments/serve/test_serve_placement.py", "_pending_replicas"): RAYS,
    ("unit/deployments/serve/test_serve_placement.py", "_schedule_replica"): RAYS,
}
"""Reaches for what is private, with their reasons."""

FEW = "few rows have to pass for many, in all of the parts of a search at once"
NUMBERS = {
    ("unit/actors/shards/test_vector_rows.py", "SCANNED_ROWS_MAX"): FEW,
    ("unit/actors/shards/test_vector_rows.py", "_LOOKED_AT_ONCE"): FEW,
    ("unit/actors/shards/test_vector_rows.py", "_SCANNED"): FEW,
    ("unit/deployments/http/streams/test_reply_flow.py", "BYTES_PER_S_MIN"): "minutes otherwise",
}
"""Numbers of the product that tests change, with the reasons why none of them is a parameter."""

VLLM = re.compile(r"vllm(\..+)?|deployments\.serve\.generator")
"""Modules whose import takes nine seconds of a core."""

ID_MAX = 320
"""Characters of the id of a test, its parameters included."""


@cache
def trees() -> Sequence[tuple[str, ast.Module]]:
    paths = TESTS.rglob("*.py")
    return [(str(path.relative_to(TESTS)), ast.parse(path.read_text())) for path in paths]


def unit_trees() -> Iterator[tuple[str, ast.Module]]:
    """Those of the unit tests, and of what tests share."""
    return ((name, tree) for name, tree in trees() if name.startswith(("unit/", "support/")))


def reaches(tree: ast.Module) -> Iterator[str]:
    """`thing._name`, unless it is an object's own."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("self" | "cls")):
                pass
            case ast.Attribute(attr=name) if re.match(r"_[a-z]", name):
                yield name


def patched_numbers(tree: ast.Module) -> Iterator[str]:
    """Constants that are set by their name: `setattr(module, "_WAIT_S", 0.0)` and its like."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                ast.Attribute(attr="setattr" | "object" | "patch") | ast.Name("patch"), args
            ):
                for arg in args:
                    match arg:
                        case ast.Constant(str(name)) if re.fullmatch(
                            r"([\w.]+\.)?_?[A-Z\d_]+", name
                        ):
                            yield name.rpartition(".")[2]


def sleeps(tree: ast.Module) -> Iterator[str]:
    """Waits by the system's clock; to let others have a turn is none."""
    for node in ast.walk(tree):
        match node:
            case ast.Import([ast.alias("time")]) | ast.ImportFrom("time"):
                yield "time"
            case ast.Call(ast.Attribute(ast.Name("asyncio"), "sleep"), [ast.Constant(0)]):
                pass
            case ast.Call(ast.Attribute(ast.Name("asyncio"), "sleep") as call):
                yield ast.unparse(call)


def test_no_test_is_a_library_of_another() -> None:
    offenders = [
        f"{name}, line {node.lineno}: {node.module}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and ".test_" in (node.module or "")
    ]
    assert not offenders


def test_nothing_private_is_reached_for() -> None:
    """Ask what the public parts tell, or let them tell what somebody else wants to know, too."""
    assert {
        (name, reach) for name, tree in unit_trees() for reach in reaches(tree)
    } == REACHES.keys()


def test_no_number_is_changed() -> None:
    """Let it be a parameter whose default it is, or inject a clock."""
    found = {(name, number) for name, tree in unit_trees() for number in patched_numbers(tree)}
    assert found == NUMBERS.keys()


def test_what_starts_clusters_is_marked_so() -> None:
    """Without the mark it would run among the unit tests, beside others of its kind."""
    unmarked = [
        name
        for name, tree in trees()
        if re.match(r"integration/.*test_\w+\.py", name)
        and "pytest.mark.integration" not in ast.unparse(tree)
    ]
    assert not unmarked


def test_no_unit_test_waits_by_the_systems_clock() -> None:
    """Wait for an event, or by `tests.support.waiting`, or let the test move the clock."""
    found = {name for name, tree in trees() if name.startswith("unit/") and list(sleeps(tree))}
    assert not found


def test_vllm_is_imported_by_those_alone_who_need_it() -> None:
    """A module of tests is imported by each of the processes that share the tests, whichever of
    them run here; so the import belongs into the test, or into its fixture.
    """
    assert {
        name
        for name, tree in trees()
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and VLLM.fullmatch(node.module or "")
    } == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", ["time"]),
        ("from time import sleep", ["time"]),
        ("asyncio.sleep(0.01)", ["asyncio.sleep"]),
        ("asyncio.sleep(0); clock.sleep(1.0)", []),
    ],
)
def test_the_check_itself_sees_sleeps(source: str, found: list[str]) -> None:
    assert list(sleeps(ast.parse(source))) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("cache._held == {}", ["_held"]),
        ("cache.entries()[0]._held", ["_held"]),
        ("self._held, cls._made, cache.held, _held, cache.__dict__", []),
    ],
)
def test_the_check_itself_sees_reaches(source: str, found: list[str]) -> None:
    assert list(reaches(ast.parse(source))) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('monkeypatch.setattr(module, "_WAIT_S", 0.0)', ["_WAIT_S"]),
        ('monkeypatch.setattr("room.module.PARTS_MAX", 2)', ["PARTS_MAX"]),
        ('patch("room.module.PARTS_MAX", 2)', ["PARTS_MAX"]),
        ('mock.patch.object(module, "PARTS_MAX", 2)', ["PARTS_MAX"]),
        ('monkeypatch.setattr(os, "fsync", full); setenv("HOME", "X")', []),
    ],
)
def test_the_check_itself_sees_changed_numbers(source: str, found: list[str]) -> None:
    assert list(patched_numbers(ast.parse(source))) == found


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by it, and collects none of them where two have the same."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []


def test_no_id_is_made_of_content(request: pytest.FixtureRequest) -> None:
    """The processes that share the tests must find the same ids, and bytes of a file may hold the
    time at which the file was made.
    """
    ids = [item.nodeid for item in request.session.items]
    assert [test_id[:ID_MAX] for test_id in ids if len(test_id) > ID_MAX] == []
