"""One run on several devices: the ranks of a run, and what they tell each other.

Every rank takes a share of every batch. It holds the whole model (`replicated`) or a part of every parameter
(`sharded`, see `w2s.sharding`). The caller has set up `torch.distributed`; a run on one device never touches it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from w2s.errors import W2SError

T = TypeVar("T")

VOTES_LATE = 8
"""Steps after which a GPU run looks at what its ranks have voted; by then the votes are there, and nothing waits."""


@dataclass(frozen=True)
class Shard:
    """This process's place among the processes of one run."""

    rank: int = 0
    world: int = 1
    sharded: bool = False
    """Whether parameters are cut over the ranks (FSDP2), instead of the whole model on each."""

    def slice(self, n: int) -> slice:
        """This rank's contiguous share of `n` items; shares differ by at most one and may be empty."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def largest_share(self, n: int) -> int:
        """How many of `n` items the rank with the most of them has."""
        return -(-n // self.world)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds only a part of the model, so that all must run it the same number of times."""
        return self.sharded and self.world > 1

    def sum(self, x: Tensor) -> Tensor:
        """`x` summed over all ranks, in place; every rank must call it with the same shape."""
        if self.world > 1:
            torch.distributed.all_reduce(x)
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """Rank 0's `x`, in place; every rank must call it with the same shape and type."""
        if self.world > 1:
            torch.distributed.broadcast(x, src=0)
        return x

    def share(self, value: T) -> T:
        """Rank 0's value on every rank, pickled; nobody goes on before rank 0 has arrived."""
        if self.world == 1:
            return value
        box = [value if self.is_first else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]  # pyright: ignore[reportReturnType]

    def on_first(self, make: Callable[[], T]) -> T | None:
        """What `make` gives on rank 0; None on the others, which wait.

        Raises:
            W2SError: On every rank, if it was raised on rank 0: no rank is left waiting for the others.
        """
        made, raised = None, None
        if self.is_first:
            try:
                made = make()
            except W2SError as error:
                raised = error
        if (told := self.share(raised)) is not None:
            raise told
        return made


WHOLE = Shard()
"""A run on one device."""


@dataclass(frozen=True)
class Placement:
    """Where and how a run executes; nothing here is meant to change its result beyond rounding."""

    shard: Shard = WHOLE
    scratch_dir: Path | None = None
    """Where an unfinished run keeps its state; with several ranks, rank 0's alone counts."""
    checkpoint_every_seconds: float | None = None
    on_progress: Callable[[float], None] | None = None
    """Called with the fraction of steps done."""
    should_stop: Callable[[], bool] | None = None
    """Asked at every step; once true, the run saves its state and raises `InterruptedRunError`."""


HERE = Placement()
"""One device, nothing kept, nobody told."""


class Votes:
    """Yes-or-no questions that the ranks answer together at every step, without an operation of their own.

    The answers ride on the sum of the losses, which every step needs anyway; any rank's yes is a yes. A GPU computes
    behind the program that queues its work, and reading a number makes the program wait for it. So a GPU's sums are
    copied to the host in the background and read `VOTES_LATE` steps later: the same number of steps on every rank,
    hence the same answer at the same step.
    """

    def __init__(self, shard: Shard, device: torch.device) -> None:
        self._shard, self._device = shard, device
        self._late = VOTES_LATE if device.type == "cuda" else 0
        self._counted: deque[tuple[Tensor, Any]] = deque()

    def __call__(self, loss: Tensor, *mine: bool) -> tuple[Tensor, list[bool]]:
        """The loss summed over ranks, and what was decided.

        Args:
            loss: This rank's part of the loss, shape [].
            mine: This rank's answers.

        Returns:
            The sum, shape []; and each question's answer: on a GPU that of `VOTES_LATE` steps ago, at first no.
        """
        if self._shard.world == 1:
            return loss, list(mine)
        told = torch.stack([loss, *(torch.full_like(loss, float(vote)) for vote in mine)])
        self._shard.sum(told)
        self._counted.append(self._copied(told[1:]))
        if len(self._counted) <= self._late:
            return told[0], [False] * len(mine)
        votes, arrived = self._counted.popleft()
        if arrived is not None:
            arrived.synchronize()
        return told[0], (votes > 0).tolist()

    def _copied(self, votes: Tensor) -> tuple[Tensor, Any]:
        if self._device.type != "cuda":
            return votes, None
        there = torch.empty(votes.shape, dtype=votes.dtype, pin_memory=True)
        there.copy_(votes, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return there, arrived
