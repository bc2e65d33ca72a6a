"""Errors of the engine; like those of `w2s` and `analysis`, they are shown without a traceback."""

import difflib
from collections.abc import Iterable


class SweepError(Exception):
    """Something about the sweep that a person can put right."""


class SpecError(SweepError):
    """The spec, or what it names, is wrong; nothing was started."""

    def __init__(self, message: str, at: tuple[str | int, ...] = ()) -> None:
        """`at` is the place in the spec, such as ("tasks", 0), for whoever knows its line."""
        super().__init__(message)
        self.at = at


class StoreError(SweepError):
    """The results store cannot be read or written, or holds something damaged."""


class StorageError(StoreError, OSError):
    """The storage itself failed or refused: unreachable, full, no permission. No fault of the run that met it."""


class ErrorAt(ValueError):
    """Found by a check of a whole, within a pydantic model, that knows which of its parts is wrong."""

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


def nearest(name: str, names: Iterable[str]) -> str:
    """A "; did you mean ...?" for a name that is not among `names`, or what there is instead."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there is {', '.join(names)}" if names else ""
