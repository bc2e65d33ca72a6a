"""The finetuning loop: ground truth or weak labels in, evaluations and a loss history out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from w2s.config import FinetuneSettings
from w2s.data import BatchOrder, Examples, micro_batches
from w2s.distributed import HERE, Placement, Shard
from w2s.errors import TrainingError
from w2s.flops import Work
from w2s.methods import LossMethod, Moment
from w2s.models import Scorer
from w2s.optim import FlatAdamW, ShardedAdamW, adamw_for
from w2s.predict import Evaluation, mean_cross_entropy, predict, token_budget
from w2s.resume import Pace
from w2s.schedules import rate_factor, warmup_steps
from w2s.seeds import Role, torch_seed

COMPILED_LENGTH_MULTIPLE = 32
"""Compiled models see padded lengths of this multiple, so that they are compiled for few shapes."""


DIVERGED_LOSS = 50.0
"""Nats per example, on average; a model that knows nothing has 0.69, so this one is sure of the wrong class."""


@dataclass(frozen=True)
class Finetuned:
    """What finetuning leaves, beside the trained scorer."""

    evaluations: list[Evaluation]
    history: list[dict[str, Any]]
    """Rows of the loss history, oldest first."""
    steps: int
    trained: Work
    """Tokens of all optimisation steps."""
    predicted: Work
    """Tokens of all evaluations."""


@dataclass
class _State:
    """What changes from step to step, and is kept to resume."""

    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum over steps of the batch loss since the last row of the history; stays on the device."""
    loss_steps: int = 0
    tokens: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)


def finetune(
    scorer: Scorer,
    train: Examples,
    labels: np.ndarray,
    splits: Mapping[str, Examples],
    *,
    settings: FinetuneSettings,
    method: LossMethod,
    seed: int,
    weak_validation: np.ndarray | None = None,
    identity: str = "",
    placement: Placement = HERE,
) -> Finetuned:
    """Trains `scorer` in place and evaluates it on the way.

    Args:
        scorer: Model on its device.
        train: The examples to learn from.
        labels: P(class 1) for each of them, from ground truth or a weak supervisor, float, shape [examples].
        splits: Parts to predict. The end covers all of them, earlier evaluations `validation` and `test`.
        settings: Resolved settings: learning rate and micro-batch size are numbers.
        method: How labels are used.
        seed: Decides the order of the data, and dropout.
        weak_validation: For students, weak labels of `splits["validation"]`, shape [examples].
        identity: Names the run in its scratch folder.
        placement: Devices, scratch folder, progress.

    Raises:
        TrainingError: The loss or a prediction became NaN or infinite.
        InterruptedRunError: It was asked to stop.
    """
    assert isinstance(settings.learning_rate, float), "settings are resolved before"
    assert isinstance(settings.micro_batch_size, int), "settings are resolved before"
    shard, device = placement.shard, scorer.device
    order = BatchOrder(len(train), settings.batch_size, settings.epochs, seed)
    warmup = warmup_steps(order.steps, settings.warmup_fraction)
    weak = method.prepare(torch.from_numpy(labels.astype(np.float32)).to(device))
    prior, spread = float(weak.mean()), float(np.median(np.abs(weak.cpu().numpy() - 0.5)))
    optimiser = adamw_for(
        scorer.parameters(),
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        shard=shard,
    )
    batch_step = _BatchStep(scorer, train, settings, method, shard)
    longest = max((int(part.lengths.max()) for part in splits.values()), default=0)
    budget = token_budget(settings.micro_batch_size, longest)
    state = _State(loss_sum=torch.zeros((), device=device))
    pace = Pace(placement, identity, order.steps, device)
    if stored := pace.load():
        optimiser.load_state(stored["optimiser"])
        state = _restored(stored, device)

    while state.step < order.steps:
        positions = order.positions(state.step)
        if settings.dropout > 0:
            torch.manual_seed(torch_seed(seed, Role.DROPOUT, state.step * shard.world + shard.rank))
        moment = Moment(step_fraction=state.step / order.steps, weak_prior=prior, weak_spread=spread)
        optimiser.zero_grad()
        loss = batch_step(positions, weak[torch.from_numpy(positions).to(device)], moment)
        state.loss_sum += pace.sum(loss)
        factor = rate_factor(state.step, order.steps, schedule=settings.schedule, warmup=warmup)
        optimiser.step(settings.learning_rate * factor)
        state.step += 1
        state.loss_steps += 1
        state.tokens += int(train.tokens.lengths[train.rows[positions]].sum())
        is_last = state.step == order.steps
        if is_last or (settings.eval_every and state.step % settings.eval_every == 0):
            names = list(splits) if is_last else [name for name in ("validation", "test") if name in splits]
            multiple = COMPILED_LENGTH_MULTIPLE if settings.compile else 1
            log_odds = {
                name: predict(scorer, splits[name], budget=budget, length_multiple=multiple, shard=shard)
                for name in names
            }
            state.evaluations.append(Evaluation(state.step, log_odds))
            row = _history_row(state, order.steps, settings.learning_rate * factor)
            _refuse_diverged(row, state, order.steps, settings.learning_rate)
            if "validation" in log_odds:
                row |= _validation_losses(log_odds["validation"], splits["validation"].gold, weak_validation)
            state.history.append(row)
            state.loss_sum, state.loss_steps = torch.zeros((), device=device), 0
        pace.after(state.step, partial(_stored, state, optimiser))

    optimiser.release()
    predicted = sum((splits[name].work() for e in state.evaluations for name in e.log_odds), Work())
    return Finetuned(
        evaluations=state.evaluations,
        history=state.history,
        steps=order.steps,
        trained=train.work() * settings.epochs,
        predicted=predicted,
    )


class _BatchStep:
    """Adds the gradient of one optimisation batch to the parameters' gradients.

    The batch is cut over ranks and then into micro-batches, but what a method sees is always the whole batch, in its
    own order: its targets do not depend on the cutting.
    """

    def __init__(
        self, scorer: Scorer, train: Examples, settings: FinetuneSettings, method: LossMethod, shard: Shard
    ) -> None:
        self.scorer, self.train, self.method, self.shard = scorer, train, method, shard
        assert isinstance(settings.micro_batch_size, int)
        self.micro_batch_size = settings.micro_batch_size
        self.length_multiple = COMPILED_LENGTH_MULTIPLE if settings.compile else 1
        self.dropout = settings.dropout
        self.shortest = np.array([np.argmin(train.lengths)])

    def __call__(self, positions: np.ndarray, weak: Tensor, moment: Moment) -> Tensor:
        """This rank's part of the batch's mean loss, without gradient, shape [].

        Args:
            positions: The batch's examples, shape [batch].
            weak: Their labels, shape [batch].
            moment: Where training stands.
        """
        mine = np.arange(len(positions))[self.shard.slice(len(positions))]
        pieces = [mine[p] for p in micro_batches(positions[mine], self.train.lengths, self.micro_batch_size)]
        if self.shard.is_sharded:
            rounds = -(-self.shard.largest_share(len(positions)) // self.micro_batch_size)
            pieces += [mine[:0]] * (rounds - len(pieces))
        if self.shard.world == 1 and len(pieces) == 1:
            z = self._scores(positions)
            targets = self.method.targets(weak, z.detach(), moment)
            return self._backward(z, targets, len(positions), moment)
        student = self._whole_batch(positions, pieces) if self.method.needs_student else None
        targets = self.method.targets(weak, student, moment)
        loss = torch.zeros((), device=weak.device)
        for piece in pieces:
            z = self._scores(positions[piece])
            loss += self._backward(z, targets[torch.from_numpy(piece).to(targets.device)], len(positions), moment)
        return loss

    def _scores(self, positions: np.ndarray) -> Tensor:
        """Log-odds of these examples, shape [examples].

        A rank that has no example left keeps in step with the others, which need its part of the parameters: it runs
        the shortest one and drops the result.
        """
        read = positions if len(positions) else self.shortest
        return self.scorer(self.train.batch(read, length_multiple=self.length_multiple))[: len(positions)]

    def _backward(self, z: Tensor, targets: Tensor, batch_size: int, moment: Moment) -> Tensor:
        """Adds the gradient of a piece's share of the batch's mean loss; returns that share, shape [].

        Parameters that are cut over ranks have their gradients summed over ranks after every micro-batch: waiting
        for the last one would need room for the whole model's gradient on each device.
        """
        loss = self.method.loss(z, targets, moment).sum() / batch_size if len(z) else z.sum()
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def _whole_batch(self, positions: np.ndarray, pieces: list[np.ndarray]) -> Tensor:
        """The student's log-odds on the whole batch, in its order, shape [batch]."""
        student = torch.zeros(len(positions), device=self.scorer.device)
        # With dropout, this pass must drop what the pass with gradient will drop.
        random_state = torch.get_rng_state() if self.dropout > 0 else None
        device_state = torch.cuda.get_rng_state() if self.dropout > 0 and student.is_cuda else None
        for piece in pieces:
            student[torch.from_numpy(piece).to(student.device)] = self._scores(positions[piece]).float()
        if random_state is not None:
            torch.set_rng_state(random_state)
        if device_state is not None:
            torch.cuda.set_rng_state(device_state)
        return self.shard.sum(student)


def _history_row(state: _State, steps: int, learning_rate: float) -> dict[str, Any]:
    return {
        "step": state.step,
        "step_fraction": state.step / steps,
        "train_loss": float(state.loss_sum) / state.loss_steps,
        "validation_loss": None,
        "validation_weak_loss": None,
        "learning_rate": learning_rate,
        "tokens": state.tokens,
    }


def _validation_losses(log_odds: np.ndarray, gold: np.ndarray, weak: np.ndarray | None) -> dict[str, float | None]:
    return {
        "validation_loss": mean_cross_entropy(log_odds, gold),
        "validation_weak_loss": None if weak is None else mean_cross_entropy(log_odds, weak),
    }


def _refuse_diverged(row: Mapping[str, Any], state: _State, steps: int, learning_rate: float) -> None:
    """Raises TrainingError if the loss or the newest predictions are not numbers, or beyond all reason."""
    predictions_fine = all(np.isfinite(z).all() for z in state.evaluations[-1].log_odds.values())
    if row["train_loss"] <= DIVERGED_LOSS and predictions_fine:
        return
    loss_fine = row["train_loss"] <= DIVERGED_LOSS  # False for NaN
    what = "predictions are not finite" if loss_fine else f"training has diverged: its loss is {row['train_loss']:.4g}"
    last_good = state.history[-1]["step"] if state.history else 0
    raise TrainingError(
        f"{what} at step {state.step} of {steps} (all was finite at step {last_good}). The likely cause is a learning "
        f"rate too high for this model: it is {learning_rate:g}; try a third of it, a warmup_fraction of 0.05, or a "
        "smaller clip_norm"
    )


def _stored(state: _State, optimiser: FlatAdamW | ShardedAdamW) -> dict[str, Any]:
    evaluations = [
        {"step": e.step, "log_odds": {name: torch.from_numpy(z) for name, z in e.log_odds.items()}}
        for e in state.evaluations
    ]
    return {**vars(state), "evaluations": evaluations, "optimiser": optimiser.state()}


def _restored(stored: Mapping[str, Any], device: torch.device) -> _State:
    evaluations = [
        Evaluation(e["step"], {name: z.numpy() for name, z in e["log_odds"].items()}) for e in stored["evaluations"]
    ]
    values = {key: value for key, value in stored.items() if key != "optimiser"}
    return _State(**values | {"evaluations": evaluations, "loss_sum": stored["loss_sum"].to(device)})
