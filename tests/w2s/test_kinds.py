"""Kinds of runs that procedures ask for, through `run_one`: labels, activations and probes, prompts, stated labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from stand_ins import quick

from w2s.activations import load_activations
from w2s.config import (
    ActivationsRun,
    FactsCorpus,
    FactsTask,
    FinetuneRun,
    GenerativeRun,
    LabelsRun,
    MethodSpec,
    ModelSource,
    PretrainRun,
    PretrainSettings,
    ProbeRun,
    PromptFormat,
    PromptRun,
    RungShape,
    SplitSpec,
)
from w2s.errors import DataError
from w2s.experiment import METRICS, Inputs, run_one
from w2s.kinds import reading
from w2s.predict import SCHEMA
from w2s.tasks import load_task

TRAIN = "transfer/0"
SPLITS = ("test", TRAIN, "validation")


def predicted(task: Any, seed: int = 0) -> pl.DataFrame:
    """Predictions of a model that is right on about seven rows in ten, of all parts but its own."""
    frame = load_task(task).frame.filter(pl.col("part") != "supervise").sort("example_id")
    rng = np.random.default_rng(seed)
    right = rng.random(frame.height) < 0.7
    confidence = rng.uniform(0.51, 0.99, frame.height)
    p = np.where(right == (frame["label"].to_numpy() == 1), confidence, 1 - confidence)
    return frame.select("example_id", split="part", gold="label", p=pl.Series(p, dtype=pl.Float32))


def labels_run(task: Any, inputs: Inputs, name: str, *, seed: int = 0, **params: Any) -> pl.DataFrame:
    spec = LabelsRun(task=task, operation=MethodSpec(name=name, params=params), train_part=TRAIN, seed=seed)
    result = run_one(spec, inputs)
    assert tuple(result.metrics) == METRICS
    assert result.predictions is not None
    assert dict(result.predictions.schema) == SCHEMA
    assert set(result.predictions["step"]) == {0}
    return result.predictions


def errors_by_split(frame: pl.DataFrame) -> dict[str, int]:
    wrong = (pl.col("p") > 0.5) != (pl.col("gold") == 1)
    return dict(frame.group_by("split").agg(wrong.sum()).sort("split").iter_rows())


def given(cache_dir: Path, **frames: pl.DataFrame) -> Inputs:
    """What the engine hands on: predictions by role, the supervisor's also as weak labels."""
    only = {role: frame.select("example_id", "p") for role, frame in frames.items()}
    return Inputs(cache_dir=cache_dir, predictions=only, weak_labels=only.get("supervisor"))


def transfer(task: Any, path: str | None, **changes: Any) -> FinetuneRun:
    return FinetuneRun(
        kind="transfer",
        task=task,
        model=None if path is None else ModelSource(path=path),
        settings=quick(**changes),
        method=MethodSpec(name="naive"),
        train_part=TRAIN,
        seed=0,
    )


# Controls


@pytest.mark.parametrize("errors", ["uniform", "longest", "shortest", "least_confident", "most_confident"])
@pytest.mark.parametrize("form", ["classify", "compare"])
def test_a_control_is_wrong_as_often_as_the_supervisor_on_every_split(form, errors, tasks, cache_dir):
    supervisor, reference = predicted(tasks[form]), predicted(tasks[form], seed=1)
    inputs = given(cache_dir, supervisor=supervisor, reference=reference)
    labels = labels_run(tasks[form], inputs, "control", errors=errors)
    assert errors_by_split(labels) == errors_by_split(supervisor)
    assert set(errors_by_split(labels)) == set(SPLITS)
    assert set(labels["p"]) == {0.0, 1.0}
    both = labels.join(supervisor, on="example_id", validate="1:1")
    assert both.filter((pl.col("p") > 0.5) != (pl.col("p_right") > 0.5)).height > 0  # but elsewhere


def test_uniform_errors_depend_on_the_seed_and_the_others_on_nothing_but_the_rows(tasks, cache_dir):
    inputs = given(cache_dir, supervisor=predicted(tasks["classify"]))
    uniform = [labels_run(tasks["classify"], inputs, "control", errors="uniform", seed=seed) for seed in (0, 0, 1)]
    assert uniform[0].equals(uniform[1])
    assert not uniform[0].equals(uniform[2])
    longest = [labels_run(tasks["classify"], inputs, "control", errors="longest", seed=seed) for seed in (0, 1)]
    assert longest[0].equals(longest[1])


def test_errors_on_the_longest_texts_are_there_in_each_split(tasks, cache_dir):
    inputs = given(cache_dir, supervisor=predicted(tasks["classify"]))
    labels = labels_run(tasks["classify"], inputs, "control", errors="longest")
    texts = load_task(tasks["classify"]).frame.select("example_id", length=pl.col("text").str.len_chars())
    for _, rows in labels.join(texts, on="example_id").group_by("split"):
        wrong = rows.filter(~pl.col("correct"))["length"].min()
        assert wrong >= rows.filter("correct")["length"].max()


def test_the_reference_decides_where_confident_errors_are(tasks, cache_dir):
    task = tasks["classify"]
    supervisor, reference = predicted(task), predicted(task, seed=1)
    inputs = given(cache_dir, supervisor=supervisor, reference=reference)
    labels = labels_run(task, inputs, "control", errors="most_confident").filter(split="test")
    test = reference.filter(split="test").with_columns(
        right=(pl.col("p") > 0.5) == (pl.col("gold") == 1), confidence=(pl.col("p").cast(pl.Float64) - 0.5).abs()
    )
    expected = test.filter("right").sort("confidence", descending=True).head(errors_by_split(supervisor)["test"])
    assert set(labels.filter(~pl.col("correct"))["example_id"]) == set(expected["example_id"])


# Ensembles


@pytest.mark.parametrize("rule", ["average", "vote"])
def test_an_ensemble_takes_the_mean_or_the_votes_of_its_members(rule, tasks, cache_dir):
    frames = [predicted(tasks["classify"], seed) for seed in range(3)]
    members = {f"member/{i}": frame for i, frame in enumerate(frames)}
    labels = labels_run(tasks["classify"], given(cache_dir, **members), "ensemble", rule=rule)
    ps = np.stack([f.sort("split", "example_id")["p"].to_numpy() for f in frames])
    expected = ps.mean(axis=0) if rule == "average" else (ps > 0.5).mean(axis=0)
    np.testing.assert_allclose(labels["p"].to_numpy(), expected, atol=1e-6)
    assert (labels["correct"] == (labels["prediction"] == labels["gold"])).all()


# Filters and easy rows: labels with gaps


@pytest.fixture(scope="module")
def activations_dir(tasks, checkpoints, cache_dir, tmp_path_factory):
    """Hidden states of the student by form."""
    folders = {}
    for form in ("classify", "compare"):
        spec = ActivationsRun(
            task=tasks[form], model=ModelSource(path=checkpoints["llama"]), layer="middle", settings=quick()
        )
        result = run_one(spec, Inputs(cache_dir=cache_dir))
        assert result.predictions is None
        assert result.metrics["inference_flops"] > 0
        folders[form] = tmp_path_factory.mktemp("activations") / form
        result.save_activations(folders[form])
    return folders


OPERATIONS = {
    "confidence": {"by": "confidence", "relabel": False, "keep": 0.25},
    "probe": {"by": "probe", "relabel": False, "keep": 0.75, "penalty": 1e-3},
    "knn": {"by": "knn", "relabel": False, "keep": 0.75, "k": 5},
    "topological": {"by": "topological", "relabel": False, "keep": 0.75, "k": 20},
}


def filtered(task, cache_dir, folder, **params):
    inputs = replace(given(cache_dir, supervisor=predicted(task)), activations_dir=folder)
    return labels_run(task, inputs, "filter", **params)


@pytest.mark.parametrize("form", ["classify", "compare"])
@pytest.mark.parametrize("by", sorted(OPERATIONS))
def test_a_filter_takes_labels_out_of_the_training_part_only(by, form, tasks, cache_dir, activations_dir):
    labels = filtered(tasks[form], cache_dir, activations_dir[form], **OPERATIONS[by])
    both = labels.join(predicted(tasks[form]), on="example_id", validate="1:1")
    assert both.height == labels.height
    kept = both.filter(pl.col("p").is_not_null())
    assert (kept["p"] == kept["p_right"]).all()
    assert set(both.filter(pl.col("p").is_null())["split"]) == {TRAIN}
    size = labels.filter(split=TRAIN).height
    left = kept.filter(split=TRAIN).height
    if by == "topological":  # whose first step drops what it drops
        assert 0 < left <= 0.75 * size
    elif by == "confidence":  # rounded per class
        assert abs(left - 0.25 * size) <= 1
    else:
        assert left == 0.75 * size


@pytest.mark.parametrize("params", [{"by": "probe", "penalty": 1e-3}, {"by": "knn", "k": 5}], ids=["probe", "knn"])
def test_relabelling_gives_every_row_of_the_training_part_another_label(params, tasks, cache_dir, activations_dir):
    labels = filtered(tasks["classify"], cache_dir, activations_dir["classify"], relabel=True, **params)
    both = labels.join(predicted(tasks["classify"]), on="example_id", validate="1:1")
    assert both["p"].null_count() == 0
    changed = both.filter((pl.col("p") - pl.col("p_right")).abs() > 1e-6)
    assert set(changed["split"]) == {TRAIN}
    assert changed.height > 0.9 * both.filter(split=TRAIN).height


def test_rows_without_a_label_are_not_learned_from(tasks, checkpoints, cache_dir, activations_dir):
    task = tasks["classify"]
    labels = filtered(task, cache_dir, activations_dir["classify"], **OPERATIONS["confidence"])
    kept = labels.filter(split=TRAIN)["p"].is_not_null().sum()
    spec = transfer(task, checkpoints["llama"], batch_size=8, eval_every=1)
    all_rows = run_one(spec, given(cache_dir, supervisor=predicted(task)))
    some = run_one(spec, given(cache_dir, supervisor=labels))
    assert (all_rows.metrics["steps"], some.metrics["steps"]) == (96 // 8, -(-kept // 8))
    assert some.metrics["train_tokens"] < 0.5 * all_rows.metrics["train_tokens"]
    assert some.metrics["finetune_flops"] < 0.5 * all_rows.metrics["finetune_flops"]
    assert some.predictions is not None
    last = some.predictions.filter(step=some.metrics["steps"])
    assert dict(last.group_by("split").len().iter_rows()) == {TRAIN: 96, "validation": 24, "test": 24}
    assert last["p"].null_count() == 0
    assert some.history["validation_weak_loss"].null_count() == 0
    absent = labels.filter(pl.col("p").is_not_null() | (pl.col("split") != TRAIN))
    with pytest.raises(
        DataError, match="examples have no weak label"
    ):  # an absent label is a mistake, a null one is not
        run_one(spec, given(cache_dir, supervisor=absent))


def test_labels_with_nothing_left_are_refused(tasks, checkpoints, cache_dir):
    nothing = predicted(tasks["classify"]).with_columns(
        p=pl.when(split=TRAIN).then(None).otherwise(pl.col("p")).cast(pl.Float32)
    )
    with pytest.raises(DataError, match="none of the 96 examples to learn from has a label"):
        run_one(transfer(tasks["classify"], checkpoints["llama"]), given(cache_dir, supervisor=nothing))


@pytest.mark.parametrize("rows", ["easy", "hard", "any"])
def test_easy_rows_carry_ground_truth_and_the_others_nothing(rows, tasks, cache_dir):
    task = tasks["classify"]
    supervisor = predicted(task)
    judges = {f"member/{i}": predicted(task, seed) for i, seed in enumerate((0, 1, 2))}
    inputs = given(cache_dir, supervisor=supervisor, **judges)
    labels = labels_run(task, inputs, "easy_to_hard", rows=rows, share=0.25, up_to=1)
    by_split = {name: frame.sort("example_id") for (name,), frame in labels.group_by("split")}
    assert by_split["test"]["p"].equals(supervisor.filter(split="test")["p"])
    assert (by_split["validation"]["p"] == by_split["validation"]["gold"]).all()
    train = by_split[TRAIN]
    chosen = train["p"].is_not_null().to_numpy()
    assert chosen.sum() == 24
    assert (train.filter(chosen)["p"] == train.filter(chosen)["gold"]).all()
    right = np.stack([
        (frame.filter(split=TRAIN)["p"].to_numpy() > 0.5) == (frame.filter(split=TRAIN)["gold"].to_numpy() == 1)
        for frame in judges.values()
    ])  # fmt: skip
    easy = right[1] & right[2]  # rung 1 and all larger ones
    assert {"easy": easy[chosen].all(), "hard": not easy[chosen].any(), "any": 0 < easy[chosen].sum() < 24}[rows]


# Probes


def scikit(x: np.ndarray, y: np.ndarray, penalty: float, *, intercept: bool) -> LogisticRegression:
    c = 1 / (2 * penalty * len(x))
    model = LogisticRegression(C=c, fit_intercept=intercept, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    return model.fit(x.astype(np.float64), y)


@pytest.mark.parametrize("labels", ["weak", "ground_truth", "weak with gaps"])
@pytest.mark.parametrize("form", ["classify", "compare"])
def test_a_probe_is_scikit_learns_on_the_stored_activations(form, labels, tasks, cache_dir, activations_dir):
    task, penalty = tasks[form], 1e-2
    # Hard labels, which scikit-learn takes, but not those of ground truth.
    supervisor = predicted(task).with_columns(p=(pl.col("p") > 0.5).cast(pl.Float32))
    if labels == "weak with gaps":
        gap = (pl.col("split") == TRAIN) & (pl.int_range(pl.len()) % 3 == 0)
        supervisor = supervisor.with_columns(p=pl.when(gap).then(None).otherwise(pl.col("p")))
    inputs = replace(given(cache_dir, supervisor=supervisor), activations_dir=activations_dir[form])
    kind = "ground_truth" if labels == "ground_truth" else "weak"
    result = run_one(ProbeRun(task=task, labels=kind, train_part=TRAIN, penalty=penalty), inputs)
    assert result.predictions is not None
    assert dict(result.predictions.schema) == SCHEMA

    stored = load_activations(activations_dir[form])
    train = supervisor.filter(split=TRAIN)
    wanted = train["gold" if labels == "ground_truth" else "p"].cast(pl.Float64).to_numpy()
    rows = np.isfinite(wanted)
    model = scikit(stored.of(TRAIN).features[rows], wanted[rows], penalty, intercept=form == "classify")
    for name in SPLITS:
        ours = result.predictions.filter(split=name)
        assert ours["example_id"].to_list() == stored.of(name).example_id.tolist()
        theirs = model.predict_proba(stored.of(name).features.astype(np.float64))[:, 1]
        np.testing.assert_allclose(ours["p"].to_numpy(), theirs, atol=1e-5)


def test_a_probe_on_another_tasks_activations_is_refused(tasks, cache_dir, activations_dir):
    inputs = Inputs(cache_dir=cache_dir, activations_dir=activations_dir["compare"])
    spec = ProbeRun(task=tasks["classify"], labels="ground_truth", train_part=TRAIN, penalty=1e-3)
    with pytest.raises(DataError, match="the activations of part transfer/0 are not those of the task's examples"):
        run_one(spec, inputs)


# Prompts

FORMAT = PromptFormat(instruction="red or gold:", template="{text} =", answers=(" no", " yes"), separator=" ; ")


def prompt_run(task: Any, path: str, shots: int, labels: str = "weak", seed: int = 0) -> PromptRun:
    return PromptRun.model_validate(
        {
            "task": task, "model": ModelSource(path=path), "prompt": FORMAT, "shots": shots, "labels": labels,
            "train_part": TRAIN, "settings": quick(), "max_length": 64, "seed": seed,
        }
    )  # fmt: skip


@pytest.fixture
def shown(monkeypatch):
    """The examples that prompts begin with, noted while they are built."""
    noted: list[Any] = []

    def build(prompt_format, shots, text):
        noted.append(tuple(shots))
        return build_prompt(prompt_format, shots, text)

    build_prompt = reading.build_prompt
    monkeypatch.setattr(reading, "build_prompt", build)
    return noted


@pytest.mark.parametrize("labels", ["weak", "ground_truth"])
def test_shots_come_from_the_training_part_with_the_labels_asked_for(labels, tasks, checkpoints, cache_dir, shown):
    task = tasks["classify"]
    frame = load_task(task).frame.filter(pl.col("part") != "supervise")
    truth = dict(zip(frame["example_id"], frame["label"], strict=True))
    of_text = dict(zip(frame["text"], frame.select("example_id", "part").iter_rows(), strict=True))
    # Weak labels are all wrong, so that nobody can take one for the other.
    wrong = frame.select("example_id", p=1.0 - pl.col("label").cast(pl.Float32))
    run_one(prompt_run(task, checkpoints["llama"], 6, labels), Inputs(cache_dir=cache_dir, weak_labels=wrong))
    assert len(set(shown)) == 1  # the same examples for every question
    assert len(shown) == frame.height
    for shot in shown[0]:
        example_id, part = of_text[shot.text]
        assert part == TRAIN
        assert shot.label == (truth[example_id] if labels == "ground_truth" else 1 - truth[example_id])
    assert sorted(shot.label for shot in shown[0]) == [0, 0, 0, 1, 1, 1]


def test_shots_are_drawn_by_the_seed_among_the_rows_with_a_label(tasks, checkpoints, cache_dir, shown):
    task = tasks["classify"]
    supervisor = predicted(task)
    few = supervisor.with_row_index().with_columns(
        p=pl.when((pl.col("split") != TRAIN) | (pl.col("index") % 10 == 0)).then(pl.col("p")).otherwise(None)
    )
    texts = load_task(task).frame
    labelled = few.filter(pl.col("p").is_not_null() & (pl.col("split") == TRAIN)).join(texts, on="example_id")["text"]
    run_one(prompt_run(task, checkpoints["llama"], 4), given(cache_dir, supervisor=few))
    assert {shot.text for shot in shown[0]} <= set(labelled)
    examples = []
    for seed in (0, 1):
        shown.clear()
        run_one(prompt_run(task, checkpoints["llama"], 2, seed=seed), given(cache_dir, supervisor=supervisor))
        examples.append(shown[0])
    assert examples[0] != examples[1]


def test_a_prompt_without_shots_needs_no_labels_and_draws_nothing(tasks, checkpoints, cache_dir):
    task, path = tasks["classify"], checkpoints["llama"]
    plain = run_one(prompt_run(task, path, 0), Inputs(cache_dir=cache_dir))
    again = run_one(prompt_run(task, path, 0, seed=5), given(cache_dir, supervisor=predicted(task)))
    assert plain.predictions is not None
    assert plain.predictions.equals(again.predictions)
    assert dict(plain.predictions.group_by("split").len().iter_rows()) == {TRAIN: 96, "validation": 24, "test": 24}
    assert plain.metrics["finetune_flops"] is None
    assert plain.metrics["steps"] is None
    with_shots = run_one(prompt_run(task, path, 2), given(cache_dir, supervisor=predicted(task)))
    assert not with_shots.predictions.equals(plain.predictions)
    assert with_shots.metrics["predict_tokens"] > plain.metrics["predict_tokens"]


# Generative finetuning


def test_a_student_starts_from_what_generative_finetuning_left(tasks, checkpoints, cache_dir, tmp_path):
    spec = GenerativeRun(
        task=tasks["classify"],
        model=ModelSource(path=checkpoints["llama"]),
        settings=quick(learning_rate=3e-3),
        parts=("supervise", TRAIN),
        seed=0,
    )
    result = run_one(spec, Inputs(cache_dir=cache_dir))
    assert tuple(result.metrics) == METRICS
    assert result.predictions is None
    assert result.metrics["finetune_flops"] > 0
    assert result.save_weights is not None
    result.save_weights(tmp_path / "adapted")
    weak = predicted(tasks["classify"]).select("example_id", "p")
    plain = run_one(transfer(tasks["classify"], checkpoints["llama"]), Inputs(cache_dir=cache_dir, weak_labels=weak))
    adapted = run_one(
        transfer(tasks["classify"], None),
        Inputs(cache_dir=cache_dir, weak_labels=weak, model_path=str(tmp_path / "adapted")),
    )
    assert adapted.metrics["steps"] == plain.metrics["steps"]
    assert not adapted.predictions.equals(plain.predictions)


# Trivial imitation


@pytest.fixture(scope="module")
def rung(tmp_path_factory, cache_dir):
    """A small rung of the facts ladder."""
    spec = PretrainRun(
        shape=RungShape(hidden_size=16, layers=1, heads=2, tokens=40_000),
        settings=PretrainSettings(corpus=FactsCorpus()),
        seed=0,
    )
    folder = tmp_path_factory.mktemp("rung") / "d16"
    run_one(spec, Inputs(cache_dir=cache_dir)).save_weights(folder)
    return str(folder)


@pytest.mark.parametrize("form", ["classify", "compare"])
def test_stated_labels_are_copied_and_the_gap_stays_open(form, rung, cache_dir):
    splits = SplitSpec(supervise=100, transfer=600, validation=50, test=400)
    task = FactsTask(name="facts", source="facts", form=form, splits=splits)
    weak = predicted(task)
    inputs = Inputs(cache_dir=cache_dir, weak_labels=weak.select("example_id", "p"), model_path=rung)
    spec = transfer(task, None, learning_rate=1e-2, epochs=4, max_length=8)

    def agreement_and_accuracy(states_labels: bool) -> tuple[float, float]:
        result = run_one(spec.model_copy(update={"states_labels": states_labels}), inputs)
        assert result.predictions is not None
        test = result.predictions.filter(split="test").join(weak, on="example_id", validate="1:1")
        agrees = test.select((pl.col("prediction") == (pl.col("p_right") > 0.5)).mean()).item()
        return agrees, test["correct"].mean()  # pyright: ignore[reportReturnType]

    supervisor = 1 - errors_by_split(weak)["test"] / 400
    assert 0.6 < supervisor < 0.8
    agrees, accuracy = agreement_and_accuracy(True)
    assert agrees > 0.98
    assert abs(accuracy - supervisor) < 0.02  # whatever the ceiling, almost none of the gap is recovered
    agrees, _ = agreement_and_accuracy(False)
    assert agrees < 0.8


def test_a_training_run_knows_no_procedures(tasks, checkpoints, cache_dir):
    spec = transfer(tasks["classify"], checkpoints["llama"]).model_copy(update={"method": MethodSpec(name="bootstrap")})
    with pytest.raises(ValueError, match="bootstrap is a procedure, which a plan takes apart into runs"):
        run_one(spec, given(cache_dir, supervisor=predicted(tasks["classify"])))
