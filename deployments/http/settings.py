"""The settings of the HTTP interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from cluster.errors import InvalidArgument
from cluster.query.caller import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Bounds and keys of one gateway process. Raises InvalidArgument for values without sense."""

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Bearer keys, any of which opens the interface; none leaves it open. Kept out of `repr`, so
    that no log shows them."""
    region_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys that other regions send. Any of them opens everything that a key of `api_keys` does, and
    if there are any, nothing else opens the routes that only regions use.
    """
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that browsers may let use the interface; `*` stands for all."""
    in_flight_max: int = 256
    """Requests worked on at once; one more is refused at once with `overloaded`."""
    answers_in_flight_max: int = 32
    """Answers worked on at once; one more is refused before anything is looked up for it."""
    body_bytes_max: int = 16 * 1024 * 1024
    """Longest request body."""
    body_timeout_s: float = 30.0
    """Time in which the whole body must have arrived, so that slow senders do not hold slots."""
    replies_bytes_max: int = 256 * 1024 * 1024
    """Bytes of the long replies that clients are still to read; a reply beyond them is refused with
    `overloaded`."""
    unread_timeout_s: float = 30.0
    """Time in which a client must read what it is sent. A long reply gets a second more for each
    128 KiB."""
    status_timeout_s: float = 2.0
    """Time for the region to say its status, for requests that cannot be answered without."""
    locations: Mapping[IPv4Network | IPv6Network, Location] = field(default_factory=dict)
    """Locations of callers that do not state their own, by the network that they come from."""
    proxy: str = ""
    """The address of the machine that requests come through, where that is not this one."""

    def __post_init__(self) -> None:
        for name in (
            "in_flight_max",
            "answers_in_flight_max",
            "body_bytes_max",
            "body_timeout_s",
            "replies_bytes_max",
            "unread_timeout_s",
            "status_timeout_s",
        ):
            if getattr(self, name) <= 0:
                raise InvalidArgument("must be greater than 0", name)
