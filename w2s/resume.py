"""State of an unfinished run on disk, so that it continues elsewhere to the same result.

The state is that of the whole run, whatever it ran on: rank 0 writes it, and it may continue on another number of
ranks, replicated or sharded.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2s.caches import appearing_whole
from w2s.distributed import Placement, Shard, Votes
from w2s.errors import InterruptedRunError
from w2s.runtime import Progress, Timer

STATE_FILE = "state.pt"

_log = logging.getLogger("w2s")


class Pace:
    """What every training loop does around its steps: continue, tell, keep, stop.

    Sequence per run: `load`; then per step `sum` and, once the step is done, `after`. With several ranks all of them
    call everything.
    """

    def __init__(self, placement: Placement, identity: str, steps: int, device: torch.device) -> None:
        """
        Args:
            placement: Devices, scratch folder, whom to tell and whom to ask.
            identity: Names the run in its scratch folder.
            steps: Of the whole run.
            device: Where it computes.
        """
        self._placement, self._identity, self._steps = placement, identity, steps
        # Rank 0's clock decides for all.
        seconds = placement.checkpoint_every_seconds if placement.scratch_dir and placement.shard.is_first else None
        self._timer = Timer(seconds)
        self._progress = Progress(placement.on_progress, steps)
        self._votes = Votes(placement.shard, device)
        self._save_now = self._stop_now = False

    def load(self) -> dict[str, Any] | None:
        """See `load_state`; what it finds holds the `step` to go on from."""
        stored = load_state(self._placement.scratch_dir, self._identity, self._placement.shard)
        if stored is not None:
            _log.info("goes on from step %d of %d", stored["step"], self._steps)
        return stored

    def sum(self, loss: Tensor) -> Tensor:
        """The loss of a step summed over ranks, shape []; on the way they agree whether to save and whether to stop."""
        ask = self._placement.should_stop
        stop = ask is not None and bool(ask())
        total, (self._save_now, self._stop_now) = self._votes(loss, self._timer.due(), stop)
        return total

    def after(self, step: int, state: Callable[[], dict[str, Any] | None]) -> None:
        """Ends a step: tells how far the run is, and saves and stops if that was agreed.

        Args:
            step: Steps done.
            state: Everything to continue from, `step` among it, at least on rank 0; called on every rank or on none.

        Raises:
            InterruptedRunError: On every rank, after the state was saved.
        """
        self._progress(step)
        if step == self._steps or not (self._save_now or self._stop_now):
            return
        folder = self._placement.scratch_dir
        kept = self._placement.shard.share(folder is not None)
        if kept:
            now = state()
            if folder is not None and self._placement.shard.is_first:
                assert now is not None, "rank 0 has the state"
                save_state(folder, self._identity, now)
        if self._stop_now:
            # No rank ends before rank 0 has written: the end of one may be the end of all.
            self._placement.shard.share(None)
            then = "its state is saved, and it goes on from there" if kept else "it kept no state and will start anew"
            raise InterruptedRunError(f"stopped at step {step} of {self._steps}; {then}")


def save_state(folder: Path, identity: str, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dictionaries; a reader sees the old state or the new one."""
    with appearing_whole(folder / STATE_FILE) as temporary:
        torch.save({"identity": identity, "state": state}, temporary)


def load_state(folder: Path | None, identity: str, shard: Shard) -> dict[str, Any] | None:
    """The state that a run of the same identity left, on the CPU; None when there is none.

    With several ranks, rank 0 reads and tells the others, so that they agree even where they share no storage.
    `optimiser`, which is large, stays on rank 0 and is None on the others: optimisers bring it to them.

    Args:
        folder: The run's scratch folder.
        identity: What the run is; a state of another one, or a damaged one, is not used.
        shard: The ranks.
    """
    stored = _read(folder / STATE_FILE, identity) if folder is not None and shard.is_first else None
    told = shard.share({**stored, "optimiser": None} if stored else None)
    return stored if shard.is_first else told


def _read(path: Path, identity: str) -> dict[str, Any] | None:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can make the unpickler raise anything; the run then starts anew
        return None
    return stored["state"] if stored.get("identity") == identity else None
