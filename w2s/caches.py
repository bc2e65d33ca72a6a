"""Small caches of a long-lived process, and files that appear whole or not at all."""

import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

try:
    import fcntl
except ImportError:  # on Windows nothing is waited for
    fcntl = None

T = TypeVar("T")


class RecentlyUsed(Generic[T]):
    """Keeps the values last asked for. It only saves work: what it returns is what `make` would have made."""

    def __init__(self, max_items: int) -> None:
        self.max_items = max_items
        self._items: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T], *, keep: Callable[[T], bool] = lambda _: True) -> T:
        """The value of `key`, made now if it is not here; kept for later where `keep` allows."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        value = make()
        if keep(value):
            self._items[key] = value
            while len(self._items) > self.max_items:
                self._items.popitem(last=False)
        return value

    def clear(self) -> None:
        self._items.clear()


def file_stamp(folder: Path) -> tuple[Any, ...]:
    """Names, sizes and times of the files in a folder: another stamp means that the content may have changed."""
    files = (entry for entry in os.scandir(folder) if entry.is_file())
    return tuple(sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files))


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` on a clean exit; other processes see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Held by one process of this machine at a time for one `path`, so that work which several need is done by one and
    found by the others. It only saves work: where a file system has no locks, nobody waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also when its process is killed
        yield
