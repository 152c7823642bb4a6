"""Ray Serve's HAProxy, started again at once when it dies, and kept when Serve's own process does.

Serve asks its HAProxy every ten seconds whether it is there, believes the third "no", and then
starts one that knows of no gateway yet. Two things are done otherwise here:

- The process that starts HAProxy waits for its end, and starts it again with the configuration that
  it had: what is under way is lost, and nothing after that.
- HAProxy outlives the process that started it, if it is ended by its mark
  (`deployments.nodes.haproxy`). The one that comes in its place takes the running HAProxy over, or
  else starts one with the last configuration, until Serve's controller has said where the gateways
  are.

Serve's controller and the process that starts HAProxy import this module, and nothing else may:
importing Serve fixes the settings that it takes from the environment.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from cluster.logs.events import EventLog
from deployments.serve.serve_private import controller, haproxy

# These are processes of Serve, which writes their log.
log = EventLog("ray.serve")

_RETRY_S = 0.2
_Manager: Any = haproxy.HAProxyManager.__ray_metadata__.modified_class.__ray_actor_class__  # type: ignore[attr-defined]


class WatchedHAProxy(haproxy.HAProxyApi):
    """HAProxy with a watch over the process that is to run."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # While it is held, the process that is to run is another one at the end than at the start.
        self._changing = asyncio.Lock()
        self._watches: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts HAProxy, with the configuration that an earlier one had if there was one here."""
        if Path(self.config_file_path).is_file():  # noqa: ASYNC240 - before there is any request
            running = await self._get_running_pid()
            takes_over = ["-sf", str(running), "-x", self.cfg.socket_path] if running else []
            try:
                self._proc = await self._start_and_wait_for_haproxy(*takes_over)
                return
            except RuntimeError as error:
                log.error(
                    "haproxy.configuration_refused",
                    "HAProxy does not start with its last configuration: {error}",
                    error=error,
                    traceback_of=error,
                )
        await super().start()

    async def stop(self) -> None:
        async with self._changing:
            await super().stop()
            self._proc = None

    async def _graceful_reload(self) -> None:
        async with self._changing:
            try:
                await super()._graceful_reload()
            except Exception:
                # The new one may have died when the old one had given up its place.
                if self._proc is not None and await self._get_running_pid() is None:
                    with suppress(ProcessLookupError):
                        self._proc.kill()
                raise

    async def _start_and_wait_for_haproxy(
        self, *extra_args: str, **options: Any
    ) -> asyncio.subprocess.Process:
        process = await super()._start_and_wait_for_haproxy(*extra_args, **options)
        watch = asyncio.create_task(self._replace_when_it_ends(process))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return process

    async def _replace_when_it_ends(self, process: asyncio.subprocess.Process) -> None:
        """Returns when another process is the one that is to run."""
        status = await process.wait()
        while True:
            async with self._changing:
                # A reload or a stop ends it, too, and has said so.
                if self._proc is not process:
                    return
                log.warning(
                    "haproxy.ended",
                    "HAProxy {pid} ended with status {status}",
                    pid=process.pid,
                    status=status,
                )
                try:
                    self._proc = await self._start_and_wait_for_haproxy()
                    return
                except Exception as error:
                    log.error(
                        "haproxy.not_started",
                        "HAProxy cannot be started again: {error}",
                        error=error,
                        traceback_of=error,
                    )
            await asyncio.sleep(_RETRY_S)


class WatchedHAProxyManager(_Manager):  # type: ignore[misc]
    """Serve's manager of HAProxy, with `WatchedHAProxy`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        haproxy.HAProxyApi = WatchedHAProxy  # type: ignore[misc]
        super().__init__(*args, **options)

    async def _update_haproxy_backends(self) -> None:
        # The address of the fallback may come first; written without the gateways it would take
        # them away from a HAProxy that was taken over.
        if self._received_target_groups_broadcast:
            await super()._update_haproxy_backends()


def watch_haproxy() -> None:
    """Makes Serve's controller, in whose process it is called, start `WatchedHAProxyManager`."""
    watched: Any = ray.remote(num_cpus=0)(WatchedHAProxyManager)
    controller.HAProxyManager = watched  # type: ignore[attr-defined]
