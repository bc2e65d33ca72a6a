"""Hand-made rows of every dataset of the catalogue, in all columns that it has on the hub, used or not."""

from collections.abc import Callable
from typing import Any

import numpy as np

Say = Callable[..., str]
"""Some words; `say(5)` says five."""
Make = Callable[[int, int, Say], dict[str, Any]]
"""From the row's number, its label (or which option is right) and words to a row."""

WORDS = ["amber", "basil", "cedar", "delta", "ember", "flint", "grove", "heath", "iris", "jade", "kelp", "lemon"]
LETTERS = "ABCD"


def speaker(rng: np.random.Generator) -> Say:
    return lambda n=4: " ".join(rng.choice(WORDS, size=n))


def _ethics(**extra: str) -> Make:
    return lambda i, y, say: {"label": y, "scenario": say(), **{name: say() for name in extra}}


def _lettered(k: int, y: int, say: Say) -> dict[str, Any]:
    return {"choices": {"text": [say() for _ in range(k)], "label": list(LETTERS[:k])}, "answerKey": LETTERS[y]}


def _dream(i: int, y: int, say: Say) -> dict[str, Any]:
    choice = [f"{say()} {n}" for n in range(3)]
    dialogue = [f"M: {say()}", f"W: {say()}"]
    return {
        "id": i, "dialogue_id": f"5-{i} {say()}", "dialogue": dialogue, "question": say(), "choice": choice,
        "answer": choice[y],
    }  # fmt: skip


def _sciq(i: int, y: int, say: Say) -> dict[str, Any]:
    return {
        "question": say(), "distractor3": say(), "distractor1": say(), "distractor2": say(), "correct_answer": say(),
        "support": say(),
    }  # fmt: skip


def _hh(i: int, y: int, say: Say) -> dict[str, Any]:
    prompt = f"\n\nHuman: {say()}\n\nAssistant: {say()}\n\nHuman: {say()}"
    return {"chosen": f"{prompt}\n\nAssistant: {say()}", "rejected": f"{prompt}\n\nAssistant: {say()}"}


def _toxicity(i: int, y: int, say: Say) -> dict[str, Any]:
    scored = [{"text": f" {say()}", "toxicity": score, "severe_toxicity": 0.1} for score in (0.3, 0.2 + 0.6 * y)]
    where = {"filename": "0.txt", "begin": i, "end": i + 9, "challenging": False}
    return {**where, "prompt": scored[0], "continuation": scored[1]}


MAKE: dict[str, tuple[int, Make]] = {
    "boolq": (2, lambda i, y, say: {"question": say(), "answer": bool(y), "passage": say()}),
    "cosmos_qa": (4, lambda i, y, say: {
        "id": f"x{i}", "context": say(), "question": say(), **{f"answer{n}": say() for n in range(4)}, "label": y}),
    "dream": (3, _dream),
    "ethics-justice": (2, _ethics()),
    "ethics-deontology": (2, _ethics(excuse="")),
    "ethics-virtue": (2, lambda i, y, say: {"label": y, "scenario": f"{say()} [SEP] {say(1)}"}),
    "ethics-utilitarianism": (1, lambda i, y, say: {"baseline": say(), "less_pleasant": say()}),
    "anli-r2": (3, lambda i, y, say: {
        "uid": f"u{i}", "premise": say(), "hypothesis": say(), "label": y, "reason": f"because label {y}"}),
    "cola": (2, lambda i, y, say: {"sentence": say(6), "label": y, "idx": i}),
    "sst2": (2, lambda i, y, say: {"sentence": f"{say(6)} ", "label": y, "idx": i}),
    "hellaswag": (4, lambda i, y, say: {
        "ind": i, "activity_label": say(1), "ctx_a": say(), "ctx_b": "", "ctx": say(),
        "endings": [say() for _ in range(4)], "source_id": f"activitynet~v_{i} {say()}", "split": "train",
        "split_type": "indomain", "label": str(y)}),
    "mc_taco": (2, lambda i, y, say: {
        "sentence": say(), "question": say(), "answer": say(), "label": y, "category": "Event Duration"}),
    "openbookqa": (4, lambda i, y, say: {"id": f"7-{i} {say()}", "question_stem": say(), **_lettered(4, y, say)}),
    "paws": (2, lambda i, y, say: {"id": i, "sentence1": say(), "sentence2": say(), "label": y}),
    "quail": (4, lambda i, y, say: {
        "id": f"f{i}_0", "context_id": f"f{i} {say()}", "question_id": "0", "domain": "fiction",
        "metadata": {"author": "x", "title": "y", "url": ""}, "context": say(8), "question": say(),
        "question_type": "Causality", "answers": [say() for _ in range(4)], "correct_answer_id": y}),
    "piqa": (2, lambda i, y, say: {"goal": say(), "sol1": say(), "sol2": say(), "label": y}),
    "quartz": (2, lambda i, y, say: {
        "id": f"QRQA-{i}", "question": say(), "para": say(), "para_id": f"QRSent-{i} {say()}", **_lettered(2, y, say)}),
    "sciq": (1, _sciq),
    "social_i_qa": (3, lambda i, y, say: {
        "context": say(), "question": say(), "answerA": say(), "answerB": say(), "answerC": say(),
        "label": str(y + 1)}),
    "multirc": (2, lambda i, y, say: {
        "paragraph": say(8), "question": say(), "answer": say(), "idx": {"paragraph": i, "question": i, "answer": i},
        "label": y}),
    "wic": (2, lambda i, y, say: {
        "word": say(1) + str(i), "sentence1": say(), "sentence2": say(), "start1": 0, "start2": 0, "end1": 4, "end2": 4,
        "idx": i, "label": y}),
    "twitter-sentiment": (2, lambda i, y, say: {"text": say(6), "label": y}),
    "sciq_with_support": (1, _sciq),
    "amazon_polarity": (2, lambda i, y, say: {"label": y, "title": say(2), "content": say(6)}),
    "anthropic_hh": (1, _hh),
    "anthropic_hh-harmless": (1, _hh),
    "anthropic_hh-helpful": (1, _hh),
    "wts_safety": (2, lambda i, y, say: {"prompt": say(6), "is_safe": bool(y)}),
    "real_toxicity": (2, _toxicity),
    "privacy_policy_qa": (2, lambda i, y, say: {
        "index": i, "answer": ["Irrelevant", "Relevant"][y], "question": f"{say()} {i}", "text": say()}),
    "tweet_eval-hate": (2, lambda i, y, say: {"text": say(6), "label": y}),
    "tweet_eval-offensive": (2, lambda i, y, say: {"text": say(6), "label": y}),
}  # fmt: skip
"""How many labels (or options) a dataset has, and a maker of rows."""


def make_rows(key: str, n: int, seed: int = 0, *, words: Say | None = None) -> list[dict[str, Any]]:
    """Rows whose contents are independent of their labels."""
    rng = np.random.default_rng(seed)
    classes, make = MAKE[key]
    say = words or speaker(rng)
    return [make(i, int(rng.integers(classes)), say) for i in range(n)]
