"""One run on several devices: each rank holds the whole model and takes a share of every batch.

The caller has set up `torch.distributed`; a run on one device never touches it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """`x` summed over all ranks, in place; every rank must call it with the same shape."""
        if self.world > 1:
            torch.distributed.all_reduce(x)
        return x


WHOLE = Shard()
"""A run on one device."""
