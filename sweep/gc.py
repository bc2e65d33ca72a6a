"""What in a store nobody needs any more: abandoned and failed attempts, leftovers of crashes, caches."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import StoreError
from sweep.store import CorruptEntryError, Store

ALIVE_SECONDS = 120.0
"""An attempt whose heartbeat is younger belongs to somebody."""


@dataclass(frozen=True)
class Garbage:
    """Something that may be deleted."""

    path: str
    why: str
    bytes: int


def find_garbage(store: Store, *, failed: bool = False, cache: bool = False) -> list[Garbage]:
    """Attempts that no DONE names and nobody works on; error texts and caches only when asked for.

    Args:
        failed: Also attempts that failed, with their error text.
        cache: Also the token cache and remembered fingerprints.
    """
    found = []
    for run in _list(store, store.path("runs")):
        run_id = run.split("/")[-1]
        try:
            done = store.done(run_id)
        except CorruptEntryError:
            continue  # for a person, or the next `w2s run`, to look at
        alive = {beat.attempt for beat in store.heartbeats(run_id) if beat.age < ALIVE_SECONDS}
        for attempt in _list(store, f"{run}/attempts"):
            uuid = attempt.split("/")[-1]
            if uuid in alive or (done and done.attempt == uuid):
                continue
            has_error = store.fs.exists(f"{attempt}/error.json")
            if has_error and not (failed or done):
                continue  # the error text is still wanted
            found.append(_garbage(store, attempt, "failed attempt" if has_error else "abandoned attempt"))
        if done and not alive and store.fs.exists(f"{run}/scratch"):
            found.append(_garbage(store, f"{run}/scratch", "scratch of a finished run"))
    if cache and store.cache.exists():
        size = sum(file.stat().st_size for file in store.cache.rglob("*") if file.is_file())
        found.append(Garbage(str(store.cache), "cache", size))
    return found


def delete(store: Store, garbage: list[Garbage]) -> None:
    """Delete what `find_garbage` found."""
    for item in garbage:
        try:
            if item.path == str(store.cache) or store.is_local:
                shutil.rmtree(Path(item.path))
            else:
                store.fs.rm(item.path, recursive=True)
        except OSError as error:
            raise StoreError(f"{item.path}: cannot be deleted: {error.strerror or error}") from None


def _garbage(store: Store, path: str, why: str) -> Garbage:
    return Garbage(path, why, int(store.fs.du(path)))


def _list(store: Store, path: str) -> list[str]:
    try:
        return sorted(str(entry).rstrip("/") for entry in store.fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
