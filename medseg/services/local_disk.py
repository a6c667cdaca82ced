"""Disks: whether a folder lies on one of this machine, and how much room is left."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

# SQLite's write-ahead log shares memory between processes through the file system, and needs locks
# and fsync that hold; file systems over a network promise neither.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gpfs",
        "glusterfs", "ocfs2", "gfs2", "beegfs", "pvfs2", "orangefs", "9p", "virtiofs", "davfs",
        "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs2",
        "fuse.nfs", "fuse.smbnetfs", "fuse.gcsfuse", "fuse.blobfuse",
    }
)  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def file_system_of(path: Path, *, mounts: Path = _MOUNTS) -> str:
    """Type of the file system that holds a path, such as "ext4"; "" where it cannot be told."""
    found, longest = "", -1
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    target = path.absolute()
    while not target.exists() and target != target.parent:
        target = target.parent
    target = target.resolve()
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        # Later lines lie over earlier ones at the same point.
        if target.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = right.split()[0], len(point.parts)
    return found


def is_network(file_system: str) -> bool:
    return file_system in NETWORK_FILE_SYSTEMS


def free_bytes(folder: Path) -> int:
    """Room left for ordinary users on the disk of a folder, which need not exist yet."""
    target = folder.absolute()
    while not target.exists() and target != target.parent:
        target = target.parent
    return shutil.disk_usage(target).free


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a full disk or a used-up quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__cause__
    return False


def flush_folder(folder: Path) -> None:
    """Has the operating system write a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
