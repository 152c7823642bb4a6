"""Search over the network against what one would pick instead, on the same vectors.

The systems run one after another, each in a process of its own: an idle Ray cluster or database
beside the one that is measured would take its cores. Beside each, Faiss on one thread says how fast
the machine was then.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from bench.peers.vector_sets import RECALL_LEAST, TOP_K, VectorSet, prepare
from bench.plan import Plan
from bench.reports import ServeLeftOut, ServeReport, ServeSet, ServeSystem, environment_now
from bench.serve.system import measure_system
from deployments.hosting.interrupts import end_alike

T = TypeVar("T")
_SYSTEM_TIMEOUT_S = 1800.0
_END_TIMEOUT_S = 60.0


class _Failed(Exception):
    """A process of its own failed; the message says why."""


def measure(plan: Plan) -> ServeReport:
    """A system that cannot be measured is reported with the reason; the others go on."""
    environment = environment_now(quick=plan.quick, repetitions=plan.serve_repetitions)
    sets = tuple(_measure_set(name, plan) for name in plan.serve.sets)
    return ServeReport(environment=environment, top_k=TOP_K, recall_least=RECALL_LEAST, sets=sets)


def _measure_set(name: str, plan: Plan) -> ServeSet:
    data = _in_own_process(prepare, name, plan.serve, plan.xquad)
    measured: list[ServeSystem] = []
    left_out: list[ServeLeftOut] = []
    for system in plan.serve.systems:
        print(f"serve: {name}, {system}", flush=True)
        try:
            measured.append(_in_own_process(measure_system, system, data, plan))
        except _Failed as error:
            print(f"serve: {system} not measured: {error}", flush=True)
            left_out.append(ServeLeftOut(name=system, reason=str(error)))
    return _set(data, tuple(measured), tuple(left_out))


def _set(
    data: VectorSet, systems: tuple[ServeSystem, ...], left_out: tuple[ServeLeftOut, ...]
) -> ServeSet:
    vectors = data.vectors
    return ServeSet(
        name=data.name,
        title=data.facts.title,
        num_vectors=len(vectors),
        dimension=vectors.shape[1],
        num_queries=len(data.queries),
        systems=systems,
        left_out=left_out,
    )


def _in_own_process(function: Callable[..., T], *args: object) -> T:
    """The result of the function. Raises _Failed with the reason when it fails."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        if not ours.poll(_SYSTEM_TIMEOUT_S):
            raise _Failed(f"it took more than {_SYSTEM_TIMEOUT_S:g} s")
        is_good, result = ours.recv()
        process.join(_END_TIMEOUT_S)
    except EOFError:
        process.join()
        raise _Failed(f"its process ended with {process.exitcode}") from None
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if not is_good:
        raise _Failed(result)
    value: T = result
    return value


def _send_result(results: Connection, function: Callable[..., T], args: tuple[object, ...]) -> None:
    # Blocks end what they started.
    end_alike()
    try:
        results.send((True, function(*args)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        traceback.print_exc()
        results.send((False, f"{type(error).__name__}: {error}"))
