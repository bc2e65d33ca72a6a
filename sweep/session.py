"""A spec with everything that follows from it: inputs, plan, store. What every command but the simplest starts from."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sweep.errors import SpecError
from sweep.inputs import Inputs, gather
from sweep.lockfile import RevisionLock
from sweep.manifest import sweep_id
from sweep.plan import KINDS, Plan
from sweep.planner import build_plan
from sweep.spec import Sweep, load_spec, located, nearest
from sweep.store import Store
from sweep.tracking import TrackingJob, tracking_job


@dataclass(frozen=True)
class Session:
    """One sweep file, read once."""

    file: Path
    spec: Sweep
    inputs: Inputs
    plan: Plan
    store: Store
    made: bytes | None = None
    """Text of a spec that was made, not read from the file."""

    @property
    def text(self) -> bytes:
        """The spec as a sweep file."""
        return self.file.read_bytes() if self.made is None else self.made

    @classmethod
    def open(cls, file: str, storage: str | None = None) -> "Session":
        """Read, check and plan a spec. Raises SpecError; nothing is started or written but caches."""
        path = Path(file)
        spec = load_spec(path)
        store = Store(storage or spec.storage_path)
        store.check_place()
        try:
            inputs = gather(spec, cache=store.cache, lock=RevisionLock.beside(path))
            plan = build_plan(spec, inputs)
        except SpecError as error:
            raise located(error, path) from None
        return cls(path, spec, inputs, plan, store)

    @cached_property
    def sweep_id(self) -> str:
        return sweep_id(self.spec, self.plan)

    def tracking(self, done: Collection[str]) -> TrackingJob | None:
        """What the spec's trackers are to be told; `done` is in the store already. Raises SweepError."""
        name = self.sweep_id
        return tracking_job(
            self.spec.tracking, self.store, name=name, title=self.spec.name, place=f"sweeps/{name}", done=done
        )

    def select(self, only: list[str]) -> set[str]:
        """Run ids for `--only KIND|ID`: all runs of a kind, or those whose id begins so; all when empty.

        Raises:
            SpecError: A word that is neither.
        """
        if not only:
            return set(self.plan.runs)
        chosen: set[str] = set()
        for word in only:
            kind = word.strip().replace(" ", "_").replace("-", "_")
            found = {i for i, run in self.plan.runs.items() if run.kind == kind or i.startswith(word)}
            if not found:
                here = [kind for kind in KINDS if any(run.kind == kind for run in self.plan.runs.values())]
                hint = nearest(kind, KINDS) if difflib.get_close_matches(kind, KINDS, n=1) else ""
                raise SpecError(
                    f"--only {word}: no run of this plan has that kind or id{hint}; its kinds are {', '.join(here)},"
                    " and w2s plan SPEC --list has the ids"
                )
            chosen |= found
        return chosen
