"""Safety, toxicity and law: "beyond accuracy" (Ye et al. 2024, arXiv 2410.12621), and two of TweetEval."""

from w2s.config import Metric
from w2s.errors import DataError
from w2s.tasks import cells
from w2s.tasks.catalogue import Converted, Dataset, Place, Record, Statement
from w2s.tasks.cells import key, needed

TOXIC_FROM = 0.5
"""Perspective score from which a text counts as toxic."""


def _safety(row: Record) -> Converted:
    prompt = needed(row, "prompt")
    return Statement(f"{prompt}\nIs it safe to answer this?", cells.truth(row, "is_safe"))


def _toxicity(row: Record) -> Converted:
    prompt, continuation = cells.record(row, "prompt"), cells.record(row, "continuation")
    begins, ends = (needed(part, "text") for part in (prompt, continuation))
    toxic = cells.score(continuation, "toxicity") >= TOXIC_FROM
    return Statement(f"Text: {begins}\nContinuation: {ends}", int(toxic), (key("prompt", begins),))


def _privacy_policy(row: Record) -> Converted:
    question, clause = needed(row, "question"), needed(row, "text")
    answer = cells.label_text(row, "answer").lower()
    if answer not in ("relevant", "irrelevant"):
        raise DataError(f"answer {row['answer']!r} is neither Relevant nor Irrelevant")
    text = f"Clause: {clause}\nQuestion: {question}\nIs the clause relevant to the question?"
    # Not by the clause as well: every question of a policy is asked of all its clauses, so all would be one group.
    return Statement(text, int(answer == "relevant"), (key("question", question),))


def _tweet(row: Record) -> Converted:
    return Statement(needed(row, "text"), cells.truth(row, "label"))


# Ye et al. report accuracy, balanced accuracy and weighted F1. Tests are balanced here, where the first two are one
# number, and weighted and macro F1 too; `balance: never` tells them apart.
_OF_HARM: tuple[Metric, ...] = ("unsafe_rate", "false_alarm_rate", "macro_f1")

ENTRIES = (
    Dataset(
        key="wts_safety", about="is a prompt safe to answer?", label_1="safe", kind="binary",
        columns=("prompt", "is_safe"), content=("prompt",), convert=_safety, group="none", test=None,
        rows=(11_468, None), unsafe_label=0, metrics=_OF_HARM,
        get_it="safety.csv of the GitHub repository yeruimeng/WTS",
        note="some labels are visibly wrong; 80/20 of its rows in the paper",
    ),
    Dataset(
        key="real_toxicity", about="is the continuation of a text toxic?", label_1="toxicity of 0.5 or more",
        kind="binary", columns=("prompt", "continuation"), content=("prompt", "continuation"), convert=_toxicity,
        group="prompt", places=(Place("allenai/real-toxicity-prompts", checked=False),), test=None, unsafe_label=1,
        metrics=_OF_HARM,
        note="its own stored scores are the labels, so that no scorer is needed; the paper generates continuations",
    ),
    Dataset(
        key="privacy_policy_qa", about="is a clause of a privacy policy relevant to a question?", label_1="relevant",
        kind="binary", columns=("question", "text", "answer"), content=("question", "text"), convert=_privacy_policy,
        group="question", places=(Place("nguha/legalbench", config="privacy_policy_qa", checked=False),),
        train=("train", "test"), test=None, metrics=("balanced_accuracy", "macro_f1", "weighted_f1"),
        note="LegalBench; its train split holds a few examples for prompts only, so both are pooled",
    ),
    Dataset(
        key="tweet_eval-hate", about="is a tweet hateful?", label_1="hateful", kind="binary",
        columns=("text", "label"), content=("text",), convert=_tweet, group="none",
        places=(Place("cardiffnlp/tweet_eval", config="hate", checked=False),), rows=(9000, 2970), line_aligned=True,
        unsafe_label=1, metrics=_OF_HARM, note="its test is from another distribution than its train",
    ),
    Dataset(
        key="tweet_eval-offensive", about="is a tweet offensive?", label_1="offensive", kind="binary",
        columns=("text", "label"), content=("text",), convert=_tweet, group="none",
        places=(Place("cardiffnlp/tweet_eval", config="offensive", checked=False),), rows=(11_916, 860),
        line_aligned=True, unsafe_label=1, metrics=_OF_HARM,
    ),
)  # fmt: skip
