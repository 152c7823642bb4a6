"""Options that several commands share, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.config import load_settings
from deployments.installation import Installation

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file; regions.yaml in this folder by default."),
]
Region = Annotated[
    str | None, typer.Option("--region", help="Which region; needed when there are several.")
]
Store = Annotated[
    str | None, typer.Option("--store", help="Folder or URL of the store, over the settings.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]


def opened(
    config: Path | None,
    region: str | None,
    store: str | None = None,
    *,
    port: int | None = None,
) -> Installation:
    """The installation that the flags, the environment and the settings file describe."""
    overrides: dict[str, Any] = {}
    if store is not None:
        url = store if "://" in store else str(Path(store).absolute())
        overrides["store"] = {"url": url}
    settings = load_settings(config, overrides)
    name = settings.region_name(region)
    if port is not None:
        overrides["regions"] = {name: {"http": {"port": port}}}
        settings = load_settings(config, overrides)
    return Installation(settings, name)
