"""A network drive is the store of several machines only if each sees what the others write."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.errors import InvalidArgument
from cluster.store.object_store import local_folder
from cluster.store.shared_folder import check_shared_folder
from deployments.hosting.start_checks import check_before_start, check_store_is_shared
from deployments.installation import Installation

BASE = "/dev/vda / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n"
# As the kernel writes it for a mount with default options.
DEFAULT = "rw,relatime,vers=4.2,rsize=1048576,namlen=255,hard,proto=tcp,timeo=600,sec=sys"


def mounts(kind: str, options: str, folder: str = "/mnt/share") -> str:
    return f"{BASE}server:/export {folder} {kind} {options} 0 0\n"


@pytest.mark.parametrize("kind", ["nfs", "nfs4"])
@pytest.mark.parametrize(
    ("added", "is_good"),
    [
        ("", False),
        (",lookupcache=pos", False),
        # Names are asked for then, but folders are still listed as they were.
        (",lookupcache=none", False),
        (",acregmin=0,acregmax=0,acdirmin=0,acdirmax=0", False),
        (",lookupcache=none,acdirmin=0,acdirmax=30", False),
        (",noacl", False),
        (",lookupcache=none,acdirmin=0,acdirmax=0", True),
        (",acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,noac", True),
    ],
)
def test_nfs_is_taken_where_its_client_keeps_nothing(kind: str, added: str, is_good: bool) -> None:
    found = mounts(kind, DEFAULT + added)
    if is_good:
        check_shared_folder(Path("/mnt/share/raygion"), found)
        return
    with pytest.raises(InvalidArgument, match="`noac`, or with `lookupcache=none") as caught:
        check_shared_folder(Path("/mnt/share/raygion"), found)
    assert caught.value.field == "store.url"


@pytest.mark.parametrize("kind", ["cifs", "smb3", "fuse.sshfs", "fuse.rclone"])
def test_what_keeps_names_in_any_case_is_refused(kind: str) -> None:
    with pytest.raises(InvalidArgument, match="take a bucket on S3"):
        check_shared_folder(Path("/mnt/share"), mounts(kind, "rw"))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "ceph", "lustre", "gpfs"])
def test_others_raise_nothing(kind: str) -> None:
    check_shared_folder(Path("/mnt/share"), mounts(kind, "rw"))


@pytest.mark.parametrize(
    ("folder", "is_on_nfs"),
    [
        ("/mnt/share", True),
        ("/mnt/share/a/b", True),
        ("/mnt/shared", False),
        ("/mnt", False),
        ("/mnt/share/local/x", False),
        ("/home/x", False),
    ],
)
def test_the_innermost_mount_counts(folder: str, is_on_nfs: bool) -> None:
    found = mounts("nfs4", DEFAULT) + "/dev/vdb /mnt/share/local ext4 rw 0 0\n"
    if is_on_nfs:
        with pytest.raises(InvalidArgument):
            check_shared_folder(Path(folder), found)
    else:
        check_shared_folder(Path(folder), found)


def test_of_one_place_the_last_mount_counts() -> None:
    automounted = mounts("autofs", "rw,fd=5") + "server:/export /mnt/share nfs4 rw 0 0\n"
    with pytest.raises(InvalidArgument):
        check_shared_folder(Path("/mnt/share"), automounted)


def test_names_with_blanks_are_read() -> None:
    found = mounts("nfs4", DEFAULT, r"/mnt/our\040share\134x")
    with pytest.raises(InvalidArgument):
        check_shared_folder(Path("/mnt/our share\\x/store"), found)


def test_this_machines_own_mounts_raise_nothing_but_that_they_are_refused(tmp_path: Path) -> None:
    check_store_is_shared("s3://bucket/x")
    # Whatever they are: the folder may well be on NFS.
    with suppress(InvalidArgument):
        check_store_is_shared(str(tmp_path))


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("local:///a/b", "/a/b"),
        ("a", "a"),
        ("s3://a/b", None),
    ],
)
def test_which_addresses_are_folders(url: str, folder: str | None) -> None:
    assert local_folder(url) == (None if folder is None else Path(folder))


@pytest.mark.parametrize(
    ("regions", "is_refused"),
    [
        ({"a": {}}, False),
        # All on this machine, whose kernel keeps what it has seen for all of them.
        ({"a": {}, "b": {"http": {"port": 8001}}}, False),
        ({"a": {}, "b": {"url": "https://b.example"}}, True),
        ({"a": {}, "b": {"http": {"host": "10.0.0.2", "api_keys": ["k"]}}}, True),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_regions_of_several_machines_are_not_started_on_it(
    tmp_path: Path,
    regions: dict[str, object],
    is_refused: bool,
    linked: bool,
) -> None:
    share = (tmp_path / "share").resolve()
    share.mkdir()
    listed = tmp_path / "mounts"
    listed.write_text(mounts("nfs4", DEFAULT, str(share)))
    store = share / "store"
    if linked:
        store = tmp_path / "link"
        store.symlink_to(share)
    given = {"regions": regions, "store": {"url": str(store)}, "state_folder": tmp_path}
    installation = Installation(Settings.model_validate(given), "a")
    if is_refused:
        with pytest.raises(InvalidArgument, match="is on NFS"):
            check_before_start(installation, listed)
    else:
        check_before_start(installation, listed)
