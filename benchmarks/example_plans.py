"""Plans of the examples without their data and models: public sizes in place of what a hub or a folder holds."""

from pathlib import Path

from sweep.inputs import Inputs, ModelInfo, TaskInfo, scratch_model
from sweep.plan import Plan
from sweep.planner import build_plan
from sweep.resources import Sizes
from sweep.spec import CheckpointRung, ScratchRung, Sweep, load_spec
from w2s.config import FactsTask, ModelSource, PromptFormat, SplitSpec, TaskSpec, TextCorpus
from w2s.corpora import FACTS_VOCABULARY
from w2s.tasks import TaskSummary

MODELS = {
    # name: (parameters, layers, width, vocabulary, pretraining tokens)
    "EleutherAI/pythia-70m": (70_426_624, 6, 512, 50_304, 3.0e11),  # Biderman et al. 2023, table 1
    "EleutherAI/pythia-160m": (162_322_944, 12, 768, 50_304, 3.0e11),
    "EleutherAI/pythia-410m": (405_334_016, 24, 1024, 50_304, 3.0e11),
    "EleutherAI/pythia-1b": (1_011_781_632, 16, 2048, 50_304, 3.0e11),
    "EleutherAI/pythia-1.4b": (1_414_647_808, 24, 2048, 50_304, 3.0e11),
    "EleutherAI/pythia-2.8b": (2_775_208_960, 32, 2560, 50_304, 3.0e11),
    "EleutherAI/pythia-6.9b": (6_857_302_016, 32, 4096, 50_432, 3.0e11),
    "EleutherAI/pythia-12b": (11_846_072_320, 36, 5120, 50_688, 3.0e11),
    "openai-community/gpt2": (124_439_808, 12, 768, 50_257, 1.0e10),  # Radford et al. 2019, table 2
    "openai-community/gpt2-medium": (354_823_168, 24, 1024, 50_257, 1.0e10),
    "openai-community/gpt2-large": (774_030_080, 36, 1280, 50_257, 1.0e10),
    "openai-community/gpt2-xl": (1_557_611_200, 48, 1600, 50_257, 1.0e10),
    # files.yaml names no models; these stand for its three folders
    "small": (124_439_808, 12, 768, 50_257, 3.0e9),
    "medium": (354_823_168, 24, 1024, 50_257, 1.0e10),
    "large": (774_030_080, 36, 1280, 50_257, 3.0e10),
}
TASKS = {
    # name: (rows to be split, rows of a test split of its own, mean characters, longest in bytes)
    "boolq": (9_427, 3_270, 600, 4_800),  # Clark et al. 2019, section 3
    "sst2": (67_349, 872, 54, 270),  # Socher et al. 2013, as in GLUE
    "reviews": (20_000, 0, 500, 5_000),  # of files.yaml, made up
    "harmless": (13_000, 900, 180, 1_500),  # single-turn pairs of Anthropic's hh-rlhf, about
    "facts": (12_800, 0, 22, 30),
    "facts-pairs": (6_400, 0, 22, 30),
    "mate-in-one": (10_000, 0, 140, 320),
    "puzzles": (20_000, 0, 110, 160),  # of lichess.yaml: some rows of the file; a position in FEN and a question
}


def plan_without_inputs(file: Path) -> tuple[Sweep, Plan]:
    """A spec and its plan; ids are not those of real data."""
    spec = load_spec(file)
    return spec, build_plan(spec, stand_in_inputs(spec))


def stand_in_inputs(spec: Sweep) -> Inputs:
    corpus = spec.ladder.pretrain.corpus
    vocabulary = corpus.vocab_size if isinstance(corpus, TextCorpus) else FACTS_VOCABULARY
    return Inputs(
        tasks={task.name: _task(task) for task in spec.tasks},
        models={rung.name: _model(rung, vocabulary) for rung in spec.ladder.rungs},
        corpus_fingerprint="stand-in",
    )


def _task(task: TaskSpec) -> TaskInfo:
    rows, own_test, characters, longest = TASKS["facts" if isinstance(task, FactsTask) else task.name]
    if task.form == "compare" and isinstance(task, FactsTask):
        rows //= 2
    parts = _sizes(task.splits, rows, own_test)
    summary = TaskSummary(
        form=task.form,
        sizes=parts,
        class_balance=dict.fromkeys(parts, 0.5),
        mean_characters=dict.fromkeys(parts, float(characters)),
        max_bytes=dict.fromkeys(parts, longest),
        dropped={},
    )
    assert task.prompt is None or isinstance(task.prompt, PromptFormat)
    return TaskInfo(task, f"stand-in {task.name}", summary)


def _sizes(splits: SplitSpec, rows: int, own_test: int) -> dict[str, int]:
    def count(size: float) -> int:
        return round(size * rows) if isinstance(size, float) else size

    sizes = {"supervise": count(splits.supervise), "validation": count(splits.validation)}
    sizes["test"] = own_test or count(splits.test)
    for part in range(splits.transfer_parts):
        sizes[f"transfer/{part}"] = count(splits.transfer) // splits.transfer_parts
    return sizes


def _model(rung: ScratchRung | CheckpointRung, vocabulary: int) -> ModelInfo:
    if isinstance(rung, ScratchRung):
        return scratch_model(rung, vocabulary)
    known = rung.model if rung.model in MODELS else rung.name
    n_params, layers, width, words, tokens = MODELS[known]
    matmul = 12 * layers * width * width + words * width
    return ModelInfo(
        name=rung.name,
        n_params=n_params,
        n_matmul=matmul,
        hidden_size=width,
        layers=layers,
        pretrain_flops=6.0 * matmul * tokens,
        max_positions=2048,
        causal=True,
        source=ModelSource(path=rung.model),
        fingerprint=f"stand-in {rung.model}",
        sizes=Sizes(
            family="gpt_neox" if "pythia" in known else "gpt2",
            n_params=n_params,
            n_matmul=matmul,
            hidden_size=width,
            layers=layers,
            heads=width // 64,
            vocab_size=words,
            tied="pythia" not in known,
        ),
    )
