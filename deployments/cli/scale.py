"""`raygion scale`: more or fewer replicas, while the region serves."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.cli.options import Config, Corpus, Json, Region, Store, opened
from deployments.terminal import Steps, print_result


def scale(
    corpus: Corpus,
    replicas: Annotated[
        int, typer.Option("--replicas", help="Copies of each shard; 1 to 64.", show_default=False)
    ],
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Change the number of replicas of each of a corpus's shards.

    New ones serve once they have loaded their shard; those that are too many finish what they have
    and end. With `replicas_max` in the settings this is the least number, and load adds more.

    Example: raygion scale factbook --replicas 3
    """
    from deployments.hosting import region_host, release_commands

    installation = opened(config, region, store)
    steps = Steps(quiet=as_json)
    with steps.shown(), steps.step(f"Scale {corpus}") as step:
        region_host.join(installation)
        release_commands.scale(corpus, replicas)
        step.note(f"{replicas} replicas a shard")
    print_result(
        {"corpus": corpus, "replicas": replicas},
        f"Every shard of [bold]{corpus}[/] has at least {replicas} replicas; "
        "any beyond that end once they are idle",
        as_json=as_json,
    )
