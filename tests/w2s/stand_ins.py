"""Tiny checkpoints and tasks that tests make on the spot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from w2s.config import Columns, FilesTask, FinetuneSettings, SplitSpec
from w2s.corpora import train_bpe

WORDS = ["red", "green", "blue", "stone", "river", "cloud", "tree", "bird", "house", "road"]
WORDS += ["gold", "iron", "salt", "rain", "snow", "wind", "fire", "leaf", "moon", "star"]
FAMILIES = ("gpt2", "llama", "qwen2", "gpt_neox", "bert")


def sentences(n: int, seed: int = 0) -> list[str]:
    """Different sentences of 2 to 12 words."""
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < n:
        made[" ".join(rng.choice(WORDS, size=rng.integers(2, 13)))] = None
    return list(made)


def tiny_config(family: str, vocab_size: int, width: int = 16) -> Any:
    common = {"vocab_size": vocab_size, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "gpt2":
        return transformers.GPT2Config(vocab_size=vocab_size, n_embd=width, n_layer=2, n_head=2, n_positions=64)
    if family == "llama":
        return transformers.LlamaConfig(**common, intermediate_size=32, max_position_embeddings=64)
    if family == "qwen2":
        return transformers.Qwen2Config(
            **common, num_key_value_heads=1, intermediate_size=32, max_position_embeddings=64
        )
    if family == "gpt_neox":
        return transformers.GPTNeoXConfig(**common, intermediate_size=32, max_position_embeddings=64)
    return transformers.BertConfig(**common, intermediate_size=32, max_position_embeddings=64)


def make_checkpoint(
    folder: Path, family: str = "llama", *, dtype: torch.dtype = torch.float32, seed: int = 0, width: int = 16
) -> str:
    """A random checkpoint with language-model head and byte-level BPE tokenizer; returns its folder."""
    tokenizer = train_bpe(sentences(200), 280)
    torch.manual_seed(seed)
    config = tiny_config(family, len(tokenizer), width)
    auto = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    model: Any = auto.from_config(config)
    with torch.no_grad():  # Larger than the libraries' initial weights, so that outputs of examples differ clearly.
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=0.2)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_task(folder: Path, *, form: str = "classify", n: int = 240) -> FilesTask:
    """A learnable task in a JSONL file: does a sentence hold "red" or "gold"? For `generate`: what is its last word?"""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{form}.jsonl"
    texts = sentences(n)
    splits = SplitSpec(supervise=0.4, transfer=0.4, validation=0.1, test=0.1)
    if form == "classify":
        rows = [{"text": text, "label": int("red" in text or "gold" in text)} for text in texts]
        columns = Columns(text="text", label="label")
    elif form == "generate":
        rows = [{"prompt": f"{text}:", "answer": f" {text.split()[-1]}", "length": len(text.split())} for text in texts]
        columns = Columns(tags=("length",))
    else:
        rows = [
            {"prompt": f"say {i}:", "chosen": f" {text} red gold", "rejected": f" {text} salt"}
            for i, text in enumerate(texts)
        ]
        columns = Columns(prompt="prompt", chosen="chosen", rejected="rejected")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FilesTask(name="words", source="files", train=(str(path),), form=form, columns=columns, splits=splits)


def quick(**changes: Any) -> FinetuneSettings:
    """Settings of a run that takes a fraction of a second."""
    return FinetuneSettings(**{"learning_rate": 1e-2, "batch_size": 16, "epochs": 1, "max_length": 24} | changes)
