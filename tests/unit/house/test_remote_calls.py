"""Calls of actors fit the methods that they name, which the type checker cannot see: a handle of an
actor takes any method with any arguments.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection
from pathlib import Path

import pytest

from actors.coordinator.coordinator import Coordinator
from actors.models.embedding_worker import EmbeddingWorker
from actors.mutations.documents import Documents
from actors.region.front import Front
from actors.runtime.progress import ProgressCounter
from actors.shards.replica import ShardReplica

ROOT = Path(__file__).resolve().parents[3]
ACTORS = (Coordinator, Documents, EmbeddingWorker, Front, ProgressCounter, ShardReplica)
BY_NAME = ("call", "_call", "_change")
"""What takes the name of an actor's method, and its arguments."""


def calls_that_fit_no_actor(source: str) -> list[str]:
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and not fits(node)
    ]


def fits(call: ast.Call) -> bool:
    """Whether some actor has such a method; also true of what is no call of an actor, or gets its
    arguments from elsewhere.
    """
    match call:
        case ast.Call(ast.Attribute(ast.Attribute(attr=method), "remote"), args):
            pass
        case ast.Call(ast.Attribute(attr=caller), [ast.Constant(str(method)), *args]) if (
            caller in BY_NAME
        ):
            pass
        case _:
            return True
    keywords = [keyword.arg for keyword in call.keywords]
    if None in keywords or any(isinstance(arg, ast.Starred) for arg in args):
        return True
    methods = [getattr(actor, method) for actor in ACTORS if hasattr(actor, method)]
    return any(takes(method, len(args), [k for k in keywords if k]) for method in methods)


def takes(method: object, num_args: int, keywords: Collection[str]) -> bool:
    assert callable(method)
    try:
        inspect.signature(method).bind("self", *range(num_args), **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("layer", ["actors", "deployments"])
def test_every_call_of_an_actor_fits_a_method(layer: str) -> None:
    offenders = [
        f"{source.relative_to(ROOT)}, {call}"
        for source in sorted((ROOT / layer).rglob("*.py"))
        for call in calls_that_fit_no_actor(source.read_text())
    ]
    assert not offenders


@pytest.mark.parametrize(
    ("call", "fitting"),
    [
        ("worker.embed.remote(texts, 60.0)", True),
        ("worker.embed.remote(texts, timeout_s=60.0)", True),
        ("worker.embed.remote(texts)", False),
        ("worker.embed.remote(texts, 60.0, 1)", False),
        ("worker.embed.remote(texts, seconds=60.0)", False),
        ("workers[0].embeds.remote(texts, 60.0)", False),
        ("worker.embed.remote(*args)", True),
        ("actor.options(num_cpus=0).remote(1)", True),
        ("task.remote(1)", True),
        ("await self._coordinator.call('pulse', process, share, releases)", True),
        ("self._coordinator.call('pulse', process, share)", False),
        ("self._change('request', request)", True),
        ("self._call('roll_back', number)", False),
    ],
)
def test_the_check_itself_sees_what_does_not_fit(call: str, fitting: bool) -> None:
    source = f"async def f():\n    {call}\n"
    assert (calls_that_fit_no_actor(source) == []) is fitting
