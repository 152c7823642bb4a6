"""`raygion store ...`: what takes up space in the store."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cluster.errors import InvalidArgument
from cluster.releases.garbage import Collected, StoreCollector
from deployments.cli.options import Config, Json, Region, Store, opened
from deployments.terminal import Steps, print_json, say, size

app = typer.Typer(
    help="Look after the store.",
    epilog="Example: [bold]raygion store gc --keep 3 --dry-run[/]",
    no_args_is_help=True,
)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@app.callback()
def store_commands() -> None:
    pass


@app.command("gc")
def gc(
    keep: Annotated[
        int,
        typer.Option(
            "--keep", help="Number of the last committed releases to keep.", show_default=False
        ),
    ],
    grace: Annotated[
        str,
        typer.Option(
            "--grace",
            help="Time for which an object must be unneeded before it goes, such as 90m or 2d.",
        ),
    ] = "24h",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed; mark nothing.")
    ] = False,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Remove from the store what no kept release and no newest version needs.

    A first run marks it, and a later one, after the grace period, removes what is still not needed;
    so run it regularly. Safe beside ingests, builds and releases under way. The release log and
    the documents of the newest corpora stay.

    Example: raygion store gc --keep 3
    """
    grace_s = _seconds(grace)
    installation = opened(config, region, store)
    steps = Steps(quiet=as_json)
    with steps.shown(), steps.step("Collect garbage") as step:
        collector = StoreCollector(installation.store)
        collected = collector.collect(keep=keep, grace_s=grace_s, dry_run=dry_run)
        step.note(f"kept releases: {', '.join(map(str, collected.kept_releases)) or 'none yet'}")
    if as_json:
        print_json(collected)
    else:
        say(_summary(collected, grace))


def _summary(collected: Collected, grace: str) -> str:
    verb = "Would remove" if collected.dry_run else "Removed"
    removed = f"{verb} {collected.removed_objects} objects, {size(collected.removed_bytes)}."
    if not collected.waiting_objects:
        return removed
    return (
        f"{removed} Not needed either, but not for {grace} yet: "
        f"{collected.waiting_objects} objects, {size(collected.waiting_bytes)}."
    )


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is no duration such as 90m, 24h or 2d", "grace")
    return float(match[1]) * _UNIT_S[match[2]]
