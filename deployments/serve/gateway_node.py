"""The node of a gateway, which decides where the gateway listens and whether it should move.

HAProxy runs on the head node. It asks the gateways there at the loopback address, and those on
other machines at the address of their machine; so that is where each of them listens, and nowhere
else. Serve itself would let all of them listen on the host that requests are taken on.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import ray

from actors.coordinator.gateway_spread import GatewayOrder
from actors.runtime import names
from actors.runtime.calls import NamedActor
from cluster.errors import RaygionError
from cluster.logs.events import EventLog
from cluster.regions.settings import EndpointSettings

log = EventLog(__name__)
_LOOPBACK = "127.0.0.1"
_ASK_S = 1.0
_ANSWER_TIMEOUT_S = 5.0


def listen_where_asked() -> None:
    """Makes this replica of Serve's, whose web server is about to start, listen where HAProxy asks
    it.
    """
    from deployments.serve import serve_private

    replica: Any = serve_private.replica
    start = replica.start_asgi_http_server
    host = _asked_at()

    async def start_there(app: Any, options: Any, **others: Any) -> Any:
        return await start(app, options.model_copy(update={"host": host}), **others)

    replica.start_asgi_http_server = start_there


def head_address() -> str:
    """The address of the machine on which HAProxy runs, beside Ray's control store."""
    address: str = ray.get_runtime_context().gcs_address
    return address.rpartition(":")[0]


def _asked_at() -> str:
    own: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return _LOOPBACK if own == head_address() else own


class GatewayNode:
    """Reports to the coordinator where this gateway runs, and keeps the coordinator's order."""

    def __init__(self, endpoint: EndpointSettings) -> None:
        self._endpoint = endpoint
        self._process = uuid.uuid4().hex
        self._node = ray.get_runtime_context().get_node_id()
        self._coordinator = NamedActor(names.COORDINATOR)
        self._order = GatewayOrder(machines=1, moves=False)
        self._asking: asyncio.Task[None] | None = None

    @property
    def gateways_least(self) -> int:
        """Number of gateways that should run at any load, by the known number of machines."""
        return self._endpoint.gateways_least(self._order.machines)

    @property
    def moves(self) -> bool:
        """True when this gateway is to end, so that another one starts on a better machine."""
        return self._order.moves

    def start(self) -> None:
        self._asking = asyncio.create_task(self._ask(), name="gateway-node")

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    self._order = await self._coordinator.call("gateway", self._process, self._node)
            except (RaygionError, TimeoutError) as error:
                # Serving goes on without an answer; the last order stays.
                log.debug(
                    "gateway.no_order",
                    "the coordinator does not say whether to move: {error}",
                    error=error,
                )
            await asyncio.sleep(_ASK_S)
