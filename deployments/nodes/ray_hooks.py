"""The hooks that Ray calls by name in its own processes on the machines of a region.

This module must import nothing but Ray, and that late: `ray start` loads it on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.runtime.ray_private import RayParams


def leave_out_ray_client(params: RayParams, head: bool) -> None:
    """Called by `ray start` before it starts a process: Raygion has no use for Ray Client's server,
    which would listen on the network.
    """
    params.ray_client_server_port = None
