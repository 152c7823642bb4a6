"""`raygion search`, `ask` and `status`: a region's HTTP interface from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from cluster.answers import ANSWER_TOP_K_DEFAULT
from cluster.errors import InvalidArgument
from deployments.cli_options import Config, Json, Region, opened
from deployments.console import SHORT, out, print_json, say, table
from deployments.http_client import HttpRegion
from deployments.installation import Installation

Corpus = Annotated[
    str | None, typer.Option("--corpus", help="Which corpus; needed when there are several.")
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", help='Condition on metadata, as JSON: {"region": "africa"}'),
]
Release = Annotated[
    int | None, typer.Option("--release", help="Ask this release instead of the current one.")
]


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    top_k: Annotated[int, typer.Option("--top-k", help="How many passages.")] = 5,
    filter: Filter = None,
    corpus: Corpus = None,
    release: Release = None,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Find passages.

    Example: raygion search "hydropower exports" --filter '{"region": "south-asia"}'
    """
    body = _body(query=query, top_k=top_k, filter=_parsed(filter), corpus=corpus, release=release)
    with HttpRegion.of(opened(config, region)) as http:
        found = http.post("/v1/search", body)
    if as_json:
        print_json(found)
        return
    rows = [(f"{hit['score']:.4f}", hit["id"], hit["text"]) for hit in found["hits"]]
    out.print(table(_title(found), ("score", "id", "text"), rows))


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    top_k: Annotated[
        int, typer.Option("--top-k", help="How many passages to read.")
    ] = ANSWER_TOP_K_DEFAULT,
    filter: Filter = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest answer.")] = 128,
    corpus: Corpus = None,
    release: Release = None,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Ask a question; the answer streams in, then the passages that it was made of.

    Example: raygion ask "What is the capital of Chad?" --filter '{"region": "africa"}'
    """
    body = _body(
        question=question,
        top_k=top_k,
        filter=_parsed(filter),
        max_tokens=max_tokens,
        corpus=corpus,
        release=release,
    )
    with HttpRegion.of(opened(config, region)) as http:
        if as_json:
            print_json(http.post("/v1/answer", body))
            return
        for event, data in http.stream("/v1/answer", {**body, "stream": True}):
            if event == "token":
                out.print(data["text"], end="", markup=False, soft_wrap=True)
            elif event == "done":
                out.print()
                cited = enumerate(data["citations"], 1)
                rows = [(f"[{i}]", c["id"], f"{c['score']:.4f}", c["text"]) for i, c in cited]
                out.print(table(_title(data), ("", "id", "score", "text"), rows))


def status(config: Config = None, region: Region = None, as_json: Json = False) -> None:
    """What a region serves, and how well.

    Example: raygion status
    """
    installation = opened(config, region)
    with HttpRegion.of(installation) as http:
        summary = http.get("/v1/status")
    if as_json:
        print_json(summary)
        return
    say(
        f"Region [bold]{summary['region']}[/]: release {summary['release'] or 'none'}, "
        f"{'healthy' if summary['healthy'] else 'not healthy'}"
    )
    say(
        f"leader {summary['leader']}, epoch {summary['epoch']}, "
        f"release log at {summary['log_position']}"
    )
    if (client := _python_client(installation)) is not None:
        say(f"Python client: {client}")
    for release in summary["resident"]:
        out.print(_resident(release, current=release["release"] == summary["release"]))


def _python_client(installation: Installation) -> str | None:
    # Imported late: it brings Ray, which the other commands of this file do without.
    from deployments import region_host

    return region_host.python_client(installation)


def _resident(release: dict[str, Any], *, current: bool) -> Table:
    """A table of the corpora of one resident release."""
    rows = [
        (
            corpus["corpus"],
            corpus["index_version"][:SHORT],
            corpus["num_passages"],
            corpus["shards"],
            f"{corpus['replicas_serving']} of {corpus['replicas']}",
            f"{corpus['recall_at_10']:.3f}",
        )
        for corpus in release["corpora"]
    ]
    title = f"Release {release['release']}{' (current)' if current else ''}"
    model = release["model"] or "search only"
    columns = ("corpus", "index", "passages", "shards", "replicas", "recall@10")
    return table(f"{title}: {model}", columns, rows)


def _title(answered: dict[str, Any]) -> str:
    return (
        f"release {answered['release']}, region {answered['region']}, "
        f"coverage {answered['coverage']:.2f}, {answered['took_ms']:.0f} ms"
    )


def _body(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _parsed(filter: str | None) -> object:
    if filter is None:
        return None
    try:
        return orjson.loads(filter)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"is no valid JSON: {error}", "filter") from error
