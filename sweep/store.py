"""The results store: immutable attempts, and a DONE mark that is created once, last, with checksums.

    runs/<run_id>/attempts/<uuid>/...     written freely by whoever runs the run
    runs/<run_id>/DONE                    created only if absent; names one attempt and the sha256 of its files
    runs/<run_id>/alive/<uuid>.json       who is at it, and how far

A reader opens DONE first and trusts nothing that it does not name, so half a run is never seen. Two drivers on one
store may do equal work twice; the second DONE is refused and its attempt stays behind for `w2s gc`.
Any fsspec location works. There is no rename and no lock.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from sweep.errors import StoreError
from w2s.errors import InterruptedRunError, W2SError

VERIFIED_WHOLE = 64 << 20
"""Files up to this many bytes are read and hashed when a plan asks what is done; of larger ones only the size."""


class CorruptEntryError(StoreError):
    """A finished run's file is missing or differs from its checksum."""


@dataclass(frozen=True)
class Done:
    """The DONE mark of a run."""

    run_id: str
    attempt: str
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    attempt: str
    kind: str
    message: str
    time: float
    detail: str = ""

    @property
    def signature(self) -> tuple[str, str]:
        """Two failures with the same signature are the same failure."""
        return (self.kind, self.message)


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life of a run that is not finished."""

    attempt: str
    host: str
    pid: int
    time: float
    fraction: float
    started: float | None = None
    """When the attempt began, in seconds since 1970."""
    from_fraction: float = 0.0
    """Where it went on, if it had the state of an earlier attempt."""

    @property
    def age(self) -> float:
        return time.time() - self.time


class Attempt:
    """A folder to write one run into; see `Store.writing`."""

    def __init__(self, uuid: str, folder: Path) -> None:
        self.uuid = uuid
        self.folder = folder

    def write_json(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


class Store:
    """Results at `root`, a folder or an fsspec URL."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        try:
            self.fs, self._base = fsspec.url_to_fs(self.root)
        except (ValueError, ImportError) as error:  # an unknown protocol, or its package is not installed
            raise StoreError(f"storage '{self.root}': {error}") from None
        self.is_local = "file" in ((self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (Store, (self._base if self.is_local else self.root,))  # fsspec made a local one absolute

    def path(self, *parts: str) -> str:
        return "/".join((self._base.rstrip("/"), *parts))

    @cached_property
    def cache(self) -> Path:
        """A local folder that may be deleted at any time."""
        if self.is_local:
            return Path(self._base) / "cache"
        name = sha256(self.root.encode()).hexdigest()[:16]
        return Path(os.environ.get("W2S_CACHE", Path.home() / ".cache" / "w2s")) / name

    def check_place(self) -> None:
        """Raises StoreError if there can be no results here, because a file is in the way."""
        if not self.is_local:
            return
        place = Path(self._base)
        for part in (place, *place.parents):
            if part.exists():
                if not part.is_dir():
                    raise StoreError(f"storage '{self.root}' is not writable: {part} is a file; give another `storage`")
                return

    def seems_writable(self) -> bool:
        """Whether this process may write into a local storage; True of others, which are only asked by a run."""
        if not self.is_local:
            return True
        place = Path(self._base)
        return os.access(next(part for part in (place, *place.parents) if part.exists()), os.W_OK)

    def check_writable(self) -> None:
        """Raises StoreError unless a file can be created, read back and removed here."""
        probe = self.path(f".probe-{uuid4().hex}")
        try:
            self.fs.makedirs(self.path("runs"), exist_ok=True)
            if not create_if_absent(self, probe, b"w2s") or create_if_absent(self, probe, b"again"):
                raise OSError("a file cannot be created only if it is absent")
            if self.fs.cat_file(probe) != b"w2s":
                raise OSError("what was written is not what is read back")
            self.fs.rm_file(probe)
        except Exception as error:  # every fsspec backend has its own errors
            raise StoreError(
                f"storage '{self.root}' is not writable: {_reason(error)}; give another `storage`"
            ) from None

    # -- reading -----------------------------------------------------------------------------------------------

    def done(self, run_id: str) -> Done | None:
        """The run's DONE mark, or None.

        Raises:
            CorruptEntryError: There is one, but it cannot be read.
        """
        place = self.path("runs", run_id, "DONE")
        try:
            mark = json.loads(self.fs.cat_file(place))
            return Done(run_id, mark["attempt"], mark["files"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise CorruptEntryError(f"{place}: is not a DONE mark (damaged?)") from None

    def verify(self, run_id: str) -> Done | None:
        """Like `done`, and every file it names is there with the right size; the smaller ones with the right bytes."""
        done = self.done(run_id)
        if done is None:
            return None
        self._check_sizes(done)
        for name, expected in done.files.items():
            if expected["bytes"] <= VERIFIED_WHOLE:
                self._checked_bytes(done, name)
        return done

    def _check_sizes(self, done: Done) -> None:
        for name, expected in done.files.items():
            place = self._file(done, name)
            try:
                size = os.stat(place).st_size if self.is_local else self.fs.size(place)
            except (FileNotFoundError, NotADirectoryError):
                raise CorruptEntryError(f"{place}: is missing, though {done.run_id} is marked done") from None
            if size != expected["bytes"]:
                raise CorruptEntryError(f"{place}: has {size} bytes, {expected['bytes']} were written")

    def read(self, run_id: str, name: str) -> bytes:
        """A file of a finished run, checked against its sha256.

        Raises:
            StoreError: The run is not done.
            CorruptEntryError: The file is missing or differs.
        """
        return self._checked_bytes(self._finished(run_id), name)

    def read_json(self, run_id: str, name: str) -> Any:
        return json.loads(self.read(run_id, name))

    def folder(self, run_id: str, name: str) -> Path:
        """A local folder with the files of a finished run below `name/`; fetched into the cache from remote storage."""
        done = self._finished(run_id)
        names = [file for file in done.files if file.startswith(f"{name}/")]
        if not names:
            raise StoreError(f"{run_id} kept no {name}; run it again with `keep_weights: all`")
        if self.is_local:
            for file in names:
                self._checked_bytes(done, file)
            return Path(self._file(done, name))
        target = self.cache / "fetched" / done.attempt / name
        if not target.exists():
            target.parent.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=target.parent.parent))
            for file in names:
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                (partial / file).write_bytes(self._checked_bytes(done, file))
            target.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another process was first
                (partial / name).rename(target)
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def failures(self, run_id: str) -> list[Failure]:
        """The failed attempts of a run, oldest first."""
        found = []
        for place in self.fs.glob(self.path("runs", run_id, "attempts", "*", "error.json")):
            with contextlib.suppress(ValueError, TypeError, FileNotFoundError):
                found.append(Failure(attempt=str(place).split("/")[-2], **json.loads(self.fs.cat_file(place))))
        return sorted(found, key=lambda failure: failure.time)

    def heartbeats(self, run_id: str) -> list[Heartbeat]:
        """The last signs of life of all attempts that have not ended by themselves, oldest first."""
        found = []
        for place in self.fs.glob(self.path("runs", run_id, "alive", "*.json")):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                found.append(Heartbeat(**json.loads(self.fs.cat_file(place))))
        return sorted(found, key=lambda beat: beat.time)

    def survey(self, run_ids: Iterable[str], *, verify: bool) -> tuple[dict[str, Done], dict[str, str]]:
        """The runs that are done, and what is wrong with those whose entry is damaged (id -> message).

        Args:
            verify: Read the files and compare checksums; otherwise only sizes are looked at, where that costs nothing.
        """
        corrupt: dict[str, str] = {}

        def look(run_id: str) -> Done | None:
            try:
                if verify:
                    return self.verify(run_id)
                done = self.done(run_id)
                if done and self.is_local:
                    self._check_sizes(done)
                return done
            except CorruptEntryError as error:
                corrupt[run_id] = str(error)
                return None

        present = self.run_folders()
        candidates = [run_id for run_id in run_ids if run_id in present]
        with ThreadPoolExecutor(4 if self.is_local else 32) as pool:
            return {done.run_id: done for done in pool.map(look, candidates) if done}, corrupt

    def run_folders(self) -> set[str]:
        """Ids of all runs that were ever started here."""
        try:
            return {entry.rstrip("/").split("/")[-1] for entry in self.fs.ls(self.path("runs"), detail=False)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def _finished(self, run_id: str) -> Done:
        done = self.done(run_id)
        if done is None:
            raise StoreError(f"{run_id} is not done in '{self.root}'")
        return done

    def _file(self, done: Done, name: str) -> str:
        return self.path("runs", done.run_id, "attempts", done.attempt, name)

    def _checked_bytes(self, done: Done, name: str) -> bytes:
        place = self._file(done, name)
        if name not in done.files:
            raise StoreError(f"{done.run_id} has no {name}")
        try:
            data = self.fs.cat_file(place)
        except FileNotFoundError:
            raise CorruptEntryError(f"{place}: is missing, though {done.run_id} is marked done") from None
        if sha256(data).hexdigest() != done.files[name]["sha256"]:
            raise CorruptEntryError(f"{place}: does not match its checksum")
        return data

    # -- writing -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, run_id: str) -> Iterator[Attempt]:
        """An attempt at a run: DONE on a clean exit; on an exception its error is recorded, and raised again."""
        uuid = uuid4().hex
        place = self.path("runs", run_id, "attempts", uuid)
        folder = Path(place) if self.is_local else Path(tempfile.mkdtemp(prefix="w2s-attempt-"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield Attempt(uuid, folder)
            self._commit(run_id, uuid, folder, place)
        except InterruptedRunError:
            shutil.rmtree(folder, ignore_errors=True)  # no failure; its state is elsewhere
            raise
        except Exception as error:
            with contextlib.suppress(Exception):  # on a full disk the error itself has no room
                self._record_failure(place, error)
            raise
        finally:
            if not self.is_local:
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, run_id: str, uuid: str, folder: Path, place: str) -> None:
        files = {}
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = file.read_bytes()
            name = file.relative_to(folder).as_posix()
            files[name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
            if self.is_local:
                _flush(file)
            else:
                self.fs.pipe_file(f"{place}/{name}", data)
        mark = json.dumps({"attempt": uuid, "files": files}, indent=1, sort_keys=True).encode()
        create_if_absent(self, self.path("runs", run_id, "DONE"), mark)

    def _record_failure(self, place: str, error: Exception) -> None:
        record = {
            "kind": type(error).__name__,
            "message": _reason(error),
            "time": time.time(),
            # of an error raised on purpose the message says it all
            "detail": "" if isinstance(error, W2SError) else "".join(traceback.format_exception(error)),
        }
        self.write_object(f"{place}/error.json", json.dumps(record, indent=1).encode())

    def record_failure(self, run_id: str, kind: str, message: str, detail: str = "") -> None:
        """A failure seen from outside, such as a worker process that died."""
        record = {"kind": kind, "message": message, "time": time.time(), "detail": detail}
        place = self.path("runs", run_id, "attempts", uuid4().hex, "error.json")
        self.write_object(place, json.dumps(record, indent=1).encode())

    def beat(self, run_id: str, heartbeat: Heartbeat) -> None:
        """Best effort: a sign of life is never a reason to fail."""
        with contextlib.suppress(OSError):
            place = self.path("runs", run_id, "alive", f"{heartbeat.attempt}.json")
            self.write_object(place, json.dumps(heartbeat.__dict__).encode())

    def end_beat(self, run_id: str, attempt: str) -> None:
        """The attempt has ended, well or not."""
        with contextlib.suppress(OSError):
            self.fs.rm_file(self.path("runs", run_id, "alive", f"{attempt}.json"))

    def write_object(self, place: str, data: bytes) -> None:
        """Replace a small file as a whole; readers see the old one or the new one."""
        if self.is_local:
            target = Path(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{uuid4().hex}")
            try:
                temporary.write_bytes(data)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        else:
            self.fs.pipe_file(place, data)

    def quarantine(self, run_id: str) -> None:
        """Set a damaged DONE mark aside, so that the run counts as not done; nothing is deleted."""
        place = self.path("runs", run_id, "DONE")
        self.fs.mv(place, self.path("runs", run_id, f"DONE.damaged-{uuid4().hex[:8]}"))


def create_if_absent(store: Store, place: str, data: bytes) -> bool:
    """Create a file with its whole content, unless it exists. Returns whether this call created it."""
    if not store.is_local:
        try:
            store.fs.pipe_file(place, data, mode="create")
            return True
        except FileExistsError:
            return False
    target = Path(place)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(data)
        _flush(temporary)
        os.link(temporary, target)  # unlike a rename, refuses to replace
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
