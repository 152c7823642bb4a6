"""`raygion ingest` and `raygion build`: documents into the store, indexes out of them."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.documents import check_corpus_name
from cluster.errors import NotFound
from deployments.cli_options import Config, Json, Region, Store, opened
from deployments.console import Steps, print_json, say

Corpus = Annotated[str, typer.Argument(help="Name of the corpus.", metavar="CORPUS")]


def ingest(
    corpus: Corpus,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders or fsspec URLs: JSONL, Parquet, CSV, Markdown, text, HTML; "
            "Parquet, Arrow or .npy with ready-made vectors.",
            metavar="SOURCE...",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Start the corpus anew instead of adding to it.")
    ] = False,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Read documents, cut them into passages and add them to a corpus.

    A document whose id is there already replaces the older one.

    Example: raygion ingest handbook docs/ faq.jsonl s3://bucket/reports/
    """
    from actors.corpus_reader import find_source_files
    from deployments import pipeline, region_host

    installation = opened(config, region, store)
    # What can be refused is refused before a cluster is started for it.
    check_corpus_name(corpus)
    find_source_files(sources)
    steps = Steps(quiet=as_json)
    with steps.shown(), region_host.joined(installation), steps.step("Read documents") as step:
        manifest = pipeline.ingest_documents(
            installation, corpus, sources, replace=replace, step=step
        )
    if as_json:
        print_json(manifest)
        return
    say(
        f"Corpus [bold]{corpus}[/] is at position {manifest.position}: "
        f"{manifest.num_documents} documents, {manifest.num_passages} passages. "
        f"Next: raygion build {corpus}"
    )


def build(
    corpus: Corpus,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Embed the corpus and build its shards; what is built already is not built again.

    Example: raygion build handbook
    """
    installation = opened(config, region, store)
    check_corpus_name(corpus)
    position = installation.catalog.latest_corpus(corpus)
    if position is None:
        raise NotFound(f"there is no corpus {corpus!r}; add documents with `raygion ingest`")

    from deployments import pipeline, region_host

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
        f"recall@10 {manifest.recall_at_10:.3f}. Next: raygion release propose"
    )
