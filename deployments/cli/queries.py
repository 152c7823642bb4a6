"""`raygion search` and `ask`: a region's HTTP interface from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster import exact_json
from cluster.config import load_settings
from cluster.errors import InvalidArgument
from cluster.query.answers import ANSWER_TOP_K_DEFAULT
from cluster.query.read_consistency import ConsistencyLevel
from deployments.cli.options import Config, Json, Region, opened
from deployments.clients.http_client import HttpRegion
from deployments.terminal import out, print_json, table

if TYPE_CHECKING:
    from deployments.clients.regions_client import RegionsClient

Corpus = Annotated[
    str | None, typer.Option("--corpus", help="Name of the corpus; needed when there are several.")
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", help='Condition on metadata, as JSON: {"region": "africa"}'),
]
Release = Annotated[
    int | None, typer.Option("--release", help="Ask this release instead of the current one.")
]
Documents = Annotated[
    str | None,
    typer.Option(
        "--documents", help="With --release: `base` leaves out what was written since it was built."
    ),
]
Level = Annotated[
    str | None,
    typer.Option("--consistency", help=f"How current: {', '.join(ConsistencyLevel)}."),
]
Session = Annotated[
    str | None,
    typer.Option("--session", help="Token of an earlier answer: nothing older than that one."),
]
MaxStaleness = Annotated[
    int | None,
    typer.Option("--max-staleness-ms", help="Bound on how long ago the release was current."),
]


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    top_k: Annotated[int, typer.Option("--top-k", help="How many passages.")] = 5,
    filter: Filter = None,
    corpus: Corpus = None,
    release: Release = None,
    documents: Documents = None,
    consistency: Level = None,
    session: Session = None,
    max_staleness_ms: MaxStaleness = None,
    config: Config = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Find passages.

    Example: raygion search "hydropower exports" --filter '{"region": "south-asia"}'
    """
    body = _body(
        query=query,
        top_k=top_k,
        filter=_parsed(filter),
        corpus=corpus,
        release=release,
        documents=documents,
        consistency=consistency,
        session=session,
        max_staleness_ms=max_staleness_ms,
    )
    with _reached(config, region) as http:
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
    documents: Documents = None,
    consistency: Level = None,
    session: Session = None,
    max_staleness_ms: MaxStaleness = None,
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
        documents=documents,
        consistency=consistency,
        session=session,
        max_staleness_ms=max_staleness_ms,
    )
    with _reached(config, region) as http:
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
                if data["truncated"] is not None:
                    out.print(_lacking(data["truncated"]))


def _reached(config: Path | None, region: str | None) -> HttpRegion | RegionsClient:
    """The region that is named, or the only one; else all of them, as routing orders them."""
    settings = load_settings(config)
    if region is None and len(settings.regions) > 1:
        # Imported late: it knows the way around the globe, which takes a while to load.
        from deployments.clients.regions_client import RegionsClient

        return RegionsClient(settings)
    return HttpRegion.of(opened(config, region))


def _title(answered: dict[str, Any]) -> str:
    asked, served_by = answered["region"], answered["served_by"]
    by = asked if served_by == asked else f"{asked}, served by {served_by}"
    return (
        f"release {answered['release']}, region {by}, "
        f"coverage {answered['coverage']:.2f}, {answered['took_ms']:.0f} ms"
    )


def _lacking(truncated: dict[str, int]) -> str:
    """The parts that the prompt lacked: for a single question, passages alone."""
    return (
        f"Not all passages fit into the prompt: {truncated['passages']} left out, "
        f"{truncated['passages_shortened']} shortened."
    )


def _body(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _parsed(filter: str | None) -> object:
    if filter is None:
        return None
    try:
        return exact_json.loads(filter.encode())
    except ValueError as error:
        raise InvalidArgument(f"is no valid JSON: {error}", "filter") from error
