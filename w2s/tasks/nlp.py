"""The 22 classification datasets of Burns et al. 2023, and three that public replications add.

Columns, splits and sizes as published on the hub. The paper names the datasets but neither their prompts nor the
fields that tie rows together nor most sizes: formats and group keys are ours. No text shows a label, an answer key,
or anything whose presence depends on them.
"""

from w2s.errors import DataError
from w2s.tasks import cells
from w2s.tasks.catalogue import Converted, Dataset, Layout, LeftOut, Place, Question, Record, Statement
from w2s.tasks.cells import key, needed


def _boolq(row: Record) -> Converted:
    passage, question = needed(row, "passage"), needed(row, "question")
    text = f"Passage: {passage}\nQuestion: {question.rstrip('?')}?"
    return Statement(text, cells.truth(row, "answer"), (key("passage", passage),))


_FILLER = "none of the above choices"


def _cosmos_qa(row: Record) -> Converted:
    context, question = needed(row, "context"), needed(row, "question")
    options = tuple(cells.text(row, f"answer{i}") for i in range(4))
    right = cells.number(row, "label", below=4)
    # The filler says nothing about the passage: shown as a wrong answer it would always mean 0. Where it is the right
    # answer, openai/weak-to-strong shows a wrong one.
    fillers = tuple(i for i, option in enumerate(options) if option.strip().lower().startswith(_FILLER))
    return Question(
        before=f"Passage: {context}\nQuestion: {question}\nAnswer: ",
        options=options,
        right=None if right in fillers else right,
        groups=(key("context", context),),
        barred=fillers,
    )


def _dream(row: Record) -> Converted:
    dialogue = "\n".join(line.strip() for line in cells.texts(row, "dialogue"))
    question, answer = needed(row, "question"), needed(row, "answer")
    options = tuple(option.strip() for option in cells.texts(row, "choice"))
    if not dialogue.strip():
        raise LeftOut("blank")
    if answer not in options:
        raise DataError(f"answer {answer!r} is none of the choices {list(options)}")
    return Question(
        before=f"{dialogue}\n\nQuestion: {question}\nAnswer: ",
        options=options,
        right=options.index(answer),
        groups=(key("dialogue", cells.text(row, "dialogue_id") or dialogue), key("dialogue_text", dialogue)),
    )


def _justice(row: Record) -> Converted:
    scenario = needed(row, "scenario")
    stem, because, _ = scenario.partition(" because")  # variants of one statement differ in the reason
    groups = (key("stem", stem),) if because else ()
    return Statement(f"{scenario}\nIs this reasonable?", cells.truth(row, "label"), (*groups, *_group_id(row)))


def _deontology(row: Record) -> Converted:
    scenario, excuse = needed(row, "scenario"), needed(row, "excuse")
    text = f"{scenario}\n{excuse}\nDoes the second follow from a duty, or excuse one, in the first?"
    return Statement(text, cells.truth(row, "label"), (key("scenario", scenario), *_group_id(row)))


def _virtue(row: Record) -> Converted:
    scenario, separator, trait = needed(row, "scenario").rpartition("[SEP]")
    if not separator:
        raise DataError("'scenario' has no [SEP] between scenario and trait")
    scenario, trait = scenario.strip(), trait.strip()
    if not scenario or not trait:
        raise LeftOut("blank")
    text = f"{scenario}\nDoes this show that the person is {trait}?"
    return Statement(text, cells.truth(row, "label"), (key("scenario", scenario), *_group_id(row)))


def _utilitarianism(row: Record) -> Converted:
    more, less = needed(row, "baseline"), needed(row, "less_pleasant")

    def claim(first: str, second: str) -> str:
        return f"First: {first}\nSecond: {second}\nThe first is more pleasant."

    # Which is asserted and which comes first is one coin: the draw between a right and a wrong claim.
    return Question("", (claim(more, less), claim(less, more)), 0, (key("baseline", more), key("baseline", less)))


def _group_id(row: Record) -> tuple[str, ...]:
    """Some copies of ETHICS number the scenarios that belong together."""
    value = row.get("group_id")
    return () if value is None or value == "" else (f"group_id:{value}",)


def _anli(row: Record) -> Converted:
    premise, hypothesis = needed(row, "premise"), needed(row, "hypothesis")
    entailed = cells.number(row, "label", below=3) == 0  # 1 is neutral, 2 contradicts
    text = f"Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?"
    return Statement(text, int(entailed), (key("premise", premise),))


def _sentence(row: Record) -> Converted:
    return Statement(needed(row, "sentence"), cells.truth(row, "label"))


def _hellaswag(row: Record) -> Converted:
    context = needed(row, "ctx")
    source = cells.text(row, "source_id").strip()
    return Question(
        before=f"{context} ",
        options=_exactly(4, cells.texts(row, "endings"), "endings"),
        right=cells.number(row, "label", below=4),  # text, and "" in the public test
        groups=(key("ctx", context), *((key("source", source),) if source else ())),
        after="\nIs this the right continuation?",
    )


def _mc_taco(row: Record) -> Converted:
    sentence, question, answer = needed(row, "sentence"), needed(row, "question"), needed(row, "answer")
    text = f"{sentence}\nQuestion: {question}\nAnswer: {answer}\nIs this answer plausible?"
    return Statement(text, cells.truth(row, "label"), (key("sentence", sentence),))


def _openbookqa(row: Record) -> Converted:
    stem = needed(row, "question_stem")
    options, letters = cells.lettered(row, "choices")
    return Question(
        before=f"Question: {stem}\nAnswer: ",
        options=options,  # the text, never the letter: a letter for right answers only would give them away
        right=cells.letter(row, "answerKey", letters),
        groups=(key("id", cells.text(row, "id")), key("stem", stem)),
    )


def _openbookqa_original(row: Record) -> Record:
    question = cells.record(row, "question")
    return {**row, "question_stem": question.get("stem"), "choices": question.get("choices")}


def _paws(row: Record) -> Converted:
    first, second = needed(row, "sentence1"), needed(row, "sentence2")
    text = f"Sentence 1: {first}\nSentence 2: {second}\nDo they mean the same?"
    return Statement(text, cells.truth(row, "label"), (key("sentence", first), key("sentence", second)))


def _quail(row: Record) -> Converted:
    context, question = needed(row, "context"), needed(row, "question")
    options = cells.texts(row, "answers")
    return Question(
        before=f"Passage: {context}\nQuestion: {question}\nAnswer: ",
        options=options,
        right=cells.number(row, "correct_answer_id", below=len(options)),
        groups=(key("context", cells.text(row, "context_id") or context), key("context_text", context)),
    )


def _piqa(row: Record) -> Converted:
    goal = needed(row, "goal")
    return Question(
        before=f"Goal: {goal}\nSolution: ",
        options=(cells.text(row, "sol1"), cells.text(row, "sol2")),
        right=cells.number(row, "label", below=2),
        groups=(key("goal", goal),),
    )


def _quartz(row: Record) -> Converted:
    paragraph, question = needed(row, "para"), needed(row, "question")
    options, letters = cells.lettered(row, "choices")
    return Question(
        before=f"Passage: {paragraph}\nQuestion: {question}\nAnswer: ",
        options=options,
        right=cells.letter(row, "answerKey", letters),
        groups=(key("para", cells.text(row, "para_id") or paragraph), key("para_text", paragraph)),
    )


def _sciq(row: Record) -> Converted:
    question = needed(row, "question")
    options = tuple(cells.text(row, name) for name in _SCIQ_OPTIONS)
    return Question(f"Question: {question}\nAnswer: ", options, 0, (key("question", question),))


def _sciq_with_support(row: Record) -> Converted:
    question, support = needed(row, "question"), needed(row, "support", otherwise="no_support")
    options = tuple(cells.text(row, name) for name in _SCIQ_OPTIONS)
    before = f"Passage: {support}\nQuestion: {question}\nAnswer: "
    return Question(before, options, 0, (key("question", question), key("support", support)))


_SCIQ_OPTIONS = ("correct_answer", "distractor1", "distractor2", "distractor3")


def _social_i_qa(row: Record) -> Converted:
    context, question = needed(row, "context"), needed(row, "question")
    return Question(
        before=f"{context}\nQuestion: {question}\nAnswer: ",
        options=tuple(cells.text(row, f"answer{letter}") for letter in "ABC"),
        right=cells.number(row, "label", below=3, first=1),  # text, counted from 1
        groups=(key("context", context),),
    )


def _multirc(row: Record) -> Converted:
    paragraph, question, answer = needed(row, "paragraph"), needed(row, "question"), needed(row, "answer")
    text = f"Passage: {paragraph}\nQuestion: {question}\nAnswer: {answer}\nIs this answer right?"
    # By its text: idx.paragraph counts anew in each split, and would tie strangers of train and test.
    return Statement(text, cells.truth(row, "label"), (key("paragraph", paragraph),))


def _wic(row: Record) -> Converted:
    word, first, second = needed(row, "word"), needed(row, "sentence1"), needed(row, "sentence2")
    text = f'Sentence 1: {first}\nSentence 2: {second}\nDoes "{word}" mean the same in both?'
    groups = (key("word", word), key("sentence", first), key("sentence", second))
    return Statement(text, cells.truth(row, "label"), groups)


def _tweet(row: Record) -> Converted:
    return Statement(needed(row, "text"), cells.truth(row, "label"))


def _amazon(row: Record) -> Converted:
    title, content = cells.text(row, "title").strip(), needed(row, "content")
    return Statement(f"{title}\n{content}" if title else content, cells.truth(row, "label"))


def _exactly(n: int, options: tuple[str, ...], column: str) -> tuple[str, ...]:
    if len(options) != n:
        raise DataError(f"{column!r} has {len(options)} texts instead of {n}")
    return options


def _ethics(config: str) -> tuple[Place, ...]:
    usual = Place("hendrycks/ethics", "converted", data_dir=config)
    if config == "utilitarianism":  # has other columns in the other copy
        return (usual,)
    return usual, Place("EleutherAI/hendrycks_ethics", "pull", config=config, branch="refs/pr/2", test="test")


def _hard(rows: int) -> tuple[int, str]:
    return rows, (
        f"it has {rows:,} rows, as the *hard* test of ETHICS; the regular test is called validation in"
        " hendrycks/ethics, and test.csv in the original files"
    )


ENTRIES = (
    Dataset(
        key="boolq", about="yes/no question about a passage", label_1="the answer is yes", kind="binary", paper=True,
        columns=("question", "passage", "answer"), content=("question", "passage"), convert=_boolq, group="passage",
        places=(Place("google/boolq"),), test="validation", rows=(9427, 3270),
        note="no public test",
    ),
    Dataset(
        key="cosmos_qa", about="reading with commonsense, 4 answers", label_1="the answer shown is right",
        kind="choice", paper=True,
        columns=("context", "question", "answer0", "answer1", "answer2", "answer3", "label"),
        content=("context", "question", "answer0", "answer1", "answer2", "answer3"),
        convert=_cosmos_qa, group="context", test="validation",
        places=(
            Place("allenai/cosmos_qa", "converted", checked=False), Place("Samsoup/cosmos_qa", checked=False)
        ), rows=(25262, 2985),
        note='"None of the above" is never shown; the public test has no labels',
    ),
    Dataset(
        key="dream", about="question about a dialogue, 3 answers", label_1="the answer shown is right", kind="choice",
        paper=True, columns=("dialogue_id", "dialogue", "question", "choice", "answer"),
        content=("dialogue", "question", "choice", "answer"), convert=_dream, group="dialogue",
        places=(Place("dataset-org/dream", "converted", checked=False),), rows=(6116, 2041),
    ),
    Dataset(
        key="ethics-justice", about="is a claim about what is deserved reasonable?", label_1="reasonable",
        kind="binary", paper=True, columns=("label", "scenario"), content=("scenario",), convert=_justice,
        group="the statement up to its reason", places=_ethics("justice"), test="validation", test_otherwise="test",
        not_test=_hard(2052), rows=(21791, 2704), note="regular test, not the hard one",
    ),
    Dataset(
        key="ethics-deontology", about="does a duty or excuse hold?", label_1="it holds", kind="binary", paper=True,
        columns=("label", "scenario", "excuse"), content=("scenario", "excuse"), convert=_deontology, group="scenario",
        places=_ethics("deontology"), test="validation", test_otherwise="test", not_test=_hard(3536),
        rows=(18164, 3596), note="regular test, not the hard one",
    ),
    Dataset(
        key="ethics-virtue", about="does a person's act show a trait?", label_1="it shows the trait", kind="binary",
        paper=True, columns=("label", "scenario"), content=("scenario",), convert=_virtue, group="scenario",
        places=_ethics("virtue"), test="validation", test_otherwise="test", rows=(28245, 4975),
        note="about 20 % positive; regular test, not the hard one",
    ),
    Dataset(
        key="ethics-utilitarianism", about="which of two events is more pleasant?", label_1="the first is",
        kind="choice", paper=True, columns=("baseline", "less_pleasant"), content=("baseline", "less_pleasant"),
        convert=_utilitarianism, group="events", places=_ethics("utilitarianism"), test="validation",
        test_otherwise="test", not_test=_hard(4271), rows=(13737, 4807),
        note="no label column; regular test, not the hard one",
    ),
    Dataset(
        key="anli-r2", about="does a premise entail a hypothesis? (adversarial)", label_1="entailment", kind="binary",
        paper=True, columns=("premise", "hypothesis", "label"), content=("premise", "hypothesis"), convert=_anli,
        group="premise", places=(Place("facebook/anli", config="plain_text"),), train=("train_r2",), test="test_r2",
        rows=(45460, 1000), note="neutral and contradiction are one class; the annotator's reason is not shown",
    ),
    Dataset(
        key="cola", about="is a sentence grammatical?", label_1="acceptable", kind="binary", paper=True,
        columns=("sentence", "label"), content=("sentence",), convert=_sentence, group="none",
        places=(Place("nyu-mll/glue", config="cola", checked=False),), test="validation", rows=(8551, 1043),
        note="the public test has no labels",
    ),
    Dataset(
        key="sst2", about="sentiment of a film review", label_1="positive", kind="binary", paper=True,
        columns=("sentence", "label"), content=("sentence",), convert=_sentence, group="none",
        places=(Place("nyu-mll/glue", config="sst2", checked=False), Place("stanfordnlp/sst2", checked=False)),
        test="validation", rows=(67349, 872),
        headerless=("sentence", "label"), note="train has phrases of its own sentences; the public test has no labels",
    ),
    Dataset(
        key="hellaswag", about="which of 4 endings continues a text?", label_1="the ending shown is right",
        kind="choice", paper=True, columns=("ctx", "endings", "source_id", "label"), content=("ctx", "endings"),
        convert=_hellaswag, group="context, source", places=(Place("Rowan/hellaswag"),), test="validation",
        rows=(39905, 10042), note="labels are text; the public test has none",
    ),
    Dataset(
        key="mc_taco", about="is an answer about time plausible?", label_1="plausible", kind="binary", paper=True,
        columns=("sentence", "question", "answer", "label"), content=("sentence", "question", "answer"),
        convert=_mc_taco, group="sentence",
        places=(Place("CogComp/mc_taco", "converted", checked=False),),
        train=("test",), test="validation", rows=(9442, 3783), note="there is no train split: its test is trained on",
    ),
    Dataset(
        key="openbookqa", about="science question, 4 answers", label_1="the answer shown is right", kind="choice",
        paper=True, columns=("id", "question_stem", "choices", "answerKey"), content=("question_stem", "choices"),
        convert=_openbookqa, group="question", places=(Place("allenai/openbookqa", config="main"),), rows=(4957, 500),
        layouts=(Layout(("id", "question", "answerKey"), _openbookqa_original),),
    ),
    Dataset(
        key="paws", about="do two sentences mean the same?", label_1="paraphrases", kind="binary", paper=True,
        columns=("sentence1", "sentence2", "label"), content=("sentence1", "sentence2"), convert=_paws,
        group="both sentences",
        places=(Place("google-research-datasets/paws", config="labeled_final"),), rows=(49401, 8000),
    ),
    Dataset(
        key="quail", about="reading, 4 answers", label_1="the answer shown is right", kind="choice", paper=True,
        columns=("context_id", "context", "question", "answers", "correct_answer_id"),
        content=("context", "question", "answers"), convert=_quail, group="passage",
        places=(Place("textmachinelab/quail", config="quail"),), test="validation", rows=(10246, 2164),
    ),
    Dataset(
        key="piqa", about="which of 2 ways reaches a goal?", label_1="the way shown does", kind="choice", paper=True,
        columns=("goal", "sol1", "sol2", "label"), content=("goal", "sol1", "sol2"), convert=_piqa, group="goal",
        places=(Place("baber/piqa"), Place("ybisk/piqa", "converted")),
        test="validation", rows=(16113, 1838), note="the public test has no labels",
    ),
    Dataset(
        key="quartz", about="qualitative relation in a passage, 2 answers", label_1="the answer shown is right",
        kind="choice", paper=True, columns=("para", "para_id", "question", "choices", "answerKey"),
        content=("para", "question", "choices"), convert=_quartz, group="passage", places=(Place("allenai/quartz"),),
        rows=(2696, 784),
    ),
    Dataset(
        key="sciq", about="science exam question, 4 answers", label_1="the answer shown is right", kind="choice",
        paper=True, columns=("question", *_SCIQ_OPTIONS), content=("question", *_SCIQ_OPTIONS), convert=_sciq,
        group="question", places=(Place("allenai/sciq"),), rows=(11679, 1000), paper_examples=23_000,
        note="without the supporting passage",
    ),
    Dataset(
        key="social_i_qa", about="what follows of a social situation? 3 answers", label_1="the answer shown is right",
        kind="choice", paper=True, columns=("context", "question", "answerA", "answerB", "answerC", "label"),
        content=("context", "question", "answerA", "answerB", "answerC"), convert=_social_i_qa, group="context",
        places=(Place("lighteval/siqa"), Place("allenai/social_i_qa", "converted", checked=False)),
        test="validation", rows=(33410, 1954), note="labels are text, counted from 1",
    ),
    Dataset(
        key="multirc", about="is this one of the right answers?", label_1="right", kind="binary", paper=True,
        columns=("paragraph", "question", "answer", "label"), content=("paragraph", "question", "answer"),
        convert=_multirc, group="paragraph", places=(Place("aps/super_glue", config="multirc"),), test="validation",
        rows=(27243, 4848), note="the public test has no labels",
    ),
    Dataset(
        key="wic", about="does a word mean the same in two sentences?", label_1="the same sense", kind="binary",
        paper=True, columns=("word", "sentence1", "sentence2", "label"), content=("word", "sentence1", "sentence2"),
        convert=_wic, group="word, both sentences", places=(Place("aps/super_glue", config="wic"),), test="validation",
        rows=(5428, 638), note="the public test has no labels",
    ),
    Dataset(
        key="twitter-sentiment", about="sentiment of a tweet", label_1="positive", kind="binary", paper=True,
        columns=("text", "label"), content=("text",), convert=_tweet, group="none",
        places=(Place("EleutherAI/twitter-sentiment"),), rows=(None, None),
        note="about 1.57M and 10k rows; which corpus the paper used is not identified",
    ),
    Dataset(
        key="sciq_with_support", about="science exam question with its passage, 4 answers",
        label_1="the answer shown is right", kind="choice", columns=("question", *_SCIQ_OPTIONS, "support"),
        content=("question", *_SCIQ_OPTIONS, "support"), convert=_sciq_with_support, group="question, passage",
        places=(Place("allenai/sciq"),), rows=(11679, 1000), note="questions without a passage are left out",
    ),
    Dataset(
        key="amazon_polarity", about="sentiment of a product review", label_1="positive", kind="binary",
        columns=("label", "title", "content"), content=("title", "content"), convert=_amazon, group="none",
        places=(Place("fancyzhx/amazon_polarity", checked=False),), rows=(3_600_000, 400_000),
    ),
)  # fmt: skip
