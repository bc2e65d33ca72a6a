"""Where a long run keeps the state it would go on from, so that another machine can.

On a file system that is the folder `runs/<run_id>/scratch` of the store itself. Object storage cannot be written in
place: there the state lies in a folder of this machine, and each one saved is copied to the store's
`runs/<run_id>/scratch/state.pt` in the background. A worker on another machine fetches it before it starts. An upload
that is cut off is never seen: the state before it stays.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from sweep.errors import SweepError
from sweep.store import Store, one_at_a_time

STATE_FILE = "state.pt"
"""What `w2s.resume` writes; named here again because it brings torch."""
LOOK_EVERY_SECONDS = 1.0
_KNOWN = ".stored.json"
"""Beside a state: which object it is a copy of. Any other state was saved here since."""
_log = logging.getLogger("w2s")


def scratch_folder(store: Store, run_id: str) -> Path:
    """The folder of this machine that a run saves its state in and goes on from."""
    if store.is_local:
        return Path(store.path("runs", run_id, "scratch"))
    return store.cache / "scratch" / run_id


def state_place(store: Store, run_id: str) -> str:
    return store.path("runs", run_id, "scratch", STATE_FILE)


def fetch_state(store: Store, run_id: str, *, shared: bool) -> None:
    """Put the state that was saved elsewhere into the scratch folder, unless the one there goes on from it.

    Best effort for one rank: without a state the run starts anew, to the same result.

    Args:
        shared: Other ranks, on other machines, have to see the same state: then only the stored one counts, and one
            that is only here is removed.

    Raises:
        StorageError: The storage failed, and ranks could have seen different states.
    """
    if store.is_local:
        return
    folder = scratch_folder(store, run_id)
    here = folder / STATE_FILE
    with one_at_a_time(folder.with_name(f"{run_id}.lock")):  # ranks of one machine share the folder
        try:
            stored = _version(store, run_id)
            known = _known(folder)
            if stored is None:
                if shared:
                    here.unlink(missing_ok=True)
            elif not (
                here.exists() and known.get("version") == stored and (not shared or known.get("stamp") == _stamp(here))
            ):
                folder.mkdir(parents=True, exist_ok=True)
                partial = folder / f".{STATE_FILE}.{uuid4().hex}"
                try:
                    store.fs.get_file(state_place(store, run_id), str(partial))
                    os.replace(partial, here)
                finally:
                    partial.unlink(missing_ok=True)
                _note(folder, stored)
                _log.info("%s goes on from a state in %s", run_id, store.root)
        except (SweepError, OSError) as error:
            if shared and not isinstance(error, FileNotFoundError):
                raise
            _log.warning("%s: the saved state cannot be fetched (%s); going on with what is here", run_id, error)


def forget_state(store: Store, run_id: str) -> None:
    """The run is done: nobody goes on from its state. What cannot be deleted is left to `w2s gc`."""
    shutil.rmtree(scratch_folder(store, run_id), ignore_errors=True)
    if not store.is_local:
        with contextlib.suppress(SweepError, OSError):
            store.fs.rm_file(state_place(store, run_id))


@contextlib.contextmanager
def mirrored(store: Store, run_id: str) -> Iterator[None]:
    """While a run works, what it saves is copied to the storage; also the last one, however the run ends."""
    if store.is_local:
        yield
        return
    mirror = _Mirror(store, run_id)
    mirror.start()
    try:
        yield
    except BaseException:
        mirror.end(copy=True)
        raise
    mirror.end(copy=False)  # it is done, or about to be: its state is of no use


class _Mirror:
    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._folder = scratch_folder(store, run_id)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name=f"state of {run_id}")
        known = _known(self._folder)
        self._copied: Any = known.get("stamp")

    def start(self) -> None:
        self._thread.start()

    def end(self, *, copy: bool) -> None:
        self._ended.set()
        self._thread.join()
        if copy:
            self._copy()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_SECONDS):
            self._copy()

    def _copy(self) -> None:
        """Upload the state if it is another one; a failed upload is tried again at the next look."""
        state = self._folder / STATE_FILE
        snapshot = self._folder / f".{STATE_FILE}.{uuid4().hex}"
        try:
            if not state.exists() or _stamp(state) == self._copied:
                return
            os.link(state, snapshot)  # stays as it is when the run saves the next one
            self._store.fs.put_file(str(snapshot), state_place(self._store, self._run_id))
            self._copied = _stamp(snapshot)
            if (version := _version(self._store, self._run_id)) is not None:
                _note(self._folder, version, self._copied)
        except (SweepError, OSError) as error:
            _log.warning("%s: its state could not be copied to %s: %s", self._run_id, self._store.root, error)
        finally:
            with contextlib.suppress(OSError):
                snapshot.unlink(missing_ok=True)


def _version(store: Store, run_id: str) -> str | None:
    """What tells one stored state from another; None if there is none."""
    info = store.listing("runs", run_id, "scratch").get(STATE_FILE)
    return None if info is None else f"{info.etag} {info.modified} {info.bytes}"


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _known(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _KNOWN).read_text())
    except (OSError, ValueError):
        return {}


def _note(folder: Path, version: str, stamp: list[int] | None = None) -> None:
    (folder / _KNOWN).write_text(json.dumps({"version": version, "stamp": stamp or _stamp(folder / STATE_FILE)}))
