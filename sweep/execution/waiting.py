"""Says when runs wait for machines that are not there: one went away, or those of an autoscaler are yet to come."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune

LOOK_EVERY_SECONDS = 5.0
SAID_AFTER_SECONDS = 20.0
"""Of a machine that went away its runs are handed out again at once, and one that replaces it takes a while."""


class Waiting(tune.Callback):
    """Looks now and then at what was handed out, and says so once whenever some of it has no machine to run on."""

    def __init__(
        self,
        lacking: Callable[[], Sequence[str]],
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            lacking: Runs, by name, that fit no machines that are up, whatever else is there.
            say: Tells a person.
        """
        self._lacking, self._say, self._clock = lacking, say, clock
        self._looked = clock()
        self._since: float | None = None
        self._said = False

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Never raises: Tune would end the experiment."""
        now = self._clock()
        if now - self._looked >= LOOK_EVERY_SECONDS:
            self._looked = now
            with contextlib.suppress(Exception):  # the head is away for a moment
                self._look(now)

    def _look(self, now: float) -> None:
        runs = self._lacking()
        if not runs:
            self._since, self._said = None, False
            return
        self._since = now if self._since is None else self._since
        if not self._said and now - self._since >= SAID_AFTER_SECONDS:
            self._said = True
            more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
            self._say(f"waiting for machines: {runs[0]}{more} would fit none that is up, and starts when one comes")

    def __reduce__(self) -> tuple:
        return (tune.Callback, ())  # Tune pickles its settings, which nobody reads
