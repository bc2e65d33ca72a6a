"""Estimated against measured memory: random checkpoints of 59 to 104 million parameters, finetuned for real.

    python benchmarks/memory.py                 all cells, on the GPU if there is one: docs/memory.md
    python benchmarks/memory.py --only llama    cells whose name has this in it
    python benchmarks/memory.py --device cpu
    python benchmarks/memory.py --saved         counts what layers keep for the backward pass, see sweep/resources.py

Every cell is a process of its own: it plans a sweep of one checkpoint and executes one run of it, from store to store.
Measured is the growth over what the process held before the run: of the resident set on a CPU, of torch's allocated
memory on a GPU. Checkpoints are made on the spot, in a temporary folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS = 640, 8, 10


@dataclass(frozen=True)
class Cell:
    """One run to measure."""

    family: str
    micro_batch: int = 8
    length: int = 128
    tune: str = "full"
    checkpointing: bool = False
    method: str = "naive"
    """Which run of the sweep: the supervisor for `naive`, else the language model or prompt run of that method."""

    @property
    def name(self) -> str:
        parts = [self.family, f"{self.micro_batch} x {self.length}"]
        parts += [self.tune] if self.tune != "full" else []
        parts += ["checkpointing"] if self.checkpointing else []
        parts += [self.method] if self.method != "naive" else []
        return ", ".join(parts)


CELLS = [
    Cell("gpt2"),
    Cell("gpt2", 2, 256),
    Cell("gpt2", checkpointing=True),
    Cell("gpt2", 16, 128),
    Cell("llama"),
    Cell("llama", 32, 32),
    Cell("llama", 4, 256, checkpointing=True),
    Cell("llama", tune="lora"),
    Cell("gpt_neox"),
    Cell("gpt_neox", 4, 512),
    Cell("gpt_neox", tune="head"),
    Cell("bert"),
    Cell("bert", 2, 256),
    Cell("bert", 16, 128),
    Cell("opt"),
    Cell("opt", 16, 128),
    Cell("llama", 4, 128, method="generative"),
    Cell("gpt2", 4, 128, method="generative"),
    Cell("gpt2", method="prompt"),
    Cell("llama", method="probe"),
]

SPEC = """
name: memory
ladder:
  rungs:
    - {{name: small, model: {folder}/small, pretrain_tokens: 1.0e+9}}
    - {{name: model, model: {folder}/model, pretrain_tokens: 1.0e+9}}
tasks:
  - name: words
    source: files
    train: [{folder}/words.jsonl]
    columns: {{text: text, label: label}}
    splits: {{supervise: {train}, transfer: {train}, validation: 4, test: 40}}
    prompt: {{template: "{{text}}:", answers: [" red", " salt"]}}
methods: [{method}]
finetune:
  epochs: 1
  batch_size: {micro_batch}
  micro_batch_size: {micro_batch}
  max_length: {length}
  tune: {tune}
  gradient_checkpointing: {checkpointing}
"""
METHODS = {
    "naive": "naive",
    "generative": "{name: generative, student: naive}",
    "prompt": "{name: prompt, shots: 2, labels: ground_truth}",
    "probe": "{name: probe, layer: middle}",
}
WORDS = [
    "red",
    "green",
    "blue",
    "stone",
    "river",
    "cloud",
    "tree",
    "bird",
    "house",
    "road",
    "gold",
    "iron",
    "salt",
    "rain",
]
WORDS += ["snow", "wind"]


def config_of(
    family: str, width: int, layers: int, heads: int, vocab: int | None = None, inner: int | None = None
) -> Any:
    """A configuration of transformers, of a family's usual vocabulary and MLP."""
    import transformers

    v = vocab or {"llama": 32_000, "bert": 30_522, "gpt_neox": 50_304}.get(family, 50_257)
    m = inner or (8 * width // 3 // 32 * 32 if family == "llama" else 4 * width)
    common: dict[str, Any] = {
        "vocab_size": v,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    common |= {"max_position_embeddings": 512}
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=v, n_embd=width, n_layer=layers, n_head=heads, n_positions=512, n_inner=m,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    if family == "opt":
        return transformers.OPTConfig(**common, ffn_dim=m, word_embed_proj_dim=width)
    kind = {"llama": transformers.LlamaConfig, "gpt_neox": transformers.GPTNeoXConfig, "bert": transformers.BertConfig}
    return kind[family](**common, intermediate_size=m)


def make_inputs(folder: Path, cell: Cell) -> None:
    """A checkpoint, a much smaller one as its supervisor, and texts that are all cut to the cell's length."""
    import torch
    import transformers

    from w2s.corpora import train_bpe

    texts = [" ".join(WORDS[(i + j * (1 + i % 7)) % len(WORDS)] for j in range(4 * cell.length)) for i in range(400)]
    tokenizer = train_bpe(texts[:50], 300)
    auto = transformers.AutoModelForMaskedLM if cell.family == "bert" else transformers.AutoModelForCausalLM
    for name, width, layers in (("small", 32, 1), ("model", WIDTH, LAYERS)):
        torch.manual_seed(0)
        auto.from_config(config_of(cell.family, width, layers, HEADS if width == WIDTH else 2)).save_pretrained(
            folder / name
        )
        tokenizer.save_pretrained(folder / name)
    rows = [{"text": f"{WORDS[i % 16]} {i} {text}", "label": i % 2} for i, text in enumerate(texts)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(folder: Path, cell: Cell, device: str) -> dict[str, Any]:
    """Plan, execute one run, and compare; in this process, which did nothing before."""
    import w2s.experiment  # noqa: F401  what every worker imports is no growth of the run
    from sweep.execute import Placement, execute
    from sweep.session import Session

    spec = folder / "spec.yaml"
    values = asdict(cell) | {"method": METHODS[cell.method], "checkpointing": str(cell.checkpointing).lower()}
    spec.write_text(SPEC.format(folder=folder, train=2 * cell.micro_batch, **values))
    session = Session.open(str(spec), str(folder / "results"))
    wanted = {"naive": "ground_truth", "probe": "activations"}.get(cell.method, cell.method)
    run = next(r for r in session.plan.runs.values() if r.kind == wanted and r.rung == "model")
    assert run.model is not None
    assert run.needs is not None
    execute(run, session.store, Placement(device=device))
    metrics = session.store.read_json(run.run_id, "metrics.json")
    return {
        "parameters": run.model.n_params,
        "estimated": run.needs.on(gpu=device != "cpu"),
        "measured": metrics["peak_memory_bytes"] - metrics["baseline_memory_bytes"],
        "device": metrics["device"],
    }


def in_new_process(*words: str) -> str:
    result = subprocess.run(
        [sys.executable, __file__, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return result.stdout.splitlines()[-1] if result.stdout else ""


def count_saved() -> None:
    """Bytes per token and layer that each family keeps for the backward pass, from layers of two sizes."""
    import torch
    import transformers

    def saved(family: str, layers: int, inner: int, tokens: int, half: bool) -> int:
        model = transformers.AutoModel.from_config(config_of(family, 64, layers, 4, vocab=1000, inner=inner)).eval()
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen: dict[int, Any] = {}

        def pack(x: Any) -> Any:
            if (place := x.untyped_storage().data_ptr()) not in parameters:
                seen[place] = x
            return x

        ids = torch.randint(0, 1000, (2, tokens))
        mask = torch.ones_like(ids)
        mask[0, tokens // 2 :] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", torch.bfloat16, half):
            model(input_ids=ids, attention_mask=mask)
        return sum(x.untyped_storage().nbytes() for x in seen.values())

    def per_token(family: str, inner: int, half: bool) -> float:
        # Differences leave a layer's share of what grows with the tokens: no weights' copies, no embeddings.
        layer = [saved(family, 3, inner, t, half) - saved(family, 2, inner, t, half) for t in (64, 128)]
        return (layer[1] - layer[0]) / (2 * 64)

    for family in ("gpt2", "llama", "gpt_neox", "bert", "opt"):
        for half in (False, True):
            narrow, wide = per_token(family, 256, half), per_token(family, 512, half)
            inner = (wide - narrow) / 256
            what = "bfloat16" if half else "float32"
            print(f"{family:9} {what:9} {(narrow - 256 * inner) / 64:5.1f} d + {inner:4.1f} m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default=None)
    parser.add_argument("--saved", action="store_true")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_inputs(Path(args.make[0]), Cell(**json.loads(args.make[1])))
    elif args.measure:
        folder, cell, device = args.measure
        print(json.dumps(measure(Path(folder), Cell(**json.loads(cell)), device)))
    elif args.saved:
        count_saved()
    else:
        compare(args.only, args.device)


def compare(only: str, device: str | None) -> None:
    import torch

    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    print("| architecture, micro-batch x tokens | parameters | estimated | measured | ratio |\n|---|---|---|---|---|")
    ratios, where = [], device
    for cell in CELLS:
        if only not in cell.name:
            continue
        with tempfile.TemporaryDirectory(prefix="w2s-memory-") as folder:
            written = json.dumps(asdict(cell))
            in_new_process("--make", folder, written)
            found = json.loads(in_new_process("--measure", folder, written, device))
        ratios.append(found["estimated"] / found["measured"])
        where = found["device"]
        print(
            f"| {cell.name} | {found['parameters'] / 1e6:.0f} M | {found['estimated'] / 1e9:.2f} GB "
            f"| {found['measured'] / 1e9:.2f} GB | {ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"\nmeasured on: {where}; estimated / measured from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
