"""The changes to the configuration that Ray Serve writes for HAProxy.

Serve writes it anew before each start and has no settings for these thirteen things:

1. Statistics and metrics are bound to loopback, whatever host requests are taken on.
2. Requests are read whole before a gateway is asked. So those that a dying gateway took with it can
   be sent to another one (`RAY_SERVE_HAPROXY_RETRY_ON`).
3. What the gateways have no slots for is refused here, answers by a bound of their own. A refusal
   in a gateway costs it nearly half of what a search costs, so at three times its capacity it would
   do little but refuse; and it comes late where the language models have taken the cores.
4. Serve's replicas are told not to watch each client: the gateway does so itself, and two tasks for
   each request are a good part of what Serve costs.
5. Gateways are told the address of the client, whatever the client says of it.
6. Nothing is sent to a system log for requests that went well.
7. Connections to gateways are kept, however many clients there are. HAProxy gives them up when a
   fifth of its connections is taken, and a gateway then answers less than half as much.
8. A connection to a machine that is gone is given up after seconds. No packet says that it is gone,
   and HAProxy would wait for the answer for as long as the client does.
9. A request that does not arrive in time is given up: its head and as much of its body as fits into
   a buffer. Gateways see to the time of longer bodies.
10. Only the user who runs HAProxy reaches its socket, through which it can be told anything.
11. Errors are those of the interface. While no gateway is known, Serve would say that there is no
    such path, and while none answers, that something is broken.
12. Nobody is told which routes Serve has.
13. Nobody changes from HTTP to another protocol: a request to do so is answered as if it had not
    asked for that. Gateways would refuse a WebSocket without an error of the interface.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import orjson

from deployments.http.routes import ANSWER_ROUTES
from deployments.nodes.marked_processes import MARKER_VARIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySlots:
    """The work that one gateway takes at once."""

    requests: int = 256
    """Requests of any kind, answers included."""
    answers: int = 32
    """Requests for answers."""


_REQUEST_TIMEOUT_S = 30
"""Time limit of a request, as long as gateways wait for a body."""
_GONE_AFTER_S = 3
"""Time without an answer after which a machine counts as gone."""
_PROBES = (
    "    option srvtcpka",
    "    srvtcpka-idle 1s",
    "    srvtcpka-intvl 1s",
    f"    srvtcpka-cnt {_GONE_AFTER_S}",
)
"""Options by which the machine of a silent connection is asked whether it is there."""


def haproxy_changes(
    slots: GatewaySlots, http_port: int, request_timeout_s: int = _REQUEST_TIMEOUT_S
) -> str:
    """A sed program. `http_port`: where requests are taken, on the host that the settings say;
    `request_timeout_s`: from a request's first byte to what is read of it here.
    """
    # Health and metrics pass: they matter most when all slots are taken, and take none. The table
    # has two entries, which count the requests under way that do.
    admission = [
        "    stick-table type string len 8 size 2 store conn_cur",
        # Where there is none, the region is not full: HAProxy says that no gateway answers.
        "    acl has_gateways nbsrv gt 0",
        "    acl is_work path_beg /v1/",
        f"    acl is_answer path {' '.join(sorted(ANSWER_ROUTES))}",
        "    http-request track-sc0 str(work) if is_work",
        "    http-request track-sc1 str(answers) if is_answer",
        *_refused_beyond(slots.requests, "sc0", "is_work", "this region is full"),
        *_refused_beyond(
            slots.answers, "sc1", "is_answer", "this region writes as many answers as it can"
        ),
    ]
    lines = [
        "/^global$/a\\",
        "    tune.pool-low-fd-ratio 90\\",
        "    tune.pool-high-fd-ratio 95",
        "s/^\\(    stats socket .* mode \\)666 /\\1600 /",
        rf"/:{http_port}$/!s/^\( *bind \)\*\{{0,1\}}:/\1127.0.0.1:/",
        "/^frontend http_frontend$/a\\",
        "    http-request set-header x-request-disconnect-disabled ?1\\",
        "    http-request del-header upgrade\\",
        "    http-request set-header x-forwarded-for %[src]\\",
        # A gateway's web server cannot read any other.
        f"    http-request return status 405 {_NO_METHOD} unless {{ method {_METHODS} }}",
        "/^    option redispatch 1$/a\\",
        "    option dontlog-normal\\",
        "    option http-buffer-request\\",
        f"    timeout http-request {request_timeout_s}s\\",
        "    # Made when it is asked for.\\",
        "    unique-id-format %[uuid,regsub(-,,g)]\\",
        f"    http-error status 408 {_LATE}",
        f"s|^    errorfile \\(50[234]\\) .*|    http-error status \\1 {_UNAVAILABLE}|",
        f"/^backend default_backend$/,/^ *http-request/s|status 404 .*|status 503 {_UNAVAILABLE}|",
        f"s|^\\( *http-request return status \\).* if routes$|\\1404 {_NO_ROUTE} if routes|",
        # For a default of all servers HAProxy takes this, and does nothing.
        f"s/^    server .* check.*$/& tcp-ut {_GONE_AFTER_S}s/",
        "/^    http-reuse always$/a\\",
        "\\\n".join([*_PROBES, *admission]),
    ]
    return "\n".join(lines) + "\n"


def _refused_beyond(slots: int, counter: str, condition: str, reason: str) -> list[str]:
    """Refuses what meets the condition where the counter is above what all gateways together have
    slots for.
    """
    refused = f"if {condition} {condition}_too_much has_gateways"
    reply = _reply("overloaded", f"{reason}; try again shortly", retryable=True)
    return [
        f"    http-request set-var(txn.under_way) {counter}_conn_cur if {condition}",
        f"    acl {condition}_too_much nbsrv,mul({slots}),sub(txn.under_way) lt 0",
        # A refusal must cost next to nothing.
        f"    http-request set-log-level silent {refused}",
        f"    http-request return status 503 {reply} {refused}",
    ]


def _reply(code: str, message: str, *, retryable: bool) -> str:
    """The parts of a reply besides its status: the same error as a gateway's own
    (`deployments.http.errors`).
    """
    trace_id = "%[unique-id]"
    error = {
        "code": code,
        "message": message,
        "retryable": retryable,
        "type": "server_error" if retryable else "invalid_request_error",
        "param": None,
        "trace_id": trace_id,
    }
    body = orjson.dumps({"error": error}).decode()
    again = " hdr Retry-After 1" if retryable else ""
    return f"content-type application/json{again} hdr x-trace-id {trace_id} lf-string '{body}'"


_LATE = _reply("deadline_exceeded", "the request did not arrive in time", retryable=True)
_UNAVAILABLE = _reply("unavailable", "no gateway answers; try again shortly", retryable=True)
_METHODS = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE"
_NO_METHOD = _reply("method_not_allowed", "this route does not take this method", retryable=False)
_NO_ROUTE = _reply("not_found", "there is no such route; /openapi.json lists all", retryable=False)


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
set -- {shlex.quote(haproxy)} "$@"
# Without interrupting the gateways whenever a packet comes: a tenth more searches a second.
if command -v chrt > /dev/null; then
    set -- chrt --batch 0 "$@"
fi
# Ray ends the process group of a worker that dies. Where HAProxy is ended by its mark, it need not
# go with the process that started it.
if [ -n "${MARKER_VARIABLE}" ] && command -v setsid > /dev/null; then
    set -- setsid "$@"
fi
exec "$@"
"""
