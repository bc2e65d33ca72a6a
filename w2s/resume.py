"""State of an unfinished run on disk, so that it continues elsewhere to the same result."""

import io
from pathlib import Path
from typing import Any

import torch

from w2s.caches import appearing_whole
from w2s.distributed import Shard
from w2s.errors import TrainingError

STATE_FILE = "state.pt"


def save_state(folder: Path, identity: str, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dictionaries; a reader sees the old state or the new one."""
    with appearing_whole(folder / STATE_FILE) as temporary:
        torch.save({"identity": identity, "state": state}, temporary)


def load_state(folder: Path | None, identity: str, shard: Shard) -> dict[str, Any] | None:
    """The state that a run of the same identity left, on the CPU; None when there is none.

    Args:
        folder: The run's scratch folder, on storage that every rank sees.
        identity: What the run is; a state of another one, or a damaged one, is not used.
        shard: Ranks agree on where to go on.

    Raises:
        TrainingError: Some ranks see a state and others do not, or another one.
    """
    if folder is None:
        return None
    state = _read(folder / STATE_FILE, identity)
    if shard.world > 1:
        step = -1 if state is None else state["step"]
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        extremes = torch.tensor([step, -step], device=device)
        torch.distributed.all_reduce(extremes, op=torch.distributed.ReduceOp.MAX)
        if extremes[0] != -extremes[1]:
            raise TrainingError(
                f"{folder} holds step {step} for rank {shard.rank} and another for other ranks: "
                "the scratch folder must be on storage that all machines share"
            )
    return state


def _read(path: Path, identity: str) -> dict[str, Any] | None:
    try:
        stored = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can make the unpickler raise anything; the run then starts anew
        return None
    return stored["state"] if stored.get("identity") == identity else None
