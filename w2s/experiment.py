"""One run, from its specification and inputs to its results. Start reading here; `w2s.kinds` has a function per kind.

From a notebook:

    spec = FinetuneRun(kind="ground_truth", task=..., model=ModelSource(path="gpt2"), settings=..., ...)
    result = run_one(spec, Inputs(cache_dir=Path("cache")))
    result.predictions
"""

import time

import torch

from w2s.config import (
    ActivationsRun,
    FinetuneRun,
    GenerativeRun,
    LabelsRun,
    PretrainRun,
    ProbeRun,
    PromptRun,
    RunSpec,
    TokenizerRun,
)
from w2s.distributed import Shard
from w2s.kinds.common import HISTORY_SCHEMA, METRICS, Inputs, RunResult
from w2s.kinds.reading import run_activations, run_probe, run_prompt
from w2s.kinds.tables import run_labels
from w2s.kinds.training import run_finetune, run_generative, run_pretrain, train_tokenizer
from w2s.runtime import PeakMemory, cpu_threads, device_name, typed_out_of_memory

__all__ = ["HISTORY_SCHEMA", "METRICS", "Inputs", "RunResult", "Shard", "run_one"]


def run_one(spec: RunSpec, inputs: Inputs) -> RunResult:
    """Executes one run.

    The result depends on the specification and the inputs alone: on a CPU, the same run gives the same bits, whatever
    ran before it in this process.

    Raises:
        W2SError: With a message for the person who wrote the specification; `OutOfMemoryError` asks for smaller
            micro-batches.
    """
    start = time.perf_counter()
    if isinstance(spec, TokenizerRun):
        result = train_tokenizer(spec)
    elif isinstance(spec, ProbeRun | LabelsRun):
        with cpu_threads(1):
            result = run_probe(spec, inputs) if isinstance(spec, ProbeRun) else run_labels(spec, inputs)
    else:
        memory = PeakMemory(torch.device(inputs.device))
        with cpu_threads(spec.settings.cpu_threads), typed_out_of_memory(f"in a {spec.kind} run on {inputs.device}"):
            match spec:
                case PretrainRun():
                    result = run_pretrain(spec, inputs)
                case FinetuneRun():
                    result = run_finetune(spec, inputs)
                case GenerativeRun():
                    result = run_generative(spec, inputs)
                case ActivationsRun():
                    result = run_activations(spec, inputs)
                case PromptRun():
                    result = run_prompt(spec, inputs)
        result.metrics["peak_memory_bytes"] = memory.bytes()
        result.metrics["baseline_memory_bytes"] = memory.baseline
        result.metrics["device"] = device_name(torch.device(inputs.device))
    result.metrics["seconds"] = time.perf_counter() - start
    return result
