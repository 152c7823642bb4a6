"""`raygion status`: all regions at one glance, or one of them in detail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.clock import SYSTEM_CLOCK
from cluster.regions.overview import RegionLine, RegionsOverview, overview
from cluster.releases.events import REGIONS
from cluster.releases.region_name_watch import read_heartbeats
from deployments.cli.options import Config, Json, Region, Store, opened, read_settings
from deployments.cli.regions import anywhere
from deployments.clients.http_client import HttpRegion
from deployments.installation import Installation
from deployments.terminal import SHORT, out, print_json, say, share, table


def status(
    config: Config = None, region: Region = None, store: Store = None, as_json: Json = False
) -> None:
    """Show what the regions serve, and how well.

    Of several regions all are shown, straight from the store, whether they run or not; with
    --region one of them in detail, as it tells itself.

    Example: raygion status
    """
    if region is None and len(read_settings(config).regions) > 1:
        _show_all(config, store, as_json=as_json)
    else:
        _show_one(opened(config, region, store), as_json=as_json)


def _show_all(config: Path | None, store: str | None, *, as_json: bool) -> None:
    installation = anywhere(config, None, store)
    found = read_overview(installation)
    if as_json:
        print_json(found)
        return
    release = "none" if found.release is None else found.release
    being_prepared = f", preparing {found.open_release}" if found.open_release is not None else ""
    say(
        f"Release [bold]{release}[/]{being_prepared}; "
        f"led by {found.leader or 'nobody'}, epoch {found.epoch}; log at {found.log_position}"
    )
    columns = ("region", "release", "prepared", "lag", "heard", "health", "leads")
    out.print(table("Regions", columns, [_row(line) for line in found.regions]))
    for line in found.regions:
        for number, reason in line.failed.items():
            say(f"{line.region} has not prepared release {number}: {escape(reason)}")


def read_overview(installation: Installation) -> RegionsOverview:
    """All regions, from their heartbeats and the release log in the store."""
    store = installation.store
    names = sorted({*installation.settings.regions, *store.list_folders(REGIONS)})
    heartbeats = read_heartbeats(store, names)
    state, now_ms = installation.read_release_log(), SYSTEM_CLOCK.wall_ms()
    return overview(state, heartbeats, installation.settings.regions, now_ms)


def _row(line: RegionLine) -> tuple[object, ...]:
    if line.heard_s is None:
        return (line.region, "", "", "", "never", "not started", "")
    return (
        line.region,
        "none" if line.release is None else line.release,
        ", ".join(map(str, line.prepared)) or "none",
        line.log_lag,
        "" if line.silent else f"{line.heard_s:.1f} s ago",
        _health(line),
        "yes" if line.leads else "",
    )


def _health(line: RegionLine) -> str:
    if line.silent:
        return f"silent since {line.heard_s:.0f} s"
    if line.release is None:
        return "no release"
    return f"{'good' if line.healthy else 'poor'}, {line.load:.0%} busy"


def _show_one(installation: Installation, *, as_json: bool) -> None:
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
    _say_cluster(installation)
    for release in summary["resident"]:
        out.print(_resident(release, current=release["release"] == summary["release"]))
    if summary.get("documents"):
        out.print(_documents(summary["documents"]))
    if len(summary["machines"]) > 1:
        out.print(_machines(summary["machines"]))


def _say_cluster(installation: Installation) -> None:
    # Imported late: it brings Ray, which the other commands of this file do without.
    from deployments.hosting import region_host

    if (control_store := region_host.control_store(installation)) is not None:
        say(f"Ray's control store {control_store}")
    if (client := region_host.python_client(installation)) is not None:
        say(f"Python client: {client}")


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
            share(corpus.get("recall_at_10_least")),
        )
        for corpus in release["corpora"]
    ]
    title = f"Release {release['release']}{' (current)' if current else ''}"
    model = release["model"] or "search only"
    columns = ("corpus", "index", "passages", "shards", "replicas", "recall@10", "least")
    return table(f"{title}: {model}", columns, rows)


def _documents(documents: list[dict[str, Any]]) -> Table:
    """A table of the corpora to which single documents were written."""
    now_ms = SYSTEM_CLOCK.wall_ms()
    rows = [
        (
            corpus["corpus"],
            ", ".join(f"{region} {n}" for region, n in corpus["watermark"].items()) or "none",
            f"{(now_ms - corpus['read_ms']) / 1000:.1f} s ago" if corpus["read_ms"] else "never",
            corpus["rows"],
            corpus["waiting"],
            "; ".join(f"{region}: {why}" for region, why in corpus["unreadable"].items()),
        )
        for corpus in documents
    ]
    columns = ("corpus", "read up to", "all read", "rows", "waiting", "unreadable")
    return table("Documents written one by one", columns, rows)


def _machines(machines: list[dict[str, Any]]) -> Table:
    """A table of what runs on each machine of the region."""
    rows = [
        (
            machine["address"],
            ", ".join(f"{corpus} {n}" for corpus, n in machine["replicas"].items()) or "none",
            machine["embedders"],
            machine["gateways"],
        )
        for machine in machines
    ]
    return table("Machines", ("machine", "replicas", "embedders", "gateways"), rows)
