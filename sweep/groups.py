"""Placement groups of Ray Train whose owner was killed: nobody else gives their CPUs and GPUs back.

Ray removes a group once its creator and its job are gone. Train's controller creates the group of a run; when a worker
process is killed, its controller goes, the job stays, and the retry would wait for ever for what the group holds.
"""

import contextlib
import threading
import time

WATCH_SECONDS = 60.0
"""So long after a death Ray may need to notice that the controller is gone too."""


def remove_orphaned_groups() -> int:
    """Removes the groups that actors of this job created and did not outlive; returns how many."""
    import ray
    from ray._private.state import state  # what ray.util.placement_group_table reads leaves the creator out
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    ours = ray.get_runtime_context().get_job_id()
    removed = 0
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        by_actor = any(byte != 0xFF for byte in group.creator_actor_id[:-4])  # a driver's has no actor: all ones
        orphaned = group.creator_actor_dead and by_actor and not group.is_detached
        if orphaned and group.creator_job_id.hex() == ours and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed


class GroupWatch:
    """Removes orphaned groups, from a thread of its own, for a while after each death."""

    def __init__(self) -> None:
        self._until = 0.0
        self._wake = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="w2s-groups", daemon=True)

    def __enter__(self) -> "GroupWatch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join()

    def look(self) -> None:
        """A process died: look for what it left."""
        self._until = time.monotonic() + WATCH_SECONDS
        self._wake.set()

    def _watch(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while time.monotonic() < self._until and not self._over.is_set():
                with contextlib.suppress(Exception):  # the head is away; the next look may see it
                    remove_orphaned_groups()
                self._over.wait(1.0)
            if self._over.is_set():
                return
