"""The spec's `tracking` block, and trackers that fail; what real ones hold is tested end to end."""

import os
import threading

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sweep.errors import SpecError, StoreError, SweepError
from sweep.execution.cluster import prepare_environment
from sweep.execution.tracking import Page, TrackingJob, accuracies, read_page, readable
from sweep.planner import build_plan
from sweep.session import Session
from sweep.spec import load_spec
from sweep.tracking_block import Tracking
from tests.end_to_end.drive import w2s


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc


@pytest.mark.parametrize(
    ("written", "chosen"),
    [
        ("tensorboard", {"tensorboard": {}}),
        (["wandb", "tensorboard"], {"tensorboard": {}, "wandb": {}}),
        ([{"wandb": {"mode": "offline"}}, "mlflow"], {"wandb": {"mode": "offline"}, "mlflow": {}}),
        ({"tensorboard": None, "mlflow": {"experiment": "e"}}, {"tensorboard": {}, "mlflow": {"experiment": "e"}}),
        ([], {}),
    ],
)
def test_trackers_are_named_alone_or_with_settings(written, chosen):
    found = Tracking.model_validate(written)
    assert found.model_dump(exclude_none=True) == chosen
    assert set(found.chosen) == set(chosen)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("tensorbord", r"tiny.yaml:2: tracking\[0\]: there is no tracker 'tensorbord'; did you mean 'tensorboard'\?"),
        ("[mlflow, wandbb]", r"tracking\[1\]: there is no tracker 'wandbb'; did you mean 'wandb'\?"),
        ("[wandb, wandb]", r"tracking\[1\]: tracker 'wandb' is given twice"),
        ("[3]", r"tracking\[0\]: a tracker is one of tensorboard, wandb, mlflow, or .*; got 3"),
        ("{mflow: {}}", r"tracking.mflow: unknown key; did you mean 'mlflow'\?"),
        ("{wandb: {projekt: x}}", r"tracking.wandb.projekt: unknown key; did you mean 'project'\?"),
        ("{wandb: {mode: off}}", r"tracking.wandb.mode: .*'online' or 'offline', got False"),
        ("{mlflow: {tracking_uri: mlruns}}", r"tracking.mlflow.tracking_uri: .*such as sqlite:///mlruns/mlflow.db"),
        ("{mlflow: {tracking_uri: 'file:///x'}}", r"no longer keeps runs in a folder; .*sqlite:////x/mlflow.db"),
        ("{tensorboard: 3}", r"tracking.tensorboard: a mapping is needed, .* got 3"),
    ],
)
def test_a_wrong_tracker_is_refused_with_key_and_cure(tiny, written, message):
    with pytest.raises(SpecError, match=message):
        load_spec(tiny({"seeds: [0]": f"tracking: {written}\nseeds: [0]"}))


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("tracking: {mlflow: {tracking_uri: 'https://ann:s3cret@host:5000'}}", "MLFLOW_TRACKING_PASSWORD"),
        ("storage: 's3://AKIA:s3cret@bucket/x'", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_password_in_the_spec_is_refused_without_being_repeated(tiny, line, cure):
    with pytest.raises(SpecError, match=rf"tiny.yaml:2: .*: the address \w+://\*\*\*@.*{cure}") as raised:
        load_spec(tiny({"seeds: [0]": f"{line}\nseeds: [0]"}))
    assert "s3cret" not in str(raised.value)


def test_tracking_changes_no_run(tiny, tmp_path):
    plain = Session.open(str(tiny()), str(tmp_path / "r"))
    spec = tiny({"seeds: [0]": "tracking: [tensorboard]\nseeds: [0]"}, name="tracked.yaml")
    assert build_plan(load_spec(spec), plain.inputs).runs.keys() == plain.plan.runs.keys()
    assert Session.open(str(spec), str(tmp_path / "r")).sweep_id == plain.sweep_id


@given(st.text(max_size=200), st.sampled_from(["transfer-0123456789abcdef", "pretrain-f00f00f00f00f00f"]))
def test_a_runs_folder_is_one_plain_name_whatever_the_task_is_called(name, run_id):
    folder = Page(run_id, name, {}, ()).folder
    assert "/" not in folder
    assert folder.endswith(run_id.partition("-")[2][:12])
    assert len(folder.encode()) <= 113
    assert folder.isascii()
    assert folder.isprintable()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("facts: d6 -> d16 confidence seed 0", "facts d6->d16 confidence s0"),
        ("facts: d6 -> d8 -> d16 naive seed 12", "facts d6->d8->d16 naive s12"),
        ("pretrain d6 seed 1", "pretrain d6 s1"),
        ("tokenizer", "tokenizer"),
    ],
)
def test_names_are_short(label, name):
    assert readable({"label": label}) == name


def test_accuracies_are_those_of_each_part_and_step():
    frame = pl.DataFrame(
        {
            "split": ["test", "test", "test", "transfer/0"],
            "step": [1, 2, 2, 2],
            "gold": [1, 1, 0, 0],
            "prediction": [0, 1, 1, 0],
        }
    )
    assert accuracies(frame) == {1: {"test_accuracy": 0.0}, 2: {"test_accuracy": 0.5, "transfer_0_accuracy": 1.0}}


# -- trouble ---------------------------------------------------------------------------------------------------


def job(store, **written) -> TrackingJob:
    return TrackingJob(Tracking.model_validate(written), store, "tiny-0", "tiny", "sweeps/tiny-0")


@pytest.fixture
def store(tiny, tmp_path):
    return Session.open(str(tiny()), str(tmp_path / "results")).store


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra_before_anything_starts(store, monkeypatch, name):
    monkeypatch.setattr("sweep.execution.tracking.find_spec", lambda package: None)
    with pytest.raises(SweepError, match=rf"{name} needs the package {name}.*pip install 'w2s-sweep\[track\]'"):
        job(store, **{name: {}}).check()


def test_wandb_without_credentials_says_so_and_asks_nothing(tiny, tmp_path, monkeypatch):
    """The whole command, as a job on a cluster would run it: a prompt would hang, or read what is not meant for it."""
    spec = tiny({"seeds: [0]": "tracking: wandb\nseeds: [0]"})
    output = w2s("run", spec, check=2, cwd=tmp_path)
    assert "set WANDB_API_KEY, run `wandb login`, or give tracking.wandb mode: offline" in output


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/no/such/place.db", "gopher://x"])
def test_an_mlflow_that_cannot_be_reached_is_an_error_before_anything_starts(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SweepError, match=f"tracking.mlflow: {uri} cannot be used: .*take mlflow out") as raised:
        job(store, mlflow={"tracking_uri": uri}).open()
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_made_is_an_error(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match=r"tracking.tensorboard.folder: .*/file/x: Not a directory"):
        job(store, tensorboard={"folder": str(tmp_path / "file" / "x")}).open()


class Flaky:
    """A tracker whose server is gone for some runs."""

    name = "flaky"

    def __init__(self, bad=()):
        self.bad, self.told, self.fails_late = set(bad), [], set()

    def knows(self, run_id):
        return run_id in self.told

    def log(self, page):
        if page in self.bad:
            raise ConnectionError(f"no route for {page}\nand more")
        self.told.append(page)

    def settle(self):
        return {run_id: TimeoutError("late") for run_id in self.fails_late}


def told(tracker, run_ids):
    """Tell a tracker of runs; what was said, and what it has not taken."""
    prepare_environment()  # Ray reads it when it is imported
    from sweep.execution import trackers

    said = []
    teller = trackers.Teller(tracker, lambda run_id: run_id, said.append)
    opened = trackers.Trackers([teller])
    opened.start()
    for run_id in run_ids:
        opened.done(run_id)
    opened.close()
    return said, teller.untold


def test_a_tracker_that_refuses_a_run_is_reported_and_told_of_the_others():
    tracker = Flaky(bad="b")
    said, untold = told(tracker, "abc")
    assert tracker.told == ["a", "c"]
    assert untold == {"b"}
    assert said == [
        "tracking: flaky did not take b: no route for b; the sweep goes on",
        "tracking: flaky has not taken 1 finished run; the same command tells it again",
    ]


def test_a_tracker_that_is_gone_is_left_alone():
    tracker = Flaky(bad="abcdef")
    said, untold = told(tracker, "abcdefgh")
    assert tracker.told == []
    assert untold == set("abcdefgh")
    assert [line for line in said if "failed 3 times and is left alone" in line]
    assert len(said) == 3


def test_what_fails_only_in_the_end_is_not_counted_as_told():
    tracker = Flaky()
    tracker.fails_late = {"b"}
    assert told(tracker, "abc")[1] == {"b"}


def test_a_tracker_that_hangs_is_left_behind(monkeypatch):
    prepare_environment()
    monkeypatch.setattr("sweep.execution.trackers.PATIENCE_SECONDS", 0.05)
    released = threading.Event()

    class Hanging(Flaky):
        def log(self, page):
            released.wait()

    said, untold = told(Hanging(), "ab")
    released.set()
    assert untold == {"a", "b"}
    assert said == ["tracking: flaky has not taken 2 finished runs; the same command tells it again"]


def test_a_run_that_is_not_done_is_nothing_to_tell(store):
    with pytest.raises(StoreError, match="is not done"):
        read_page(store, "transfer-0")


def test_settings_are_checked_like_all_others():
    with pytest.raises(ValidationError):
        Tracking.model_validate({"wandb": {"api_key": "x"}})
