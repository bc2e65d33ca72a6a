"""Everything a plan needs to know about the world: data and model fingerprints and sizes. The effects of planning."""

import contextlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sweep.errors import SpecError
from sweep.lockfile import RevisionLock
from sweep.resources import Sizes
from sweep.spec import CheckpointRung, ScratchRung, Sweep, key_of
from sweep.yamlfile import Location
from w2s.caches import appearing_whole
from w2s.checkpoints import ModelSizes, inspect_checkpoint, llama_shape_sizes
from w2s.config import Corpus, ModelSource, TaskSpec, TextCorpus
from w2s.corpora import FACTS_VOCABULARY, check_corpus, corpus_fingerprint, corpus_tokens
from w2s.errors import W2SError
from w2s.fingerprints import hash_file
from w2s.known_models import pretraining_tokens
from w2s.tasks import TaskSummary, load_task, resolve_task, summarise, task_fingerprint

T = TypeVar("T")


@dataclass(frozen=True)
class TaskInfo:
    """A task and what planning must know of its examples."""

    spec: TaskSpec
    fingerprint: str
    summary: TaskSummary


@dataclass(frozen=True)
class ModelInfo:
    """A rung's sizes; `source` and `fingerprint` are None for rungs that the sweep pretrains."""

    name: str
    n_params: int
    n_matmul: int
    hidden_size: int
    layers: int
    pretrain_flops: float
    max_positions: int | None
    causal: bool
    source: ModelSource | None
    fingerprint: str | None
    sizes: Sizes | None = None
    """What of it decides the memory of a run."""


@dataclass(frozen=True)
class Inputs:
    tasks: dict[str, TaskInfo]
    models: dict[str, ModelInfo]
    corpus_fingerprint: str | None


class HashCache:
    """sha256 of files, remembered by path, size and modification time."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "hashes.json"
        try:
            self._known: dict[str, list] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def __call__(self, path: Path) -> str:
        path = Path(path)
        stat = path.stat()
        known = self._known.get(str(path))
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return known[2]
        digest = hash_file(path)
        self._known[str(path)] = [stat.st_size, stat.st_mtime_ns, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        if self._changed:
            write_cache(self._file, json.dumps(self._known))


def write_cache(path: Path, text: str) -> None:
    """Atomic and best effort: a cache that cannot be written is only slower."""
    with contextlib.suppress(OSError), appearing_whole(path) as temporary:
        temporary.write_text(text)


def gather(spec: Sweep, *, cache: Path, lock: RevisionLock) -> Inputs:
    """Fingerprint and measure every task and model of a spec.

    Raises:
        SpecError: A file, dataset or model is missing or unusable; names it, with its key in the spec.
    """
    hashes = HashCache(cache)
    tasks = {}
    for index, task in enumerate(spec.tasks):
        tasks[task.name] = _explained(
            ("tasks", index), f" '{task.name}'", lambda task=task: _task_info(task, cache, hashes, lock)
        )
    models = {}
    for index, rung in enumerate(spec.ladder.rungs):
        models[rung.name] = _explained(
            ("ladder", "rungs", index), f" '{rung.name}'", lambda rung=rung: _model_info(spec, rung, hashes, lock)
        )
    _refuse_equal(spec, tasks, models)
    _check_order(list(models.values()))
    corpus = None
    if any(isinstance(rung, ScratchRung) for rung in spec.ladder.rungs):
        corpus = _explained(("ladder", "pretrain", "corpus"), "", lambda: _corpus(spec.ladder.pretrain.corpus, hashes))
    hashes.save()
    lock.save()
    return Inputs(tasks, models, corpus)


def _explained(at: Location, name: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except (W2SError, SpecError) as error:
        raise SpecError(f"{key_of(at)}{name}: {error}", at) from None


def _corpus(corpus: Corpus, hashes: HashCache) -> str:
    fingerprint = corpus_fingerprint(corpus, hash_file=hashes)
    check_corpus(corpus)
    return fingerprint


def _task_info(task: TaskSpec, cache: Path, hashes: HashCache, lock: RevisionLock) -> TaskInfo:
    task = resolve_task(task, lock.dataset)
    fingerprint = task_fingerprint(task, hash_file=hashes)
    remembered = cache / "tasks" / f"{fingerprint}.json"
    try:
        summary = TaskSummary(**json.loads(remembered.read_text()))
    except (OSError, ValueError, TypeError):
        summary = summarise(load_task(task))
        write_cache(remembered, json.dumps(summary.__dict__))
    return TaskInfo(task, fingerprint, summary)


def scratch_model(rung: ScratchRung, vocabulary: int) -> ModelInfo:
    """What a plan knows of a rung to be pretrained, with a vocabulary of so many tokens."""
    sizes = llama_shape_sizes(rung, vocabulary)
    return ModelInfo(
        name=rung.name,
        n_params=sizes.n_params,
        n_matmul=sizes.n_matmul,
        hidden_size=rung.hidden_size,
        layers=rung.layers,
        pretrain_flops=6.0 * sizes.n_matmul * rung.tokens,
        max_positions=None,
        causal=True,
        source=None,
        fingerprint=None,
        sizes=_memory_sizes(sizes, "llama"),
    )


def _model_info(spec: Sweep, rung: ScratchRung | CheckpointRung, hashes: HashCache, lock: RevisionLock) -> ModelInfo:
    if isinstance(rung, ScratchRung):
        corpus = spec.ladder.pretrain.corpus
        vocabulary = corpus_tokens(corpus) if isinstance(corpus, TextCorpus) else FACTS_VOCABULARY
        return scratch_model(rung, vocabulary)
    source = ModelSource(
        path=rung.model,
        revision=lock.model(rung.model, rung.revision),
        allow_pickle=rung.allow_pickle,
        trust_remote_code=rung.trust_remote_code,
    )
    found = inspect_checkpoint(
        source.path,
        source.revision,
        allow_pickle=rung.allow_pickle,
        trust_remote_code=rung.trust_remote_code,
        hash_file=hashes,
    )
    flops = rung.pretrain_flops
    if flops is None:
        tokens = rung.pretrain_tokens or pretraining_tokens(rung.model)
        if tokens is None:
            raise SpecError(
                f"how much compute pretrained '{rung.model}' is not known here; give the rung pretrain_tokens (its "
                f"compute is then 6·N·D), as in {{model: {rung.model}, pretrain_tokens: 3.0e+11}}, or pretrain_flops"
            )
        flops = 6.0 * found.n_matmul * tokens
    return ModelInfo(
        name=rung.name,
        n_params=found.n_params,
        n_matmul=found.n_matmul,
        hidden_size=found.hidden_size,
        layers=found.layers,
        pretrain_flops=flops,
        max_positions=found.max_positions,
        causal=found.kind == "causal",
        source=source,
        fingerprint=found.fingerprint,
        sizes=_memory_sizes(found, found.model_type, causal=found.kind == "causal"),
    )


def _memory_sizes(found: ModelSizes, family: str, *, causal: bool = True) -> Sizes:
    # What is neither multiplied with nor looked up are norms and biases, a hundredth; an output head is a third.
    rest = found.n_params - (found.n_matmul - found.vocab_size * found.hidden_size) - found.n_embedding
    return Sizes(
        family=family,
        n_params=found.n_params,
        n_matmul=found.n_matmul,
        hidden_size=found.hidden_size,
        layers=found.layers,
        heads=found.heads,
        vocab_size=found.vocab_size,
        causal=causal,
        tied=rest < 0.9 * found.vocab_size * found.hidden_size,
    )


def _refuse_equal(spec: Sweep, tasks: dict[str, TaskInfo], models: dict[str, ModelInfo]) -> None:
    """Two names for one thing would be counted as two in every table."""
    seen: dict[Any, str] = {}
    for index, (name, task) in enumerate(tasks.items()):
        if task.fingerprint in seen:
            raise SpecError(
                f"tasks: '{seen[task.fingerprint]}' and '{name}' have the same content; list it once", ("tasks", index)
            )
        seen[task.fingerprint] = name
    for index, rung in enumerate(spec.ladder.rungs):
        scratch = isinstance(rung, ScratchRung)
        content = rung.model_dump_json(exclude={"name", "finetune"}) if scratch else models[rung.name].fingerprint
        if content in seen:
            raise SpecError(
                f"ladder.rungs: '{seen[content]}' and '{rung.name}' are the same model; list it once",
                ("ladder", "rungs", index),
            )
        seen[content] = rung.name


def _check_order(models: list[ModelInfo]) -> None:
    for index, (smaller, larger) in enumerate(itertools.pairwise(models), start=1):
        if smaller.n_matmul > larger.n_matmul:
            raise SpecError(
                f"ladder.rungs: '{larger.name}' ({larger.n_matmul:,} matrix parameters) comes after '{smaller.name}' "
                f"({smaller.n_matmul:,}); list the rungs from small to large, so that weak < strong means what it says",
                ("ladder", "rungs", index),
            )
