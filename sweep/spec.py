"""The sweep file: YAML in, a validated `Sweep` out. Everything that can be refused without work is refused here."""

import difflib
import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Discriminator, Field, RootModel, Tag, ValidationError, field_validator, model_validator

from sweep.errors import ErrorAt, SpecError, nearest
from sweep.storage.secrets import STORAGE_CURE, refuse_credentials
from sweep.tracking_block import Tracking
from sweep.tuning.block import Tune
from sweep.yamlfile import Location, load_yaml, place_of
from w2s.config import (
    CatalogueTask,
    ChessTask,
    Config,
    FactsCorpus,
    FactsTask,
    FilesTask,
    FinetuneSettings,
    HubTask,
    MethodSpec,
    PositiveFloat,
    PositiveInt,
    PretrainSettings,
    PythonTask,
    RungShape,
    SplitSpec,
    TaskSpec,
    TextCorpus,
    WidthRule,
)
from w2s.errors import W2SError
from w2s.methods import ORACLE_MARK, as_method_spec, build_method, method_label

RATE_FACTOR = "learning_rate_factor"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class ScratchRung(RungShape):
    """A rung pretrained by the sweep itself."""

    name: Name
    finetune: Mapping[str, Any] = {}
    """Finetuning settings that differ for this rung."""


class CheckpointRung(Config):
    """A rung that exists already: a hub id or a folder."""

    name: Name
    model: str
    revision: str | None = None
    pretrain_tokens: PositiveFloat | None = None
    """Tokens the checkpoint was pretrained on; gives its compute as 6·N·D."""
    pretrain_flops: PositiveFloat | None = None
    """Pretraining compute, when it is known better than by 6·N·D."""
    finetune: Mapping[str, Any] = {}
    allow_pickle: bool = False
    trust_remote_code: bool = False


def _rung_kind(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "checkpoint" if isinstance(value, CheckpointRung) else "scratch"
    return "checkpoint" if "model" in value else "scratch"


Rung = Annotated[
    Annotated[ScratchRung, Tag("scratch")] | Annotated[CheckpointRung, Tag("checkpoint")], Discriminator(_rung_kind)
]


class Ladder(Config):
    """Models of one family, from small to large."""

    rungs: tuple[Rung, ...] = Field(min_length=1)
    pretrain: PretrainSettings = PretrainSettings()
    seed: Literal["per_seed", "fixed"] = "fixed"
    """`per_seed`: each seed pretrains its own scratch rungs, the honest variance; `fixed`: one ladder for all seeds."""

    @field_validator("rungs", mode="before")
    @classmethod
    def _strings_are_models(cls, rungs: Any) -> Any:
        if not isinstance(rungs, list | tuple):
            return rungs
        return [_expand_rung(rung) for rung in rungs]

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Ladder":
        _refuse_duplicates("rung", [rung.name for rung in self.rungs], "rungs")
        models = [(r.model, r.revision) if isinstance(r, CheckpointRung) else None for r in self.rungs]
        _refuse_duplicates("model", [m and (f"{m[0]} at {m[1]}" if m[1] else m[0]) for m in models], "rungs")
        for index, rung in enumerate(self.rungs):
            check_override(rung.finetune, ("rungs", index), f"rung '{rung.name}'")
        return self


class MethodEntry(MethodSpec):
    """A method of the grid: its parameters and, if it has any, finetuning settings of its own."""

    finetune: Mapping[str, Any] = {}
    """Finetuning settings that differ for this method's student, for the links of its chain, and for its ceiling; the
    supervisor keeps the sweep's. `learning_rate_factor` multiplies the learning rate of each rung."""
    own_ceiling: bool = True
    """Whether the ceiling is finetuned with these settings as well; false measures against the grid's."""
    label: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    """What tables and plots call it; otherwise its name and whatever differs from the defaults."""
    oracle: bool = False
    """Whether it was chosen by looking at ground truth, as an oracle's search does; marked so everywhere."""


class Compute(Config):
    """What one run may use, and how runs share machines."""

    memory_gb: PositiveFloat = 2.0
    """Device memory that one run may use; with the model's size it fixes the micro-batch when planning."""
    gpus_per_run: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """`auto`: on a machine with GPUs, the share of one that the memory estimate asks for."""
    gpu_memory_gb: PositiveFloat | Literal["auto"] = "auto"
    """Memory of one GPU of the cluster; with the estimate it says how many runs share one. `auto`: by the type of each
    node's GPUs, 24 GB where Ray does not know it."""
    devices_per_run: PositiveInt | Literal["auto"] = "auto"
    """More than one: Ray Train starts a worker group and splits every batch over it. `auto`: one, or for a run that is
    estimated larger than a GPU, as few as it fits on."""
    parallel: Literal["auto", "replicate", "fsdp"] = "auto"
    """On several devices, `replicate`: each holds the whole model; `fsdp`: parameters, gradients and optimiser state
    are cut over them; `auto`: cut if a whole model does not fit."""
    max_parallel: PositiveInt | None = None
    """Upper bound on runs at the same time; otherwise as many as the cluster's CPUs and GPUs hold."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a failed run is tried again within one `w2s run`."""
    checkpoint_every_seconds: PositiveFloat = 600.0
    """Runs longer than this save their state, and resume from it after a crash."""


class Sweep(Config):
    """A whole sweep, as written in its file."""

    name: Name
    storage: str | None = None
    """Folder or fsspec URL for results, relative to where the command is run. Default: results/<name>."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    ladder: Ladder
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    pairs: Literal["all", "adjacent"] | tuple[tuple[str, str], ...] = "all"
    """`all`: every weak rung with every stronger one; `adjacent`; or a list of [weak, strong]."""
    methods: tuple[MethodEntry, ...] = Field(default=(MethodEntry(name="naive"),), min_length=1)
    finetune: FinetuneSettings = FinetuneSettings()
    ceiling_half: Literal["transfer", "supervise"] = "transfer"
    """Which half trains the ceiling: `transfer`, the student's own rows; `supervise`, as in openai's sweep, one
    ground-truth run as both supervisor and ceiling."""
    keep_weights: Literal["none", "all"] = "none"
    """Whether finetuned weights are kept. Pretrained rungs always are."""
    compute: Compute = Compute()
    tracking: Tracking | None = None
    """Experiment trackers that are told of each finished run: tensorboard, wandb, mlflow."""
    tune: Tune | None = None
    """What `w2s tune` searches; `w2s run` does not look at it."""

    @field_validator("storage")
    @classmethod
    def _storage_has_no_secrets(cls, storage: str | None) -> str | None:
        if storage is not None:
            refuse_credentials(storage, STORAGE_CURE)
        return storage

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_are_tasks(cls, tasks: Any) -> Any:
        if not isinstance(tasks, list | tuple):
            return tasks
        return [expand_task(task, index) for index, task in enumerate(tasks)]

    @field_validator("methods", mode="before")
    @classmethod
    def _expand_methods(cls, methods: Any) -> Any:
        if not isinstance(methods, list | tuple):
            return methods
        return [_expand_method(index, method) for index, method in enumerate(methods)]

    @model_validator(mode="after")
    def _check_names(self) -> "Sweep":
        _refuse_duplicates("seed", [str(seed) for seed in self.seeds], "seeds")
        _refuse_duplicates("task", [task.name for task in self.tasks], "tasks")
        _refuse_duplicates("method", [entry_label(entry) for entry in self.methods], "methods")
        self.rung_pairs()
        self._facts_ladders_read_facts()
        if self.tune is not None:
            from sweep.tuning.checks import check_space  # which reads this module

            check_space(self.tune, self)
        return self

    def _facts_ladders_read_facts(self) -> None:
        """A ladder pretrained on the offline world has 364 words and knows one world."""
        corpus = self.ladder.pretrain.corpus
        if not isinstance(corpus, FactsCorpus) or not any(isinstance(r, ScratchRung) for r in self.ladder.rungs):
            return
        for index, task in enumerate(self.tasks):
            if not isinstance(task, FactsTask):
                raise ErrorAt(
                    f"task '{task.name}': rungs pretrained on the facts corpus cannot read other text; give "
                    "ladder.pretrain a corpus of kind text, or use checkpoints",
                    "tasks",
                    index,
                )
            if task.world_seed != corpus.world_seed:
                raise ErrorAt(
                    f"task '{task.name}' asks about world {task.world_seed}, but the rungs are pretrained on world "
                    f"{corpus.world_seed}: give both the same world_seed",
                    "tasks",
                    index,
                    "world_seed",
                )

    @property
    def storage_path(self) -> str:
        return self.storage or f"results/{self.name}"

    def rung_pairs(self) -> list[tuple[str, str]]:
        """The (weak, strong) rung names of the grid, in ladder order."""
        names = [rung.name for rung in self.ladder.rungs]
        if self.pairs == "all":
            return [(weak, strong) for i, weak in enumerate(names) for strong in names[i + 1 :]]
        if self.pairs == "adjacent":
            return list(itertools.pairwise(names))
        for index, (weak, strong) in enumerate(self.pairs):
            for name in (weak, strong):
                if name not in names:
                    message = f"[{weak}, {strong}] names no rung '{name}'{nearest(name, names)}"
                    raise ErrorAt(message, "pairs", index)
            if names.index(weak) >= names.index(strong):
                raise ErrorAt(
                    f"[{weak}, {strong}] has its weak rung at or above its strong one; a pair is [weak, strong] "
                    f"and the ladder goes {' < '.join(names)}",
                    "pairs",
                    index,
                )
        _refuse_duplicates("pair", [f"[{weak}, {strong}]" for weak, strong in self.pairs], "pairs")
        return sorted(self.pairs, key=lambda pair: (names.index(pair[0]), names.index(pair[1])))

    def settings_for(
        self, rung: ScratchRung | CheckpointRung, overrides: Mapping[str, Any] = types.MappingProxyType({})
    ) -> FinetuneSettings:
        """The sweep's finetuning settings with the rung's own on top, and those of a method on top of these."""
        written = FinetuneSettings.model_validate({**self.finetune.model_dump(), **rung.finetune})
        return overridden(written, overrides)


def overridden(settings: FinetuneSettings, overrides: Mapping[str, Any]) -> FinetuneSettings:
    """Finetuning settings with some replaced; `learning_rate_factor` multiplies the learning rate.

    Raises:
        ValidationError: A key or value that is none of `FinetuneSettings`.
    """
    if not overrides:
        return settings
    rest = dict(overrides)
    factor = rest.pop(RATE_FACTOR, 1.0)
    data = settings.model_dump()
    if isinstance(rest.get("lora"), Mapping):
        rest["lora"] = {**data["lora"], **rest["lora"]}
    changed = FinetuneSettings.model_validate({**data, **rest})
    rate = changed.learning_rate
    scaled = rate.model_copy(update={"value": rate.value * factor}) if isinstance(rate, WidthRule) else rate * factor
    return changed.model_copy(update={"learning_rate": scaled})


def entry_label(entry: MethodEntry) -> str:
    """What tables call a method of the grid: `confidence(max_weight=0.75) with epochs=3`."""
    label = method_label(build_method(entry))
    mark = ORACLE_MARK if entry.oracle or label.endswith(ORACLE_MARK) else ""
    label = label.removesuffix(ORACLE_MARK)
    if entry.label is not None:
        return entry.label + mark
    if not entry.finetune:
        return label + mark
    changed = ", ".join(f"{key}={value}" for key, value in flattened(entry.finetune).items())
    against = "" if entry.own_ceiling else ", grid's ceiling"
    return f"{label} with {changed}{against}{mark}"


def flattened(nested: Mapping[str, Any]) -> dict[str, Any]:
    """`{"lora": {"rank": 8}}` as `{"lora.rank": 8}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in flattened(value).items()}
        else:
            flat[key] = value
    return flat


def load_spec(path: str | Path) -> Sweep:
    """Read and check a sweep file; paths of data and models become absolute, relative to the file's folder.

    Raises:
        SpecError: One line for each thing that is wrong, naming file, line, key and value.
    """
    path = Path(path)
    data, lines = load_yaml(path)
    try:
        spec = Sweep.model_validate(data)
    except ValidationError as error:
        raise SpecError("\n".join(_explain(item, data, lines, path) for item in _telling(error, data))) from None
    return _resolve_paths(spec, path.resolve().parent)


def located(error: SpecError, path: Path) -> SpecError:
    """The error with the file, and the line if it says where in the spec it belongs."""
    at = error.at or (str(error).partition(":")[0],)  # other messages begin with a key of the spec, such as methods
    return SpecError(f"{place_of(path, load_yaml(path)[1], at)}: {error}", error.at)


def key_of(at: Location) -> str:
    """A place in the spec as people write it: `ladder.rungs[1].finetune`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")


def _expand_rung(rung: Any) -> Any:
    if isinstance(rung, str):
        rung = {"model": rung}
    if not isinstance(rung, dict):
        return rung if isinstance(rung, BaseModel) else {"model": rung}
    if "name" not in rung and isinstance(rung.get("model"), str):
        rung = {"name": rung["model"].rstrip("/").split("/")[-1], **rung}
    return rung


def expand_task(task: Any, index: int = 0) -> Any:
    """A bare name, or a mapping with `dataset`, is a task of the catalogue; a bare name may also be an entry point.

    Raises:
        ErrorAt: A name of neither.
    """
    if isinstance(task, Mapping):
        return {"source": "catalogue", **task} if "dataset" in task and "source" not in task else task
    if not isinstance(task, str):
        return task
    from w2s.tasks.catalogue import datasets, find_dataset
    from w2s.tasks.python import entry_points

    if task == "facts":
        return {"source": "facts", "name": task}
    if find_dataset(task) is not None:
        return {"source": "catalogue", "dataset": task}
    own = entry_points()
    if task in own:
        return {"source": "python", "name": task, "object": task}
    names = ["facts", *datasets(), *own]
    close = difflib.get_close_matches(task, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ErrorAt(f"there is no task '{task}'{hint} (w2s tasks lists them)", index)


_OF_ENTRIES = ("finetune", "own_ceiling", "label", "oracle")
"""Keys of a method of the grid that are not the method's own parameters."""


def _expand_method(index: int, method: Any) -> Any:
    if isinstance(method, MethodEntry):
        return method
    extras: dict[str, Any] = {}
    if isinstance(method, Mapping):
        extras = {key: method[key] for key in _OF_ENTRIES if key in method}
        method = {key: value for key, value in method.items() if key not in extras}
    try:
        spec = as_method_spec(method)
    except W2SError as error:
        raise ErrorAt(str(error), index) from None
    finetune = extras.get("finetune", {})
    if isinstance(finetune, Mapping):
        check_override(finetune, (index,), f"method '{spec.name}'", rate_factor=True)
    return {"name": spec.name, "params": spec.params, **extras}


def check_override(
    override: Mapping[str, Any], at: tuple[str | int, ...], whose: str, *, rate_factor: bool = False
) -> None:
    """Refuse finetuning settings that are none.

    Args:
        override: Settings that replace those of the sweep.
        at: Where the mapping `finetune` with them is.
        whose: In words, such as "rung 'd8'".
        rate_factor: Whether `learning_rate_factor` is one of them.

    Raises:
        ErrorAt: The first that is wrong.
    """
    data = dict(override)
    if rate_factor and RATE_FACTOR in data:
        factor = data.pop(RATE_FACTOR)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
            message = f"a number above 0 is needed, got {factor!r} ({whose})"
            raise ErrorAt(message, *at, "finetune", RATE_FACTOR)
    try:
        FinetuneSettings.model_validate(data)
    except ValidationError as error:
        first = _telling(error, data)[0]
        inner, value = _real_location(first["loc"], data, first["type"])
        what = _in_words(first, value, FinetuneSettings)
        raise ErrorAt(f"{what} ({whose})", *at, "finetune", *inner) from None


def _refuse_duplicates(what: str, names: typing.Sequence[str | None], key: str) -> None:
    for index, name in enumerate(names):
        if name is not None and name in names[:index]:
            raise ErrorAt(f"{what} '{name}' is given twice; each is listed once", key, index)


def _resolve_paths(spec: Sweep, folder: Path) -> Sweep:
    def absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str((folder / Path(p).expanduser()).resolve()) for p in paths)

    tasks = []
    for task in spec.tasks:
        if isinstance(task, FilesTask):
            task = task.model_copy(update={"train": absolute(task.train), "test": absolute(task.test)})
        elif isinstance(task, HubTask):
            task = task.model_copy(update={"id": _local_or_id(task.id, folder)})
        elif isinstance(task, ChessTask):
            local = None if task.id is None else _local_or_id(task.id, folder)
            task = task.model_copy(update={"files": absolute(task.files), "games": absolute(task.games), "id": local})
        elif isinstance(task, CatalogueTask) and task.mirror is not None:
            task = task.model_copy(update={"mirror": absolute((task.mirror,))[0]})
        elif isinstance(task, PythonTask):
            task = task.model_copy(update={"object": _local_object(task.object, folder), "files": absolute(task.files)})
        tasks.append(task)
    rungs = tuple(
        rung.model_copy(update={"model": _local_or_id(rung.model, folder)})
        if isinstance(rung, CheckpointRung)
        else rung
        for rung in spec.ladder.rungs
    )
    pretrain = spec.ladder.pretrain
    if isinstance(pretrain.corpus, TextCorpus):
        corpus = pretrain.corpus.model_copy(update={"files": absolute(pretrain.corpus.files)})
        pretrain = pretrain.model_copy(update={"corpus": corpus})
    ladder = spec.ladder.model_copy(update={"rungs": rungs, "pretrain": pretrain})
    return spec.model_copy(update={"tasks": tuple(tasks), "ladder": ladder})


def _local_object(name: str, folder: Path) -> str:
    """`file.py:name` and, where `module.py` lies beside the spec, `module:name`, with the file's whole path."""
    module, colon, attribute = name.rpartition(":")
    if not colon:
        return name
    file = folder / Path(module if module.endswith(".py") else f"{module.replace('.', '/')}.py").expanduser()
    return f"{file.resolve()}:{attribute}" if module.endswith(".py") or file.is_file() else name


def _local_or_id(name: str, folder: Path) -> str:
    """A folder beside the spec wins over a hub id of the same name; ./ and / always mean a folder."""
    candidate = folder / Path(name).expanduser()
    return str(candidate.resolve()) if name.startswith((".", "/", "~")) or candidate.is_dir() else name


def _telling(error: ValidationError, data: Any) -> list[Any]:
    """The errors worth showing. Pydantic also reports the other members of a union, and what an inner error entails."""
    found = [(item, _real_location(item["loc"], data, item["type"])[0]) for item in error.errors()]
    places = [loc for _, loc in found]
    shown: dict[Location, Any] = {}
    for item, loc in found:
        if any(len(other) > len(loc) and other[: len(loc)] == loc for other in places):
            continue
        if loc not in shown or _tells_more(item["type"], shown[loc]["type"]):
            shown[loc] = item
    return list(shown.values())


def _tells_more(kind: str, than: str) -> bool:
    """Of two errors at one place, from members of a union: bounds tell more than types, and "number" covers "whole
    number"."""
    return (than.endswith("_type") and not kind.endswith("_type")) or (than.startswith("int_") and "int" not in kind)


def _explain(error: Any, data: Any, lines: dict[Location, int], path: Path) -> str:
    """One pydantic error as `file:line: key: what is wrong, got value`."""
    loc, value = _real_location(error["loc"], data, error["type"])
    loc += getattr(error.get("ctx", {}).get("error"), "at", ())
    message = _in_words(error, value, Sweep)
    where, key = place_of(path, lines, loc), key_of(loc)
    return f"{where}: {key}: {message}" if key else f"{where}: {message}"


_KINDS_OF_VALUE = {
    ("tuple_type", "list_type"): "a list is needed",
    ("int_type", "int_parsing", "int_from_float"): "a whole number is needed",
    ("float_type", "float_parsing"): "a number is needed",
    ("string_type",): "a text is needed",
    ("bool_type", "bool_parsing"): "true or false is needed",
    ("dict_type", "mapping_type", "model_type", "model_attributes_type"): "a mapping is needed, such as {key: value}",
    ("string_pattern_mismatch",): "a name has letters, digits, '.', '_' and '-', and begins with a letter or digit",
    ("too_short",): "at least one is needed",
}
_WHY = {
    "vocab_size": " (256 bytes, <pad>, <bos> and <eos>, and one more for a first merge)",
    **dict.fromkeys(
        SplitSpec.model_fields.keys() - {"transfer_parts", "split_seed"},
        " (a fraction is a share of the rows, a whole number counts examples)",
    ),
}
"""What stands behind the bounds of some keys."""


def _in_words(error: Any, value: Any, root: type[BaseModel]) -> str:
    """What one pydantic error says, in the words of the sweep file."""
    kind, key = error["type"], str(error["loc"][-1]) if error["loc"] else ""
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "extra_forbidden":
        models = _models_at(root, error["loc"][:-1])
        if sources := _sources_with(key, models):
            return f"only for source {' or '.join(sources)}"
        return f"unknown key{nearest(key, sorted({name for m in models for name in m.model_fields} - {key}))}"
    if "pairs" in error["loc"]:
        return f"must be all, adjacent, or a list such as [[weak, strong]], got {value!r}"
    if kind == "missing":
        return "is required but missing"
    if kind == "union_tag_not_found" and error["loc"][0] == "tasks":
        return "needs a 'source' (w2s tasks lists them)"
    if kind == "union_tag_invalid":
        tag = error["ctx"]
        expected = [name.strip(" '") for name in tag["expected_tags"].split(",")]
        return f"{tag['discriminator'].strip(chr(39))} '{tag['tag']}' is unknown{nearest(tag['tag'], expected)}"
    message = next((words for kinds, words in _KINDS_OF_VALUE.items() if kind in kinds), None) or message.replace(
        "Input should", "must"
    )
    if message == "a list is needed":
        example = "[0, 1]" if key == "seeds" else f"[{value}]" if isinstance(value, str | int | float) else "[...]"
        message += f", such as {example}"
    key = str(next((part for part in reversed(error["loc"]) if part in _WHY), ""))
    shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}..."
    return f"{message[0].lower()}{message[1:]}{_WHY.get(key, '')}, got {shown}"


def _real_location(loc: Location, data: Any, kind: str) -> tuple[Location, Any]:
    """Without the names of union members, which pydantic puts in between."""
    real: list[str | int] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        in_mapping = isinstance(data, dict) and part in data
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_mapping or in_list:
            data = data[part]  # type: ignore[index]
            real.append(part)
        elif last and kind == "missing":
            real.append(part)
    return tuple(real), data


def _sources_with(key: str, models: Sequence[type[BaseModel]]) -> list[str]:
    """The sources of tasks that have a key."""
    having = [model.model_fields["source"] for model in models if {key, "source"} <= model.model_fields.keys()]
    literals = [field.annotation for field in having if typing.get_origin(field.annotation) is Literal]
    return sorted(str(name) for literal in literals for name in typing.get_args(literal))


def _models_at(kind: Any, loc: Location) -> list[type[BaseModel]]:
    """What may stand at a location of the model tree; their keys are for "did you mean"."""
    kinds = _models_in(kind)
    for part in loc:
        if isinstance(part, int):
            continue
        inner = [m.model_fields[part].annotation for m in kinds if part in m.model_fields]
        kinds = [model for annotation in inner for model in _models_in(annotation)] or kinds
    return kinds


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _models_in(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (Annotated, Union, types.UnionType, tuple, list, dict):
        return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]
    return []
