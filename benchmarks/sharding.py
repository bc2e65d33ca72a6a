"""What each rank of a run allocates when the model is whole on every rank, and when it is cut over them (FSDP2).

    python benchmarks/sharding.py [--ranks 2] [--width 768] [--layers 8]

Finetunes a random Llama for two steps on the CPU, once per way of placing it, in fresh processes, and prints for each
rank the bytes of parameters, gradients and moments after a step, and the largest resident memory above what the
process held before the model was loaded. Rank 0 also reads the checkpoint, whole, into its host's memory for a moment.
"""

import argparse
import multiprocessing
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.distributed.tensor import DTensor

from w2s import models
from w2s.config import FinetuneSettings, ModelSource
from w2s.corpora import facts_tokenizer
from w2s.data import Examples, Tokens
from w2s.distributed import Placement, Shard
from w2s.finetune import finetune
from w2s.methods import Naive
from w2s.models import load_scorer
from w2s.runtime import PeakMemory

LENGTH, EXAMPLES, BATCH = 16, 8, 4
SETTINGS = FinetuneSettings(
    learning_rate=1e-5, batch_size=BATCH, micro_batch_size=1, epochs=1, max_length=LENGTH, precision="fp32"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    models.CACHED_BYTES = 0
    with tempfile.TemporaryDirectory() as folder:
        size = make_checkpoint(folder, options.width, options.layers)
        print(f"{size / 1e6:.0f} million parameters; 16 bytes each are {16 * size / 1e6:.0f} MB")
        print("| placement | rank | parameters, gradients, moments (MB) | share of the whole | peak growth (MB) |")
        print("|---|---|---|---|---|")
        for name, world, sharded in (
            ("one process", 1, False),
            ("replicated", options.ranks, False),
            ("sharded", options.ranks, True),
        ):
            for rank, (held, peak) in enumerate(on_ranks(folder, world, sharded)):
                print(f"| {name} | {rank} | {held / 1e6:.0f} | {held / (16 * size):.3f} | {peak / 1e6:.0f} |")


def make_checkpoint(folder: str, width: int, layers: int) -> int:
    """Writes a random Llama; returns its number of parameters."""
    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=64,
    )  # fmt: skip
    model: Any = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    facts_tokenizer().save_pretrained(folder)  # a checkpoint has one; here none reads any text
    return sum(p.numel() for p in model.parameters())


def on_ranks(folder: str, world: int, sharded: bool) -> list[tuple[int, int]]:
    """Bytes held after a step and peak growth, per rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=work, args=(queue, folder, Shard(r, world, sharded), port)) for r in range(world)]
    for process in ranks:
        process.start()
    found = dict(queue.get(timeout=300) for _ in ranks)
    for process in ranks:
        process.join()
    return [found[rank] for rank in range(world)]


def work(queue: Any, folder: str, shard: Shard, port: int) -> None:
    models.CACHED_BYTES = 0
    torch.set_num_threads(1)
    if shard.world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.distributed.init_process_group("gloo", rank=shard.rank, world_size=shard.world)
    before = resident()
    memory = PeakMemory(torch.device("cpu"))
    scorer = load_scorer(
        ModelSource(path=folder), form="classify", settings=SETTINGS, seed=0, device=torch.device("cpu"), shard=shard
    )
    held = []

    def note(_: float) -> None:
        if not held:
            held.append(bytes_held(scorer))

    finetune(
        scorer, examples(), np.zeros(EXAMPLES), {}, settings=SETTINGS, method=Naive(), seed=0,
        placement=Placement(shard=shard, on_progress=note),
    )  # fmt: skip
    queue.put((shard.rank, (held[0], memory.bytes() - before)))
    queue.close()
    queue.join_thread()
    if shard.world > 1:
        torch.distributed.destroy_process_group()


def bytes_held(scorer: torch.nn.Module) -> int:
    """Parameters and gradients as they are, and moments as large as the parameters."""
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in scorer.parameters()]
    gradients = [
        g.to_local() if isinstance(g, DTensor) else g for g in (p.grad for p in scorer.parameters()) if g is not None
    ]
    return sum(3 * p.numel() * 4 for p in parts) + sum(g.numel() * 4 for g in gradients)


def examples() -> Examples:
    ids = np.random.default_rng(0).integers(0, 8192, EXAMPLES * LENGTH).astype(np.int32)
    tokens = Tokens(ids, np.arange(EXAMPLES + 1) * LENGTH, np.zeros(EXAMPLES, dtype=bool))
    names = np.array([f"{i:03d}" for i in range(EXAMPLES)], dtype=object)
    return Examples("classify", names, np.zeros(EXAMPLES, np.int8), tokens, np.arange(EXAMPLES)[:, None])


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
