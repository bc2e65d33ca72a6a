"""What a run is made of, as validated, frozen data. No torch here, so that planning stays light.

Everything in these classes can change a run's result and is therefore part of its identity; where a run is
placed is not described here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):  # which Python takes for 0 and 1
        raise ValueError(f"a number is needed, got {str(value).lower()}")
    return value


PositiveInt = Annotated[int, BeforeValidator(_refuse_bool), Field(gt=0)]
PositiveFloat = Annotated[float, BeforeValidator(_refuse_bool), Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_refuse_bool), Field(ge=0, le=1)]
Beta = Annotated[float, BeforeValidator(_refuse_bool), Field(ge=0, lt=1)]
Form = Literal["classify", "compare", "generate"]
"""`classify`: is a text of class 1? `compare`: which of two replies is better? `generate`: what follows a prompt?"""
Balance = Literal["paper", "always", "never"]
"""Whether rows of the larger class are left out. `paper` (Burns et al. 2023): the test is balanced exactly, and so are
the other parts if the larger class exceeds 55 % of the rows that are not test. `always`: every part. `never`: none."""
Choices = Literal["expand", "sample"]
"""How a multiple-choice question becomes binary. `expand` (Burns et al. 2023): as many right as wrong rows, one each.
`sample` (public code): one row, which shows the right answer with probability 1/2."""
Metric = Literal["balanced_accuracy", "macro_f1", "weighted_f1", "unsafe_rate", "false_alarm_rate"]
"""Scores that a report gives beside accuracy; `analysis.metrics.DECLARED` computes them from predictions.
`unsafe_rate`: share of the harmful examples that are taken for harmless, an attack's success. `false_alarm_rate`: share
of the harmless ones that are taken for harmful."""
OF_HARM: tuple[Metric, ...] = ("unsafe_rate", "false_alarm_rate")
"""Those that need to know which class is the harmful one."""


class Config(BaseModel):
    """Base of all settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WidthRule(Config):
    """A setting that follows the model's width: value * (hidden_size / reference_width) ** exponent."""

    value: PositiveFloat
    reference_width: PositiveInt
    exponent: Annotated[float, Field(ge=-8, le=8)]

    def resolve(self, width: int) -> float:
        return self.value * (width / self.reference_width) ** self.exponent


class LoraSettings(Config):
    """Low-rank adapters (Hu et al. 2021) on every linear layer of the body, trained in float32."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0


class FinetuneSettings(Config):
    """How a checkpoint is finetuned; the same for supervisor, student and ceiling unless a rung overrides it."""

    tune: Literal["full", "lora", "head"] = "full"
    lora: LoraSettings = LoraSettings()
    learning_rate: PositiveFloat | WidthRule = 1e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.0
    """Share of the optimisation steps over which the learning rate rises linearly from 0."""
    epochs: PositiveInt = 2
    batch_size: PositiveInt = 32
    """Examples per optimisation step (pairs, for `compare`)."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Examples per forward pass; `auto` is resolved from the memory estimate when planning."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip_norm: PositiveFloat | None = 1.0
    max_length: Annotated[int, Field(ge=2)] = 512
    """Tokens per text; longer ones are cut on the right (`classify`) or on the left (`compare`). For `generate`, of
    prompt and answer together; longer prompts are cut on the left."""
    dropout: Fraction = 0.0
    eval_every: PositiveInt | None = None
    """Optimisation steps between evaluations; the end is always evaluated."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on a GPU, fp32 on a CPU. Weights are float32 in every case."""
    compile: bool = False
    gradient_checkpointing: bool = False
    cpu_threads: PositiveInt = 1
    """Threads of a CPU run; another count gives other low bits, so it belongs to the run's identity."""

    def resolve(self, *, width: int, micro_batch_size: int) -> "FinetuneSettings":
        """These settings with the width rule and `auto` replaced by numbers."""
        rate = self.learning_rate.resolve(width) if isinstance(self.learning_rate, WidthRule) else self.learning_rate
        return self.model_copy(update={"learning_rate": rate, "micro_batch_size": micro_batch_size})


class ModelSource(Config):
    """A checkpoint that `from_pretrained` can load: a folder, or a hub id with its commit."""

    path: str
    revision: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False


class RungShape(Config):
    """A Llama-style causal LM to pretrain from scratch: tied embeddings, MLP of 4 x hidden_size."""

    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    tokens: PositiveInt
    """Tokens to pretrain on."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "RungShape":
        head, rest = divmod(self.hidden_size, self.heads)
        if rest or head % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} over {self.heads} heads gives heads of "
                f"{self.hidden_size / self.heads:g} dimensions; rotary embeddings need an even whole number"
            )
        return self


class FactsCorpus(Config):
    """Verdicts on the statements of the offline world: one statement per document (facts.yaml)."""

    kind: Literal["facts"] = "facts"
    world_seed: int = 0
    statements_per_document: PositiveInt = 1
    """More than one gives the variant meant for prompting."""


class TextCorpus(Config):
    """Any text files; a byte-level BPE tokenizer is trained on them."""

    kind: Literal["text"] = "text"
    files: tuple[str, ...] = Field(min_length=1)
    columns: tuple[str, ...] = ("text",)
    """Columns holding text, for JSONL, CSV, TSV and Parquet files; .txt files are read line by line."""
    names: tuple[str, ...] | None = None
    """Column names of CSV/TSV files that have no header."""
    vocab_size: Annotated[int, Field(ge=260)] = 2048


class SelfPlay(Config):
    """Chess puzzles from games of a seeded random player against itself, proven by search (w2s/chess/selfplay.py)."""

    puzzles: PositiveInt = 5000
    seed: int = 0
    mate_in: Literal[1, 2] = 1
    """Moves of the side that mates."""
    max_plies: Annotated[int, Field(ge=4, le=300)] = 30
    """Half-moves of a game; longer ones are given up. Short games are short prompts."""


Shown = Literal["moves", "fen"]
"""How a chess position is put to a model: by the game that led to it, or by its FEN."""


class ChessCorpus(TextCorpus):
    """Chess games, each up to a mate: of the random player, of other seeds than any task's, and from files.

    Its tokenizer has one token for each square, piece and move number.
    """

    kind: Literal["chess"] = "chess"  # pyright: ignore[reportIncompatibleVariableOverride]
    files: tuple[str, ...] = ()
    """Games beside those of self-play: PGN (.pgn, .pgn.gz, .pgn.txt.gz), or tables with a column `moves_uci`."""
    self_play: SelfPlay | None = SelfPlay(puzzles=20_000)
    """None: only the files."""
    show: Shown = "moves"
    """`fen`: a document is the last position's FEN and the move that mates; of files, any position and its move."""

    @model_validator(mode="after")
    def _has_games(self) -> "ChessCorpus":
        if not self.files and self.self_play is None:
            raise ValueError("self_play is null and there are no files: a corpus needs games")
        return self


Corpus = Annotated[FactsCorpus | TextCorpus | ChessCorpus, Field(discriminator="kind")]


class PretrainSettings(Config):
    """How rungs are pretrained. Defaults are the measured recipe for tiny models."""

    corpus: Corpus = FactsCorpus()
    batch_size: PositiveInt = 128
    """Documents (facts) or windows of `context` tokens (text) per optimisation step."""
    context: Annotated[int, Field(ge=4)] = 128
    """Window length in tokens for text corpora."""
    learning_rate: PositiveFloat | WidthRule = WidthRule(value=0.11, reference_width=1, exponent=-1.0)
    max_learning_rate: PositiveFloat = 0.02
    """Upper bound on what the width rule gives."""
    final_fraction: Fraction = 0.02
    """The learning rate decays linearly to this share of its peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    clip_norm: PositiveFloat | None = 1.0
    cpu_threads: PositiveInt = 1


class SplitSpec(Config):
    """Sizes of the parts: whole numbers are examples, fractions shares of the pool. Decision 1."""

    supervise: PositiveInt | Fraction = 0.4
    transfer: PositiveInt | Fraction = 0.4
    validation: PositiveInt | Fraction = 0.05
    test: PositiveInt | Fraction = 0.15
    """Ignored, beyond a cap in whole numbers, when the source has a test split of its own."""
    transfer_parts: PositiveInt = 1
    split_seed: int = 0


class PromptFormat(Config):
    """How a text is put to a causal language model that is not trained on it (Burns et al. 2023, section 5.2.1)."""

    instruction: str = ""
    """What the prompt begins with."""
    template: str
    """How an example is shown; "{text}" stands for its text, other braces for themselves."""
    answers: tuple[str, str]
    """What follows the template for class 0 and for class 1, e.g. [" no", " yes"]. Most tokenizers want the space here
    and not at the end of the template."""
    separator: str = "\n\n"
    """Between instruction, examples and question."""

    @field_validator("template")
    @classmethod
    def _shows_the_text(cls, template: str) -> str:
        if "{text}" not in template:
            raise ValueError(f'template {template!r} shows no text; write {{text}} where it belongs, e.g. "{{text}}:"')
        return template

    @field_validator("answers")
    @classmethod
    def _two_answers(cls, answers: tuple[str, str]) -> tuple[str, str]:
        if not all(answer.strip() for answer in answers) or answers[0] == answers[1]:
            raise ValueError(f"answers are {list(answers)}; two different texts are needed, for class 0 and class 1")
        return answers


class TaskBase(Config):
    name: str
    form: Form = "classify"
    splits: SplitSpec = SplitSpec()
    prompt: PromptFormat | None = None
    """How the method `prompt` asks; no part of what the examples are."""
    metrics: tuple[Metric, ...] = ()
    """What the report scores beside accuracy, for `classify`; no part of what the examples are, as is the next."""
    unsafe_label: Literal[0, 1] | None = None
    """Which class is the harmful one."""

    @model_validator(mode="after")
    def _metrics_can_be_computed(self) -> Self:
        if (self.metrics or self.unsafe_label is not None) and self.form != "classify":
            raise ValueError(
                f"metrics and unsafe_label are about two classes: only for form classify, but form is {self.form}"
            )
        of_harm = [name for name in self.metrics if name in OF_HARM]
        if of_harm and self.unsafe_label is None:
            raise ValueError(
                f"metrics has {' and '.join(of_harm)}, so say which class is the harmful one: unsafe_label: 0 or 1"
            )
        if self.unsafe_label is not None and not of_harm and not isinstance(self, CatalogueTask):  # which know theirs
            raise ValueError(f"unsafe_label serves no score; name one in metrics: {' or '.join(OF_HARM)}")
        return self


FACTS_SHARES = {"supervise": 0.28125, "transfer": 0.28125, "validation": 0.0625, "test": 0.375}
"""Of 12,800 statements: 3,600 / 3,600 / 800 / 4,800; half of that in pairs."""


class FactsTask(TaskBase):
    """The offline world: is a statement true? Knowledge lies in pretraining, finetuning elicits it."""

    source: Literal["facts"]
    splits: SplitSpec = SplitSpec.model_validate(FACTS_SHARES)
    prompt: PromptFormat | None = PromptFormat(template="{text}:", answers=(" no", " yes"), separator=". ")
    world_seed: int = 0

    @field_validator("form")
    @classmethod
    def _has_no_answers_in_words(cls, form: Form) -> Form:
        if form == "generate":
            raise ValueError("facts are true or false: form is classify or compare; for generate bring files")
        return form

    @field_validator("splits", mode="before")
    @classmethod
    def _fill_with_facts_shares(cls, splits: Any) -> Any:
        return {**FACTS_SHARES, **splits} if isinstance(splits, Mapping) else splits


class Columns(Config):
    """Which columns of the source hold what. Unnamed ones are looked for under their own name (`text`, `label`,
    `chosen`, `rejected`, and for `generate` `prompt` and `answer`); the prompt of `compare` is optional."""

    text: str | None = None
    label: str | None = None
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    tags: tuple[str, ...] = ()
    """`generate`: columns by whose values accuracy is also reported; a cell with several values is a list."""
    group: tuple[str, ...] = ()
    """Columns whose equal values tie rows together; tied rows never lie in two parts."""


def _label_keys(values: Any) -> Any:
    """Numbers written as YAML keys become text; unquoted yes/no, which YAML reads as booleans, are refused."""
    if not isinstance(values, Mapping):
        return values
    if any(isinstance(key, bool) for key in values):
        raise ValueError("YAML reads an unquoted yes, no, true or false as a boolean; quote it: {'no': 0, 'yes': 1}")
    return {str(key) if isinstance(key, int | float) else key: value for key, value in values.items()}


LabelValues = Annotated[Mapping[str, Literal[0, 1]], BeforeValidator(_label_keys)]


class RowFormat(TaskBase):
    """How raw rows become examples; shared by files and hub."""

    columns: Columns = Columns()
    template: str | None = None
    """Text, or prompt of `generate`, built from columns instead of `columns.text` or `columns.prompt`, e.g. "{premise}
    Question: {hypothesis}"."""
    label_values: LabelValues | None = None
    """What the label column's values mean, e.g. {negative: 0, positive: 1}; 0/1 and false/true need no map."""
    prompt_separator: str | None = None
    """`compare` without a prompt column: both texts are cut after the last occurrence, e.g. "\\n\\nAssistant:"."""
    balance: Balance = "never"
    max_new_tokens: PositiveInt | None = None
    """`generate`: tokens of an answer with its end, at most; by default a few more than the longest true answer has."""

    @model_validator(mode="after")
    def _settings_belong_to_the_form(self) -> "RowFormat":
        forms_of: Mapping[str, tuple[Any, tuple[Form, ...]]] = {
            "columns.text": (self.columns.text, ("classify",)),
            "columns.label": (self.columns.label, ("classify",)),
            "template": (self.template, ("classify", "generate")),
            "label_values": (self.label_values, ("classify",)),
            "columns.prompt": (self.columns.prompt, ("compare", "generate")),
            "columns.chosen": (self.columns.chosen, ("compare",)),
            "columns.rejected": (self.columns.rejected, ("compare",)),
            "prompt_separator": (self.prompt_separator, ("compare",)),
            "columns.answer": (self.columns.answer, ("generate",)),
            "columns.tags": (self.columns.tags or None, ("generate",)),
            "max_new_tokens": (self.max_new_tokens, ("generate",)),
        }
        wrong = {key: forms for key, (value, forms) in forms_of.items() if value is not None and self.form not in forms}
        if wrong:
            others = dict.fromkeys(form for forms in wrong.values() for form in forms)
            raise ValueError(f"{', '.join(wrong)}: only for form {' or '.join(others)}, but form is {self.form}")
        if self.template is not None and self.columns.text is not None:
            raise ValueError("template and columns.text both say what the text is; keep one of them")
        if self.template is not None and self.columns.prompt is not None:
            raise ValueError("template and columns.prompt both say what the prompt is; keep one of them")
        if self.prompt_separator is not None and self.columns.prompt is not None:
            raise ValueError("prompt_separator and columns.prompt both say what the prompt is; keep one of them")
        if self.prompt_separator == "":
            raise ValueError('prompt_separator is empty; give the text that ends the prompt, e.g. "\\n\\nAssistant:"')
        return self


class FilesTask(RowFormat):
    """The user's own JSONL, CSV, TSV or Parquet files, plain or gzipped."""

    source: Literal["files"]
    train: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    """Column names, for CSV and TSV files without a header."""


class HubTask(RowFormat):
    """A Hugging Face dataset id, or a local copy of one."""

    source: Literal["hub"]
    id: str
    config: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    train: str = "train"
    """Name of the split to train on."""
    test: str | None = None


class ChessTask(TaskBase):
    """Chess puzzles: find the move (form `generate`). From self-play, or from lichess: files, or a hub data set.

    Of files and hub, three layouts are known by their columns: lichess puzzles with GameUrl (the CSV of
    database.lichess.org and early hub files) or GameId (later hub files), and id, ctx, target (EleutherAI's).
    """

    source: Literal["chess"]
    form: Form = "generate"
    files: tuple[str, ...] = ()
    """Local files (CSV, TSV, JSONL, Parquet, plain or gzipped)."""
    id: str | None = None
    """Hub data set, or a folder with a copy: Lichess/chess-puzzles, EleutherAI/lichess-puzzles."""
    revision: str | None = None
    self_play: SelfPlay | None = None
    """Where neither files nor an id is given; null means its defaults."""
    show: Shown = "moves"
    """`moves` needs the game: lichess puzzles without one are left out, see `games`."""
    games: tuple[str, ...] = ()
    """Files with columns `game_id` and `moves_uci`: the games that lichess puzzles are from."""
    illegal: Literal["refuse", "skip"] = "refuse"
    """What to do about rows against the rules of chess: stop, naming row and reason, or leave them out and count."""
    ratings: tuple[int, int] | None = None
    """Lowest and highest rating of lichess puzzles, both included."""
    themes: tuple[str, ...] = ()
    """Only puzzles with one of these themes, for instance [mateIn1]."""
    limit: PositiveInt | None = None
    """At most as many puzzles, chosen by a hash of their ids."""

    @model_validator(mode="after")
    def _one_source(self) -> "ChessTask":
        given = [name for name in ("files", "id", "self_play") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; puzzles come from one source: keep one of them")
        if self.form != "generate":
            raise ValueError(f"form is {self.form}, but a chess puzzle asks for a move: form is generate")
        if not (self.files or self.id):
            wrong = [name for name in ("games", "ratings", "themes", "limit", "revision") if getattr(self, name)]
            if wrong:
                raise ValueError(f"{', '.join(wrong)}: only for puzzles from files or an id, not for self-play")
        if self.ratings is not None and self.ratings[0] > self.ratings[1]:
            raise ValueError(f"ratings are {list(self.ratings)}; the lowest comes first")
        return self


class CatalogueTask(TaskBase):
    """A dataset that is known here by name, with its columns, format, groups and splits: `w2s tasks` lists them."""

    source: Literal["catalogue"] = "catalogue"
    dataset: str
    mirror: str | None = None
    """A folder with copies of datasets in their own columns. Without one: that of the environment variable W2S_MIRROR
    if the dataset is there, else the hub."""
    id: str | None = None
    """Another of the hub repositories that hold it."""
    revision: str | None = None
    """A commit, branch or tag of that repository instead of the usual one."""
    train: tuple[str, ...] | None = None
    """Splits of the source to train on instead of the usual ones."""
    test: str | None = None
    """Split of the source to test on instead of the usual one; `none`: a share of the rows to train on is split off."""
    choices: Choices = "expand"
    balance: Balance = "paper"
    max_rows: PositiveInt | None = 200_000
    """Rows of each of the source's splits that are used, at most; which ones, a hash of their content says."""

    @model_validator(mode="before")
    @classmethod
    def _is_called_by_its_dataset(cls, data: Any) -> Any:
        from w2s.tasks.catalogue import find_dataset  # which reads this module

        if not isinstance(data, Mapping):
            return data
        entry = find_dataset(data.get("dataset"))
        if entry is None:  # refused below, by the field
            return {"name": str(data.get("dataset")), **data}
        if data.get("form", entry.form) != entry.form:
            raise ValueError(f"form is {data['form']!r}, but dataset '{entry.key}' is of form {entry.form}")
        if data.get("id") not in (None, *(place.id for place in entry.places)):
            known = " or ".join(place.id for place in entry.places) or "none: it is no hub dataset"
            raise ValueError(f"id is {data['id']!r}; hub repositories of '{entry.key}' known here: {known}")
        if data.get("unsafe_label", entry.unsafe_label) != entry.unsafe_label:
            known = "has no harmful class" if entry.unsafe_label is None else f"has label {entry.unsafe_label} for harm"
            raise ValueError(
                f"unsafe_label is {data['unsafe_label']!r}, but dataset '{entry.key}' {known}; leave it out"
            )
        if data.get("mirror") is not None and (data.get("id"), data.get("revision")) != (None, None):
            raise ValueError("mirror says that files are read, id and revision are about the hub; keep one of them")
        own = {"name": entry.key, "metrics": entry.metrics, "unsafe_label": entry.unsafe_label}
        return {**own, **data, "form": entry.form, "dataset": entry.key}

    @field_validator("dataset")
    @classmethod
    def _is_known(cls, dataset: str) -> str:
        from w2s.tasks.catalogue import find_dataset, unknown_dataset

        if find_dataset(dataset) is None:
            raise ValueError(unknown_dataset(dataset))
        return dataset


class PythonTask(TaskBase):
    """A function that returns rows: the user's own code."""

    source: Literal["python"]
    object: str
    """`module:name`, `file.py:name`, or the name of an entry point of the group `w2s.tasks`."""
    files: tuple[str, ...] = ()
    """What the function reads; given to it as `files`, and part of the task's identity by content."""
    params: Mapping[str, Any] = {}
    """Keyword arguments of the function."""
    choices: Choices = "expand"
    balance: Balance = "never"

    @field_validator("form")
    @classmethod
    def _has_no_answers_in_words(cls, form: Form) -> Form:
        if form == "generate":
            raise ValueError(
                "rows of a function have a label, options or two replies: form is classify or compare; for generate let"
                " the function write a file (source: files), or take source: hub or chess"
            )
        return form


TaskSpec = Annotated[
    FactsTask | FilesTask | HubTask | CatalogueTask | PythonTask | ChessTask, Field(discriminator="source")
]


class MethodSpec(Config):
    """A registered method by name, with its parameters (validated by the method itself)."""

    name: str
    params: Mapping[str, Any] = {}


class TokenizerRun(Config):
    """Train a byte-level BPE tokenizer on a text corpus."""

    kind: Literal["tokenizer"] = "tokenizer"
    corpus: Annotated[TextCorpus | ChessCorpus, Field(discriminator="kind")]


class PretrainRun(Config):
    """Pretrain one rung from scratch."""

    kind: Literal["pretrain"] = "pretrain"
    shape: RungShape
    settings: PretrainSettings
    seed: int


class FinetuneRun(Config):
    """Finetune one model on ground truth (supervisor or ceiling) or on weak labels (student)."""

    kind: Literal["ground_truth", "transfer"]
    task: TaskSpec
    model: ModelSource | None
    """None: the weights come from a parent run."""
    settings: FinetuneSettings
    method: MethodSpec | None = None
    """How weak labels are used; None for ground truth."""
    train_part: str
    """"supervise" or "transfer/K"."""
    seed: int
    states_labels: bool = False
    """Whether every text ends in a sentence that states its weak label (trivial imitation)."""


class GenerativeRun(Config):
    """Finetune a model as a language model on a task's texts; labels are not looked at."""

    kind: Literal["generative"] = "generative"
    task: TaskSpec
    model: ModelSource | None
    settings: FinetuneSettings
    parts: tuple[str, ...]
    """Parts whose texts are read."""
    seed: int


Layer = int | Literal["middle"]
"""Which hidden state: 0 is the embeddings', -1 the last one, which a head reads; `middle` is layers // 2."""


class ActivationsRun(Config):
    """Hidden states of a model on all examples of a task."""

    kind: Literal["activations"] = "activations"
    task: TaskSpec
    model: ModelSource | None
    layer: Layer
    settings: FinetuneSettings


class ProbeRun(Config):
    """Logistic regression on stored activations."""

    kind: Literal["probe"] = "probe"
    task: TaskSpec
    labels: Literal["weak", "ground_truth"]
    train_part: str
    penalty: PositiveFloat


class PromptRun(Config):
    """Ask a causal language model, with or without examples in the prompt; nothing is trained."""

    kind: Literal["prompt"] = "prompt"
    task: TaskSpec
    model: ModelSource | None
    prompt: PromptFormat
    shots: Annotated[int, Field(ge=0)]
    labels: Literal["weak", "ground_truth"]
    """Whose labels the examples in the prompt carry."""
    train_part: str
    """Where those examples come from."""
    settings: FinetuneSettings
    max_length: PositiveInt
    """Tokens of a whole prompt; longer ones are cut on the left."""
    seed: int


class LabelsRun(Config):
    """Labels made from other runs' predictions: ensembles, controls, filters."""

    kind: Literal["labels"] = "labels"
    task: TaskSpec
    operation: MethodSpec
    """The method whose labels these are, without what it does to the student."""
    train_part: str
    seed: int


RunSpec = Annotated[
    TokenizerRun | PretrainRun | FinetuneRun | GenerativeRun | ActivationsRun | ProbeRun | PromptRun | LabelsRun,
    Field(discriminator="kind"),
]
