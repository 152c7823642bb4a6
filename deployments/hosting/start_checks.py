"""The checks before a region starts: a fault is better refused at once than found later."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from cluster.config import Settings
from cluster.regions.settings import is_loopback
from cluster.store.object_store import local_folder
from cluster.store.shared_folder import MOUNTS, check_shared_folder
from deployments.installation import Installation


def check_before_start(installation: Installation, mounts: Path = MOUNTS) -> None:
    """Raises InvalidArgument when others could come in without a key, or when the regions would not
    see at once what the others write to the store.
    """
    installation.region_settings.http.check_others_are_kept_out(installation.region)
    if _are_on_several_machines(installation.settings):
        check_store_is_shared(installation.settings.store.url, mounts)


def check_store_is_shared(store_url: str, mounts: Path = MOUNTS) -> None:
    """Raises InvalidArgument for a folder of which several machines would see different states."""
    folder = local_folder(store_url)
    # Where the kernel lists its mounts. Elsewhere nobody runs several machines.
    if folder is not None and mounts.exists():
        check_shared_folder(folder.resolve(), mounts.read_text())


def _are_on_several_machines(settings: Settings) -> bool:
    hosts = {urlsplit(endpoint.url).hostname or "" for endpoint in settings.endpoints().values()}
    return len(settings.regions) > 1 and not all(map(is_loopback, hosts))
