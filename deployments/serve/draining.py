"""The time in which processes that Ray Serve and HAProxy take out of use may finish their requests.

A gateway that goes (fewer are needed, or it moves) stays reachable for a while, since HAProxy may
not know yet; then it finishes its requests, of which the longest takes `TIMEOUT_S_MAX`. The same
holds for a language model that goes, and for an HAProxy process that a newer one has relieved, as
streams run through it. All of them end sooner when they have nothing to do.
"""

from cluster.query.terms import TIMEOUT_S_MAX

REACHABLE_S = 30.0
"""Time from the order to go until the last request is accepted."""
DRAIN_TIMEOUT_S = REACHABLE_S + TIMEOUT_S_MAX + 30.0
"""Time after which a process that still works is ended; the last part is for ending itself."""
