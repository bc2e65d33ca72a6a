"""Decoding throughput: batches with a cache of keys and values against the library, one prompt after the other.

    python benchmarks/decoding.py                          a small Llama made on the spot, on the CPU
    python benchmarks/decoding.py --family gpt2 --hidden 256
    python benchmarks/decoding.py --model FOLDER --device cuda

Both decode greedily, with a cache, and end a completion at the same tokens; that they say the same is checked. Prompts
are of random tokens, and a random model seldom ends by itself, so a share of its vocabulary counts as the end: as many
tokens as make an answer about `--answer` tokens long.

On the CPU seconds are those of this process (`time.process_time`), which others on the machine disturb less than the
clock. How much batches can help is bounded: prompts are read at the speed of the processor either way, and only the
tokens after them, one by one, wait for memory and for Python.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers

from w2s.config import ModelSource
from w2s.decoding import greedy, next_logits
from w2s.predict import token_budget
from w2s.prompting import load_causal_lm


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder or hub id, instead of a shape")
    parser.add_argument("--family", choices=["llama", "gpt2", "gpt_neox"], default="llama")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--length", type=int, default=40, help="median tokens of a prompt; lengths are log-normal")
    parser.add_argument("--answer", type=int, default=6, help="tokens of an answer, about")
    parser.add_argument("--new", type=int, default=12, help="tokens of an answer, at most")
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


def made_up_model(args: argparse.Namespace) -> transformers.PreTrainedModel:
    positions = 8 * args.length
    if args.family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=args.vocabulary,
            n_embd=args.hidden,
            n_layer=args.layers,
            n_head=args.heads,
            n_positions=positions,
            bos_token_id=0,
            eos_token_id=0,
        )
    else:
        kind = transformers.LlamaConfig if args.family == "llama" else transformers.GPTNeoXConfig
        config = kind(
            vocab_size=args.vocabulary,
            hidden_size=args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            intermediate_size=4 * args.hidden,
            max_position_embeddings=positions,
        )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # so that logits differ clearly
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=0.2)
    return model


def best(
    turns: int, clock: Callable[[], float], action: Callable[[], list[list[int]]]
) -> tuple[float, list[list[int]]]:
    """Seconds of the fastest turn, and what it said."""
    seconds, said = [], []
    for _ in range(turns):
        start = clock()
        said = action()
        seconds.append(clock() - start)
    return min(seconds), said


@torch.inference_mode()
def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    device = torch.device(args.device)
    source = ModelSource(path=args.model) if args.model else None
    model: Any = load_causal_lm(source, device) if source else made_up_model(args)
    model = model.to(device).eval()
    vocabulary = model.config.get_text_config().vocab_size
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(args.length), 0.4, args.prompts).astype(int), 2, 4 * args.length)
    prompts = [rng.integers(1, vocabulary, n).tolist() for n in lengths]
    stops = rng.choice(vocabulary, max(1, vocabulary // args.answer), replace=False).tolist()

    def alone() -> list[list[int]]:
        said = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=device)
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=args.new,
                eos_token_id=stops,
                pad_token_id=0,
            )
            said.append(made[0, len(prompt) :].tolist())
        return said

    def together(budget: int) -> list[list[int]]:
        forward = partial(next_logits, model)
        settings = {"config": model.config, "device": device, "stops": stops, "max_new_tokens": args.new}
        return greedy(forward, prompts, budget=budget, **settings).tokens

    budget = token_budget(args.micro_batch, int(lengths.max()) + args.new)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    batched, said = best(args.turns, clock, partial(together, budget))
    single, same = best(args.turns, clock, partial(together, 1))
    one_by_one, expected = best(args.turns, clock, alone)
    tokens = sum(map(len, said))
    differing = sum(a != b for a, b in zip(said, expected, strict=True))
    differing_alone = sum(a != b for a, b in zip(same, expected, strict=True))
    print(f"{args.prompts} prompts of {lengths.mean():.0f} tokens, answers of {tokens / args.prompts:.1f}, {device}")
    print(f"the library, one by one   {args.prompts / one_by_one:8.1f} answers/s")
    print(f"ours, one by one          {args.prompts / single:8.1f} answers/s   {one_by_one / single:5.1f} x")
    print(
        f"ours, in batches          {args.prompts / batched:8.1f} answers/s   {one_by_one / batched:5.1f} x,"
        f" {single / batched:.1f} x ours one by one"
    )
    print(f"completions that differ from the library's: {differing} in batches, {differing_alone} one by one")


if __name__ == "__main__":
    main()
