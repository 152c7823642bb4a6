"""Cursors: how far a reader of a corpus's changes has come, as a text such as `eu:120,us:7`."""

from __future__ import annotations

import re

from cluster.errors import InvalidArgument
from cluster.mutations.watermark import Watermark

BEGINNING = "0"
_PLACE = re.compile(r"([a-z0-9][a-z0-9_-]{0,62}):([1-9][0-9]{0,18})")


def cursor_of(watermark: Watermark) -> str:
    """The position in each region's log, in ascending order of the regions."""
    places = watermark.as_dict().items()
    return ",".join(f"{region}:{position}" for region, position in places) or BEGINNING


def parse_cursor(text: str, field: str) -> Watermark:
    """The watermark of a text that `cursor_of` made. Raises InvalidArgument, naming `field`, for
    any other.
    """
    if text == BEGINNING:
        return Watermark()
    places = [_PLACE.fullmatch(place) for place in text.split(",")]
    positions = {place[1]: int(place[2]) for place in places if place is not None}
    if len(positions) != len(places):
        raise InvalidArgument(
            f"must be the id of an event of this feed, such as eu:120,us:7, or {BEGINNING} for the "
            "beginning",
            field,
        )
    return Watermark.of(positions)
