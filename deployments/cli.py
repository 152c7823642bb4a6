"""The command line `raygion`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cluster.errors import InvalidArgument, RaygionError
from deployments import cli_documents, cli_queries, cli_releases
from deployments.cli_options import Config, Json, Region, Store, opened
from deployments.console import Steps, out, print_error, print_json

app = typer.Typer(
    name="raygion",
    help="Retrieval-augmented generation on Ray: index, embedder and generator move together as "
    "one numbered release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ingest")(cli_documents.ingest)
app.command("build")(cli_documents.build)
app.add_typer(cli_releases.app, name="release")
app.command("search")(cli_queries.search)
app.command("ask")(cli_queries.ask)
app.command("status")(cli_queries.status)

Port = Annotated[int | None, typer.Option("--port", help="Port of the HTTP endpoint.")]


@app.command(epilog="Example: [bold]raygion demo --exit[/]")
def demo(
    config: Config = None,
    region: Region = None,
    store: Store = None,
    port: Port = None,
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="End after the story instead of staying up.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The whole story on this machine: documents in, cited answers out; up until Ctrl-C."""
    from deployments.demo import run_demo

    run_demo(opened(config, region, store, port=port), stay=not exit_when_done, as_json=as_json)


@app.command(epilog="Example: [bold]raygion up --region local[/]")
def up(
    config: Config = None,
    region: Region = None,
    store: Store = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Start a region: its Ray cluster, coordinator and HTTP endpoint; then its current release."""
    from deployments import region_host

    installation = opened(config, region, store, port=port)
    steps = Steps(quiet=as_json)
    with steps.shown():
        with steps.step("Ray cluster"):
            if installation.region_settings.ray_address is None:
                region_host.start_cluster(installation)
            region_host.join(installation)
        with steps.step("Services") as step:
            client = region_host.start_services(installation, step.note)
        number = client.log_state().current(region_host.now_ms())
        if number is not None:
            with steps.step(f"Release {number}"):
                client.wait_until_serving(number, region_host.SERVE_TIMEOUT_S)
    if as_json:
        print_json({"region": installation.region, "url": installation.url, "release": number})
        return
    out.print(f"Region [bold]{installation.region}[/] is up at [bold]{installation.url}[/]")
    if number is None:
        out.print("No release yet: `raygion ingest`, `raygion build`, `raygion release propose`.")


@app.command(epilog="Example: [bold]raygion down --region local[/]")
def down(config: Config = None, region: Region = None, as_json: Json = False) -> None:
    """Stop a region that was started on this machine; the store keeps everything."""
    from deployments import region_host

    installation = opened(config, region)
    if installation.region_settings.ray_address is not None:
        raise InvalidArgument(
            "this region runs on a Ray cluster that was not started here; "
            "end it with `ray down cluster.yaml`",
            "region",
        )
    ended = region_host.stop_region(installation)
    if as_json:
        print_json({"region": installation.region, "ended": ended})
    elif ended:
        out.print(f"Region [bold]{installation.region}[/] is down ({len(ended)} processes ended)")
    else:
        out.print(f"Region [bold]{installation.region}[/] was not running here")


def main() -> None:
    """Runs the command line; errors of Raygion end it with status 1 (2 for wrong input)."""
    try:
        app()
    except RaygionError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(2 if isinstance(error, InvalidArgument) else 1)


if __name__ == "__main__":
    main()
