"""Ports for the regions of tests, of which several processes of one test run start some."""

from __future__ import annotations

import os
from collections.abc import Collection

from deployments.nodes.ports import BLOCK_SIZE, find_port_block


def region_port(avoid: Collection[int] = ()) -> int:
    """A port for HTTP that is free now and that no other process of the test run is given.

    A region listens on its port long after its settings have named it, so each process of a
    parallel run (pytest-xdist) takes its ports from blocks of its own.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        block = find_port_block(avoid=avoid)
        if block.base // BLOCK_SIZE % processes == own:
            return block.http
