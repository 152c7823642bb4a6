"""`raygion corpus ...`: which corpora there are, what was built of them, and how one goes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from cluster.clock import SYSTEM_CLOCK
from cluster.corpora.overview import CorpusLine, IndexLine, ShardHole, corpus_line, corpus_lines
from cluster.documents.deletes import drop_corpus
from cluster.errors import Conflict, InvalidArgument
from cluster.mutations.store_log import StoreMutationLog
from deployments.cli.options import Config, Corpus, Json, Region, Store
from deployments.cli.regions import anywhere
from deployments.terminal import SHORT, out, print_json, say, share, size, table, utc

app = typer.Typer(
    help="List, show and drop corpora.",
    epilog="Example: [bold]raygion corpus list[/]",
    no_args_is_help=True,
)


@app.command("list")
def list_corpora(
    config: Config = None, region: Region = None, store: Store = None, as_json: Json = False
) -> None:
    """All corpora, straight from the store; no cluster needs to run.

    The releases are those that regions keep loaded: the current one, the one before, and one that
    is open. The size is that of the documents and of all index versions.

    Example: raygion corpus list
    """
    installation = anywhere(config, region, store)
    state, now_ms = installation.read_release_log(), SYSTEM_CLOCK.wall_ms()
    lines = corpus_lines(installation.catalog, installation.settings, state, now_ms)
    if as_json:
        print_json({"current": state.current(now_ms), "corpora": lines})
        return
    current = state.current(now_ms)
    rows = [
        (
            line.corpus,
            line.num_documents,
            line.position,
            len(line.indexes) or "not built",
            _releases(line.releases, current),
            size(line.size_bytes),
        )
        for line in lines
    ]
    columns = ("corpus", "documents", "position", "indexes", "releases", "size")
    out.print(table("Corpora", columns, rows) if rows else "There is no corpus yet.")


@app.command("show")
def show_corpus(
    corpus: Corpus,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show one corpus, and every index that was built of it.

    An index may differ from what `raygion build` gives now in documents, when the corpus has
    changed since, and in settings. `release propose` takes one that differs in nothing, if its
    embedder is the present one.

    Example: raygion corpus show handbook
    """
    installation = anywhere(config, region, store)
    state, now_ms = installation.read_release_log(), SYSTEM_CLOCK.wall_ms()
    line = corpus_line(installation.catalog, installation.settings, state, corpus, now_ms)
    if as_json:
        print_json(line)
        return
    vectors = "made by the embedder"
    if line.vector_dimension is not None:
        vectors = f"brought along, {line.vector_dimension} numbers each"
    facts = [
        ("documents", str(line.num_documents)),
        ("position", f"{line.position}, of {utc(line.changed_at_ms)} UTC"),
        ("fields", ", ".join(f"{n}: {t}" for n, t in sorted(line.fields.items())) or "none"),
        ("vectors", vectors),
        ("sources", "\n".join(line.sources) or "none"),
        ("size", f"{size(line.size_bytes)}, {size(line.documents_bytes)} of them documents"),
    ]
    out.print(table(f"Corpus {corpus}", ("", ""), facts))
    if not line.indexes:
        say(f"It was not built. Next: raygion build {corpus}")
        return
    columns = (
        "index",
        "position",
        "kind",
        "shards",
        "recall",
        "least",
        "changed",
        "release",
    )
    rows = [_index_row(index) for index in line.indexes]
    out.print(table("Index versions, with their recall@10", columns, rows))
    if holes := [_hole_row(index, hole) for index in line.indexes for hole in index.holes]:
        heads = ("index", "shard", "queries", "crowding", "recall@10", "best hit found")
        out.print(table("Queries for which much less is found than on average", heads, holes))


@app.command("drop")
def drop(
    corpus: Corpus,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Drop it even if a loaded release or the settings use it."),
    ] = False,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Drop a corpus: all of its documents, and what was built of them.

    The next release does not have it any more. Releases that have it already go on, and keep their
    index as long as they are kept. `raygion store gc` removes from the store what nothing needs.
    Ingesting into a corpus of that name starts it anew.

    Example: raygion corpus drop drafts
    """
    if as_json and not yes:
        raise InvalidArgument("with --json nobody can be asked: say --yes as well", "yes")
    installation = anywhere(config, region, store)
    state, now_ms = installation.read_release_log(), SYSTEM_CLOCK.wall_ms()
    line = corpus_line(installation.catalog, installation.settings, state, corpus, now_ms)
    users = _users(line, in_settings=corpus in installation.settings.corpora)
    if users and not force:
        raise Conflict(
            f"corpus {corpus!r} is used by {' and '.join(users)}; propose a release without it "
            f"(`raygion release propose --corpora ...`) and take it out of the settings, "
            "or say --force"
        )
    if not yes:
        say(_what_goes(line))
        typer.confirm(f"Drop corpus {corpus}?", abort=True)
    dropped = drop_corpus(
        catalog=installation.catalog,
        corpus=corpus,
        log=StoreMutationLog(installation.store, corpus),
    )
    if as_json:
        print_json(
            {
                "corpus": corpus,
                "position": dropped.position,
                "documents": line.num_documents,
                "indexes": [index.version for index in line.indexes],
                "size_bytes": line.size_bytes,
                "releases": line.releases,
            }
        )
        return
    say(f"Corpus [bold]{escape(corpus)}[/] is dropped. Next: raygion store gc --keep 3")


def _users(line: CorpusLine, *, in_settings: bool) -> list[str]:
    """The users of the corpus."""
    numbers = ", ".join(map(str, line.releases))
    several = "s" if len(line.releases) > 1 else ""
    return [
        *([f"release{several} {numbers}"] if line.releases else []),
        *(["the settings"] if in_settings else []),
    ]


def _what_goes(line: CorpusLine) -> str:
    kept = ", ".join(map(str, line.releases))
    stays = f" What release {kept} serves goes when that is not kept any more." if kept else ""
    return (
        f"This drops {line.num_documents} documents and {len(line.indexes)} index versions, "
        f"{size(line.size_bytes)} in the store, which `raygion store gc` frees.{stays}"
    )


def _index_row(index: IndexLine) -> tuple[object, ...]:
    by = "" if index.partition_by is None else f" by {index.partition_by}"
    differences = [
        *([] if index.has_latest_documents else ["content"]),
        *([] if index.has_present_settings else ["settings"]),
    ]
    return (
        index.version[:SHORT],
        index.position,
        # On two lines, so that the table fits a terminal of 80 columns.
        f"{index.kind}\n{index.metric}{by}",
        index.shards,
        f"{index.recall_at_10:.3f}",
        share(index.recall_at_10_least),
        "\n".join(differences) or "nothing",
        ", ".join(map(str, index.releases)) or "none",
    )


def _hole_row(index: IndexLine, hole: ShardHole) -> tuple[object, ...]:
    stratum = hole.stratum
    return (
        index.version[:SHORT],
        hole.shard,
        f"{stratum.num_queries} {stratum.queries}",
        f"quarter {stratum.crowding}",
        f"{stratum.recall_at_10:.3f}",
        f"{stratum.best_found:.3f}",
    )


def _releases(numbers: tuple[int, ...], current: int | None) -> str:
    return ", ".join(f"{n} (current)" if n == current else str(n) for n in numbers) or "none"
