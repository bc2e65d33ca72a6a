"""What the death of a run's process means, told from what Ray says of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Loss = Literal["died", "node_lost"]

NODE_LOST = "the machine it ran on went away"
KILLED = "its process died (killed, crashed, or out of host memory)"
OUT_OF_HOST_MEMORY = "Ray ended its process, because its machine was running out of memory (not of the device's)"

_NODE = re.compile(r"node has died|node was terminated|node is dead|preempted", re.IGNORECASE)
_MEMORY = re.compile(r"low on memory|OutOfMemory|memory usage threshold", re.IGNORECASE)
_PEER = re.compile(
    r"connection (closed|reset|refused) (by|from)? ?peer|remote process exited|socket timeout|connection reset"
    r"|NCCL.*(remote error|system error)|peer .*(failed|lost)",
    re.IGNORECASE,
)
"""What the other processes of a group say when one of them is gone (gloo, NCCL)."""


@dataclass(frozen=True)
class Death:
    """How a process was lost. A machine that goes away says nothing about the run; a process that dies may."""

    loss: Loss = "died"
    message: str = KILLED
    """The same words for the same cause, so that repeated deaths can be recognised."""
    detail: str = field(default="", compare=False)
    """What Ray said."""


def death_of(error: BaseException | None) -> Death:
    """The meaning of an error that Ray raised instead of a process's answer; None if it raised nothing readable."""
    text = "" if error is None else str(error)
    if getattr(error, "preempted", False) or _NODE.search(text):
        return Death("node_lost", NODE_LOST, text)
    if _MEMORY.search(f"{type(error).__name__} {text}"):
        return Death("died", OUT_OF_HOST_MEMORY, text)
    return Death(detail=text)


def death_within(error: BaseException) -> Death | None:
    """Of the error of a worker group, the death of one of its workers, if that is what it was.

    The others see a broken connection, often before Ray sees the death itself.
    """
    from ray.exceptions import NodeDiedError, RayActorError

    found = list(_inside(error))
    for item in found:
        if isinstance(item, (RayActorError, NodeDiedError)):
            return death_of(item)
    return Death() if any(_PEER.search(str(item)) for item in found) else None


def _inside(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it stands for: causes, the failures of a group's workers, what Ray wraps."""
    queue, seen = [error], set()
    while queue:
        item = queue.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        inner = [
            *getattr(item, "worker_failures", {}).values(),
            item.__cause__,
            getattr(item, "_base_exc", None),
            getattr(item, "controller_failure", None),
            getattr(item, "health_check_failure", None),
        ]
        queue += [other for other in inner if isinstance(other, BaseException)]


def own_error(error: BaseException) -> Exception:
    """The error of ours inside what Ray Train makes of the failure of a worker group, if there is one."""
    from sweep.errors import StorageError
    from w2s.errors import W2SError

    for item in _inside(error):
        if isinstance(item, (W2SError, StorageError)):
            return item
    return error if isinstance(error, Exception) else RuntimeError(str(error))
