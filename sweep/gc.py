"""What in a store nobody needs any more: abandoned, refused and failed attempts, leftovers of crashes, caches."""

import contextlib
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import StoreError
from sweep.store import REFUSED, CorruptEntryError, FileInfo, Store

ALIVE_SECONDS = 120.0
"""An attempt whose heartbeat is younger belongs to somebody; one without any may be younger than its first."""


@dataclass(frozen=True)
class Garbage:
    """Something that may be deleted."""

    path: str
    why: str
    bytes: int


def find_garbage(store: Store, *, failed: bool = False, cache: bool = False) -> list[Garbage]:
    """Attempts that no DONE names and nobody works on; error texts and caches only when asked for.

    One listing of the whole storage, and a look at each DONE mark.

    Args:
        failed: Also attempts that failed, with their error text.
        cache: Also this machine's token cache, fetched weights and remembered fingerprints.
    """
    runs: dict[str, dict[str, FileInfo]] = defaultdict(dict)
    for name, info in store.listing("runs").items():
        run_id, _, rest = name.partition("/")
        runs[run_id][rest] = info
    found = [
        item for items in store.parallel(lambda i: _of_run(store, i, runs[i], failed=failed), runs) for item in items
    ]
    if cache and store.cache.exists():
        size = sum(file.stat().st_size for file in store.cache.rglob("*") if file.is_file())
        found.append(Garbage(str(store.cache), "cache", size))
    return found


def _of_run(store: Store, run_id: str, files: dict[str, FileInfo], *, failed: bool) -> list[Garbage]:
    attempts: dict[str, dict[str, FileInfo]] = defaultdict(dict)
    for name, info in files.items():
        folder, _, rest = name.partition("/")
        if folder == "attempts":
            uuid, _, inner = rest.partition("/")
            attempts[uuid][inner] = info
    if store.is_local:  # a folder may be there without a file
        with contextlib.suppress(OSError):
            for entry in Path(store.path("runs", run_id, "attempts")).iterdir():
                attempts.setdefault(entry.name, {})
    scratch = {name: info for name, info in files.items() if name.startswith("scratch/")}
    try:
        done = store.done(run_id)
    except CorruptEntryError:
        return []  # for a person, or the next `w2s run`, to look at
    others = [uuid for uuid in attempts if not (done and done.attempt == uuid)]
    if not others and not (done and scratch):
        return []
    alive = {beat.attempt for beat in store.heartbeats(run_id) if beat.age < ALIVE_SECONDS}
    found = []
    for uuid in others:
        inside, place = attempts[uuid], store.path("runs", run_id, "attempts", uuid)
        if "error.json" in inside:
            if failed or done:  # otherwise the error text is still wanted
                found.append(_garbage(place, "failed attempt", inside))
        elif REFUSED in inside:
            found.append(_garbage(place, "refused attempt", inside))
        elif uuid not in alive and not _is_young(store, place, inside):
            found.append(_garbage(place, "abandoned attempt", inside))
    if done and not alive and scratch:
        found.append(_garbage(store.path("runs", run_id, "scratch"), "scratch of a finished run", scratch))
    return found


def _is_young(store: Store, place: str, files: dict[str, FileInfo]) -> bool:
    latest = max((info.modified for info in files.values()), default=0.0)
    if not files and store.is_local:
        with contextlib.suppress(OSError):
            latest = Path(place).stat().st_mtime
    return time.time() - latest < ALIVE_SECONDS


def delete(store: Store, garbage: list[Garbage]) -> None:
    """Delete what `find_garbage` found; what somebody else deleted meanwhile is as good.

    Raises:
        StoreError: Something cannot be deleted; names it.
    """
    for item in garbage:
        try:
            if item.path == str(store.cache) or store.is_local:
                shutil.rmtree(Path(item.path))
            else:
                store.fs.rm(item.path, recursive=True)
        except FileNotFoundError:
            continue
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{item.path}: cannot be deleted: {error.strerror or error}") from None


def _garbage(path: str, why: str, files: dict[str, FileInfo]) -> Garbage:
    return Garbage(path, why, sum(info.bytes for info in files.values()))
