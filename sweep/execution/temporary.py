"""Folders for what nobody needs after a process: locked by their owner, so that those of a killed one can be told."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

PREFIXES = ("w2s-tune-", "w2s-train-")
LOCK = ".owner"
"""A file that the owner keeps locked. The kernel lets go of it when the owner ends, however that happens."""

_own: dict[str, int] = {}
"""Folders of this process."""


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[str]:
    """A folder of this process for as long as the context lasts."""
    folder, file = _create(prefix)
    try:
        yield folder
    finally:
        _own.pop(folder, None)
        _remove(Path(folder))
        file.close()


def _create(prefix: str) -> tuple[str, TextIO]:
    while True:
        folder = tempfile.mkdtemp(prefix=prefix)
        file = Path(folder, LOCK).open("w")  # noqa: SIM115 (held for as long as the folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process cleans up, and took it for one that was left
            file.close()
            continue
        _own[folder] = file.fileno()
        return folder, file


def remove_own() -> None:
    """For a process that ends without leaving its contexts."""
    for folder in list(_own):
        _remove(Path(folder))


def remove_leftovers(parent: str | None = None) -> list[str]:
    """Removes the folders of processes that were killed; returns their paths.

    Args:
        parent: Where they are; the system's folder for temporary files by default.
    """
    removed = []
    for prefix in PREFIXES:
        for folder in Path(parent or tempfile.gettempdir()).glob(f"{prefix}*"):
            with contextlib.suppress(OSError), (folder / LOCK).open("r+") as file:  # "r+": another user's is refused
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while the owner lives
                _remove(folder)
                removed.append(str(folder))
    return removed


def _remove(folder: Path) -> None:
    """The lock goes last: of a folder without one nobody could tell whether it is in use, should we be killed here."""
    with contextlib.suppress(OSError):
        for inner in list(folder.iterdir()):
            if inner.name != LOCK:
                shutil.rmtree(inner, ignore_errors=True) if inner.is_dir() else inner.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
