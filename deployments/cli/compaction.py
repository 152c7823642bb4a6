"""`raygion compact`: what was written live becomes part of what is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape

from cluster.corpora.compaction import Compacted
from deployments.cli.documents import next_step
from deployments.cli.options import Config, Corpus, Json, Region, Store, holding
from deployments.cli.regions import leading
from deployments.terminal import Steps, err, print_json, say


def compact(
    corpus: Corpus,
    no_release: Annotated[
        bool,
        typer.Option(
            "--no-release", help="Only take the changes into the corpus; build nothing of it."
        ),
    ] = False,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Take live documents into the corpus, build it, and serve that as the next release.

    The changes that the logs of all regions have become part of the corpus, beside what was
    ingested. Only passages that are new are embedded. The release is the current one with the new
    index, and the command ends when it is served. Nobody finds other documents than before.

    Example: raygion compact tickets
    """
    from deployments.hosting import compacting, region_host, release_commands

    installation = holding(leading(config, region, store), corpus)
    index, number = None, None
    steps = Steps(quiet=as_json)
    with steps.shown():
        with steps.step("Take live documents in") as step:
            compacted = compacting.compact_documents(installation, corpus, step)
        current = None if no_release else compacting.served_contents(installation, corpus)
        if current is not None and compacted.manifest.num_documents:
            region_host.join(installation)
            with steps.step("Embed and build") as step:
                index = compacting.build_for(installation, current, corpus, step)
            following = compacting.contents_with(current, index)
            if following is not None:
                with steps.step("Prepare and switch") as step:
                    number = release_commands.propose(
                        installation, following, commit=True, note=step.note
                    )
    version = None if index is None else index.manifest.version
    if as_json:
        print_json(_result(compacted, version, number))
        return
    for remark in _remarks(compacted):
        err.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
    for line in _lines(compacted):
        say(line)
    if number is not None:
        say(f"Release [bold]{number}[/] serves it with index {version}.")
    elif version is not None:
        say("The current release serves it.")
    else:
        say(next_step(compacted.manifest))


def _result(compacted: Compacted, index: str | None, release: int | None) -> dict[str, Any]:
    manifest, documents = compacted.manifest, compacted.documents
    return {
        "corpus": manifest.corpus,
        "position": manifest.position,
        "watermark": manifest.watermark.as_dict(),
        "num_documents": manifest.num_documents,
        "new": documents.new,
        "replaced": documents.replaced,
        "removed": documents.removed,
        "conflicts": compacted.conflicts,
        "conflict_examples": compacted.conflict_examples,
        "unreadable": {region: str(error) for region, error in compacted.stopped.items()},
        "index": index,
        "release": release,
    }


def _lines(compacted: Compacted) -> Iterator[str]:
    manifest, documents = compacted.manifest, compacted.documents
    yield (
        f"Corpus [bold]{manifest.corpus}[/] is at position {manifest.position}: "
        f"{manifest.num_documents} documents."
    )
    yield (
        f"From the log: {documents.new} new, {documents.replaced} replaced, "
        f"{documents.removed} removed."
    )


def _remarks(compacted: Compacted) -> Iterator[str]:
    if compacted.conflicts:
        more = ", ..." if compacted.conflicts > len(compacted.conflict_examples) else ""
        yield (
            f"{compacted.conflicts} documents have several versions, of which the latest is in the "
            f"corpus: {', '.join(compacted.conflict_examples)}{more}"
        )
    for region, error in compacted.stopped.items():
        yield f"The log of {region} could not be read to its end: {error}"
