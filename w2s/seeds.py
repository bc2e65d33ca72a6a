"""Every random number of a run comes from (seed, role): never from a hash, a clock, or what ran before."""

from enum import IntEnum

import numpy as np


class Role(IntEnum):
    """What a stream of random numbers is for. Values are part of results: append, never renumber."""

    PRETRAIN_INIT = 1
    PRETRAIN_ORDER = 2
    HEAD = 3
    DATA_ORDER = 4
    DROPOUT = 5
    WORLD = 6
    CORPUS = 7
    ADAPTER = 8
    SHOTS = 9
    LABELS = 10
    PUZZLES = 16
    CHESS_CORPUS = 17


def stream(seed: int, role: Role, index: int = 0) -> np.random.Generator:
    """An independent generator for one purpose of one run."""
    return np.random.default_rng([seed, int(role), index])


def torch_seed(seed: int, role: Role, index: int = 0) -> int:
    """A 63-bit seed for `torch.manual_seed`, from the same stream."""
    return int(stream(seed, role, index).integers(2**63 - 1))
