"""The environment of Ray's processes, and how one takes it anew that has imported Ray already."""

from __future__ import annotations

import os

from actors.runtime.ray_private import AuthenticationTokenLoader, Config, ray_constants

LOOPBACK_ENV = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""Without it Ray goes to the address of the machine's network interface when it is told to go to
127.0.0.1, where a local cluster listens and nowhere else.
"""
ONE_THREAD = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
"""The shards of a node search side by side; threads of their own would only fight for its cores,
and on busy cores those of BLAS make a filtered batch ten times slower.
"""
_MULTI_HOST_DEFAULT = "0" if ray_constants.IS_WINDOWS_OR_OSX else "1"


def reread_environment() -> None:
    """Reads the address, the token and the settings of Ray's core again, for the next `ray.init`.

    Ray reads them at import and remembers the token for good.
    """
    multi_host = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, _MULTI_HOST_DEFAULT)
    ray_constants.ENABLE_RAY_CLUSTER = multi_host.lower() in ("1", "true")
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
