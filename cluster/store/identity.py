"""The store's own name, by which session tokens say whose release log they speak of."""

from __future__ import annotations

import uuid
from typing import Annotated

from pydantic import Field

from cluster.clock import Backoff, Deadline
from cluster.errors import NotFound
from cluster.records import Record
from cluster.store.numbered_log import put_or_get
from cluster.store.object_store import ObjectStore

STORE_FILE = "store.json"
_TIMEOUT_S = 10.0


class StoreIdentity(Record):
    """Object `store.json`: made by the first process, and the same for all from then on."""

    id: Annotated[str, Field(min_length=1, max_length=64)]


def store_identity(store: ObjectStore) -> str:
    """The store's id; a store without an id gets one.

    Raises Corrupt for a file of another form, and the errors of `put_or_get`: then ask again.
    """
    try:
        data = store.get(STORE_FILE)
    except NotFound:
        data = put_or_get(
            store,
            STORE_FILE,
            StoreIdentity(id=uuid.uuid4().hex).to_bytes(),
            deadline=Deadline.after(_TIMEOUT_S),
            backoff=Backoff(),
        )
    return StoreIdentity.from_bytes(data, source=STORE_FILE).id
