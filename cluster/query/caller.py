"""The caller of a request, as far as that decides which region should serve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from cluster.records import Record


class Location(Record):
    """A location on earth, in degrees."""

    latitude: Annotated[float, Field(ge=-90, le=90)]
    """Degrees north of the equator."""
    longitude: Annotated[float, Field(ge=-180, le=180)]
    """Degrees east of Greenwich."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    location: Location | None = None
    user: str = ""


ANYONE = Caller()
