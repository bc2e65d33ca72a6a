"""What `w2s tasks new` writes: a commented beginning of a task of one's own."""

from typing import Literal

TemplateKind = Literal["files", "python"]

_SWEEP = """\
# A sweep over a task of your own. `w2s tasks check {name}.yaml` looks at the task, `w2s run {name}.yaml` runs it all.
name: {name}
seeds: [0, 1, 2]

ladder:                        # from small to large; any causal LM or encoder, by hub id or folder
  rungs:
    - EleutherAI/pythia-70m
    - EleutherAI/pythia-160m
    - EleutherAI/pythia-410m

tasks:
{task}
methods: [naive, confidence]
finetune: {{learning_rate: 1.0e-5, epochs: 2, batch_size: 32, max_length: 512}}
"""

_FILES = """\
  - name: {name}
    source: files
    # JSONL, CSV, TSV or Parquet, plain or .gz; several files of one split together. Paths are relative to this file.
    train: [{name}_train.jsonl]
    # test: [{name}_test.jsonl]   # an official test. Without one, a share of the rows is split off; with one, rows to
                                  # train on that share a text or group with it are left out and counted
    # names: [text, label]        # column names of CSV and TSV files without a header
    columns:
      text: text                  # what the model reads ...
      label: label                # ... and what it is to say: 0 or 1, false or true
      # group: [source]           # rows with an equal value here never lie in two parts (a passage, a question, a user)
    # template: "{{premise}}\\nQuestion: {{question}}"   # instead of columns.text: a text made from several columns
    # label_values: {{negative: 0, positive: 1}}        # what other labels mean
    # balance: paper              # leave rows of the larger class out; paper: only if it exceeds 55 %, the test always
    # metrics: [macro_f1, unsafe_rate]   # scores of the report beside accuracy; balanced_accuracy, weighted_f1,
                                  # false_alarm_rate are others (docs/tasks.md)
    # unsafe_label: 1             # the harmful class, for unsafe_rate and false_alarm_rate
    # Pairs of replies instead of labels: form: compare, with columns: {{prompt: ..., chosen: ..., rejected: ...}}
    # Answers in words: form: generate, with columns: {{prompt: ..., answer: ..., tags: [topic]}} and methods: [naive];
                                  # the report has accuracy by tag
    splits: {{supervise: 0.4, transfer: 0.4, validation: 0.05, test: 0.15, split_seed: 0}}

"""

_PYTHON_TASK = """\
  - name: {name}
    source: python
    object: {name}.py:{name}      # file beside this one, or module:name, or an entry point of the group w2s.tasks
    # files: [{name}.csv]         # what the function reads: given to it as `files`, and hashed into every run's id
    # params: {{n: 4000}}         # its other arguments
    # metrics: [macro_f1]         # scores of the report beside accuracy, see docs/tasks.md
    # choices: sample             # for rows with options: one row per question instead of a right and a wrong one
    splits: {{supervise: 0.4, transfer: 0.4, validation: 0.05, test: 0.15, split_seed: 0}}

"""

_PYTHON = '''\
"""The task {name}. `w2s tasks check {name}.yaml` shows what becomes of it.

This file's content is part of every run's id: when it changes, so do the runs. What it reads belongs in `files` of the
task, by whose content the runs are told apart as well. The rows must be the same at every call, in any order: no random
numbers without a fixed seed, no clock, no network.
"""

import random


def {name}(files=(), n=2000):
    """Rows to train on and, if there is an official one, to test on.

    A row is one of
        {{"text": "...", "label": 0}}                               0 or 1; -1 or None: no label, left out
        {{"before": "Question: ... Answer: ", "options": ["a", "b", "c"], "right": 0}}        becomes binary by itself
        {{"prompt": "...", "chosen": "...", "rejected": "..."}}       with `form: compare` in the sweep file
    and may have "groups": ["passage:..."], keys that keep rows that belong together in one part.
    """
    rng = random.Random(0)
    rows = []
    for i in range(n):
        a, b, error = i % 50, i // 50, rng.choice([0, 0, -1, 1])
        text = f"{{a}} + {{b}} = {{a + b + error}}"
        rows.append({{"text": text, "label": int(error == 0), "groups": [f"sum:{{a}}+{{b}}"]}})
    return {{"train": rows}}  # with an official test: {{"train": rows, "test": others}}
'''


def template(name: str, kind: TemplateKind) -> dict[str, str]:
    """Files to write, by name, with their text."""
    if kind == "files":
        return {f"{name}.yaml": _SWEEP.format(name=name, task=_FILES.format(name=name))}
    task = _PYTHON_TASK.format(name=name)
    return {f"{name}.yaml": _SWEEP.format(name=name, task=task), f"{name}.py": _PYTHON.format(name=name)}
