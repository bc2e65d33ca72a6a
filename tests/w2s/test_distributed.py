import os
import socket
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import quick

from w2s.config import FactsCorpus, FinetuneRun, MethodSpec, ModelSource, PretrainRun, PretrainSettings, RungShape
from w2s.distributed import Shard
from w2s.experiment import Inputs, run_one


@given(st.integers(0, 50), st.integers(1, 9))
def test_the_shares_of_all_ranks_make_the_whole_and_differ_by_at_most_one(n, world):
    shares = [np.arange(n)[Shard(rank, world).slice(n)] for rank in range(world)]
    assert np.concatenate(shares).tolist() == list(range(n))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def worker(rank, world, port, runs, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    try:
        for name, (spec, inputs) in runs.items():
            result = run_one(spec, replace(inputs, shard=Shard(rank, world)))
            if result.predictions is not None:
                result.predictions.write_parquet(folder / f"{name}-predictions-{rank}.parquet")
            result.history.write_parquet(folder / f"{name}-history-{rank}.parquet")
    finally:
        torch.distributed.destroy_process_group()


def run_on_two_processes(runs, folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(worker, (2, port, runs, folder), nprocs=2)


def student_run(form, method, tasks, checkpoints, cache_dir):
    truth = FinetuneRun(
        kind="ground_truth",
        task=tasks[form],
        model=ModelSource(path=checkpoints["llama"]),
        settings=quick(learning_rate=1e-3, batch_size=15, eval_every=4),  # 15: unequal shares, and 96 leaves 6
        train_part="supervise",
        seed=0,
    )
    weak = run_one(truth, Inputs(cache_dir=cache_dir)).predictions
    assert weak is not None
    changes = {"kind": "transfer", "train_part": "transfer/0", "method": MethodSpec(name=method)}
    labels = weak.filter(step=weak["step"].max()).select("example_id", "p")
    return truth.model_copy(update=changes), Inputs(cache_dir=cache_dir, weak_labels=labels)


def test_two_processes_train_and_predict_as_one(tasks, checkpoints, cache_dir, tmp_path):
    shape = RungShape(hidden_size=8, layers=1, heads=2, tokens=31 * 4 * 20)
    settings = PretrainSettings(batch_size=31, warmup_steps=5, corpus=FactsCorpus(), learning_rate=1e-3)
    runs = {
        "classify": student_run("classify", "confidence", tasks, checkpoints, cache_dir),
        "compare": student_run("compare", "naive", tasks, checkpoints, cache_dir),
        "pretrain": (PretrainRun(shape=shape, settings=settings, seed=0), Inputs(cache_dir=cache_dir)),
    }
    run_on_two_processes(runs, tmp_path)
    for name, (spec, inputs) in runs.items():
        one = run_one(spec, inputs)
        # Sums over two processes round differently than over one.
        history = pl.read_parquet(tmp_path / f"{name}-history-1.parquet")
        np.testing.assert_allclose(history["train_loss"], one.history["train_loss"], atol=1e-4)
        if one.predictions is None:
            continue
        ranks = [pl.read_parquet(tmp_path / f"{name}-predictions-{rank}.parquet") for rank in (0, 1)]
        assert ranks[0].equals(ranks[1])
        same = ["example_id", "split", "step", "gold"]
        assert ranks[0].select(same).equals(one.predictions.select(same))
        np.testing.assert_allclose(ranks[0]["p"], one.predictions["p"], atol=1e-4)
