"""`raygion ingest`, `raygion delete` and `raygion build`: documents into the store and out of it,
indexes out of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cluster.catalog.manifests import CorpusManifest
from cluster.corpora.compaction import unfolded
from cluster.documents.declared_types import parse_declared_types
from cluster.documents.deletes import delete_documents
from cluster.errors import InvalidArgument
from cluster.mutations.store_log import StoreMutationLog
from deployments.cli.ingest_summary import report_lines
from deployments.cli.options import Config, Corpus, Json, Region, Store, holding, opened
from deployments.installation import Installation
from deployments.terminal import Steps, err, print_json, say

_IDS_SHOWN_MAX = 5


def ingest(
    corpus: Corpus,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders or fsspec URLs: JSONL, Parquet, CSV, Markdown, text, HTML, PDF, "
            "Word, PowerPoint, Excel, OpenDocument, RTF, EPUB, e-mail; Parquet, Arrow or .npy with "
            "ready-made vectors.",
            metavar="SOURCE...",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Start the corpus anew instead of adding to it.")
    ] = False,
    skip_errors: Annotated[
        bool,
        typer.Option("--skip-errors", help="Leave out documents that are wrong, and list them."),
    ] = False,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--types",
            help="The type of a metadata field, whatever the files say: string, int, float or "
            "bool. Once for each field.",
            metavar="FIELD=TYPE",
        ),
    ] = None,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Read documents and add them to a corpus.

    A document whose id is there already replaces the older one. The first document that is wrong
    stops it, and nothing is added. Whatever is left out is told.

    Example: raygion ingest handbook docs/ faq.jsonl s3://bucket/reports/
    """
    from actors.documents.source_files import find_source_files
    from deployments.hosting import pipeline, region_host

    # Wrong input is refused before a cluster is started for it.
    installation = holding(opened(config, region, store), corpus)
    declared = parse_declared_types(types or ())
    listing = find_source_files(sources, folder_texts=declared)
    steps = Steps(quiet=as_json)
    with steps.shown(), region_host.joined(installation), steps.step("Read documents") as step:
        ingested = pipeline.ingest_documents(
            installation,
            corpus,
            listing,
            replace=replace,
            skip_errors=skip_errors,
            types=declared,
            progress=step,
        )
    manifest, report = ingested.manifest, ingested.report
    if as_json:
        print_json({**manifest.model_dump(mode="json"), "report": report})
        return
    say(
        f"Corpus [bold]{corpus}[/] is at position {manifest.position}: "
        f"{manifest.num_documents} documents."
    )
    for line in report_lines(report):
        say(escape(line))
    _note_live_changes(installation, corpus)
    say(f"Next: raygion build {corpus}")


def delete(
    corpus: Corpus,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of documents.", metavar="ID...")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="A file with more ids, one on each line.")
    ] = None,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Delete documents from a corpus; ingesting one again brings it back.

    The next build only hides them, unless more than half of a shard is gone.

    Example: raygion delete handbook faq/17 --from outdated.txt
    """
    installation = holding(opened(config, region, store), corpus)
    wanted = {*(ids or ()), *(() if from_file is None else _lines(from_file))}
    if not wanted:
        raise InvalidArgument("say which documents, by ID or with --from", "id")

    steps = Steps(quiet=as_json)
    with steps.shown(), steps.step("Delete documents") as step:
        deletion = delete_documents(
            catalog=installation.catalog,
            artifacts=installation.cache.artifacts,
            corpus=corpus,
            documents=wanted,
        )
        step.note(f"{len(deletion.deleted)} deleted, {len(deletion.unknown)} unknown")
    manifest, unknown = deletion.manifest, sorted(deletion.unknown)
    if as_json:
        print_json(
            {
                "corpus": corpus,
                "position": manifest.position,
                "deleted": len(deletion.deleted),
                "unknown": unknown,
                "num_documents": manifest.num_documents,
            }
        )
        return
    if unknown:
        shown = ", ".join(escape(id) for id in unknown[:_IDS_SHOWN_MAX])
        more = ", ..." if len(unknown) > _IDS_SHOWN_MAX else ""
        say(f"{len(unknown)} of the ids are not in the corpus: {shown}{more}")
    _note_live_changes(installation, corpus)
    say(
        f"Corpus [bold]{corpus}[/] is at position {manifest.position}: "
        f"{len(deletion.deleted)} documents deleted, {manifest.num_documents} left."
        + (f" {next_step(manifest)}" if deletion.deleted else "")
    )


def _note_live_changes(installation: Installation, corpus: str) -> None:
    """Says what counts where single documents were written since the corpus's latest position."""
    log = StoreMutationLog(installation.store, corpus)
    if unfolded(installation.catalog, log, corpus):
        err.print(
            "[yellow]Documents were written live that the corpus does not have yet: of these, what "
            "was written live counts, whatever was ingested or deleted here. "
            f"`raygion compact {corpus}` takes them in.[/]",
            soft_wrap=True,
        )


def next_step(corpus: CorpusManifest) -> str:
    """A sentence on what follows a change of the corpus."""
    if corpus.num_documents == 0:
        return "The next release leaves it out."
    return f"Next: raygion build {corpus.corpus}"


def _lines(file: Path) -> Iterable[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file} cannot be read: {error}", "from") from error


def build(
    corpus: Corpus,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Cut a corpus into passages, embed them and build its shards.

    What is built already is not built again. When documents were deleted and nothing else changed,
    the index is kept and hides them.

    Example: raygion build handbook
    """
    installation = holding(opened(config, region, store), corpus)
    position = installation.catalog.existing_corpus(corpus)

    from deployments.hosting import pipeline, region_host

    steps = Steps(quiet=as_json)
    with steps.shown(), region_host.joined(installation):
        embedder = None
        if position.vector_dimension is None:
            with steps.step("Embedder") as step:
                embedder = pipeline.store_embedder(installation, step)
        with steps.step("Embed and build") as step:
            built = pipeline.build(installation, corpus, embedder, step)
    if as_json:
        print_json(built.manifest)
        return
    manifest = built.manifest
    say(
        f"Index [bold]{manifest.version}[/] of corpus [bold]{corpus}[/]: "
        f"{manifest.num_passages} passages in {len(manifest.shards)} shards, "
        f"{manifest.parameters.kind} over {manifest.parameters.metric}, "
        f"{pipeline.recall_text(manifest)}. Next: raygion release propose"
    )
