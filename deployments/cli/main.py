"""The command line `raygion`."""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster.errors import InvalidArgument, RaygionError
from deployments.cli import (
    compaction,
    corpora,
    documents,
    evaluation,
    live_documents,
    queries,
    ray_env,
    releases,
    scale,
    status,
    store,
)
from deployments.cli.options import Config, Json, Region, Store, opened
from deployments.hosting.interrupts import end_alike, end_process
from deployments.installation import Installation, NotRunning
from deployments.nodes.machine import runs_as_head
from deployments.terminal import Steps, err, keep_stderr_to_python, print_error, print_json, say

app = typer.Typer(
    name="raygion",
    help="Retrieval-augmented generation on Ray: index, embedder and generator move together as "
    "one numbered release.",
    epilog="Example: [bold]raygion demo --exit[/]",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Port = Annotated[int | None, typer.Option("--port", help="Port of the HTTP endpoint.")]
_RAY_START_HELP = "The command that starts Ray on this machine."
RayStart = Annotated[
    list[str] | None, typer.Argument(help=_RAY_START_HELP, metavar="-- ray start ...")
]

_INTERRUPTED = 130
_TO_BE_PUT_RIGHT = {"invalid_argument", "not_found", "conflict", "too_large", "unauthenticated"}


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"raygion {version('raygion')}")
        raise typer.Exit


@app.callback()
def raygion(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: [bold]raygion demo --exit[/]")
def demo(
    config: Config = None,
    region: Region = None,
    store: Store = None,
    port: Port = None,
    regions: Annotated[
        int, typer.Option("--regions", help="Number of regions, each a Ray cluster (3 to 5).")
    ] = 1,
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="End after the story instead of staying up.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The whole story on this machine: documents in, cited answers out; up until Ctrl-C."""
    installation, stay = opened(config, region, store, port=port), not exit_when_done
    if regions == 1:
        from deployments.demo.one_region import run_demo

        run_demo(installation, stay=stay, as_json=as_json)
        return
    from deployments.demo.regions import run_regions_demo

    run_regions_demo(installation, regions=regions, stay=stay, as_json=as_json)


@app.command(epilog="Example: [bold]raygion up --region local[/]")
def up(
    config: Config = None,
    region: Region = None,
    store: Store = None,
    port: Port = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and start the region again whenever it dies.")
    ] = False,
    as_json: Json = False,
    ray_start: RayStart = None,
) -> None:
    """Start a region: its Ray cluster, coordinator and HTTP endpoint, its current release.

    A region that runs already goes on with the settings that it was started with. Without `ray
    start` its Ray cluster is this machine alone; with it this machine is the head of a cluster that
    others join with `raygion join`. `ray up` calls it so.

    With --watch the command ends when `raygion down` ends the region, or when it is interrupted:
    the region then goes on without it.
    """
    if watch:
        installation = opened(config, region, store, port=port)
        note = "The region has died; it is brought up again"
        raise typer.Exit(_keep_up(installation, one_of_several=bool(ray_start), note=note))
    try:
        _bring_up(config, region, store, port, ray_start or [], as_json=as_json)
    except RaygionError as error:
        if not ray_start or not runs_as_head():
            raise
        # The launcher forgets a head on which this fails, and `ray down` would leave it running.
        print_error(error, as_json=as_json)
        err.print("The region on this machine goes on as it was started.")


def _keep_up(installation: Installation, *, one_of_several: bool, note: str) -> int:
    """Calls this command without `--watch` as often as it takes."""
    from deployments.hosting.region_watch import keep_up, run_state_of, run_while_it_lives

    machine = installation.machine
    if not one_of_several and machine is not None and machine.is_alive():
        raise InvalidArgument(
            "this machine is one of several: give the command that starts Ray on it, after `--`",
            "watch",
        )
    words = [word for word in sys.argv[1:] if word != "--watch"]
    command = [sys.executable, "-m", "deployments.cli.main", *words]
    run_state = partial(run_state_of, installation, one_of_several=one_of_several)
    return keep_up(
        partial(run_while_it_lives, command, run_state), run_state, partial(err.print, note)
    )


def _bring_up(
    config: Path | None,
    region: str | None,
    store: str | None,
    port: int | None,
    ray_start: list[str],
    *,
    as_json: bool,
) -> None:
    from deployments.hosting import region_host, release_commands

    installation = opened(config, region, store, port=port)
    steps = Steps(quiet=as_json)
    with steps.shown():
        with (
            steps.step("Region") as step,
            region_host.brought_up(installation, ray_start, step.note) as installation,
        ):
            client = region_host.start_services(installation, step.note)
        number = client.status().release
        if number is not None:
            with steps.step(f"Release {number}"):
                client.wait_until_serving(number, release_commands.SERVE_TIMEOUT_S)
    if as_json:
        print_json({"region": installation.region, "url": installation.url, "release": number})
        return
    say(f"Region [bold]{installation.region}[/] is up at [bold]{installation.url}[/]")
    if number is None:
        say("No release yet: `raygion ingest`, `raygion build`, `raygion release propose`.")


@app.command(epilog="Example: [bold]raygion join -- ray start --address=10.0.0.1:6379[/]")
def join(
    ray_start: Annotated[
        list[str], typer.Argument(help=_RAY_START_HELP, metavar="-- ray start ...")
    ],
    config: Config = None,
    region: Region = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and join again whenever the region is lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make this machine a worker of a region whose head runs elsewhere. `ray up` calls it so.

    A machine that the region counts on already stays as it is.

    With --watch the command ends when `raygion down` on this machine ends its part, or when it is
    interrupted: the machine then stays in the region.
    """
    from deployments.hosting import region_host

    installation = opened(config, region)
    if watch:
        note = "This machine has lost the region; it joins again"
        raise typer.Exit(_keep_up(installation, one_of_several=True, note=note))
    machine, started = region_host.node_starter(installation, ray_start).start_worker()
    if as_json:
        print_json({"region": installation.region, "started": started})
        return
    verb = "is now" if started else "was already"
    say(f"This machine {verb} part of region [bold]{machine.region}[/] at {machine.ray_address}")


@app.command(epilog="Example: [bold]raygion down --region local[/]")
def down(config: Config = None, region: Region = None, as_json: Json = False) -> None:
    """Stop what runs of a region on this machine; the store keeps everything.

    On the head of several machines this ends the region: the others notice within two minutes.
    """
    from deployments.hosting import region_host

    installation = opened(config, region)
    ended = region_host.stop_region(installation)
    if not ended and installation.region_settings.ray_address is not None:
        raise InvalidArgument(
            "this region runs on a Ray cluster that was not started from here; "
            "end that cluster in the way in which it was started",
            "region",
        )
    if as_json:
        print_json({"region": installation.region, "ended": ended})
    elif ended:
        say(f"Region [bold]{installation.region}[/] is down ({len(ended)} processes ended)")
    else:
        say(f"Region [bold]{installation.region}[/] was not running here")


# In the order in which they are used for the first time.
app.command("ingest")(documents.ingest)
app.command("delete")(documents.delete)
app.command("build")(documents.build)
app.command("compact")(compaction.compact)
app.add_typer(corpora.app, name="corpus")
app.add_typer(releases.app, name="release")
app.command("search")(queries.search)
app.command("ask")(queries.ask)
app.command("put")(live_documents.put)
app.command("get")(live_documents.get)
app.command("rm")(live_documents.rm)
app.command("changes")(live_documents.changes)
app.command("status")(status.status)
app.command("scale")(scale.scale)
app.add_typer(store.app, name="store")
app.command("eval")(evaluation.eval)
app.command("ray-env")(ray_env.ray_env)


def main() -> NoReturn:
    """Runs the command line, and ends the process.

    With status 2 for what the caller can put right, 1 for other errors of Raygion, 130 when it
    was interrupted, by Ctrl-C or by SIGTERM.
    """
    end_alike()
    keep_stderr_to_python()
    # Commands report by errors and results; logs are for processes that serve.
    logging.getLogger().addHandler(logging.NullHandler())
    end_process(_run())


def _run() -> int:
    try:
        app()
    except RaygionError as error:
        print_error(error, as_json="--json" in sys.argv)
        mendable = error.code in _TO_BE_PUT_RIGHT or isinstance(error, NotRunning)
        return 2 if mendable else 1
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            err.print("Interrupted.")
        if isinstance(end.code, str):
            err.print(end.code, markup=False)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    main()
