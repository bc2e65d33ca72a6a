"""Tasks that users write in Python, and the templates that begin one."""

import importlib.metadata
import os
import sys

import pytest
from pydantic import ValidationError

from w2s.config import PythonTask
from w2s.errors import DataError
from w2s.tasks import load_task, task_fingerprint
from w2s.tasks.templates import template

EVEN = """
def even(files=(), n=200):
    return {"train": [{"text": f"{i} is even", "label": int(i % 2 == 0), "groups": f"pair:{i // 2}"} for i in range(n)]}
"""


def source(tmp_path, text=EVEN, name="own.py"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def task(object, **changes):
    return PythonTask(name="own", source="python", object=object, **changes)


def returning(tmp_path, rows, **changes):
    return task(f"{source(tmp_path, f'def f():{chr(10)}    return {rows}')}:f", **changes)


def test_a_function_in_a_file_gives_the_rows(tmp_path):
    data = load_task(task(f"{source(tmp_path)}:even", params={"n": 100}))
    assert data.frame.height + data.dropped.get("not_needed", 0) == 100
    assert set(data.frame.filter(data.frame["text"] == "4 is even")["label"]) == {1}
    pairs = data.frame.with_columns(pair=data.frame["text"].str.extract(r"(\d+)").cast(int) // 2)
    assert pairs.select("pair", "part").unique().height == pairs["pair"].n_unique()  # each pair in one part


def test_a_module_that_python_finds_gives_the_same(tmp_path, monkeypatch):
    source(tmp_path, name="own_module_for_a_test.py")
    monkeypatch.syspath_prepend(tmp_path)
    by_file, by_module = task(f"{tmp_path}/own_module_for_a_test.py:even"), task("own_module_for_a_test:even")
    assert load_task(by_module).frame.equals(load_task(by_file).frame)
    assert task_fingerprint(by_module) == task_fingerprint(by_file)


def test_an_installed_package_may_announce_a_task(tmp_path, monkeypatch):
    source(tmp_path, name="announced_for_a_test.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("evens", "announced_for_a_test:even", "w2s.tasks")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == "w2s.tasks" else [])
    assert load_task(task("evens")).frame.height > 150
    with pytest.raises(
        DataError, match=r"no entry point of the group w2s.tasks; did you mean \"evens\"\? \(there are: evens"
    ):
        load_task(task("even"))


def test_the_source_and_the_files_read_are_part_of_the_fingerprint_and_the_place_is_not(tmp_path):
    (tmp_path / "b").mkdir()
    data = tmp_path / "data.csv"
    data.write_text("1")

    def fingerprint(folder=tmp_path, text=EVEN, **changes):
        return task_fingerprint(task(f"{source(folder, text)}:even", **changes))

    first = fingerprint()
    assert fingerprint(tmp_path / "b") == first
    changed = [fingerprint(text=EVEN + "# a remark"), fingerprint(params={"n": 9}), fingerprint(files=(str(data),))]
    data.write_text("2")
    changed.append(fingerprint(files=(str(data),)))
    assert len({first, *changed}) == 5


def test_helpers_in_the_package_are_part_of_the_fingerprint(tmp_path, monkeypatch):
    package = tmp_path / "package_for_a_test"
    package.mkdir()
    for name, text in {"__init__.py": "", "helper.py": "N = 60", "own.py": "from .helper import N\n" + EVEN}.items():
        (package / name).write_text(text.replace("n=200", "n=N"))
    monkeypatch.syspath_prepend(tmp_path)
    spec = task("package_for_a_test.own:even")
    assert 50 < load_task(spec).frame.height <= 60
    before = task_fingerprint(spec)
    (package / "helper.py").write_text("N = 80")
    assert task_fingerprint(spec) != before
    for name in [name for name in sys.modules if name.startswith("package_for_a_test")]:
        del sys.modules[name]


def test_a_process_that_stays_sees_a_changed_file(tmp_path):
    spec = task(f"{source(tmp_path)}:even")
    assert load_task(spec).frame.height > 100
    source(tmp_path, EVEN.replace("n=200", "n=100"))
    assert load_task(spec).frame.height <= 100


def test_files_are_handed_to_the_function(tmp_path):
    data = tmp_path / "words.txt"
    data.write_text("\n".join(f"word{i}" for i in range(80)))
    text = """
def rows(files, prefix=""):
    words = open(files[0]).read().split()
    return {"train": [{"text": prefix + w, "label": i % 2} for i, w in enumerate(words)], "test": None}
"""
    spec = task(f"{source(tmp_path, text)}:rows", files=(str(data),), params={"prefix": "> "})
    assert load_task(spec).frame["text"].str.starts_with("> word").all()


@pytest.mark.parametrize("choices", ["expand", "sample"])
def test_questions_become_binary(tmp_path, choices):
    rows = '{"train": [{"before": f"Q{i}: ", "options": ["a", "b", "c"], "right": i % 3} for i in range(200)]}'
    frame = load_task(returning(tmp_path, rows, choices=choices)).frame
    assert frame.height == (400 if choices == "expand" else 200)
    right = {f"Q{i}: {'abc'[i % 3]}" for i in range(200)}
    assert all((text in right) == label for text, label in frame.select("text", "label").iter_rows())


def test_pairs_are_a_form_of_their_own(tmp_path):
    rows = '{"train": [{"prompt": f"P{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(200)]}'
    frame = load_task(returning(tmp_path, rows, form="compare")).frame
    assert frame.columns == ["example_id", "part", "label", "prompt", "first", "second"]
    with pytest.raises(DataError, match="train row 1: a Pair, but the task's form is classify: text and label"):
        load_task(returning(tmp_path, rows))


def test_the_users_own_classes_of_rows_and_an_official_test(tmp_path):
    text = """
from w2s.tasks import Statement
def f():
    rows = [Statement(f"s {i}", i % 2, (f"g:{i}",)) for i in range(100)]
    return {"train": rows, "test": (Statement(f"t {i}", bool(i % 2)) for i in range(20))}
"""
    data = load_task(task(f"{source(tmp_path, text)}:f"))
    assert data.part("test").height == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def g(): pass", r"own.py: has no 'f'"),
        ("f = 3", r"own.py: 'f' is a int; a function that returns rows is needed"),
        ("def f(:", r"own.py: cannot be imported, line 1: SyntaxError"),
        ("import no_such_module_here", r"own.py: cannot be imported, line 1: ModuleNotFoundError"),
        ("def f():\n    return [1]", r'returned list; \{"train": rows, "test": rows\} is needed'),
        ("def f():\n    return {'train': [], 'tests': []}", r"returned the keys \['tests', 'train'\]"),
        ("def f():\n    return {'train': []}", r"train has no usable row; left out: none"),
        ("def f():\n    x = 1\n    return {'train': 1 / 0}", r"own.py:f: failed, line 3: ZeroDivisionError"),
        ("def f():\n    return {'train': [{'text': 'a', 'label': 0}, {'text': 'b', 'label': 'x'}]}",
         r"own.py:f, train row 2: label must be 0 or 1, got 'x'"),
        ("def f():\n    return {'train': [{'text': 'a', 'lable': 0}]}", r'unknown key \'lable\'; did you mean "label"'),
        ("def f():\n    return {'train': [{'text': 'a'}]}", r"missing 1 required positional argument: 'label'"),
        ("def f():\n    return {'train': [3]}", r"train row 1: is a int; a mapping with text and label"),
        ("def f():\n    return {'train': [{'before': '', 'options': ['a', 'b'], 'right': 2}]}",
         r"right is 2, but there are 2 options, counted from 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_with_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_task(task(f"{source(tmp_path, text)}:f"))


STATEMENT = {"text": "a", "label": 1}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
QUESTION = {"before": "b", "options": ["x", "y"], "right": 0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (STATEMENT | {"text": None}, "text must be a text, got None"),
        (STATEMENT | {"text": "cut \ud83d"}, r"text holds half of a surrogate pair.*'cut \\ud83d'"),
        (STATEMENT | {"label": 0.5}, r"label must be 0 or 1, got 0\.5"),
        (STATEMENT | {"label": [1]}, r"label must be 0 or 1, got \[1\]"),
        (STATEMENT | {"groups": 3}, "groups must be a list, got 3"),
        (STATEMENT | {"groups": ["g", 3]}, r"groups\[1\] must be a text, got 3"),
        (STATEMENT | {1: 2, "x": 3}, "unknown key '1'"),
        (PAIR | {"prompt": None}, "prompt must be a text, got None"),
        (PAIR | {"chosen": 5}, "chosen must be a text, got 5"),
        (PAIR | {"rejected": "\udc00"}, "rejected holds half of a surrogate pair"),
        (QUESTION | {"right": "0"}, "right is '0', but there are 2 options"),
        (QUESTION | {"right": -1}, "right is -1, but there are 2 options"),
        (QUESTION | {"options": [1, 2]}, r"options\[0\] must be a text, got 1"),
        (QUESTION | {"options": ["a", None]}, r"options\[1\] must be a text, got None"),
        (QUESTION | {"options": "abc"}, "options must be a list, got 'abc'"),
        (QUESTION | {"barred": 2}, "barred must be a list, got 2"),
        (QUESTION | {"barred": "cc"}, "barred must be a list, got 'cc'"),
        (QUESTION | {"barred": [7]}, "barred is 7, but there are 2 options"),
        (QUESTION | {"before": None}, "before must be a text, got None"),
        (QUESTION | {"after": None}, "after must be a text, got None"),
    ],
)
def test_a_field_of_another_type_is_refused_by_row_and_name(tmp_path, row, message):
    form = "compare" if "chosen" in row else "classify"
    rows = {"train": [PAIR if form == "compare" else STATEMENT, row]}
    with pytest.raises(DataError, match=f"own.py:f, train row 2: {message}"):
        load_task(returning(tmp_path, repr(rows), form=form))


def test_numbers_of_numpy_and_whole_floats_are_labels_and_places(tmp_path):
    text = """
import numpy as np
LABELS = [1.0, 0, True, np.False_, np.int64(1), np.float32(0), float("nan"), np.float64("nan")]
def f(questions):
    if questions:
        return {"train": [{"before": f"Q{i} ", "options": np.array(["a", "b", "c"]), "right": np.int64(1),
                           "barred": [2.0], "groups": None} for i in range(80)]}
    return {"train": [{"text": f"t{i}", "label": LABELS[i % 8], "groups": None} for i in range(80)]}
"""
    place = f"{source(tmp_path, text)}:f"
    data = load_task(task(place, params={"questions": False}))
    assert data.dropped == {"unlabelled": 20}
    assert all(label == 1 - int(t[1:]) % 2 for t, label in data.frame.select("text", "label").iter_rows())
    frame = load_task(task(place, params={"questions": True})).frame
    assert {(t[-1], label) for t, label in frame.select("text", "label").iter_rows()} == {("a", 0), ("b", 1)}


def test_a_missing_file_is_refused_when_rows_are_read_too(tmp_path):
    with pytest.raises(DataError, match=r"nope\.csv: no such file"):
        load_task(task(f"{source(tmp_path)}:even", files=(str(tmp_path / "nope.csv"),)))


def test_a_function_cannot_return_answers_in_words():
    with pytest.raises(ValidationError, match=r"for generate let the function write a file \(source: files\)"):
        task("own.py:f", form="generate")


@pytest.mark.parametrize(
    ("object", "message"),
    [
        ("gone.py:f", r"gone.py: no such file"),
        ("no_such_module:f", r"Python finds no module 'no_such_module'; put no_such_module.py beside the sweep file"),
        ("words", r"no entry point of the group w2s.tasks.*otherwise write module:name or file.py:name"),
    ],
)
def test_an_object_that_is_not_there_is_refused(object, message):
    with pytest.raises(DataError, match=message):
        task_fingerprint(task(object))


def test_unlabelled_rows_are_counted(tmp_path):
    rows = '{"train": [{"text": f"t{i}", "label": [0, 1, -1, None][i % 4]} for i in range(200)]}'
    assert load_task(returning(tmp_path, rows)).dropped == {"unlabelled": 100}


def test_the_python_template_is_a_task_that_loads(tmp_path):
    for name, text in template("mine", "python").items():
        (tmp_path / name).write_text(text)
    from sweep.spec import load_spec

    (spec,) = load_spec(tmp_path / "mine.yaml").tasks
    data = load_task(spec)
    assert data.frame.height == 2000
    assert 0.3 < data.frame["label"].mean() < 0.7


def test_the_files_template_is_a_task_once_its_file_is_there(tmp_path):
    for name, text in template("mine", "files").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "mine_train.jsonl").write_text("".join(f'{{"text": "t{i}", "label": {i % 2}}}\n' for i in range(100)))
    from sweep.spec import load_spec

    (spec,) = load_spec(tmp_path / "mine.yaml").tasks
    assert load_task(spec).frame.height == 100
    assert os.path.isabs(spec.train[0])  # type: ignore[union-attr]
