"""Finetuning throughput: the loop against a bare forward, backward and step of the same model on preset batches.

    python benchmarks/throughput.py                          a small Llama made on the spot, on the CPU
    python benchmarks/throughput.py --hidden 32 --layers 2   another shape
    python benchmarks/throughput.py --model FOLDER --device cuda --precision bf16

The bare loop is the ceiling: it sees the same texts in the same batches, padded and turned into tensors beforehand,
and updates with torch's own AdamW. Both are timed in turns, and the best turn of each is printed, which is the figure
that other programs on the machine disturb least.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from w2s.config import FinetuneSettings, MethodSpec, ModelSource
from w2s.data import BatchOrder, Examples, Tokens, micro_batches
from w2s.finetune import finetune
from w2s.losses import cross_entropy
from w2s.methods import LossMethod, build_method
from w2s.models import Scorer, load_scorer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder or hub id, instead of a shape")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--length", type=int, default=32, help="median tokens per text; lengths are log-normal")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=None)
    parser.add_argument("--method", default="naive")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


def made_up_examples(args: argparse.Namespace) -> Examples:
    """Texts of random tokens whose lengths spread as those of sentences do."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(args.length), 0.4, args.examples).astype(int), 2, 4 * args.length)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = Tokens(
        ids=rng.integers(0, args.vocabulary, offsets[-1]).astype(np.int32),
        offsets=offsets,
        cut=np.zeros(args.examples, dtype=bool),
    )
    return Examples(
        form="classify",
        ids=np.array([f"{i:08d}" for i in range(args.examples)], dtype=object),
        gold=rng.integers(0, 2, args.examples).astype(np.int8),
        tokens=tokens,
        rows=np.arange(args.examples)[:, None],
    )


def make_scorer(args: argparse.Namespace, settings: FinetuneSettings) -> Scorer:
    device = torch.device(args.device)
    if args.model:
        return load_scorer(ModelSource(path=args.model), form="classify", settings=settings, seed=0, device=device)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=4 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=4 * args.length,
    )
    scorer = Scorer(LlamaModel(config), form="classify", kind="causal", pooled=False, width=args.hidden).eval()
    scorer.to(device)
    bf16 = args.precision == "bf16" or (args.precision == "auto" and device.type == "cuda")
    scorer.autocast = torch.bfloat16 if bf16 else None
    return scorer


def loop_turn(scorer: Scorer, examples: Examples, settings: FinetuneSettings, name: str) -> None:
    method = build_method(MethodSpec(name=name))
    assert isinstance(method, LossMethod), f"{name} is no loss"
    finetune(scorer, examples, examples.gold, {}, settings=settings, method=method, seed=0)


def bare_turn(scorer: Scorer, examples: Examples, settings: FinetuneSettings) -> Callable[[], None]:
    """The bare loop over batches made beforehand, ready to be timed."""
    assert isinstance(settings.micro_batch_size, int)
    order = BatchOrder(len(examples), settings.batch_size, settings.epochs, 0)
    gold = torch.from_numpy(examples.gold.astype(np.float32)).to(scorer.device)
    batches = []
    for step in range(order.steps):
        positions = order.positions(step)
        pieces = micro_batches(positions, examples.lengths, settings.micro_batch_size)
        batches.append([(examples.batch(positions[p]), gold[positions[p]], len(positions)) for p in pieces])
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def turn() -> None:
        for pieces in batches:
            optimiser.zero_grad()
            for batch, target, size in pieces:
                (cross_entropy(scorer(batch), target).sum() / size).backward()
            torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
            optimiser.step()

    return turn


def seconds(turn: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    turn()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    settings = FinetuneSettings(
        epochs=1, batch_size=args.batch, micro_batch_size=args.micro_batch or args.batch, precision=args.precision
    )
    examples = made_up_examples(args)
    bare_scorer, loop_scorer = make_scorer(args, settings), make_scorer(args, settings)
    bare = bare_turn(bare_scorer, examples, settings)
    bare_times, loop_times = [], []
    for turn in range(args.turns + 1):
        times = (
            seconds(bare, args.device),
            seconds(lambda: loop_turn(loop_scorer, examples, settings, args.method), args.device),
        )
        if turn > 0:  # the first one warms up
            bare_times.append(times[0])
            loop_times.append(times[1])
    tokens = examples.work().tokens
    parameters = sum(p.numel() for p in bare_scorer.parameters())
    print(f"{parameters:,} parameters, {len(examples)} texts, {tokens:,} tokens, batch {args.batch}, {args.device}")
    print(f"bare  {tokens / min(bare_times):12,.0f} tokens/s")
    print(f"loop  {tokens / min(loop_times):12,.0f} tokens/s")
    print(f"ratio {min(bare_times) / min(loop_times):.1%}")


if __name__ == "__main__":
    main()
