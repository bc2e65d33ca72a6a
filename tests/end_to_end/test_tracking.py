"""A sweep on real Ray, told to all three trackers at once, and what they hold, read back with their own formats."""

import io
import json
import struct
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from sweep.execution.tracking import TrackingJob, read_page
from sweep.tracking_block import Tracking
from tests.end_to_end.drive import Results, w2s

pytestmark = pytest.mark.slow
SECRETS = {
    "WANDB_API_KEY": "wandb-0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_doNotWriteThisDown",
    "AWS_SECRET_ACCESS_KEY": "awsDoNotWriteThisDown",
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny_text) -> Results:
    folder = tmp_path_factory.mktemp("tracked")
    spec = folder / "tiny.yaml"
    small = [line for line in tiny_text.splitlines() if "name: d16" not in line]
    spec.write_text(
        "\n".join(small).replace("[naive, confidence]", "[confidence]")
        + "\ntracking: {tensorboard: , mlflow: , wandb: {project: ladders, mode: offline}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        output = w2s("run", spec, "--storage", folder / "results", cwd=folder)
    assert "tensorboard --logdir" in output, output
    assert "did not take" not in output
    return Results(spec, folder / "results")


@pytest.fixture(scope="module")
def curves(tracked) -> dict[str, list[tuple[int, float]]]:
    """Training loss of every run, from the store."""
    found = {}
    for run_id in tracked.attempts():
        history = pl.read_parquet(io.BytesIO(tracked.store.read(run_id, "history.parquet")))
        found[run_id] = list(history.select("step", "train_loss").iter_rows())
    assert len(found) == 5
    assert all(found.values())
    return found


def folder_of(tracked: Results) -> Path:
    return tracked.storage / "tracking" / tracked.session.sweep_id


def event_values(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of TensorBoard's event files: records of length, checksum, a protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_files_hold_the_loss_curves_one_folder_per_run(tracked, curves):
    folders = sorted(path for path in (folder_of(tracked) / "tensorboard").iterdir())
    assert len(folders) == len(curves)
    for run_id, curve in curves.items():
        (folder,) = [path for path in folders if path.name.endswith(run_id.rpartition("-")[2][:12])]
        values = event_values(folder)
        assert [step for step, _ in values["ray/tune/train_loss"]] == [step for step, _ in curve]
        # event files hold float32
        assert [loss for _, loss in values["ray/tune/train_loss"]] == pytest.approx([x for _, x in curve], rel=1e-6)
        measured = tracked.store.read_json(run_id, "metrics.json")
        assert values["ray/tune/total/seconds"][-1][1] == pytest.approx(measured["seconds"], rel=1e-6)
    assert any(path.name.startswith("facts_d4_to_d8_confidence_s0_") for path in folders)


def test_mlflow_holds_the_loss_curves_and_what_was_run(tracked, curves):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tracked.storage}/tracking/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {run.data.tags["w2s.run_id"]: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == curves.keys()
    for run_id, run in runs.items():
        history = client.get_metric_history(run.info.run_id, "train_loss")
        assert sorted((metric.step, metric.value) for metric in history) == curves[run_id]
        assert run.info.status == "FINISHED"
        assert run.data.tags["w2s.sweep"] == tracked.session.sweep_id
    student = runs[next(run_id for run_id in runs if run_id.startswith("transfer"))]
    assert student.info.run_name == "facts d4->d8 confidence s0"
    assert student.data.params["method"] == "confidence"
    assert student.data.params["task"] == "facts"
    assert student.data.params["parents/supervisor"] in runs
    frame = tracked.predictions()[student.data.params["run_id"]]
    final = frame.filter(pl.col("split") == "test", pl.col("step") == frame["step"].max())
    assert student.data.metrics["test_accuracy"] == final["correct"].mean()


def wandb_records(file: Path):
    """Records of an offline run: LevelDB's log format, blocks of 32 KiB with records in pieces."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    assert data.startswith(b":W&B")
    at, piece, block = 7, b"", 1 << 15
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        piece += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(piece)
            piece = b""


def test_wandb_offline_folders_hold_the_loss_curves(tracked, curves):
    files = list((folder_of(tracked) / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == len(curves)
    names = set()
    for file in files:
        records = list(wandb_records(file))
        (run,) = [record.run for record in records if record.HasField("run")]
        rows = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        assert (run.project, run.run_group) == ("ladders", tracked.session.sweep_id)
        assert [(row["_step"], row["train_loss"]) for row in rows if "train_loss" in row] == curves[run.run_id]
        names.add(run.display_name)
    assert "facts d4->d8 confidence s0" in names


def test_nobody_is_told_twice_and_what_a_dead_driver_left_out_is_told_later(tracked, curves):
    import mlflow

    def job(**trackers) -> TrackingJob:
        session = tracked.session
        return TrackingJob(
            Tracking.model_validate(trackers), session.store, session.sweep_id, "tiny", f"sweeps/{session.sweep_id}",
            frozenset(curves),
        )  # fmt: skip

    everything = job(tensorboard=None, mlflow=None, wandb={"project": "ladders", "mode": "offline"}).open()
    assert not everything.behind
    everything.close()

    cut_short, unfinished = sorted(curves)[:2]
    page = read_page(tracked.store, cut_short)
    (folder_of(tracked) / "tensorboard" / page.folder / ".complete").unlink()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tracked.storage}/tracking/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        if run.data.tags["w2s.run_id"] == unfinished:
            client.set_terminated(run.info.run_id, "RUNNING")
    resumed = job(tensorboard=None, mlflow=None).open()
    assert resumed.behind
    resumed.close()
    assert not resumed.behind
    test_tensorboard_files_hold_the_loss_curves_one_folder_per_run(tracked, curves)
    test_mlflow_holds_the_loss_curves_and_what_was_run(tracked, curves)
    told = Counter(run.data.tags["w2s.run_id"] for run in client.search_runs([experiment.experiment_id]))
    assert set(told.values()) == {1}


def test_no_secret_of_the_environment_is_in_any_file(tracked):
    files = [path for path in tracked.storage.rglob("*") if path.is_file()]
    assert any(path.name == "log.txt" for path in files)
    assert any(path.suffix == ".wandb" for path in files)
    assert any(path.name == "index.html" for path in files)
    shown = w2s("show", next(iter(tracked.attempts())), "--storage", tracked.storage, cwd=tracked.spec.parent)
    for name, value in SECRETS.items():
        assert value not in shown, name
        for path in files:
            assert value.encode() not in path.read_bytes(), f"{name} is in {path}"
