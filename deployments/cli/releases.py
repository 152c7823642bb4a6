"""`raygion release ...`: the numbered releases of this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.clock import SYSTEM_CLOCK
from cluster.errors import InvalidArgument, NotFound
from cluster.query.evidence import EvidencePolicy
from cluster.releases.entries import LogState, Proposal
from cluster.releases.requests import AbortRelease, CommitRelease, RollBackTo, SetShare
from deployments.cli.options import Config, Json, Region, Store
from deployments.cli.regions import anywhere, leading, names_in, policy_in, regions_in
from deployments.installation import Installation
from deployments.terminal import SHORT, Steps, out, print_json, print_result, table, utc

app = typer.Typer(
    help="List, propose, try, commit and roll back releases.",
    epilog="Example: [bold]raygion release propose --commit[/]",
    no_args_is_help=True,
)
Number = Annotated[int, typer.Argument(help="Number of the release.", metavar="NUMBER")]


@app.command("list")
def list_releases(
    config: Config = None, region: Region = None, store: Store = None, as_json: Json = False
) -> None:
    """All releases, straight from the store; no cluster needs to run.

    Example: raygion release list
    """
    state = anywhere(config, region, store).read_release_log()
    now_ms = SYSTEM_CLOCK.wall_ms()
    current = state.current(now_ms)
    if as_json:
        print_json(
            {
                "current": current,
                "canary": state.canary_at(now_ms),
                "releases": list(state.proposals.values()),
            }
        )
        return
    rows = [
        (
            f"{number} (current)" if number == current else number,
            _status(state, proposal, now_ms),
            utc(proposal.proposed_at_ms),
            _indexes(proposal),
            ", ".join(proposal.targets),
        )
        for number, proposal in sorted(state.proposals.items())
    ]
    columns = ("release", "status", "proposed (UTC)", "indexes", "regions")
    out.print(table("Releases", columns, rows) if rows else "There is no release yet.")


@app.command("show")
def show_release(
    number: Number,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Everything that one release is made of.

    Example: raygion release show 1
    """
    state = anywhere(config, region, store).read_release_log()
    proposal = _known(state, number)
    if as_json:
        print_json(proposal)
        return
    status = _status(state, proposal, SYSTEM_CLOCK.wall_ms())
    contents = proposal.release.contents
    rows = [(f"index of {corpus}", ref.version) for corpus, ref in contents.indexes.items()]
    rows += [
        ("embedder", contents.embedder.version if contents.embedder else "none"),
        ("generator", contents.generator.version if contents.generator else "none"),
        ("prompt", contents.prompt.system),
        *_evidence(contents.evidence),
        ("status", f"aborted: {proposal.reason}" if proposal.reason else status),
        ("regions", ", ".join(proposal.targets)),
        ("fenced out", ", ".join(sorted(proposal.fenced)) or "none"),
    ]
    out.print(table(f"Release {number}", ("part", "version"), rows))


@app.command("propose")
def propose(
    commit_when_prepared: Annotated[
        bool,
        typer.Option("--commit", help="Commit as soon as no region has to be waited for any more."),
    ] = False,
    regions: Annotated[
        str | None,
        typer.Option("--regions", help="Regions that prepare the release, as a,b; all by default."),
    ] = None,
    corpora: Annotated[
        str | None,
        typer.Option(
            "--corpora", help="Corpora of the release, as a,b; by default all that are built."
        ),
    ] = None,
    wait_for: Annotated[
        str | None,
        typer.Option(
            "--wait-for",
            help="`all` regions, a `quorum` of them, or some, as a,b; the settings say by default.",
        ),
    ] = None,
    prepare_timeout_s: Annotated[
        float | None,
        typer.Option("--prepare-timeout", help="Seconds that regions have to prepare the release."),
    ] = None,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Propose the indexes and models that the settings ask for as the next release.

    Every region prepares it beside what it serves. `release commit` makes it current, `release
    canary` tries it on a share of the traffic first. A region that is not waited for catches up
    after the commit.

    A corpus that was not built since its documents or settings changed takes part with the index
    that comes closest, such as the one that is served; one that was never built is left out. The
    command says so. `--corpora` leaves out the others.

    Example: raygion release propose --corpora handbook,faq --commit
    """
    from deployments.hosting import pipeline, region_host, release_commands

    installation = leading(config, region, store)
    targets = regions_in(regions, installation, "regions")
    named = None
    if corpora is not None:
        named = names_in(corpora, "corpus", installation.catalog.list_corpora(), "corpora")
    policy = policy_in(installation, wait_for, prepare_timeout_s)
    steps = Steps(quiet=as_json)
    with steps.shown():
        with steps.step("Collect indexes and models") as step:
            contents = pipeline.contents_of_next(installation, step, corpora=named)
        region_host.join(installation)
        with steps.step("Prepare") as step:
            number = release_commands.propose(
                installation,
                contents,
                commit=commit_when_prepared,
                note=step.note,
                targets=targets,
                policy=policy,
            )
    prepared = f"prepared. Next: raygion release commit {number}"
    status = "committed" if commit_when_prepared else prepared
    print_result(
        {"release": number, "committed": commit_when_prepared},
        f"Release [bold]{number}[/] is {status}",
        as_json=as_json,
    )


@app.command("canary")
def canary(
    number: Number,
    percent: Annotated[
        int, typer.Option("--percent", help="Share of the traffic, 0 to 99; 0 ends the trial.")
    ],
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Try a prepared release on a share of the traffic before it is committed.

    The same user is always served by the same release. A canary that fails or is slow where the
    current release is not is aborted by itself; `release show` says why.

    Example: raygion release canary 2 --percent 5
    """
    from actors.coordinator.client import CoordinatorClient

    _join_leading(config, region, store)
    CoordinatorClient().request(SetShare(release=number, percent=percent))
    share = f"{percent} % of the traffic" if percent else "no traffic any more"
    print_result(
        {"release": number, "percent": percent},
        f"Release [bold]{number}[/] gets {share}",
        as_json=as_json,
    )


@app.command("commit")
def commit(
    number: Number,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Make a prepared release current in all regions at one moment.

    Example: raygion release commit 2
    """
    from deployments.hosting import release_commands

    _join_leading(config, region, store)
    release_commands.switch(CommitRelease(release=number))
    print_result(
        {"release": number, "committed": True},
        f"Release [bold]{number}[/] is committed",
        as_json=as_json,
    )


@app.command("abort")
def abort(
    number: Number,
    reason: Annotated[str, typer.Option("--reason", help="Reason, for the log.")] = "by hand",
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Give up a proposed release; it can never be committed any more.

    Example: raygion release abort 2 --reason "wrong corpus"
    """
    from actors.coordinator.client import CoordinatorClient

    _join_leading(config, region, store)
    CoordinatorClient().request(AbortRelease(release=number, reason=reason))
    print_result(
        {"release": number, "aborted": True},
        f"Release [bold]{number}[/] is aborted",
        as_json=as_json,
    )


@app.command("rollback")
def rollback(
    number: Annotated[
        int | None,
        typer.Argument(help="Release to go back to; the one before by default.", metavar="NUMBER"),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Prepare its contents as a new release first, then switch."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Switch at once, even if it is not loaded or an open release follows."
        ),
    ] = False,
    config: Config = None,
    region: Region = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Make an earlier release current again: one switch, in all regions at one moment.

    The one before the current release stays loaded. One that a region has not loaded is refused:
    that region would go on with the newer release until it has.

    Example: raygion release rollback
    """
    from deployments.hosting import release_commands

    if again and force:
        raise InvalidArgument("does not go with --again, which prepares the release first", "force")
    installation = _join_leading(config, region, store)
    if again:
        steps = Steps(quiet=as_json)
        with steps.shown(), steps.step("Prepare") as step:
            current = release_commands.propose_again(installation, number, step.note)
    else:
        current = release_commands.switch(RollBackTo(release=number, force=force))
    how = "" if again else " again"
    print_result(
        {"release": current}, f"Release [bold]{current}[/] is current{how}", as_json=as_json
    )


def _join_leading(config: Path | None, region: str | None, store: str | None) -> Installation:
    """Joins the cluster of the region that moves releases."""
    from deployments.hosting import region_host

    installation = leading(config, region, store)
    region_host.join(installation)
    return installation


def _evidence(policy: EvidencePolicy | None) -> list[tuple[str, str]]:
    if policy is None:
        return []
    least = [(f"least score in {corpus}", str(s)) for corpus, s in policy.score_min.items()]
    return [("nothing found", policy.nothing_found), *least]


def _known(state: LogState, number: int) -> Proposal:
    proposal = state.proposals.get(number)
    if proposal is None:
        raise NotFound(f"there is no release {number}; the last one is {len(state.proposals)}")
    return proposal


def _status(state: LogState, proposal: Proposal, now_ms: int) -> str:
    canary = state.canary_at(now_ms)
    if canary is not None and canary.release == proposal.release.number:
        return f"{proposal.status}, canary at {canary.percent} %"
    return str(proposal.status)


def _indexes(proposal: Proposal) -> str:
    indexes = proposal.release.contents.indexes
    return "\n".join(f"{corpus} {ref.version[:SHORT]}" for corpus, ref in indexes.items())
