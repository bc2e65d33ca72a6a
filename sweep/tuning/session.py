"""A sweep file with a `tune:` block and what follows from it; what `w2s plan` and `w2s status` say of it."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sweep.errors import SpecError, SweepError
from sweep.inputs import Inputs, gather
from sweep.lockfile import RevisionLock
from sweep.plan import digest
from sweep.procedures import NotApplicableError
from sweep.spec import Sweep, load_spec, located
from sweep.storage.store import Store
from sweep.tuning.block import Judge, Tune
from sweep.tuning.candidate import entry_of
from sweep.tuning.checks import Scope, scopes
from sweep.tuning.pruning import can_stop, pruner_of
from sweep.tuning.search import best_of
from sweep.tuning.shared import Shared
from sweep.tuning.study import Study


@dataclass(frozen=True)
class TuneSession:
    """A sweep file with a `tune:` block, read once."""

    file: Path
    spec: Sweep
    tune: Tune
    inputs: Inputs
    store: Store

    @classmethod
    def open(cls, file: str, storage: str | None, trials: int | None = None) -> "TuneSession":
        """Raises SpecError; nothing is started or written but caches."""
        path = Path(file)
        spec = load_spec(path)
        if spec.tune is None:
            raise SpecError(
                f"{path}: has no `tune:` block, which says what to search; examples/tune-facts.yaml has one"
            )
        block = spec.tune
        if trials is not None:
            block = block.model_copy(update={"budget": block.budget.model_copy(update={"trials": trials})})
        store = Store(storage or spec.storage_path)
        store.check_place()
        try:
            inputs = gather(spec, cache=store.cache, lock=RevisionLock.beside(path))
        except SpecError as error:
            raise located(error, path) from None
        return cls(path, spec, block, inputs, store)

    @cached_property
    def scopes(self) -> tuple[Scope, Scope]:
        """Instances of the search, and fresh ones."""
        return scopes(self.tune, self.spec)

    def shared(self, judge: Judge) -> Shared:
        """What the candidates of a search have in common. Raises SpecError, also for a budget below one candidate."""
        try:
            shared = Shared.of(self.spec, self.inputs, self.scopes[0], metric=self.tune.metrics[judge])
            work, flops = default_work(self.tune, shared), self.tune.budget.flops
            if flops is not None and flops < work:
                raise SpecError(
                    f"tune.budget.flops: {flops:.3g} is not enough for one candidate; one like the default takes "
                    f"{work:.3g} on {len(shared.instances)} instances",
                    ("tune", "budget", "flops"),
                )
        except NotApplicableError as reason:
            message = f"tune.method: '{self.tune.method.name}' as it is without a search does not apply: {reason}"
            raise located(SpecError(message, ("tune", "method")), self.file) from None
        except SpecError as error:
            raise located(error, self.file) from None
        return shared

    @cached_property
    def tune_id(self) -> str:
        """The sweep's name and a hash of what is searched on what: another space is another search, not more trials."""
        shared = self.shared(self.tune.judges[0])
        block = self.tune.model_dump(mode="json", include={"method", "space", "minimize_flops"})
        instances = [[i.task, i.weak, i.strong, i.seed, i.supervisor_id, i.ceiling_id] for i in shared.instances]
        return f"{self.spec.name}-{digest([block, instances, shared.maker.settings_id])[:8]}"

    @property
    def folder(self) -> str:
        """Below the storage."""
        return f"tuning/{self.tune_id}"

    def name_of(self, judge: Judge) -> str:
        """Of the study of one objective."""
        return f"{self.tune_id}/{judge}-{self.tune.metrics[judge]}"


def default_work(block: Tune, shared: Shared) -> float:
    """Estimated FLOPs of the candidate that the spec is without a search, without what all candidates share."""
    own = shared.expand(entry_of(block.method, {})).own
    return sum(shared.runs()[run_id].work for run_id in own)


def role_of(shared: Shared, run_id: str) -> str:
    """What a shared run is there for, in the plural."""
    instances = shared.instances
    if any(run_id == i.supervisor_id or run_id in i.others for i in instances):
        return "supervisors"
    if any(run_id == i.ceiling_id for i in instances):
        return "ceilings"
    return "pretrained rungs" if shared.runs()[run_id].kind == "pretrain" else "other runs"


def plan_lines(file: str, storage: str | None) -> list[str]:
    """What `w2s plan` says of a `tune:` block."""
    session = TuneSession.open(file, storage)
    block, lines = session.tune, []
    for judge in block.judges:
        shared = session.shared(judge)
        roles = Counter(role_of(shared, run_id) for run_id in shared.needed)
        n = len(shared.instances)
        shown = ", ".join(f"{count:,} {role}" for role, count in sorted(roles.items(), reverse=True))
        budget = ", ".join(f"{key} {value:g}" for key, value in block.budget.model_dump(exclude_none=True).items())
        lines.append(
            f"tune ({judge}, {block.metrics[judge]}): {n} instances; shared by all candidates: {shown}; "
            f"the default as a candidate: {default_work(block, shared):.2e} FLOPs; budget: {budget}"
        )
        if block.pruner.name != "none" and not can_stop(pruner_of(block), n):
            lines.append(
                f"tune.pruner: {block.pruner.name} cannot stop a candidate that has {n} instances; give more "
                "instances, or write pruner: none"
            )
    lines.append("w2s tune starts the search; w2s run does not look at tune:")
    return lines


def status_lines(file: str, storage: str | None) -> list[str]:
    """How far the searches of a spec are, also while they are under way."""
    session = TuneSession.open(file, storage)
    lines = []
    for judge in session.tune.judges:
        name = session.name_of(judge)
        directions = ["maximize", "minimize"] if session.tune.minimize_flops else ["maximize"]
        try:
            trials = Study.open(session.store, name, session.tune, directions=directions, read_only=True).trials()  # type: ignore[arg-type]
        except SweepError as error:
            lines.append(f"tune {name}: {error}")
            continue
        counts = Counter(trial.state for trial in trials)
        best = best_of(trials)
        shown = ", ".join(f"{n:,} {state}" for state, n in sorted(counts.items())) or "no candidate yet"
        top = f"; best {best.values[0]:.4g} (candidate {best.number})" if best and best.values else ""
        lines.append(f"tune {name}: {shown}{top}")
    return lines
