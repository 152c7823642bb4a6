"""Options that several commands share, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.config import CONFIG_FILE, Settings, load_settings
from cluster.documents.documents import check_corpus_name
from deployments.installation import Installation
from deployments.nodes.machine import find_machine

Corpus = Annotated[str, typer.Argument(help="Name of the corpus.", metavar="CORPUS")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file. Default: regions.yaml in this folder, or, on a machine that `ray up` "
        "started, the file that it was started with.",
    ),
]
Region = Annotated[
    str | None, typer.Option("--region", help="Name of the region; needed when there are several.")
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
    file, machine = _settings_file(config), find_machine()
    settings = load_settings(file, overrides)
    name = settings.region_name(region)
    if port is not None:
        overrides["regions"] = {name: {"http": {"port": port}}}
        settings = load_settings(file, overrides)
    if machine is not None and (machine.config, machine.region) != (file, name):
        machine = None
    return Installation(settings, name, file, machine)


def holding(installation: Installation, corpus: str) -> Installation:
    """The installation, in whose region documents of the corpus may be read. Raises
    InvalidArgument where they may not, and for a name that no corpus can have.
    """
    check_corpus_name(corpus)
    installation.settings.check_may_hold(installation.region, corpus)
    return installation


def read_settings(config: Path | None) -> Settings:
    """The settings that the environment and the settings file describe."""
    return load_settings(_settings_file(config))


def _settings_file(config: Path | None) -> Path | None:
    """The settings file: the one that is named; else `regions.yaml` in this folder; else, on a
    machine of a region, the one that the machine was started with; else none.
    """
    if config is not None:
        return config.absolute()
    if (here := Path(CONFIG_FILE)).is_file():
        return here.absolute()
    machine = find_machine()
    return None if machine is None else machine.config
