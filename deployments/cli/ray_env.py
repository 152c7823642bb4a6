"""`raygion ray-env`: for machines whose Ray is started by others than `raygion up`."""

from __future__ import annotations

import shlex

import typer

from deployments.cli.options import Config, Json, Region, opened
from deployments.terminal import print_json


def ray_env(config: Config = None, region: Region = None, as_json: Json = False) -> None:
    """Print the environment in which `ray start` belongs on each machine of your own cluster.

    For a shell to read. It makes Ray Serve's HAProxy refuse what the gateways have no places for,
    and ask another gateway for what a dying one took with it, as in a cluster that `raygion up`
    starts; and it makes searches quick. HAProxy's program is written beside the region's other
    files on this machine, so run it on each of them. Give `ray up` and others the secret
    yourself: RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH are not in it.

    Example: raygion ray-env --region local > ray.env && . ./ray.env && ray start --head
    """
    from deployments.nodes.ray_starter import machine_env, write_haproxy_wrapper

    installation = opened(config, region)
    folder = installation.run_folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_haproxy_wrapper(
        folder, installation.gateway_slots, installation.region_settings.http.port
    )
    variables = machine_env(folder)
    if as_json:
        print_json(variables)
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
