"""Local copies of Hugging Face datasets; the hub itself is never asked."""

import datasets
import pytest

from w2s.config import Columns, HubTask
from w2s.errors import DataError
from w2s.tasks import load_task, task_fingerprint
from w2s.tasks.hub import resolve_revision

LABELS = datasets.ClassLabel(names=["neg", "pos"])
FEATURES = datasets.Features({"sentence": datasets.Value("string"), "label": LABELS, "idx": datasets.Value("int32")})


@pytest.fixture(autouse=True)
def _no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def split(name, n, label=lambda i: i % 2):
    rows = {"sentence": [f"{name} {i}" for i in range(n)], "label": [label(i) for i in range(n)], "idx": list(range(n))}
    return datasets.Dataset.from_dict(rows, features=FEATURES)


@pytest.fixture
def glue():
    return datasets.DatasetDict(
        {"train": split("train", 40), "validation": split("dev", 10), "test": split("test", 10, lambda _: -1)}
    )


def task(folder, **settings):
    settings = {"columns": Columns(text="sentence"), "test": "validation", **settings}
    return HubTask(name="glue", source="hub", id=str(folder), **settings)


def test_a_saved_dataset_is_read(tmp_path, glue):
    glue.save_to_disk(tmp_path / "saved")
    data = load_task(task(tmp_path / "saved"))
    assert set(data.part("test")["text"]) == {f"dev {i}" for i in range(10)}
    assert data.frame.height == 50


def test_a_folder_of_data_files_is_read_and_gives_the_same_examples(tmp_path, glue):
    glue.save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    for name, part in glue.items():
        part.to_parquet(tmp_path / "files" / f"{name}-00000-of-00001.parquet")
    assert load_task(task(tmp_path / "files")).frame.equals(load_task(task(tmp_path / "saved")).frame)


def test_configurations_are_told_apart(tmp_path):
    for config in ("one", "two"):
        (tmp_path / "d" / config).mkdir(parents=True)
        split(config, 40).to_parquet(tmp_path / "d" / config / "train.parquet")
    settings = "".join(f"- config_name: {c}\n  data_files: {c}/train.parquet\n" for c in ("one", "two"))
    (tmp_path / "d" / "README.md").write_text(f"---\nconfigs:\n{settings}---\n")
    for config in ("one", "two"):
        data = load_task(task(tmp_path / "d", config=config, test=None))
        assert data.frame["text"].str.starts_with(config).all()
    with pytest.raises(DataError, match="cannot be loaded"):
        load_task(task(tmp_path / "d", config="three", test=None))


def test_one_saved_dataset_without_split_names_is_the_training_split(tmp_path):
    split("train", 40).save_to_disk(tmp_path / "saved")
    assert load_task(task(tmp_path / "saved", test=None)).frame.height == 40


def test_a_split_without_labels_is_refused_by_name(tmp_path, glue):
    glue.save_to_disk(tmp_path / "saved")
    message = r"split test: no row has a label .* name another split as test \(others: train, validation\)"
    with pytest.raises(DataError, match=message):
        load_task(task(tmp_path / "saved", test="test"))


def test_some_rows_without_labels_are_dropped_and_counted(tmp_path):
    parts = {"train": split("train", 40), "validation": split("dev", 12, lambda i: i % 3 - 1)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert load_task(task(tmp_path / "saved")).dropped == {"unlabelled": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "trian"}, r"train: no split 'trian'; did you mean \"train\"\? \(splits: train, validation, test\)"),
        ({"columns": Columns(text="sentense")}, r"no column 'sentense'; did you mean \"sentence\""),
        ({"columns": Columns(text="sentence", label="idx")}, r"label column 'idx' has 40 values \('0', '1', '10'"),
    ],
)
def test_wrong_names_are_refused(tmp_path, glue, settings, message):
    glue.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=message):
        load_task(task(tmp_path / "saved", **settings))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="gone: no such folder"):
        load_task(task(tmp_path / "gone"))


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder is empty"):
        task_fingerprint(task(tmp_path / "empty"))
    with pytest.raises(DataError, match="empty: cannot be loaded"):
        load_task(task(tmp_path / "empty"))


def test_a_dataset_made_by_a_script_is_refused_with_the_way_round(tmp_path):
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "piqa.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(DataError, match=r"made by a script.*revision: refs/convert/parquet"):
        load_task(task(tmp_path / "piqa"))


@pytest.mark.parametrize("repo_type", ["dataset", "model"])
def test_without_a_connection_it_is_said_how_to_use_a_copy(repo_type):
    option = "--repo-type dataset " if repo_type == "dataset" else ""
    message = (
        f"hub cannot be reached .* run `hf download org/name {option}--local-dir name`, and name that folder instead"
    )
    with pytest.raises(Exception, match=message) as caught:
        resolve_revision("org/name", repo_type=repo_type)
    assert type(caught.value).__name__ == {"dataset": "DataError", "model": "ModelError"}[repo_type]


def test_without_a_connection_the_commit_last_seen_is_taken(tmp_path):
    commit = "0123456789" * 4
    reference = tmp_path / "hub" / "datasets--org--name" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text(commit)
    assert resolve_revision("org/name") == commit
    assert resolve_revision("org/name", commit[::-1]) == commit[::-1]  # a commit is its own answer
    spec = HubTask(name="a", source="hub", id="org/name")
    assert task_fingerprint(spec) == task_fingerprint(spec.model_copy(update={"revision": commit, "name": "b"}))


def test_a_local_copys_fingerprint_covers_its_files_wherever_it_lies(tmp_path, glue):
    for name in ("one", "two"):
        glue.save_to_disk(tmp_path / name)
        (tmp_path / name / ".cache").mkdir()
        (tmp_path / name / ".cache" / "downloaded").write_text(name)

    def hash_file(path):
        # save_to_disk writes a random fingerprint of its own, which differs between copies
        return "state" if path.name == "state.json" else path.read_bytes().hex()

    def fingerprint(name):
        return task_fingerprint(task(tmp_path / name), hash_file=hash_file)

    assert fingerprint("one") == fingerprint("two")
    (tmp_path / "two" / "validation" / "extra.txt").write_text("x")
    assert fingerprint("one") != fingerprint("two")
