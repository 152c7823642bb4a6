"""`raygion eval`: how well a region finds what people have judged to be right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.query.search import TOP_K_DEFAULT
from cluster.query.terms import TOP_K_MAX
from deployments.cli.options import Config, Json, Region, opened
from deployments.cli.queries import Release
from deployments.clients.http_client import HttpRegion
from deployments.evaluation.evaluation import Evaluation, Plan, Unit, evaluate, parse_measures
from deployments.evaluation.files import read_judgements, read_queries
from deployments.terminal import Steps, out, print_json, say, table

_STEP = "Ask"
_FRIENDLY = {"R": "recall", "RR": "reciprocal rank", "P": "precision", "AP": "average precision"}


def eval(
    corpus: Annotated[str, typer.Argument(help="Name of the corpus.")],
    queries: Annotated[
        Path,
        typer.Option(
            "--queries",
            help="JSON lines with id and text, tab-separated id and text, or vectors as .npy.",
        ),
    ],
    qrels: Annotated[
        Path,
        typer.Option(
            "--qrels",
            help="TREC's four columns, tab-separated query, document and grade, or JSON lines.",
        ),
    ],
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, max=TOP_K_MAX, help="How many hits are judged.")
    ] = TOP_K_DEFAULT,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="A measure of ir-measures, such as nDCG@5, P@1 or AP; may be given several times. "
            "By default nDCG, recall and reciprocal rank (MRR).",
        ),
    ] = None,
    by: Annotated[
        Unit,
        typer.Option(
            "--by", help="Kind that the judgements name; a document ranks as its best passage."
        ),
    ] = Unit.DOCUMENT,
    release: Release = None,
    deadline_s: Annotated[
        float, typer.Option("--deadline-s", min=1.0, help="Time for all queries together.")
    ] = 3600.0,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Measure retrieval against judged queries: nDCG, recall and MRR.

    One release answers all queries. When some fail, the figures are of the others and the status 1.

    Example: raygion eval xquad --queries questions.jsonl --qrels qrels.tsv
    """
    installation = opened(config, region)
    plan = Plan(
        corpus=corpus,
        queries=read_queries(queries),
        judgements=read_judgements(qrels),
        measures=parse_measures(metric or (), top_k),
        top_k=top_k,
        by=by,
        release=release,
    )
    steps = Steps(quiet=as_json)
    with HttpRegion.of(installation) as http, steps.shown(), steps.step(_STEP) as step:
        found = evaluate(
            http,
            plan,
            deadline=Deadline.after(deadline_s),
            pause=SYSTEM_CLOCK.sleep,
            count=step.count,
        )
        step.note(f"{found.num_answered} queries")
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.num_failed:
        raise typer.Exit(1)


def _show(found: Evaluation) -> None:
    rows = [(name, _friendly(name), f"{value:.4f}") for name, value in found.metrics.items()]
    title = f"{found.corpus}: first {found.top_k} {found.by}s"
    out.print(table(title, ("measure", "", "mean"), rows))
    say(
        f"Release {found.release} of region [bold]{found.region}[/] alone answered "
        f"{found.num_answered} queries; coverage {found.coverage:.2f}"
    )
    if found.num_failed:
        codes = ", ".join(f"{count} {code}" for code, count in found.failures.items())
        asked = found.num_answered + found.num_failed
        failed = f"[bold red]{found.num_failed} of {asked} queries failed[/]"
        say(f"{failed} and are not in the means: {codes}")
    if found.num_unjudged:
        say(f"{found.num_unjudged} queries have no relevant {found.by} and were not asked")
    if found.num_without_query:
        say(f"{found.num_without_query} judged queries are not in the file of queries")
    if not found.num_hits_judged:
        say(
            "[bold]No hit at all was judged[/]: do the ids agree? The judgements should name "
            f"{found.by}s; see --by"
        )


def _friendly(measure: str) -> str:
    return _FRIENDLY.get(measure.partition("@")[0], "")
