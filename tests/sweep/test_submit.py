"""What `w2s submit` sends, and what it refuses before it sends anything."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sweep import submit
from sweep.cli import main
from sweep.errors import SpecError
from sweep.spec import load_spec
from sweep.submit import check_storage, entrypoint, explain_failure, local_files, rewritten, stage

ROWS = "text,label\nyes,1\nno,0\n"
FILES = """\
name: mine
storage: s3://bucket/mine # a comment that stays
ladder:
  pretrain:
    corpus: {kind: text, files: [texts/a.txt]}
  rungs:
    - {name: d4, hidden_size: 4, layers: 1, heads: 2, tokens: 20_000}
    - model: models/own # and this one
      pretrain_tokens: 1.0e+9
tasks:
  - {name: rows, source: files, train: [data/train.csv], test: ["data/it's.csv"]}
"""


@pytest.fixture
def mine(tmp_path) -> Path:
    for name in ("texts/a.txt", "data/train.csv", "data/it's.csv", "models/own/config.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROWS)
    spec = tmp_path / "mine.yaml"
    spec.write_text(FILES)
    return spec


def test_everything_local_is_sent_and_the_sent_spec_names_it(mine, tmp_path):
    sent = tmp_path / "sent"
    sent.mkdir()
    mine.with_suffix(".lock.json").write_text("{}")
    files = local_files(load_spec(mine), mine)
    stage(mine, files, sent)
    there = load_spec(sent / "mine.yaml")
    task = there.tasks[0]
    named = [*task.train, *task.test, *there.ladder.pretrain.corpus.files, there.ladder.rungs[1].model]
    assert len(named) == len(files) == 4
    assert all(path.startswith(str(sent / "sent")) and os.path.exists(path) for path in named)
    assert Path(task.test[0]).name == "it's.csv"
    assert (sent / "mine.lock.json").exists()
    text = (sent / "mine.yaml").read_text()
    assert "# a comment that stays" in text
    assert "# and this one" in text


def test_a_spec_without_local_files_is_sent_as_it_is(tiny, tmp_path):
    spec = tiny()
    sent = tmp_path / "sent"
    sent.mkdir()
    stage(spec, local_files(load_spec(spec), spec), sent)
    assert [path.name for path in sent.iterdir()] == [spec.name]
    assert (sent / spec.name).read_bytes() == spec.read_bytes()


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1, max_size=4)
)
def test_rewriting_replaces_these_scalars_and_no_others(values):
    data = {"keep": "a", "list": [f"old{i}" for i in range(len(values))], "map": {"in": 3}}
    text = yaml.safe_dump(data)
    new = yaml.safe_load(rewritten(text, {("list", i): value for i, value in enumerate(values)}))
    assert new == {**data, "list": values}


def test_abbreviations_are_rewritten_where_they_stand():
    text = "ladder: {rungs: [./own]}\n"
    new = rewritten(text, {("ladder", "rungs", 0, "model"): "x"})
    assert yaml.safe_load(new) == {"ladder": {"rungs": ["x"]}}


def test_a_missing_file_is_named_with_its_line(mine):
    (mine.parent / "data" / "train.csv").unlink()
    with pytest.raises(SpecError, match=r"mine\.yaml:11: tasks\[0\]\.train\[0\]: no such file or folder: .*train\.csv"):
        local_files(load_spec(mine), mine)


def test_what_is_too_large_is_not_sent(mine, monkeypatch):
    monkeypatch.setattr(submit, "MOST_BYTES", 10)
    with pytest.raises(SpecError, match=r"mine\.yaml: its local files are .* --keep-paths"):
        local_files(load_spec(mine), mine)


@pytest.mark.parametrize("storage", [None, "results/x", "./x", "file:///tmp/x", "memory://x"])
def test_a_storage_of_one_machine_is_refused(storage):
    with pytest.raises(SpecError, match=r"spec\.yaml: storage: .*s3://bucket/folder"):
        check_storage(storage, Path("spec.yaml"))


@pytest.mark.parametrize("storage", ["s3://b/x", "gs://b/x", "/mnt/shared/x"])
def test_a_storage_that_nodes_may_share_is_taken(storage):
    assert check_storage(storage, Path("spec.yaml")) == storage


def test_credentials_in_an_address_are_not_sent_nor_repeated():
    with pytest.raises(SpecError, match=r"spec\.yaml: storage: the address s3://\*\*\*@b/x carries") as refused:
        check_storage("s3://AKIA:secret@b/x", Path("spec.yaml"))
    assert "secret" not in str(refused.value)


def test_the_job_is_w2s_run_with_all_that_was_asked_for():
    words = entrypoint("my spec.yaml", "s3://b/x", retry_failed=True, only=["transfer"])
    assert words == "w2s run './my spec.yaml' --storage s3://b/x --no-report --retry-failed --only transfer"


@pytest.mark.parametrize(
    ("command", "said", "told"),
    [
        (
            "rsync-up",
            "...\nRuntimeError: Head node of cluster (w2s) not found!\n",
            "this cluster is not up; ray up c.yaml",
        ),
        (
            "exec",
            "ssh: connect to host 10.0.0.1 port 22: Connection timed out\n",
            "cannot be reached by ssh: ssh: connect",
        ),
        (
            "job",
            "ConnectionError: Failed to connect to Ray at address: http://127.0.0.1:1.",
            "no job server answers there",
        ),
        ("exec", "RuntimeError: Request failed with status code 401: Unauthenticated", "asks for a token"),
        (
            "rsync-up",
            "Traceback\nbotocore.exceptions.NoCredentialsError: Unable to locate credentials\n",
            "no AWS credentials were found on this machine, which the cluster file needs; `aws configure`",
        ),
        ("rsync-up", "botocore.exceptions.ProfileNotFound: The config profile (x) could not be found", "AWS_PROFILE"),
        (
            "exec",
            "botocore.exceptions.ClientError: An error occurred (ExpiredToken) when calling: it is expired",
            "have expired; `aws configure`",
        ),
        (
            "rsync-up",
            "google.auth.exceptions.DefaultCredentialsError: Your default credentials were not found.",
            "`gcloud auth application-default login`",
        ),
        ("rsync-up", "ModuleNotFoundError: No module named 'googleapiclient'", "pip install google-api-python-client"),
        ("exec", "what\nit said last\nShared connection to 10.0.0.1 closed.\n", "ray exec failed: it said last"),
    ],
)
def test_failures_of_rays_commands_are_told_to_people(command, said, told):
    message = explain_failure("c.yaml", command, said)
    assert told in message
    assert "\n" not in message


def test_bad_calls_end_with_2_and_send_nothing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("something was sent"))
    monkeypatch.setattr(
        submit, "gather", lambda *args, **kwargs: pytest.fail("planned before the cluster was looked at")
    )
    spec = str(tiny())
    cluster = str(Path(__file__).parents[2] / "cluster.yaml")
    (tmp_path / "half.yaml").write_text("cluster_name: mine\n")
    (tmp_path / "torn.yaml").write_text("cluster_name: [mine\n")
    there = ("--storage", "s3://b/x")
    cases = {
        (
            spec,
            "--cluster",
            spec,
            *there,
        ): "this is a sweep, not a cluster: it has no `cluster_name:` and no `provider:`",
        (spec, "--cluster", str(tmp_path / "half.yaml"), *there): "this is no cluster file: it has no `provider:`",
        (spec, "--cluster", str(tmp_path / "torn.yaml"), *there): "torn.yaml: cannot be read as YAML: while parsing",
        (spec, "--cluster", str(tmp_path / "none.yaml"), "--storage", "s3://b/x"): "no such file; cluster.yaml",
        (spec, "--cluster", cluster): "storage: is not given",
        (str(tmp_path / "none.yaml"), "--cluster", cluster): "no such file",
        (
            str(tiny({"seeds: [0]": "sedes: [0]"}, "bad.yaml")),
            "--cluster",
            cluster,
        ): "unknown key; did you mean 'seeds'?",
    }
    for words, told in cases.items():
        assert main(["submit", *words]) == 2
        assert told in capsys.readouterr().err


def test_a_cluster_that_is_not_up_is_said_in_a_line(tiny, tmp_path, capsys):
    """By Ray's own command and its local provider; nothing is reached."""
    cluster = tmp_path / "cluster.yaml"
    local = yaml.safe_load((Path(__file__).parents[2] / "examples" / "cluster" / "local.yaml").read_text())
    local["cluster_name"] = f"none-{os.getpid()}"
    local["file_mounts"] = {}
    cluster.write_text(yaml.safe_dump(local))
    assert main(["submit", str(tiny()), "--cluster", str(cluster), "--storage", "s3://b/x"]) == 2
    assert f"{cluster}: this cluster is not up; ray up {cluster} starts it" in capsys.readouterr().err


def test_no_job_server_is_said_in_a_line(tiny, capsys):
    assert main(["submit", str(tiny()), "--address", "http://127.0.0.1:1", "--storage", "s3://b/x"]) == 2
    assert "no job server answers there" in capsys.readouterr().err
