"""The part `serve` as Markdown: one table to compare, one with everything."""

from __future__ import annotations

from bench.markdown import heading, number, spread, table
from bench.reports import ServeCost, ServeReport, ServeSet, ServeSystem, Spread

_BATCH = 64
_MANY = 32


def serve_tables(report: ServeReport) -> str:
    what = (
        f"Top {report.top_k}, recall@{report.top_k} of at least {report.recall_least:g} for every "
        "system. `raygion-SxR` has S shards with R replicas each and two gateways; its hits carry "
        "texts and metadata in the form `JSON`, and ids and scores in its other forms, as those "
        "of the other systems do"
    )
    parts = [heading("Serving", report.environment, what)]
    for one in report.sets:
        parts.append(
            f"**{one.name}**: {one.title}; {one.num_vectors:,} vectors of {one.dimension} "
            f"dimensions, {one.num_queries:,} queries."
        )
        parts += [_compared(one), *_left_out(one), "The same with every case:", _details(one)]
    return "\n\n".join(parts)


def _compared(one: ServeSet) -> str:
    rows = [
        (
            system.title,
            form,
            f"{recall:.3f}" if recall else "–",
            spread(_rate(system, form, 1)),
            spread(_rate(system, form, 8)),
            spread(_rate(system, form, _MANY)),
            spread(_rate(system, form, None)),
            spread(_p50(system, form)),
            spread(_cpu(system, form)),
            number(system.pss_mib),
            number(system.build_s),
        )
        for system in one.systems
        for form, recall in system.recall.items()
    ]
    columns = (
        "system", "form", "recall@10", "queries/s, 1 client", "8 clients",
        f"{_MANY} clients", f"batches of {_BATCH}", "p50 ms, 1 client",
        f"CPU ms a request, {_MANY} clients", "memory MiB", "build s",
    )  # fmt: skip
    return table(columns, rows)


def _left_out(one: ServeSet) -> list[str]:
    return [f"`{left.name}` was not measured: {left.reason}" for left in one.left_out]


def _details(one: ServeSet) -> str:
    rows = (
        (
            system.name,
            cost.form,
            cost.clients,
            cost.batch,
            spread(cost.queries_per_s),
            spread(cost.p50_ms),
            spread(cost.p99_ms),
            spread(cost.server_cpu_ms),
            spread(cost.client_cpu_ms),
            spread(cost.others_cores),
            f"{system.index}" + (f", ef {system.ef_search}" if system.ef_search else ""),
            spread(system.speed),
        )
        for system in one.systems
        for cost in system.costs
    )
    columns = (
        "system", "form", "clients", "batch", "queries/s", "p50 ms", "p99 ms",
        "server's CPU ms a request", "load generator's", "others' cores", "index",
        "Faiss on one thread meanwhile",
    )  # fmt: skip
    return table(columns, rows)


def _of(system: ServeSystem, form: str, clients: int | None) -> ServeCost | None:
    """One query in a request from so many clients, or batches for None.

    In process, more threads than cores would only wait: those that there are stand for more.
    """
    costs = [c for c in system.costs if c.form == form and (c.batch > 1) == (clients is None)]
    exact = [c for c in costs if clients in (None, c.clients)]
    alone = costs if len(costs) == 1 and 1 < costs[0].clients < _MANY and clients == _MANY else []
    return next(iter(exact or alone), None)


def _rate(system: ServeSystem, form: str, clients: int | None) -> Spread | None:
    cost = _of(system, form, clients)
    return None if cost is None else cost.queries_per_s


def _p50(system: ServeSystem, form: str) -> Spread | None:
    cost = _of(system, form, 1)
    return None if cost is None else cost.p50_ms


def _cpu(system: ServeSystem, form: str) -> Spread | None:
    cost = _of(system, form, _MANY)
    return None if cost is None else cost.server_cpu_ms
