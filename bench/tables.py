"""The reports as Markdown tables, and the page that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, assert_never

from bench.markdown import heading, spread, table
from bench.reports import (
    RESULTS,
    Breakdown,
    CpuUse,
    GenerateReport,
    LiveReport,
    QualityReport,
    SearchReport,
    ServeReport,
)
from bench.serve.tables import serve_tables

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"
_Report: TypeAlias = SearchReport | ServeReport | LiveReport | GenerateReport | QualityReport
_REPORTS: Mapping[str, type[_Report]] = {
    "search": SearchReport,
    "serve": ServeReport,
    "live": LiveReport,
    "generate": GenerateReport,
    "quality": QualityReport,
}


def tables_of(parts: Sequence[str], *, quick_too: bool) -> str:
    """The tables of those parts that were measured in this checkout, now or earlier."""
    found = (_tables(part, quick_too=quick_too) for part in parts)
    return "\n\n".join(tables for tables in found if tables)


def with_tables(page: str, tables: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with the part between its two markers replaced. Raises ValueError without them."""
    before, has_begin, rest = page.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise ValueError(f"the page lacks its markers {begin} and {end}")
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def search_tables(report: SearchReport) -> str:
    facts = report.corpus
    corpus = f"{facts.num_passages:,} passages, {facts.dimension} dimensions, {facts.index}"
    local = table(
        ("index", "in process", "threads", "batch", "queries/s", "p50 µs a call"),
        (
            (c.layout, c.what, c.threads, c.batch, spread(c.queries_per_s), spread(c.p50_us))
            for c in report.local
        ),
    )
    http = table(
        ("index", "asked", "clients", "batch", "queries/s", "p50 ms", "p99 ms",
         "÷ same answer in process", "÷ Faiss alone"),
        (
            (c.layout, c.asked, c.clients, c.batch, spread(c.queries_per_s), spread(c.p50_ms),
             spread(c.p99_ms), spread(c.same_answer_ratio), spread(c.faiss_ratio))
            for c in report.http
        ),
    )  # fmt: skip
    limits = table(
        ("clients", "requests/s", "p50 ms", "CPU of the load generator, µs a request"),
        (
            (c.clients, spread(c.requests_per_s), spread(c.p50_ms), spread(c.client_cpu_us))
            for c in report.limits
        ),
    )
    python = table(
        ("index", "p50 ms"),
        ((layout, spread(p50)) for layout, p50 in report.python_client_p50_ms.items()),
    )
    return "\n\n".join(
        (
            heading("Search", report.environment, corpus),
            "`POST /v1/search`, top 10 with texts and metadata, one replica a shard:",
            http,
            "The same index in one process on this machine:",
            local,
            "Where the time of one vector query goes, one client, µs (means; in brackets what a "
            "stage contains, measured in process):",
            _breakdowns([b for b in report.breakdowns if b.asked == "vector"]),
            "The same for a text query:",
            _breakdowns([b for b in report.breakdowns if b.asked == "text"]),
            "CPU time of one request, ms, by process:",
            _cpu(report.cpu),
            "One vector query through the Python client (`ray.get(region.search.remote(...))`):",
            python,
            "The load generator itself, against `GET /healthz` of the same gateway:",
            limits,
        )
    )


def generate_tables(report: GenerateReport) -> str:
    costs = table(
        ("", "clients", "answers", "prompt tokens", "answer tokens", "tokens/s",
         "first token ms", "tokens/s ÷ alone", "first token later, ms"),
        (
            (c.what, c.clients, c.answers, round(c.prompt_tokens), round(c.answer_tokens),
             spread(c.tokens_per_s), spread(c.first_token_ms), spread(c.tokens_ratio),
             spread(c.first_token_later_ms))
            for c in report.costs
        ),
    )  # fmt: skip
    roles = list(dict.fromkeys(role for cost in report.costs for role in cost.cpu_ms))
    cpu = table(
        ("", "clients", *roles),
        (
            (cost.what, cost.clients, *(spread(cost.cpu_ms.get(role)) for role in roles))
            for cost in report.costs
        ),
    )
    what = f"{report.model}, bfloat16 on one thread, at most {report.tokens_max} tokens an answer"
    return "\n\n".join(
        (
            heading("Generate", report.environment, what),
            costs,
            "CPU time of one token, ms, by process:",
            cpu,
        )
    )


def quality_tables(report: QualityReport) -> str:
    what = (
        f"`{report.data}`: {report.num_questions:,} questions over {report.num_paragraphs:,} "
        f"paragraphs ({report.num_passages:,} passages)"
    )
    rows = table(
        ("index", "shards", "asked", "hit@1", "hit@5", "differ from one index in process",
         "differ from Faiss's IndexFlatIP"),
        (
            (r.index, r.shards, r.asked, f"{r.hit_at_1:.3f}", f"{r.hit_at_5:.3f}",
             _or_dash(r.differs_from_one_index), _or_dash(r.differs_from_faiss))
            for r in report.rows
        ),
    )  # fmt: skip
    return "\n\n".join((heading("Quality", report.environment, what, timed=False), rows))


def live_tables(report: LiveReport) -> str:
    what = f"{report.num_rows:,} made-up vectors of {report.dimension} numbers, 2 shards"
    costs = table(
        ("", "a second", "p50 ms", "p99 ms", "ratio"),
        (
            (c.what, spread(c.per_s), spread(c.p50_ms), spread(c.p99_ms), spread(c.ratio))
            for c in report.costs
        ),
    )
    return "\n\n".join((heading("Live documents", report.environment, what), costs))


def _tables(part: str, *, quick_too: bool) -> str:
    path = RESULTS / f"{part}.json"
    if not path.is_file():
        return ""
    report = _REPORTS[part].from_bytes(path.read_bytes(), source=path.name)
    if report.environment.quick and not quick_too:
        return ""
    match report:
        case SearchReport():
            return search_tables(report)
        case ServeReport():
            return serve_tables(report)
        case LiveReport():
            return live_tables(report)
        case GenerateReport():
            return generate_tables(report)
        case QualityReport():
            return quality_tables(report)
        case _ as unreachable:
            assert_never(unreachable)


def _breakdowns(breakdowns: Sequence[Breakdown]) -> str:
    if not breakdowns:
        return ""
    names = [stage.name for stage in breakdowns[0].stages]
    rows: list[list[object]] = []
    for number, name in enumerate(names):
        stages = [breakdown.stages[number] for breakdown in breakdowns]
        inner = stages[0].part_of_above
        cells = [f"({spread(s.us)})" if inner else spread(s.us) for s in stages]
        rows.append([f"({name})" if inner else name, *cells])
    totals = [f"**{spread(breakdown.total_us)}**" for breakdown in breakdowns]
    rows.append(["**all, as the client sees it**", *totals])
    return table(("stage", *(breakdown.layout for breakdown in breakdowns)), rows)


def _cpu(uses: Sequence[CpuUse]) -> str:
    roles = list(dict.fromkeys(role for use in uses for role in use.ms_by_role))
    rows = (
        (use.layout, use.asked, use.clients,
         *(spread(use.ms_by_role.get(role)) for role in roles))
        for use in uses
    )  # fmt: skip
    return table(("index", "asked", "clients", *roles), rows)


def _or_dash(value: int | None) -> str:
    return "–" if value is None else str(value)
