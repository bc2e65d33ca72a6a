"""Methods that arrange runs around the training of a student, or replace it. `sweep.procedures` turns them into runs.

What a procedure trains in the end is its `student`, another method, so that procedures compose: a bootstrap whose last
student learns by the confidence loss, generative finetuning followed by early stopping.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from w2s.config import Form, Fraction, Layer, MethodSpec, PositiveFloat, PositiveInt
from w2s.errors import W2SError
from w2s.methods.base import Method, as_method_spec, build_method, register


def _as_spec(value: Any) -> MethodSpec:
    try:
        # One that was made by hand may leave defaults out, which would make it another than the same one written out.
        return as_method_spec(_written(value) if isinstance(value, MethodSpec) else value)
    except W2SError as error:
        raise ValueError(str(error)) from None


def _written(method: MethodSpec) -> dict[str, Any]:
    return {"name": method.name, **method.params}


MethodField = Annotated[MethodSpec, BeforeValidator(_as_spec), PlainSerializer(_written)]
NAIVE = as_method_spec("naive")
EVERY_FORM: tuple[Form, ...] = ("classify", "compare", "generate")


class Procedure(Method):
    """A method around another one."""

    student: MethodField = NAIVE
    """How the student learns in the end: another method, by name or with its parameters."""

    @property
    def oracle(self) -> bool:
        return build_method(self.student).oracle


@register
class Bootstrap(Procedure):
    """Weak labels climb the ladder: each link learns from the one below it and labels for the one above."""

    name: ClassVar[str] = "bootstrap"
    summary: ClassVar[str] = "chain through intermediate rungs, each labelling for the next"
    source: ClassVar[str] = "Burns et al. 2023, section 4.3.1"
    forms: ClassVar[tuple[Form, ...]] = EVERY_FORM

    chain: Literal["all"] | PositiveInt | tuple[str, ...] = "all"
    """Intermediate rungs between weak and strong: all, every k-th counted from the weak one, or a list of names."""
    data: Literal["same", "fresh"] = "same"
    """`fresh`: link i learns from transfer part i, the student from part 0, as its comparators do; needs
    `transfer_parts` greater than the number of links."""
    links: tuple[MethodField, ...] = (NAIVE,)
    """How links learn, weakest first; the last entry serves all further ones."""

    @property
    def oracle(self) -> bool:
        return super().oracle or any(build_method(link).oracle for link in self.links)

    @model_validator(mode="before")
    @classmethod
    def _one_way_for_all_links(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("links"), str | dict | MethodSpec):
            return values | {"links": (values["links"],)}
        return values

    @model_validator(mode="after")
    def _links_are_trained(self) -> Self:
        if not self.links:
            raise ValueError("links is empty; name at least one method")
        if isinstance(self.chain, tuple) and not self.chain:
            raise ValueError("chain is an empty list; name the rungs in between, or write all")
        return self


@register
class Relabel(Procedure):
    """Strong-to-strong: the trained student labels its own training part, and a fresh copy learns from that."""

    name: ClassVar[str] = "relabel"
    summary: ClassVar[str] = "strong-to-strong rounds: a fresh copy learns from the trained student's labels"
    source: ClassVar[str] = "EleutherAI, Experiments in Weak-to-Strong Generalization, 2024"
    forms: ClassVar[tuple[Form, ...]] = EVERY_FORM

    rounds: PositiveInt = 2
    """How often the labels are replaced by a trained student's."""


@register
class Generative(Procedure):
    """Language-model finetuning on the task's texts, labels ignored, before the student sees weak labels."""

    name: ClassVar[str] = "generative"
    summary: ClassVar[str] = "language-model finetuning on the task's unlabelled texts first"
    source: ClassVar[str] = "Burns et al. 2023, section 5.2.2"

    texts: Literal["train", "transfer"] = "train"
    """`train`: the texts of supervise and transfer parts, as in the paper; `transfer`: only the student's own."""
    epochs: PositiveInt = 1
    learning_rate_factor: PositiveFloat = 1.0
    """Times the learning rate of finetuning."""
    ceiling: Literal["adjusted", "plain"] = "adjusted"
    """`adjusted`: the ceiling is finetuned generatively as well (figure 10)."""
    supervisor: Literal["plain", "adjusted"] = "plain"
    """`adjusted`: the supervisor is finetuned generatively as well (figure 18)."""


@register
class EarlyStop(Procedure):
    """Which evaluation of the student counts; chosen from stored predictions, without another run."""

    name: ClassVar[str] = "early_stop"
    summary: ClassVar[str] = "the student's best evaluation step instead of its last"
    source: ClassVar[str] = "Burns et al. 2023, section 5.1.1"
    forms: ClassVar[tuple[Form, ...]] = EVERY_FORM

    by: Literal["weak", "oracle", "oracle_test"] = "weak"
    """`weak`: agreement with the weak labels on validation; `oracle`: ground truth on validation; `oracle_test`: on
    test, as in the paper's diagnostic."""

    @property
    def oracle(self) -> bool:
        return super().oracle or self.by != "weak"


@register
class Filter(Procedure):
    """Train on fewer, or on other, weak labels than the supervisor gave."""

    name: ClassVar[str] = "filter"
    summary: ClassVar[str] = "drop or replace weak labels by confidence or by the student's activations"
    source: ClassVar[str] = "Burns et al. 2023, appendix B; EleutherAI, 2024; Wu et al. 2020 (topological)"
    forms: ClassVar[tuple[Form, ...]] = EVERY_FORM

    by: Literal["confidence", "random", "probe", "knn", "topological"] = "confidence"
    """`confidence`: the supervisor's, per class, or for `generate` its mean log-probability per token; `random`: any
    rows, to compare with; the others look at neighbours or a probe on student activations."""
    keep: Fraction | None = None
    """Share of rows to keep; by default 0.2 for `confidence` (the paper tried 0.05 to 0.2) and `random`, else 0.9
    (EleutherAI)."""
    relabel: bool = False
    """`probe` and `knn`: keep all rows, with the probe's predictions as labels."""
    layer: Layer = "middle"
    """Hidden state to read, for all but `confidence` and `random`: 0 is the embeddings', -1 the last, `middle` is
    layers // 2."""
    k: PositiveInt = 50
    """Neighbours."""
    penalty: PositiveFloat = 1e-3
    """Of the probe: times the sum of its squared weights."""

    @model_validator(mode="after")
    def _only_probes_relabel(self) -> Self:
        if self.relabel and self.by not in ("probe", "knn"):
            raise ValueError(f"relabel goes with by: probe or knn, not with {self.by}")
        if self.relabel and self.keep is not None:
            raise ValueError("relabel keeps all rows; leave keep out")
        if self.keep == 0:
            raise ValueError("keep is 0, which leaves nothing to learn from")
        return self

    @property
    def kept(self) -> float:
        """`keep`, or its default."""
        return self.keep if self.keep is not None else 0.2 if self.by in ("confidence", "random") else 0.9


@register
class Ensemble(Procedure):
    """Several supervisors label together; the ensemble is what counts as the weak performance."""

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "labels by several supervisors together"
    source: ClassVar[str] = "Lang et al. 2025, Debate Helps Weak-to-Strong Generalization"
    forms: ClassVar[tuple[Form, ...]] = EVERY_FORM

    members: Literal["smaller", "seeds"] | tuple[str, ...] = "smaller"
    """`smaller`: the weak rung and all below it; `seeds`: the weak rung at all seeds, one ensemble for all of them,
    whose spread intervals therefore do not see; or a list of rungs."""
    rule: Literal["average", "vote"] = "average"
    """Mean of the soft labels, or the share of members that say class 1; for `generate` only `vote`: the answer that
    most members give, of several the one that the largest member among them gives."""

    @model_validator(mode="after")
    def _members_are_several(self) -> Self:
        if isinstance(self.members, tuple) and len(set(self.members)) < max(2, len(self.members)):
            raise ValueError(f"members are {', '.join(self.members) or 'nobody'}; name two rungs or more, each once")
        return self


@register
class Control(Procedure):
    """A synthetic supervisor with exactly as many errors as the real one, but other errors."""

    name: ClassVar[str] = "control"
    summary: ClassVar[str] = "synthetic supervisor of equal accuracy with chosen errors; hard labels"
    source: ClassVar[str] = "Burns et al. 2023, appendix E.2"

    errors: Literal["uniform", "longest", "shortest", "least_confident", "most_confident"] = "uniform"
    """Which labels are wrong: any; the longest or shortest texts; where the strong model trained on ground truth of the
    other half is least confident, or most confidently right."""

    @property
    def oracle(self) -> bool:
        return True


@register
class Imitation(Procedure):
    """Every text states its weak label, so that imitating the supervisor is trivial: a negative control."""

    name: ClassVar[str] = "imitation"
    summary: ClassVar[str] = "negative control: texts state their weak label"
    source: ClassVar[str] = "Burns et al. 2023, appendix E.3"


@register
class EasyToHard(Procedure):
    """Ground truth of easy rows only, in place of weak labels."""

    name: ClassVar[str] = "easy_to_hard"
    summary: ClassVar[str] = "ground truth of easy rows only, instead of weak labels"
    source: ClassVar[str] = "Burns et al. 2023, appendix C"

    rows: Literal["easy", "any", "hard"] = "easy"
    """`easy`: rows that the weak rung and all larger ones get right when trained on the other half; `hard`: the others;
    `any`: both."""
    share: Fraction = 0.2
    """Rows to train on, as a share of the part; the same number for every kind, so that they compare."""

    @property
    def oracle(self) -> bool:
        return True


@register
class Probe(Procedure):
    """Logistic regression on frozen activations of the student."""

    name: ClassVar[str] = "probe"
    summary: ClassVar[str] = "logistic regression on frozen activations, of the pretrained or the finetuned student"
    source: ClassVar[str] = "Burns et al. 2023, appendix D.2 and section 5.2.3"

    labels: Literal["weak", "ground_truth"] = "weak"
    """Whose labels the probe is fitted to."""
    activations: Literal["pretrained", "finetuned"] = "pretrained"
    """`finetuned`: of the trained `student`; with ground truth this measures concept saliency."""
    layer: Layer = -1
    """Hidden state to read: 0 is the embeddings', -1 the last, `middle` is layers // 2."""
    penalty: PositiveFloat = 1e-3
    """Times the sum of squared weights, beside the mean cross-entropy."""
    ceiling: Literal["probe", "finetuned"] = "probe"
    """`probe`: the same probe on the pretrained model, with ground truth; `finetuned`: the grid's own ceiling."""

    @model_validator(mode="after")
    def _is_not_its_own_ceiling(self) -> Self:
        if self.labels == "ground_truth" and self.activations == "pretrained" and self.ceiling == "probe":
            raise ValueError("a probe on ground truth would be its own ceiling; write ceiling: finetuned")
        if self.activations == "pretrained" and self.student != NAIVE:
            raise ValueError("a student is trained for activations: finetuned only; leave student out")
        return self

    @property
    def oracle(self) -> bool:
        return super().oracle or self.labels == "ground_truth"


@register
class Prompt(Method):
    """Ask the strong model in words; nothing is trained."""

    name: ClassVar[str] = "prompt"
    summary: ClassVar[str] = "zero-shot or k-shot prompting, answers scored by their log-probabilities"
    source: ClassVar[str] = "Burns et al. 2023, section 5.2.1"
    forms: ClassVar[tuple[Form, ...]] = ("classify",)

    shots: Annotated[int, Field(ge=0)] = 0
    """Examples in the prompt, from the student's training part, as many of each class."""
    labels: Literal["weak", "ground_truth"] = "weak"
    """Whose labels the examples carry."""
    max_length: PositiveInt = 2048
    """Tokens of a whole prompt; longer ones lose their beginning."""

    @model_validator(mode="after")
    def _labels_need_examples(self) -> Self:
        if self.labels == "ground_truth" and self.shots == 0:
            raise ValueError("labels: ground_truth goes with examples in the prompt; set shots, or leave labels out")
        return self

    @property
    def oracle(self) -> bool:
        return self.labels == "ground_truth"
