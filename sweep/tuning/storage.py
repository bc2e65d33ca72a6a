"""Where Optuna keeps a study: a journal file among the results, or a database.

Optuna's journal is one JSON object a line, appended under a lock. Two things a killed process may leave behind, and
both would stop the next one: half a line, to which the next append would be glued, so that the whole journal could no
longer be read; and the lock, which the next one breaks after a while. Whoever opens the journal here is the study's
only driver (`sweep.tuning.driver`), so both can be put right at once.
"""

import json
import os
import re
import time
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from sweep.errors import SpecError, StoreError, SweepError
from sweep.storage.store import Store

LOCK_SECONDS = 1.0
"""A journal's lock that stays the same this long was left by a process that was killed; an append takes
milliseconds."""
CONNECT_SECONDS = 10
_TIMEOUTS = {
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "pg8000": "timeout",
}
"""Database drivers and their word for how long to wait for a connection, in seconds; by default some wait for
minutes."""


def journal_of(store: Store, name: str) -> Path:
    """The journal of a study in a local store."""
    return Path(store.path("tuning", name, "journal.log")).absolute()


def open_storage(store: Store, name: str, url: str | None, *, read_only: bool = False) -> BaseStorage:
    """Optuna's storage of a study.

    Args:
        url: Of a database, or None for the journal file.
        read_only: Another process may be writing; nothing is created or mended.

    Raises:
        SpecError: A remote store has no place for a journal.
        StoreError: The journal is damaged or not writable.
        SweepError: The database cannot be used; says why, without its password.
    """
    if url is not None:
        return _database(url)
    if not store.is_local:
        raise SpecError(
            f"tune: the results are at '{store.root}', where no journal file can be appended to; give "
            "study_storage, the URL of a database such as postgresql://user@host/name or sqlite:////folder/study.db",
            ("tune", "study_storage"),
        )
    return _journal(journal_of(store, name), read_only=read_only)


def shown(url: str) -> str:
    """A database URL without its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def _database(url: str) -> BaseStorage:
    try:
        from sqlalchemy.engine import make_url

        waiting = _TIMEOUTS.get(make_url(url).get_driver_name())
        connect = {waiting: CONNECT_SECONDS} if waiting else {}
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": connect})
    except Exception as error:  # every database driver has its own errors
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        if isinstance(missing, ModuleNotFoundError) and missing.name:
            reason = f"its driver is not installed: pip install {missing.name}"
        else:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(url, shown(url))
        raise SweepError(f"tune.study_storage: '{shown(url)}' cannot be opened: {reason}") from None


def _journal(path: Path, *, read_only: bool) -> BaseStorage:
    try:
        if read_only and not path.exists():
            raise StoreError(f"{path}: there is no such study; `w2s tune` makes it")
        path.parent.mkdir(parents=True, exist_ok=True)
        # the lock that optuna-dashboard takes too; its target must be absolute, else Optuna never sees that it is
        # stale
        lock = JournalFileSymlinkLock(str(path))
        if not read_only:
            _break_stale_lock(Path(f"{path}.lock"))
            lock.acquire()
            try:
                _cut_torn_end(path)
            finally:
                lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give another `storage`") from None
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path}: is damaged{_where(path)}; move it away to start the study anew") from None


def _break_stale_lock(lock: Path) -> None:
    """Remove the lock of a dead process, after seeing it unchanged for a while."""
    seen, since = None, time.monotonic()
    while True:
        try:
            now = os.lstat(lock)
        except FileNotFoundError:
            return
        if seen is None or (now.st_ino, now.st_mtime_ns) != seen:
            seen, since = (now.st_ino, now.st_mtime_ns), time.monotonic()
        elif time.monotonic() - since >= LOCK_SECONDS:
            lock.unlink(missing_ok=True)
            return
        time.sleep(0.02)


def _cut_torn_end(path: Path) -> None:
    """Drop what a killed process, or a machine without power, left after the last whole line.

    What was being written had not happened: a candidate whose end is lost is under way again.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if not whole and content[:1] not in (b"", b"{", b"\0"):
            raise ValueError("not a journal")
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def _is_line(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _where(path: Path) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    return next((f" in line {number}" for number, line in enumerate(lines, 1) if not _is_line(line)), "")


def silence() -> None:
    """Optuna logs every candidate; the progress table shows them already."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
