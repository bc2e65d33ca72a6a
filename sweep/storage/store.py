"""The results store: immutable attempts, and a DONE mark that is created once, last, with checksums.

    runs/<run_id>/attempts/<uuid>/...     written freely by whoever runs the run
    runs/<run_id>/DONE                    created only if absent; names one attempt and the sha256 of its files
    runs/<run_id>/alive/<uuid>.json       who is at it, and how far
    runs/<run_id>/scratch/state.pt        where a long run would go on; see `sweep.storage.scratch`

A reader opens DONE first and trusts nothing that it does not name, so half a run is never seen. Two drivers on one
store may do equal work twice; the second DONE is refused and its attempt stays behind for `w2s gc`.
Any fsspec location works that can create a file only if it is absent. There is no rename and no lock.

Files may be larger than memory: they are hashed in pieces, uploaded and fetched as streams.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
import fsspec.config

from sweep.errors import StorageError, StoreError
from sweep.storage.filesystems import (
    REQUESTS_AT_ONCE,
    create_if_absent,
    digest,
    digest_once,
    file_info,
    flush,
    one_at_a_time,
    options,
    plainly_full,
    scheme,
)
from sweep.storage.records import Done, Failure, FileInfo, Heartbeat
from sweep.storage.retrying import RetryingFileSystem
from sweep.storage.secrets import STORAGE_CURE, refuse_credentials
from w2s.errors import InterruptedRunError, W2SError

VERIFIED_WHOLE = 64 << 20
"""Files up to this many bytes are read and hashed when a plan asks what is done; of larger ones only the size."""

TAKEN_OVER_SECONDS = 60.0
"""Whoever sets a mark aside deletes it at once; after this long it was killed in between."""

T = TypeVar("T")
R = TypeVar("R")


REFUSED = "refused.json"
"""In an attempt that ended well when another one was the result already."""


class CorruptEntryError(StoreError):
    """A finished run's file is missing or differs from its checksum."""


class Attempt:
    """A folder to write one run into; see `Store.writing`."""

    def __init__(self, uuid: str, folder: Path) -> None:
        self.uuid = uuid
        self.folder = folder
        self.won = False
        """Whether it became the run's result; known after a clean exit."""

    def write_json(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


class Store:
    """Results at `root`, a folder or an fsspec URL."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        if "://" in self.root:
            self.root = self.root.rstrip("/") if self.root.partition("://")[2].strip("/") else self.root
        self.fs: Any
        try:
            refuse_credentials(self.root, STORAGE_CURE)
        except ValueError as error:
            raise StoreError(f"storage: {error}") from None
        try:
            self.fs, self._base = fsspec.url_to_fs(self.root, **options(self.root))
        except ImportError as error:
            raise StoreError(f"storage '{self.root}': {error}; pip install 'w2s-sweep[cluster]' brings it") from None
        except ValueError as error:
            if (protocol := scheme(self.root)) and protocol not in fsspec.available_protocols():
                raise StoreError(
                    f"storage '{self.root}': nothing is known of {protocol}://; write s3://bucket/folder, "
                    "gs://bucket/folder, or a folder"
                ) from None
            raise StoreError(f"storage '{self.root}': {error}") from None
        self.is_local = "file" in ((self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol)
        if not self.is_local:
            if scheme(self.root) in ("s3", "s3a", "gs", "gcs") and not self._base.strip("/"):
                raise StoreError(f"storage '{self.root}' names no bucket; write {scheme(self.root)}://bucket/folder")
            if (listings := getattr(self.fs, "dircache", None)) is not None:
                listings.use_listings_cache = False  # others write here too
            self.fs = RetryingFileSystem(self.fs, self.root)
        self._judged: dict[str, str] = {}
        """Run id to the digest of the DONE mark that the last survey saw."""

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
            if self.is_local:  # object stores have no folders; fsspec would make a bucket that is only misspelt
                Path(self.path("runs")).mkdir(parents=True, exist_ok=True)
            if not create_if_absent(self, probe, b"w2s"):
                raise OSError("a file that was absent could not be created")
            try:
                if create_if_absent(self, probe, b"again"):
                    raise OSError(
                        "it creates a file anew that is there already (an S3 server must honour If-None-Match), so "
                        "two drivers could spoil each other's results"
                    )
                if self.fs.cat_file(probe) != b"w2s":
                    raise OSError("what was written is not what is read back")
            finally:
                self.fs.rm_file(probe)
        except StorageError:  # says it all
            raise
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
        raw = self._mark(run_id)
        return None if raw is None else self._parsed(run_id, raw)

    def _mark(self, run_id: str) -> bytes | None:
        try:
            return self.fs.cat_file(self.path("runs", run_id, "DONE"))
        except FileNotFoundError:
            return None

    def _parsed(self, run_id: str, raw: bytes) -> Done:
        try:
            mark = json.loads(raw)
            return Done(run_id, mark["attempt"], mark["files"])
        except (ValueError, KeyError, TypeError):
            place = self.path("runs", run_id, "DONE")
            raise CorruptEntryError(f"{place}: is not a DONE mark (damaged?)") from None

    def verify(self, run_id: str) -> Done | None:
        """Like `done`, and every file it names is there with the right size; the smaller ones with the right bytes.

        An object that still has the etag it was written with has the right bytes.
        """
        done = self.done(run_id)
        if done is not None:
            self._check(done)
        return done

    def _check(self, done: Done) -> None:
        there = None if self.is_local else self.listing("runs", done.run_id, "attempts", done.attempt)
        for name, expected in done.files.items():
            info = self._check_size(done, name, expected, there)
            if expected["bytes"] > VERIFIED_WHOLE or (info and info.etag and info.etag == expected.get("etag")):
                continue
            if self.is_local:
                self._check_file(done, name, Path(self._file(done, name)))
            else:
                self._checked_bytes(done, name)

    def _check_sizes(self, done: Done) -> None:
        for name, expected in done.files.items():
            self._check_size(done, name, expected, None)

    def _check_size(
        self, done: Done, name: str, expected: Mapping[str, Any], there: Mapping[str, FileInfo] | None
    ) -> FileInfo | None:
        """`there` is a listing of the attempt; without one, the file system is asked."""
        place, info = self._file(done, name), None
        try:
            if there is None:
                size = os.stat(place).st_size
            else:
                info = there[name]
                size = info.bytes
        except (FileNotFoundError, NotADirectoryError, KeyError):
            raise CorruptEntryError(f"{place}: is missing, though {done.run_id} is marked done") from None
        if size != expected["bytes"]:
            raise CorruptEntryError(f"{place}: has {size} bytes, {expected['bytes']} were written")
        return info

    def _check_file(self, done: Done, name: str, file: Path) -> None:
        """Compare a local copy of a file with its checksum, unless this process did and it is untouched since."""
        place = self._file(done, name)
        try:
            if digest_once(file) != done.files[name]["sha256"]:
                raise CorruptEntryError(f"{place}: does not match its checksum")
        except (FileNotFoundError, NotADirectoryError):
            raise CorruptEntryError(f"{place}: is missing, though {done.run_id} is marked done") from None

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
                self._check_file(done, file, Path(self._file(done, file)))
            return Path(self._file(done, name))
        target = self.cache / "fetched" / done.attempt / name
        with one_at_a_time(self.cache / "fetched" / f"{done.attempt}.lock"):  # one process of this machine fetches
            if not _is_whole(target, done, names):
                self._fetch(done, names, target)
        return target

    def _fetch(self, done: Done, names: list[str], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            for name in names:
                file = partial / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with plainly_full(file):
                    try:
                        self.fs.get_file(self._file(done, name), str(file))
                    except FileNotFoundError:
                        place = self._file(done, name)
                        raise CorruptEntryError(f"{place}: is missing, though {done.run_id} is marked done") from None
                self._check_file(done, name, file)
            shutil.rmtree(target, ignore_errors=True)  # a part of one, from before a power cut
            (partial / target.name).rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def failures(self, run_id: str) -> list[Failure]:
        """The failed attempts of a run, oldest first."""
        return self._failures(run_id, [f"attempts/{name}" for name in self.listing("runs", run_id, "attempts")])

    def heartbeats(self, run_id: str) -> list[Heartbeat]:
        """The last signs of life of all attempts that have not ended by themselves, oldest first."""
        return self._heartbeats(run_id, [f"alive/{name}" for name in self.listing("runs", run_id, "alive")])

    def traces(self, run_ids: Iterable[str]) -> dict[str, tuple[list[Heartbeat], list[Failure]]]:
        """Signs of life and failures of many runs, asked for at once: a listing for each, and what it names."""

        def look(run_id: str) -> tuple[list[Heartbeat], list[Failure]]:
            names = list(self.listing("runs", run_id))
            return self._heartbeats(run_id, names), self._failures(run_id, names)

        ids = list(run_ids)
        return dict(zip(ids, self.parallel(look, ids), strict=True))

    def _failures(self, run_id: str, names: Iterable[str]) -> list[Failure]:
        found = []
        for name in names:
            if name.startswith("attempts/") and name.endswith("/error.json"):
                with contextlib.suppress(ValueError, TypeError, FileNotFoundError):
                    text = self.fs.cat_file(self.path("runs", run_id, name))
                    found.append(Failure(attempt=name.split("/")[1], **json.loads(text)))
        return sorted(found, key=lambda failure: failure.time)

    def _heartbeats(self, run_id: str, names: Iterable[str]) -> list[Heartbeat]:
        found = []
        for name in names:
            if name.startswith("alive/") and name.endswith(".json") and not name.startswith("alive/."):
                with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                    found.append(Heartbeat(**json.loads(self.fs.cat_file(self.path("runs", run_id, name)))))
        return sorted(found, key=lambda beat: beat.time)

    def listing(self, *parts: str) -> dict[str, FileInfo]:
        """All files below a folder, by their path within it; empty if there is no such folder."""
        folder = self.path(*parts)
        try:
            found = self.fs.find(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        prefix = folder.lstrip("/") + "/"
        return {
            name.lstrip("/").removeprefix(prefix): file_info(info)
            for name, info in sorted(found.items())
            if name.lstrip("/").startswith(prefix)
        }

    def parallel(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Many small requests at once."""
        with ThreadPoolExecutor(4 if self.is_local else REQUESTS_AT_ONCE) as pool:
            return list(pool.map(function, items))

    def signs(self, run_id: str) -> set[str]:
        """The attempts of a run that have given a sign of life and have not ended by themselves; best effort."""
        with contextlib.suppress(OSError):
            return {name for name in self.listing("runs", run_id, "alive") if not name.startswith(".")}
        return set()

    def survey(self, run_ids: Iterable[str], *, verify: bool) -> tuple[dict[str, Done], dict[str, str]]:
        """The runs that are done, and what is wrong with those whose entry is damaged (id -> message).

        Args:
            verify: Read the files and compare checksums; otherwise only sizes are looked at, where that costs nothing.
        """
        corrupt: dict[str, str] = {}

        def look(run_id: str) -> Done | None:
            try:
                raw = self._mark(run_id)
                if raw is None:
                    return None
                self._judged[run_id] = sha256(raw).hexdigest()
                done = self._parsed(run_id, raw)
                if verify:
                    self._check(done)
                elif self.is_local:
                    self._check_sizes(done)
                return done
            except CorruptEntryError as error:
                corrupt[run_id] = str(error)
                return None

        present = self.run_folders()
        candidates = [run_id for run_id in run_ids if run_id in present]
        return {done.run_id: done for done in self.parallel(look, candidates) if done}, corrupt

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
    def writing(self, run_id: str, uuid: str | None = None) -> Iterator[Attempt]:
        """An attempt at a run: DONE on a clean exit; on an exception its error is recorded, and raised again.

        A run that was asked to stop has not failed: nothing of its attempt is kept.

        Args:
            uuid: The attempt's name, for who has to know it before.

        Raises:
            StorageError: The storage failed, is full or does not answer. Of itself no fault of the run.
        """
        uuid = uuid or uuid4().hex
        place = self.path("runs", run_id, "attempts", uuid)
        folder = Path(place) if self.is_local else Path(tempfile.mkdtemp(prefix="w2s-attempt-"))
        try:
            with plainly_full(folder):
                folder.mkdir(parents=True, exist_ok=True)
                attempt = Attempt(uuid, folder)
                yield attempt
                attempt.won = self._commit(run_id, uuid, folder, place)
        except InterruptedRunError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except Exception as error:
            if isinstance(error, StorageError):
                shutil.rmtree(folder, ignore_errors=True)  # on a full disk the error itself has no room
            with contextlib.suppress(Exception):
                self._record_failure(place, error)
            raise
        finally:
            if not self.is_local:
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, run_id: str, uuid: str, folder: Path, place: str) -> bool:
        """Make an attempt the result. Returns False if another one was first."""
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

        def send(name: str) -> dict[str, Any]:
            file = folder / name
            if self.is_local:
                flush(file)
            else:
                self.fs.put_file(str(file), f"{place}/{name}")
            return {"bytes": file.stat().st_size, "sha256": digest(file)}

        with ThreadPoolExecutor(1 if self.is_local else 8) as pool:
            files = dict(zip(names, pool.map(send, names), strict=True))
        if not self.is_local:  # what DONE will promise is there
            there = self.listing("runs", run_id, "attempts", uuid)
            for name, expected in files.items():
                if name not in there or there[name].bytes != expected["bytes"]:
                    size = f"has {there[name].bytes} bytes" if name in there else "is missing"
                    raise StorageError(
                        f"storage '{self.root}': {place}/{name} {size} just after {expected['bytes']} were written; "
                        "somebody else deletes here, or the storage is not consistent"
                    )
                if there[name].etag:
                    expected["etag"] = there[name].etag
        mark = json.dumps({"attempt": uuid, "files": files}, indent=1, sort_keys=True).encode()
        if create_if_absent(self, self.path("runs", run_id, "DONE"), mark):
            return True
        with contextlib.suppress(Exception):  # for `w2s gc`; without it, it takes longer to see that nobody is at it
            self.write_object(f"{place}/{REFUSED}", json.dumps({"time": time.time()}).encode())
        return False

    def _record_failure(self, place: str, error: Exception) -> None:
        record = {
            "kind": type(error).__name__,
            "message": _reason(error),
            "time": time.time(),
            # of an error raised on purpose the message says it all
            "detail": "" if isinstance(error, W2SError) else "".join(traceback.format_exception(error)),
        }
        patient = not isinstance(error, StorageError)  # then all patience was had already
        self.write_object(f"{place}/error.json", json.dumps(record, indent=1).encode(), patient=patient)

    def record_failure(self, run_id: str, kind: str, message: str, detail: str = "") -> None:
        """A failure seen from outside, such as a worker process that died."""
        record = {"kind": kind, "message": message, "time": time.time(), "detail": detail}
        place = self.path("runs", run_id, "attempts", uuid4().hex, "error.json")
        self.write_object(place, json.dumps(record, indent=1).encode())

    def beat(self, run_id: str, heartbeat: Heartbeat) -> None:
        """Best effort, with one try: a sign of life is never a reason to fail, and the next one is due soon."""
        with contextlib.suppress(Exception):
            place = self.path("runs", run_id, "alive", f"{heartbeat.attempt}.json")
            self.write_object(place, json.dumps(heartbeat.__dict__).encode(), patient=False)

    def end_beat(self, run_id: str, attempt: str) -> None:
        """The attempt has ended, well or not."""
        with contextlib.suppress(Exception):
            fs = self.fs if self.is_local else self.fs.impatient
            fs.rm_file(self.path("runs", run_id, "alive", f"{attempt}.json"))

    def write_object(self, place: str, data: bytes, *, patient: bool = True) -> None:
        """Replace a small file as a whole; readers see the old one or the new one.

        Args:
            patient: Try again while the storage does not answer.
        """
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
            (self.fs if patient else self.fs.impatient).pipe_file(place, data)

    def quarantine(self, run_id: str) -> None:
        """Set aside the DONE mark that the last `survey` judged, so that the run counts as not done.

        Its text is kept beside it. Of several drivers that judged the same mark one deletes it, so that a slow one
        cannot delete the mark of the run made anew; a mark that changed since the survey is left alone.
        """
        place, raw = self.path("runs", run_id, "DONE"), self._mark(run_id)
        if raw is None:
            return
        digest = sha256(raw).hexdigest()
        if self._judged.get(run_id, digest) != digest:
            return
        aside = self.path("runs", run_id, f"DONE.damaged-{digest[:16]}")
        record = {"mark": raw.decode(errors="replace"), "time": time.time(), "by": uuid4().hex}
        if create_if_absent(self, aside, json.dumps(record).encode()) or self._was_left(aside):
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(place)

    def _was_left(self, aside: str) -> bool:
        """Whether the process that set a mark aside must have been killed before it deleted it."""
        try:
            return time.time() - json.loads(self.fs.cat_file(aside))["time"] > TAKEN_OVER_SECONDS
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return True


def _is_whole(target: Path, done: Done, names: list[str]) -> bool:
    """Whether everything was fetched before; it was compared with its checksums then."""
    top = target.parent
    try:
        return all((top / name).stat().st_size == done.files[name]["bytes"] for name in names)
    except OSError:
        return False


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
