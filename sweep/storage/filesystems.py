"""What the store asks of a file system beyond fsspec: whole files only if absent, locks, checksums, plain errors."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import fsspec.config

from sweep.errors import StorageError, SweepError
from sweep.storage.records import FileInfo

if TYPE_CHECKING:
    from sweep.storage.store import Store

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

REQUESTS_AT_ONCE = 64
"""To object storage, where a request takes long and costs little; of a file system, a few."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def create_if_absent(store: "Store", place: str, data: bytes) -> bool:
    """Create a file with its whole content, unless it exists. Returns whether this call created it.

    On S3 this is a PUT with If-None-Match, on GCS one with ifGenerationMatch=0, in a folder a hard link. An answer may
    be lost, and the request made again then meets the file that it made itself; so contents have to differ between
    callers, and are compared.
    """
    if not store.is_local:
        try:
            store.fs.pipe_file(place, data, mode="create")
            return True
        except FileExistsError:
            try:
                return store.fs.cat_file(place) == data
            except FileNotFoundError:  # set aside in this moment
                return False
    target = Path(place)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(data)
        flush(temporary)
        os.link(temporary, target)  # unlike a rename, refuses to replace
        return True
    except FileExistsError:
        return os.stat(temporary).st_nlink > 1  # NFS asked twice, and only the second answer came
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StorageError(
            f"storage '{store.root}': this file system has no hard links, by which a result appears as a whole; if it "
            "is a bucket that was mounted, give its s3:// or gs:// URL as `storage`"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Between the processes and threads of a machine; the kernel frees the lock of a process that dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: work may be done twice
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def plainly_full(folder: Path) -> Iterator[None]:
    """A full disk is said in plain words, whatever library met it."""
    try:
        yield
    except SweepError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        text = os.strerror(errno.ENOSPC)
        if not full and text not in str(error):
            raise
        place = getattr(error, "filename", None) or folder
        told = StorageError(f"{place}: {text}; make room, and the same command goes on")
        told.errno = errno.ENOSPC
        raise told from error


def scheme(root: str) -> str:
    return root.partition("://")[0] if "://" in root else ""


def options(root: str) -> dict[str, Any]:
    """Of S3: as many connections as requests, and fewer tries of its own, since `retrying` has the patience."""
    if scheme(root) in ("gs", "gcs"):
        # read when gcsfs is imported: otherwise it asks for each bucket's kind by gRPC first, for up to a minute where
        # that is not allowed, and writes to some kinds without the condition that DONE needs
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if scheme(root) not in ("s3", "s3a"):
        return {}
    own = {"max_pool_connections": REQUESTS_AT_ONCE, "retries": {"mode": "standard", "total_max_attempts": 2}}
    return {"config_kwargs": own | fsspec.config.conf.get("s3", {}).get("config_kwargs", {})}


def file_info(info: Mapping[str, Any]) -> FileInfo:
    modified = next((info[key] for key in ("LastModified", "mtime", "updated", "created") if info.get(key)), 0.0)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified.replace("Z", "+00:00"))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    return FileInfo(int(info.get("size") or 0), seconds, str(info.get("ETag") or info.get("etag") or "").strip('"'))


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_digests: dict[str, tuple[tuple[int, ...], str]] = {}


def digest_once(file: Path) -> str:
    """Of a file that has the size, time and inode it had before, what was computed then."""
    stat = file.stat()
    stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    known = _digests.get(str(file))
    if known is None or known[0] != stamp:
        known = _digests[str(file)] = (stamp, digest(file))
    return known[1]


def flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
