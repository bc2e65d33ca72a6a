"""Errors of the engine; like those of `w2s` and `analysis`, they are shown without a traceback."""


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
