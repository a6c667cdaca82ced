from __future__ import annotations

import errno
from pathlib import Path

import pytest

from medseg.core.errors import OutputError
from medseg.services.local_disk import file_system_of, free_bytes, is_full, is_network

MOUNTS = """\
22 27 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /srv/pacs rw,relatime shared:1 - nfs4 server:/pacs rw
31 30 0:31 / /srv/pacs/fast\\040disk rw,relatime - xfs /dev/vdb rw
32 22 0:32 / /srv/pacsx rw - cifs //server/x rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/a/ledger.sqlite", "ext4"),
        ("/srv/pacs/ledger.sqlite", "nfs4"),
        ("/srv/pacs/fast disk/new/ledger.sqlite", "xfs"),
        ("/srv/pacsx/ledger.sqlite", "cifs"),
        ("/srv/pacsy/ledger.sqlite", "ext4"),
    ],
)
def test_the_longest_mount_point_above_a_path_tells_its_file_system(
    tmp_path, monkeypatch, path, expected
):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(Path, "exists", lambda self: True)

    assert file_system_of(Path(path), mounts=mounts) == expected


@pytest.mark.parametrize("name", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre"])
def test_network_file_systems_are_known(name):
    assert is_network(name)


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", ""])
def test_local_file_systems_are_let_through(name):
    assert not is_network(name)


def test_the_room_of_a_folder_that_is_not_there_yet_is_its_disks(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.2)


def test_a_full_disk_is_known_below_the_error_that_tells_of_it():
    error = OutputError("out", "cannot be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")

    assert is_full(error)
    assert is_full(OSError(errno.EDQUOT, "quota"))
    assert not is_full(OSError(errno.EACCES, "no"))
    assert not is_full(OutputError("out", "is odd"))
