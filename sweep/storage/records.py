"""What the store tells of a run: its DONE mark, failed attempts, signs of life, files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import StorageError


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

    @property
    def is_of_storage(self) -> bool:
        """Whether the storage failed, and not the run: it tells nothing of the next attempt."""
        return self.kind == StorageError.__name__


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
    from_time: float | None = None
    """When it went on from there: before, data and weights are loaded."""

    @property
    def age(self) -> float:
        return time.time() - self.time


@dataclass(frozen=True)
class FileInfo:
    """What a listing tells of a file."""

    bytes: int
    modified: float
    """Seconds since 1970, by the storage's clock; 0 if unknown."""
    etag: str
    """Of an object store: another one means that the object was written again. Empty where there is none."""
