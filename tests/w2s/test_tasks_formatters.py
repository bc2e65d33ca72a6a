"""Every formatter of the catalogue, on hand-made rows in the datasets' own columns."""

import pytest
from catalogue_rows import MAKE, make_rows

from w2s.errors import DataError
from w2s.tasks.catalogue import LeftOut, Pair, Question, Statement, datasets
from w2s.tasks.choices import rows_from

LETTERED = {"text": ["red", "green"], "label": ["A", "B"]}


def converted(key, **row):
    return datasets()[key].convert(row)


def rows(key, row, choices="expand"):
    made = rows_from(datasets()[key].convert(row), choices=choices, seed=0, dataset=key)
    return {r.text: r.label for r in made}


@pytest.mark.parametrize(
    ("key", "row", "text", "labels"),
    [
        (
            "boolq",
            {"question": "is the sky blue", "passage": "The sky is blue."},
            "Passage: The sky is blue.\nQuestion: is the sky blue?",
            {"answer": {True: 1, False: 0}},
        ),
        (
            "ethics-justice",
            {"scenario": "I deserve praise because I won."},
            "I deserve praise because I won.\nIs this reasonable?",
            {"label": {1: 1, 0: 0, "1": 1}},
        ),
        (
            "ethics-deontology",
            {"scenario": "Could you mow?", "excuse": "But it rains."},
            "Could you mow?\nBut it rains.\nDoes the second follow from a duty, or excuse one, in the first?",
            {"label": {1: 1, 0: 0}},
        ),
        (
            "ethics-virtue",
            {"scenario": "Ann gave all away. [SEP] generous"},
            "Ann gave all away.\nDoes this show that the person is generous?",
            {"label": {1: 1, 0: 0}},
        ),
        (
            "anli-r2",
            {"premise": "A dog runs.", "hypothesis": "It moves.", "uid": "u", "reason": "running is moving"},
            "Premise: A dog runs.\nHypothesis: It moves.\nDoes the premise entail the hypothesis?",
            {"label": {0: 1, 1: 0, 2: 0}},  # neutral and contradiction are one class
        ),
        ("cola", {"sentence": "They left.", "idx": 3}, "They left.", {"label": {1: 1, 0: 0}}),
        ("sst2", {"sentence": "a fine film ", "idx": 3}, "a fine film", {"label": {1: 1, 0: 0, "1": 1, "0.0": 0}}),
        (
            "mc_taco",
            {"sentence": "She slept.", "question": "How long?", "answer": "eight hours", "category": "Event Duration"},
            "She slept.\nQuestion: How long?\nAnswer: eight hours\nIs this answer plausible?",
            {"label": {1: 1, 0: 0, "yes": 1, "no": 0}},
        ),
        (
            "paws",
            {"id": 1, "sentence1": "A beats B.", "sentence2": "B beats A."},
            "Sentence 1: A beats B.\nSentence 2: B beats A.\nDo they mean the same?",
            {"label": {1: 1, 0: 0}},
        ),
        (
            "multirc",
            {"paragraph": "Tom ran.", "question": "Who?", "answer": "Tom", "idx": {"paragraph": 0}},
            "Passage: Tom ran.\nQuestion: Who?\nAnswer: Tom\nIs this answer right?",
            {"label": {1: 1, 0: 0}},
        ),
        (
            "wic",
            {"word": "bank", "sentence1": "A bank.", "sentence2": "The bank.", "start1": 2, "idx": 1},
            'Sentence 1: A bank.\nSentence 2: The bank.\nDoes "bank" mean the same in both?',
            {"label": {1: 1, 0: 0}},
        ),
        ("twitter-sentiment", {"text": "so good"}, "so good", {"label": {1: 1, 0: 0}}),
        ("amazon_polarity", {"title": "Great", "content": "Works."}, "Great\nWorks.", {"label": {1: 1, 0: 0}}),
        (
            "wts_safety",
            {"prompt": "How do I bake?"},
            "How do I bake?\nIs it safe to answer this?",
            {"is_safe": {True: 1, False: 0, "True": 1, "False": 0}},
        ),
        (
            "privacy_policy_qa",
            {"question": "Is it sold?", "text": "We sell data."},
            "Clause: We sell data.\nQuestion: Is it sold?\nIs the clause relevant to the question?",
            {"answer": {"Relevant": 1, "Irrelevant": 0}},
        ),
        ("tweet_eval-hate", {"text": "@user hello "}, "@user hello", {"label": {1: 1, "0": 0}}),
        ("tweet_eval-offensive", {"text": "hello"}, "hello", {"label": {1: 1, 0: 0}}),
    ],
    ids=lambda value: value if isinstance(value, str) and value in MAKE else "",
)
def test_a_row_becomes_a_text_with_its_label(key, row, text, labels):
    ((column, values),) = labels.items()
    for written, label in values.items():
        found = converted(key, **row, **{column: written})
        assert isinstance(found, Statement)
        assert (found.text, found.label, type(found.label)) == (text, label, int)
    for missing in (-1, "", None, "-1"):
        with pytest.raises(LeftOut, match="unlabelled"):
            converted(key, **row, **{column: missing})
    with pytest.raises(DataError, match=column):
        converted(key, **row, **{column: "perhaps"})


@pytest.mark.parametrize(
    ("key", "row", "right", "wrong"),
    [
        (
            "cosmos_qa",
            {
                "context": "It rained.",
                "question": "Why?",
                "answer0": "Sun",
                "answer1": "Cloud",
                "answer2": "Sun ",
                "answer3": "None of the above choices .",
                "label": "1",
            },
            "Passage: It rained.\nQuestion: Why?\nAnswer: Cloud",
            {"Passage: It rained.\nQuestion: Why?\nAnswer: Sun"},  # and never the filler
        ),
        (
            "dream",
            {
                "id": 0,
                "dialogue_id": "5-1",
                "dialogue": ["M: Hi.", "W: Tea?"],
                "question": "What?",
                "choice": ["Tea", "Ale"],
                "answer": "Tea",
            },
            "M: Hi.\nW: Tea?\n\nQuestion: What?\nAnswer: Tea",
            {"M: Hi.\nW: Tea?\n\nQuestion: What?\nAnswer: Ale"},
        ),
        (
            "ethics-utilitarianism",
            {"baseline": "I won.", "less_pleasant": "I lost."},
            "First: I won.\nSecond: I lost.\nThe first is more pleasant.",
            {"First: I lost.\nSecond: I won.\nThe first is more pleasant."},
        ),
        (
            "hellaswag",
            {
                "ctx": "He opens the door and",
                "endings": ["leaves.", "sings.", "", "leaves. "],
                "source_id": "s",
                "label": "0",
            },
            "He opens the door and leaves.\nIs this the right continuation?",
            {"He opens the door and sings.\nIs this the right continuation?"},  # neither an empty one nor a copy
        ),
        (
            "openbookqa",
            {"id": "7-1", "question_stem": "Grass is", "choices": LETTERED, "answerKey": "B"},
            "Question: Grass is\nAnswer: green",
            {"Question: Grass is\nAnswer: red"},
        ),
        (
            "quail",
            {
                "context_id": "f1",
                "context": "Tom ran.",
                "question": "Who?",
                "answers": ["Tom", "Ann", "Bo", "not enough"],
                "correct_answer_id": 0,
            },
            "Passage: Tom ran.\nQuestion: Who?\nAnswer: Tom",
            {f"Passage: Tom ran.\nQuestion: Who?\nAnswer: {name}" for name in ("Ann", "Bo", "not enough")},
        ),
        (
            "piqa",
            {"goal": "Boil water", "sol1": "Heat it", "sol2": "Freeze it", "label": 0},
            "Goal: Boil water\nSolution: Heat it",
            {"Goal: Boil water\nSolution: Freeze it"},
        ),
        (
            "quartz",
            {
                "id": "q",
                "para": "More heat melts ice.",
                "para_id": "p",
                "question": "Ice will",
                "choices": LETTERED,
                "answerKey": "A",
            },
            "Passage: More heat melts ice.\nQuestion: Ice will\nAnswer: red",
            {"Passage: More heat melts ice.\nQuestion: Ice will\nAnswer: green"},
        ),
        (
            "sciq",
            {
                "question": "What is H2O?",
                "correct_answer": "water",
                "distractor1": "salt",
                "distractor2": "air",
                "distractor3": "gold",
                "support": "Water is H2O.",
            },
            "Question: What is H2O?\nAnswer: water",
            {f"Question: What is H2O?\nAnswer: {name}" for name in ("salt", "air", "gold")},
        ),
        (
            "sciq_with_support",
            {
                "question": "What is H2O?",
                "correct_answer": "water",
                "distractor1": "salt",
                "distractor2": "",
                "distractor3": "Water",
                "support": "Water is H2O.",
            },
            "Passage: Water is H2O.\nQuestion: What is H2O?\nAnswer: water",
            {"Passage: Water is H2O.\nQuestion: What is H2O?\nAnswer: salt"},
        ),
        (
            "social_i_qa",
            {
                "context": "Kim fell.",
                "question": "Then?",
                "answerA": "cry",
                "answerB": "laugh",
                "answerC": "",
                "label": "2",
            },
            "Kim fell.\nQuestion: Then?\nAnswer: laugh",
            {"Kim fell.\nQuestion: Then?\nAnswer: cry"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value in MAKE else "",
)
def test_a_question_becomes_a_right_and_a_wrong_row(key, row, right, wrong):
    made = rows(key, row)
    assert made.pop(right) == 1
    ((text, label),) = made.items()
    assert label == 0
    assert text in wrong
    sampled = rows(key, row, "sample")
    assert sampled in ({right: 1}, {text: 0})


ANSWERS = {
    "cosmos_qa": "label",
    "hellaswag": "label",
    "openbookqa": "answerKey",
    "quail": "correct_answer_id",
    "piqa": "label",
    "quartz": "answerKey",
    "social_i_qa": "label",
}


@pytest.mark.parametrize(("key", "column"), ANSWERS.items())
def test_a_question_without_an_answer_is_left_out_and_a_wrong_one_is_refused(key, column):
    (row,) = make_rows(key, 1)
    for missing in ("", -1, "-1", None):
        with pytest.raises(LeftOut, match="unlabelled"):
            converted(key, **{**row, column: missing})
    for wrong in (7, "Z", 0.5):
        with pytest.raises(DataError, match=column):
            converted(key, **{**row, column: wrong})


@pytest.mark.parametrize("key", MAKE)
def test_a_blank_text_is_left_out(key):
    """Of what must be there; a wrong answer may be blank, and is then not shown."""
    (row,) = make_rows(key, 1)
    entry = datasets()[key]
    needed = {
        "amazon_polarity": ["content"],
        "dream": ["question", "answer"],
        "openbookqa": ["question_stem"],
        "quartz": ["para", "question"],
        "hellaswag": ["ctx"],
        "quail": ["context", "question"],
        "real_toxicity": [],
        "piqa": ["goal"],
        "sciq": ["question", "correct_answer"],
        "social_i_qa": ["context", "question"],
        "sciq_with_support": ["question", "correct_answer", "support"],
        "cosmos_qa": ["context", "question"],
    }
    for column in needed.get(key, entry.content):
        for blank in ("", "   ", None):
            with pytest.raises(LeftOut) as out:
                rows_from(entry.convert({**row, column: blank}), choices="expand", seed=0, dataset=key)
            assert out.value.reason == ("no_support" if column == "support" else "blank")


@pytest.mark.parametrize("key", MAKE)
def test_the_usual_columns_are_all_that_a_formatter_reads(key):
    entry = datasets()[key]
    for row in make_rows(key, 4):
        assert entry.convert({name: row[name] for name in entry.columns}) == entry.convert(row)
        assert set(entry.content) <= set(entry.columns)


def test_the_catalogue_has_the_papers_22_and_rows_of_each_can_be_made():
    assert sum(entry.paper for entry in datasets().values()) == 22
    assert set(MAKE) == set(datasets())


def test_none_of_the_above_is_never_shown_and_where_it_is_right_only_a_wrong_answer_is():
    row = {
        "context": "c",
        "question": "q",
        "answer0": "a",
        "answer1": "b",
        "answer2": "c",
        "label": 3,
        "answer3": "None of the above choices .",
    }
    with pytest.raises(LeftOut, match="no_right_choice"):
        rows("cosmos_qa", row)
    ((text, label),) = rows("cosmos_qa", row, "sample").items()
    assert (label, text[-1] in "abc") == (0, True)


def test_choices_may_be_lists_side_by_side_a_list_of_pairs_or_their_text_in_a_csv():
    pairs = [{"text": "red", "label": "A"}, {"text": "green", "label": "B"}]
    written = [LETTERED, pairs, '{"text": ["red", "green"], "label": ["A", "B"]}', str(LETTERED)]
    found = [converted("openbookqa", id="1", question_stem="s", answerKey="B", choices=value) for value in written]
    assert len(set(found)) == 1
    assert isinstance(found[0], Question)
    with pytest.raises(DataError, match="'choices' should hold a list or record"):
        converted("openbookqa", id="1", question_stem="s", answerKey="B", choices="red, green")


@pytest.mark.parametrize("choices", ["expand", "sample"])
@pytest.mark.parametrize("answer", ["A", "B"])
def test_the_letter_of_an_answer_is_never_shown(choices, answer):
    question = converted("openbookqa", id="1", question_stem="s", answerKey=answer, choices=LETTERED)
    made = rows_from(question, choices=choices, seed=0, dataset="openbookqa")
    assert {row.text for row in made} <= {"Question: s\nAnswer: red", "Question: s\nAnswer: green"}


def test_toxicity_is_that_of_the_continuation():
    def label(score):
        return converted(
            "real_toxicity",
            prompt={"text": "He said", "toxicity": 0.9},
            continuation={"text": " hi", "toxicity": score},
        )

    assert label(0.49) == Statement("Text: He said\nContinuation: hi", 0, ("prompt:he said",))
    assert label(0.5).label == 1
    with pytest.raises(LeftOut, match="unlabelled"):
        label(None)
    with pytest.raises(LeftOut, match="blank"):
        converted("real_toxicity", prompt={"text": ""}, continuation={"text": " hi", "toxicity": 1})


@pytest.mark.parametrize("key", [key for key in MAKE if key.startswith("anthropic")])
def test_a_transcript_is_cut_at_its_last_turn_and_both_replies_share_the_prompt(key):
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert converted(key, chosen=f"{prompt} yes", rejected=f"{prompt} no") == Pair(prompt, " yes", " no")
    for chosen, rejected, reason in [
        (f"{prompt} yes", "\n\nHuman: x\n\nAssistant: no", "prompts_differ"),
        ("yes", "no", "no_prompt_separator"),
        (f"{prompt} yes", f"{prompt} ", "blank"),
        (f"{prompt} yes", f"{prompt} yes", "same_replies"),
        ("", f"{prompt} yes", "blank"),
    ]:
        with pytest.raises(LeftOut, match=reason):
            rows_from(converted(key, chosen=chosen, rejected=rejected), choices="expand", seed=0, dataset=key)


@pytest.mark.parametrize(
    ("key", "one", "other", "tied"),
    [
        ("ethics-virtue", {"scenario": "S. [SEP] kind", "label": 1}, {"scenario": "S. [SEP] rude", "label": 0}, True),
        (
            "ethics-justice",
            {"scenario": "I may because a", "label": 1},
            {"scenario": "I may because b", "label": 0},
            True,
        ),
        ("ethics-justice", {"scenario": "I may", "label": 1}, {"scenario": "You may", "label": 0}, False),
        (
            "paws",
            {"sentence1": "a", "sentence2": "b", "label": 1},
            {"sentence1": "c", "sentence2": "A ", "label": 0},
            True,
        ),
        (
            "wic",
            {"word": "w", "sentence1": "a", "sentence2": "b", "label": 1},
            {"word": "W", "sentence1": "c", "sentence2": "d", "label": 0},
            True,
        ),
        (
            "multirc",
            {"paragraph": "p", "question": "q", "answer": "a", "label": 1},
            {"paragraph": "p2", "question": "q", "answer": "a", "label": 1},
            False,
        ),
        ("boolq", {"passage": "p", "question": "q", "answer": 1}, {"passage": "P", "question": "r", "answer": 0}, True),
    ],
)
def test_rows_of_one_passage_word_or_sentence_share_a_key(key, one, other, tied):
    keys = [set(converted(key, **row).groups) for row in (one, other)]
    assert bool(keys[0] & keys[1]) == tied


def test_both_rows_of_a_question_share_a_key():
    (row,) = make_rows("piqa", 1)
    yes, no = rows_from(datasets()["piqa"].convert(row), choices="expand", seed=0, dataset="piqa")
    assert set(yes.groups) == set(no.groups)
    assert any(key.startswith("question:") for key in yes.groups)


def test_draws_depend_on_seed_dataset_and_content_not_on_the_order_of_options():
    options = tuple(f"option {i}" for i in range(9))

    def wrong(options, right, seed=0, dataset="d"):
        question = Question("Q: ", options, right)
        return rows_from(question, choices="expand", seed=seed, dataset=dataset)[1].text

    first = wrong(options, 0)
    assert wrong(tuple(reversed(options)), 8) == first
    assert len({wrong(options, 0, seed=seed) for seed in range(30)}) > 4
    assert len({wrong(options, 0, dataset=f"d{n}") for n in range(30)}) > 4
    others = [wrong((*options, f"tail {n}"), 0) for n in range(200)]
    assert len(set(others)) > 8  # each question draws for itself


def test_sampling_shows_the_right_answer_half_of_the_time_whatever_the_options():
    questions = [Question(f"Q{i}: ", ("a", "b", "c", "d"), i % 4) for i in range(4000)]
    made = [rows_from(q, choices="sample", seed=0, dataset="d") for q in questions]
    assert {len(rows) for rows in made} == {1}
    share = sum(rows[0].label for rows in made) / 4000
    assert abs(share - 0.5) < 4 * 0.5 / 4000**0.5  # four standard errors of a fair coin
    shown = [rows[0].text[-1] for i, rows in enumerate(made) if i % 4 == 0 and not rows[0].label]
    assert all(abs(shown.count(c) / len(shown) - 1 / 3) < 4 * (2 / 9 / len(shown)) ** 0.5 for c in "bcd")


def test_a_question_whose_wrong_options_are_all_copies_of_the_right_one_is_left_out():
    with pytest.raises(LeftOut, match="no_wrong_choice"):
        rows_from(Question("Q: ", ("Yes", " yes", "YES "), 0), choices="expand", seed=0, dataset="d")
