"""The store's own name, by which session tokens say whose release log they speak of."""

from __future__ import annotations

import uuid
from typing import Annotated

from pydantic import Field

from cluster.errors import Conflict, NotFound, OutcomeUnknown
from cluster.object_store import ObjectStore
from cluster.records import Record

STORE_FILE = "store.json"


class StoreIdentity(Record):
    """At `store.json`: made by whoever comes first, and the same for all from then on."""

    id: Annotated[str, Field(min_length=1, max_length=64)]


def store_identity(store: ObjectStore) -> str:
    """The store's id; a store that has none gets one.

    Raises Unavailable while the store does not answer, Corrupt when its file is none of ours, and
    OutcomeUnknown when it is not known whether an id was made: then ask again.
    """
    try:
        return _read(store)
    except NotFound:
        made = StoreIdentity(id=uuid.uuid4().hex)
    try:
        store.put_if_absent(STORE_FILE, made.to_bytes())
    except Conflict:
        return _read(store)
    except OutcomeUnknown:
        # The write may still land after this reading, but then over nothing: who reads an id here
        # reads the one that stays.
        try:
            return _read(store)
        except NotFound:
            raise OutcomeUnknown("the store's id may or may not have been written") from None
    return made.id


def _read(store: ObjectStore) -> str:
    return StoreIdentity.from_bytes(store.get(STORE_FILE), source=STORE_FILE).id
