"""What is changed in the configuration that Ray Serve writes for HAProxy.

Serve writes it anew before each start and has no settings for these seven things:

1. Statistics and metrics are bound to loopback, whatever host requests are taken on.
2. Requests are read whole before a gateway is asked. So those that a dying gateway took with it can
   be sent to another one (`RAY_SERVE_HAPROXY_RETRY_ON`).
3. What the gateways have no places for is refused here. A refusal in a gateway costs it nearly half
   of what an answer costs, so at three times its capacity it would do little but refuse.
4. Serve's replicas are told not to watch each client: the gateway does so itself, and two tasks for
   each request are a good part of what Serve costs.
5. Gateways are told the address of the client, whatever the client says of it.
6. Nothing is sent to a system log for requests that went well.
7. Connections to gateways are kept, however many clients there are. HAProxy gives them up when a
   fifth of its connections is taken, and a gateway then answers less than half as much.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import orjson

_REFUSAL = {
    "code": "overloaded",
    "message": "this region is full; try again shortly",
    "retryable": True,
    "type": "server_error",
    "param": None,
    "trace_id": "%[var(txn.trace_id)]",
}
"""The same as a gateway's own refusal, see `deployments.http_errors`."""


def haproxy_changes(in_flight_max: int, http_port: int) -> str:
    """A sed program. `in_flight_max`: requests that one gateway takes at once; `http_port`: where
    requests are taken, on the host that the settings say.
    """
    body = orjson.dumps({"error": _REFUSAL}).decode()
    # Health and metrics pass: they matter most when all places are taken, and take none. The table
    # has one entry, which counts the requests under way that do.
    admission = [
        "    stick-table type string len 4 size 1 store conn_cur",
        "    acl is_work path_beg /v1/",
        "    http-request track-sc0 str(work) if is_work",
        "    http-request set-var(txn.in_flight) sc0_conn_cur if is_work",
        f"    acl is_full nbsrv,mul({in_flight_max}),sub(txn.in_flight) lt 0",
        # A refusal must cost next to nothing.
        "    http-request set-log-level silent if is_work is_full",
        "    http-request set-var(txn.trace_id) uuid,regsub(-,,g) if is_work is_full",
        "    http-request return status 503 content-type application/json hdr Retry-After 1"
        f" hdr x-trace-id %[var(txn.trace_id)] lf-string '{body}' if is_work is_full",
    ]
    lines = [
        "/^global$/a\\",
        "    tune.pool-low-fd-ratio 90\\",
        "    tune.pool-high-fd-ratio 95",
        rf"/:{http_port}$/!s/^\( *bind \)\*\{{0,1\}}:/\1127.0.0.1:/",
        "/^frontend http_frontend$/a\\",
        "    http-request set-header x-request-disconnect-disabled ?1\\",
        "    http-request set-header x-forwarded-for %[src]",
        "/^    option redispatch 1$/a\\",
        "    option dontlog-normal\\",
        "    option http-buffer-request",
        "/^    http-reuse always$/a\\",
        "\\\n".join(admission),
    ]
    return "\n".join(lines) + "\n"


def changed_haproxy(haproxy: str, changes: Path) -> str:
    """A shell script that stands in for the program `haproxy`: it makes the changes and becomes it
    by `exec`, since Serve insists on the pid that it started.
    """
    return f"""#!/bin/sh
set -e
previous=
for argument in "$@"; do
    if [ "$previous" = -f ] && ! grep -q http-buffer-request "$argument"; then
        sed -i -f {shlex.quote(str(changes))} "$argument"
    fi
    previous=$argument
done
# Without interrupting the gateways whenever a packet comes: a tenth more searches a second.
if command -v chrt > /dev/null; then
    exec chrt --batch 0 {shlex.quote(haproxy)} "$@"
fi
exec {shlex.quote(haproxy)} "$@"
"""
