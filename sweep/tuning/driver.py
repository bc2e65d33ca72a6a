"""One driver per study: a small object that says which process tells candidates, and how lately it was seen.

A process that was killed leaves its object behind. On the same machine the next one sees that it is gone and takes
over at once; from another machine it has to wait until the last sign of life is old.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweep.errors import StoreError, SweepError
from sweep.storage.store import Store

STALE_SECONDS = 60.0
"""Without a sign of life for this long, a driver on another machine counts as gone."""


class Driver:
    """This process, as the driver of a study; see `take`."""

    def __init__(self, store: Store, place: str, study: str) -> None:
        self._store = store
        self._place = place
        self._study = study
        self._token = uuid4().hex

    @classmethod
    def take(cls, store: Store, place: str, study: str) -> "Driver":
        """Become the driver.

        Raises:
            SweepError: Another live process is; or it cannot be written that this one is.
        """
        driver = cls(store, place, study)
        with _one_at_a_time(store, place):
            other = driver._read()
            if other and not _is_gone(other):
                raise SweepError(f"{driver._held_by(other)}; wait for it to end, or stop it")
            driver._write()
        if not driver._is_mine(driver._read()):  # on an object store two may have written in the same moment
            raise SweepError(f"{driver._held_by(driver._read() or {})}; it was faster")
        return driver

    def beat(self) -> None:
        """A sign of life, due every 20 s or so.

        Raises:
            SweepError: Another process has taken the study over, from a machine that saw no sign of life for a
                minute.
        """
        other = self._read()
        if other and not self._is_mine(other):
            raise SweepError(f"{self._held_by(other)}, which took it over from this process; this one stops")
        with contextlib.suppress(StoreError):  # a sign of life is never a reason to fail
            self._write()

    def release(self) -> None:
        """The study is free for the next process."""
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()):
                self._store.fs.rm_file(self._place)

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._store.fs.cat_file(self._place))
            return found if {"host", "pid", "time"} <= found.keys() else None
        except (FileNotFoundError, ValueError, AttributeError):  # a damaged one was not written by a live process
            return None
        except OSError as error:
            raise StoreError(f"{self._place}: cannot be read: {error}") from None

    def _write(self) -> None:
        pid = os.getpid()
        record = {
            "host": socket.gethostname(),
            "pid": pid,
            "born": _born(pid),
            "time": time.time(),
            "token": self._token,
        }
        try:
            self._store.write_object(self._place, json.dumps(record).encode())
        except OSError as error:
            raise StoreError(f"{self._place}: cannot be written: {error}; give another `storage`") from None

    def _is_mine(self, record: dict[str, Any] | None) -> bool:
        return record is not None and record.get("token") == self._token

    def _held_by(self, record: dict[str, Any]) -> str:
        age = time.time() - float(record.get("time", time.time()))
        return (
            f"study '{self._study}' is driven by process {record.get('pid')} on {record.get('host')}, "
            f"seen {max(age, 0):.0f} s ago"
        )


def _is_gone(record: dict[str, Any]) -> bool:
    """Whether the process has ended. Of another machine only the age of its last sign of life tells."""
    if record["host"] != socket.gethostname():
        return time.time() - record["time"] >= STALE_SECONDS
    pid = record["pid"]
    if pid == os.getpid():  # an earlier search of this very process, which did not end well
        return True
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    born = _born(pid)
    return born == "zombie" or (None not in (born, record.get("born")) and born != record["born"])


def _born(pid: int) -> str | None:
    """When a process of this machine started, in ticks since boot: a number given anew is another process. None if
    unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux
        return None
    return "zombie" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def _one_at_a_time(store: Store, place: str) -> Iterator[None]:
    """Between looking and writing no other process looks; the kernel frees the lock of a process that dies."""
    if not store.is_local:
        yield
        return
    lock = Path(place).with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise StoreError(f"{lock}: cannot be written: {error}; give another `storage`") from None
    with file:
        with contextlib.suppress(OSError):  # a file system without locks: as on an object store
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
