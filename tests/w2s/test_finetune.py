import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import quick

from w2s import finetune as finetune_module
from w2s.config import ModelSource
from w2s.data import load_tokenised
from w2s.errors import OutOfMemoryError, TrainingError
from w2s.finetune import HERE, Placement, finetune
from w2s.methods import Confidence, LossMethod, Naive, Product, Window
from w2s.models import load_finetuned, load_scorer, load_tokenizer, save_scorer
from w2s.predict import predict
from w2s.runtime import typed_out_of_memory

CPU = torch.device("cpu")
NAIVE = Naive()


@pytest.fixture
def run(checkpoints, tasks, cache_dir):
    """Finetunes a tiny model and returns what finetuning left; keyword arguments change the settings."""

    def go(method: LossMethod = NAIVE, *, family="llama", form="classify", placement=HERE, scorer=None, **changes):
        settings = quick(**{"epochs": 2, "micro_batch_size": 16} | changes)
        source = ModelSource(path=checkpoints[family])
        task = load_tokenised(tasks[form], load_tokenizer(source), max_length=24, cache_dir=cache_dir)
        train = task.part("transfer/0")
        labels = np.random.default_rng(0).random(len(train)).astype(np.float32)
        scorer = scorer or load_scorer(source, form=form, settings=settings, seed=5, device=CPU)
        splits = {name: task.part(name) for name in task.parts() if name != "supervise"}
        return finetune(
            scorer, train, labels, splits, settings=settings, method=method, seed=5, identity="x", placement=placement
        )

    return go


def final(result) -> np.ndarray:
    return np.concatenate([result.evaluations[-1].log_odds[name] for name in ("test", "transfer/0", "validation")])


@pytest.mark.parametrize("form", ["classify", "compare"])
@pytest.mark.parametrize(
    "method",
    [Naive(), Confidence(warmup=0.0), Confidence(balance="weak_batch"), Product(), Window(radius="median")],
    ids=["naive", "half", "weak_batch", "product", "window"],
)
@pytest.mark.parametrize("micro_batch_size", [1, 8])
def test_the_cut_into_micro_batches_does_not_change_the_result(run, method, micro_batch_size, form):
    # One epoch of a small rate: rounding differences of 1e-8 grow with every step of training.
    whole = run(method, form=form, epochs=1, learning_rate=1e-4, micro_batch_size=16)
    cut = run(method, form=form, epochs=1, learning_rate=1e-4, micro_batch_size=micro_batch_size)
    np.testing.assert_allclose(final(cut), final(whole), atol=1e-5)
    assert cut.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], abs=1e-6)


def test_a_stored_evaluation_is_what_the_checkpoint_of_its_step_says(run, checkpoints, tasks, cache_dir, tmp_path):
    """Early stopping chooses among stored evaluations; they must be those of the model as it was at that step."""
    source = ModelSource(path=checkpoints["llama"])
    settings = quick(epochs=2, micro_batch_size=16, eval_every=4)
    scorer = load_scorer(source, form="classify", settings=settings, seed=5, device=CPU)
    tokenizer = load_tokenizer(source)

    def checkpoint(fraction: float) -> None:
        save_scorer(scorer, tokenizer, tmp_path / str(round(fraction * 12)))

    result = run(scorer=scorer, eval_every=4, placement=Placement(on_progress=checkpoint))
    assert [evaluation.step for evaluation in result.evaluations] == [4, 8, 12]
    task = load_tokenised(tasks["classify"], tokenizer, max_length=24, cache_dir=cache_dir)
    for evaluation in result.evaluations:
        saved = load_finetuned(tmp_path / str(evaluation.step), settings=settings, device=CPU)
        for name in ("validation", "test"):
            again = predict(saved, task.part(name), budget=4096)
            np.testing.assert_array_equal(evaluation.log_odds[name], again)


@pytest.mark.parametrize("micro_batch_size", [1, 4, 16])
def test_thresholds_are_taken_over_the_whole_batch_however_it_is_cut(run, micro_batch_size, monkeypatch):
    seen = []

    class Spy(Confidence):
        name = "spy"

        def targets(self, weak, student, moment):
            targets = super().targets(weak, student, moment)
            seen.append((len(weak), (targets > 0.5).sum().item()))
            return targets

    run(Spy(max_weight=1.0, warmup=0.0), epochs=1, micro_batch_size=micro_batch_size)
    assert len(seen) == 6  # 96 examples in batches of 16
    assert set(seen) == {(16, 8)}


def test_methods_know_the_mean_and_the_spread_of_the_labels_that_they_prepared(run):
    seen = set()

    class Spy(Naive):
        name = "spy"

        def prepare(self, weak):
            return torch.linspace(0.5, 0.9, len(weak))

        def loss(self, z, targets, moment):
            seen.add((round(moment.weak_prior, 5), round(moment.weak_spread, 5)))
            return super().loss(z, targets, moment)

    run(Spy(), epochs=1)
    assert seen == {(0.7, 0.2)}


def test_an_undecided_model_hardens_half_of_its_first_batch(run):
    # The head starts at zero, so all log-odds of the first batch are equal.
    first = run(Confidence(max_weight=1.0, warmup=0.0), epochs=1, learning_rate=1e-12)
    assert first.history[-1]["train_loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_finetuning_learns_a_learnable_task(checkpoints, tasks, cache_dir):
    source = ModelSource(path=checkpoints["llama"])
    settings = quick(epochs=12, learning_rate=1e-2, micro_batch_size=16)
    task = load_tokenised(tasks["classify"], load_tokenizer(source), max_length=24, cache_dir=cache_dir)
    scorer = load_scorer(source, form="classify", settings=settings, seed=0, device=CPU)
    train, test = task.part("supervise"), task.part("test")
    result = finetune(
        scorer, train, train.gold, {"supervise": train, "test": test}, settings=settings, method=Naive(), seed=0
    )
    z = result.evaluations[-1].log_odds
    assert ((z["supervise"] > 0) == (train.gold == 1)).mean() > 0.95
    assert result.history[-1]["train_loss"] < 0.2


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
def test_only_what_is_tuned_changes(run, checkpoints, tune):
    settings = quick(tune=tune)
    scorer = load_scorer(ModelSource(path=checkpoints["llama"]), form="classify", settings=settings, seed=5, device=CPU)
    before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
    run(scorer=scorer, tune=tune)
    changed = {name for name, p in scorer.named_parameters() if not torch.equal(p, before[name])}
    if tune == "head":
        assert changed == {"head.weight"}
    elif tune == "lora":
        assert "head.weight" in changed
        assert all("lora_" in name for name in changed - {"head.weight"})
    else:
        assert changed == set(before)


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}, {"tune": "lora"}], ids=["plain", "dropout", "lora"])
def test_a_run_stopped_and_resumed_ends_with_the_same_bits(run, tmp_path, changes):
    undisturbed = run(Confidence(), eval_every=3, **changes)

    class Stopped(Exception):
        pass

    calls: Iterator[int] = itertools.count(1)

    def stop(_fraction: float) -> None:
        if next(calls) == 8:
            raise Stopped

    with pytest.raises(Stopped):
        run(
            Confidence(),
            eval_every=3,
            placement=Placement(scratch_dir=tmp_path, checkpoint_every_seconds=0.0, on_progress=stop),
            **changes,
        )
    steps_resumed = []
    resumed = run(
        Confidence(),
        eval_every=3,
        placement=Placement(scratch_dir=tmp_path, on_progress=steps_resumed.append),
        **changes,
    )
    assert steps_resumed[0] == pytest.approx(8 / 12)  # it was stopped at step 8, after the state of step 7
    assert resumed.history == undisturbed.history
    assert len(resumed.evaluations) == len(undisturbed.evaluations) == 4
    for a, b in zip(resumed.evaluations, undisturbed.evaluations, strict=True):
        assert a.step == b.step
        assert all(np.array_equal(a.log_odds[k], b.log_odds[k]) for k in b.log_odds)


def test_a_damaged_or_foreign_state_is_not_used(run, tmp_path):
    undisturbed = run()
    (tmp_path / "state.pt").write_bytes(b"half a file")
    assert run(placement=Placement(scratch_dir=tmp_path)).history == undisturbed.history
    torch.save({"identity": "another run", "state": {"step": 5}}, tmp_path / "state.pt")
    assert run(placement=Placement(scratch_dir=tmp_path)).history == undisturbed.history


def test_short_runs_write_no_state(run, tmp_path):
    run(placement=Placement(scratch_dir=tmp_path, checkpoint_every_seconds=3600))
    assert list(tmp_path.iterdir()) == []


def test_evaluations_on_the_way_cover_validation_and_test_and_the_last_one_everything(run):
    result = run(eval_every=5)
    assert [e.step for e in result.evaluations] == [5, 10, 12]
    assert [set(e.log_odds) for e in result.evaluations[:2]] == [{"validation", "test"}] * 2
    assert set(result.evaluations[-1].log_odds) == {"validation", "test", "transfer/0"}
    assert [row["step"] for row in result.history] == [5, 10, 12]


def test_evaluating_more_often_does_not_change_training(run):
    np.testing.assert_array_equal(final(run(eval_every=1, dropout=0.1)), final(run(dropout=0.1)))


def test_a_rate_too_high_is_refused_with_step_and_cure(run):
    with pytest.raises(TrainingError, match=r"not finite|loss is (nan|inf)") as error:
        run(learning_rate=1e30, clip_norm=None, eval_every=4)
    assert "at step 4 of 12 (all was finite at step 0)" in str(error.value)
    assert "it is 1e+30; try a third of it" in str(error.value)


def test_progress_is_told_up_to_the_end(run):
    told = []
    run(placement=Placement(on_progress=told.append))
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        MemoryError("Unable to allocate 8 GiB"),
    ],
)
def test_every_kind_of_running_out_of_memory_is_typed(error):
    with (
        pytest.raises(OutOfMemoryError, match=r"out of memory in a test: .*allocate"),
        typed_out_of_memory("in a test"),
    ):
        raise error


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shape mismatch"), typed_out_of_memory("in a test"):
        raise RuntimeError("shape mismatch")


def test_gradient_checkpointing_changes_memory_and_not_the_result(run):
    plain = final(run(epochs=1, learning_rate=1e-4))
    np.testing.assert_allclose(final(run(epochs=1, learning_rate=1e-4, gradient_checkpointing=True)), plain, atol=1e-6)


def test_with_dropout_the_first_pass_drops_what_the_pass_with_gradient_drops(run, monkeypatch):
    passes: list[Any] = []
    scores = finetune_module._BatchStep._scores

    def recorded(self, positions):
        z = scores(self, positions)
        passes.append((tuple(positions), z.requires_grad, z.detach().clone()))
        return z

    monkeypatch.setattr(finetune_module._BatchStep, "_scores", recorded)
    run(Confidence(warmup=0.0), epochs=1, dropout=0.5, micro_batch_size=8)
    first, second = [p for p in passes if not p[1]], [p for p in passes if p[1]]
    assert [p[0] for p in first] == [p[0] for p in second]
    assert all(torch.equal(a[2], b[2]) for a, b in zip(first, second, strict=True))
    assert any(z.abs().max() > 0 for _, _, z in second)
