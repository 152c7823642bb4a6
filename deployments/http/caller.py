"""The origin of a request, as its headers give it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeVar

from pydantic import ValidationError
from starlette.types import Scope

from cluster.errors import InvalidArgument
from cluster.query.caller import Caller, Location
from cluster.query.request import Request
from cluster.regions.wire import FORWARDED_BY
from deployments.http.body import header_values

LOCATION = b"x-raygion-location"
_FORWARDED_BY = FORWARDED_BY.encode()
_FORWARDED_FOR = b"x-forwarded-for"
_DECIMAL = r"[+-]?\d{1,3}(?:\.\d{1,15})?"
_LOCATION = re.compile(rf"\s*({_DECIMAL})\s*,\s*({_DECIMAL})\s*")
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)

RequestT = TypeVar("RequestT", bound=Request)


class CallerReader:
    """Reads where callers are: from the header that says so, else from their address."""

    def __init__(
        self, locations: Mapping[IPv4Network | IPv6Network, Location], proxy: str = ""
    ) -> None:
        """`proxy`: the address of the machine that requests come through, if it is not this one."""
        self._believed = frozenset({"127.0.0.1", "::1", proxy} - {""})
        smallest_first = sorted(locations.items(), key=lambda item: -item[0].prefixlen)
        self._locations = tuple(smallest_first)

    def with_caller(self, request: RequestT, scope: Scope) -> RequestT:
        """The request with what its headers say. Raises InvalidArgument naming the header."""
        location = _given_location(scope) or self._by_address(scope)
        forwarded_by = _forwarded_by(scope)
        if location is None and not forwarded_by:
            return request
        return replace(request, caller=Caller(location=location), forwarded_by=forwarded_by)

    def _by_address(self, scope: Scope) -> Location | None:
        if not self._locations:
            return None
        try:
            address = ip_address(self._address(scope))
        except ValueError:
            return None
        return next((location for net, location in self._locations if address in net), None)

    def _address(self, scope: Scope) -> str:
        """The address of the client. Only the region's own proxy is believed about its client."""
        address: str = (scope.get("client") or ("", 0))[0]
        if address in self._believed:
            forwarded_for = header_values(scope, _FORWARDED_FOR)
            if forwarded_for:
                # The proxy adds its own at the end; what stands before it anybody may have written.
                return forwarded_for[-1].decode("latin-1").rpartition(",")[2].strip()
        return address


def _given_location(scope: Scope) -> Location | None:
    given = header_values(scope, LOCATION)
    if not given:
        return None
    found = _LOCATION.fullmatch(given[0].decode("latin-1"))
    if found and len(given) == 1:
        latitude, longitude = map(float, found.groups())
        try:
            return Location(latitude=latitude, longitude=longitude)
        except ValidationError:
            pass
    raise InvalidArgument(
        "must be one latitude and longitude in degrees, such as 48.2,16.4", LOCATION.decode()
    )


def _forwarded_by(scope: Scope) -> str:
    given = header_values(scope, _FORWARDED_BY)
    if not given:
        return ""
    name = given[0].decode("latin-1")
    if len(given) > 1 or not _NAME.fullmatch(name):
        raise InvalidArgument("must be the name of a region", FORWARDED_BY)
    return name
