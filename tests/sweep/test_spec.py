"""What the sweep file accepts, and how it says no."""

import pytest

from sweep.errors import SpecError
from sweep.spec import CheckpointRung, load_spec
from sweep.yamlfile import load_yaml


def test_numbers_are_read_as_people_write_them(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: 1e-5\nb: 3E11\nc: 600_000\nd: '1e-5'\ne: 1e\n")
    data, _ = load_yaml(file)
    assert data == {"a": 1e-5, "b": 3e11, "c": 600_000, "d": "1e-5", "e": "1e"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_every": "evalevery"}, r"tiny.yaml:18: finetune.evalevery: unknown key; did you mean 'eval_every'\?"),
        (
            {"{value: 3.0e-4, reference_width: 32, exponent: -0.5}": "-1e-3"},
            r"learning_rate: .*greater than 0, got -0.001",
        ),
        ({"value: 3.0e-4": "value: -3e-4"}, r"finetune.learning_rate.value: .* greater than 0, got -0.0003"),
        ({"schedule: linear": "schedule: 7"}, r"finetune.schedule: .*'cosine', 'linear' or 'constant', got 7"),
        ({"seeds: [0]": "seeds: [0, 0]"}, r"tiny.yaml:2: seeds\[1\]: seed '0' is given twice"),
        ({"seeds: [0]": "seeds: []"}, r"tiny.yaml:2: seeds: at least one is needed, got \[\]"),
        ({"seeds: [0]": "seeds: 2"}, r"tiny.yaml:2: seeds: a list is needed, such as \[0, 1\], got 2$"),
        ({"name: tiny": "name: my sweep"}, "tiny.yaml:1: name: a name has letters, digits, .* got 'my sweep'"),
        ({"supervise: 400": "supervise: x"}, r"tasks\[0\].splits.supervise: a number is needed .*, got 'x'"),
        ({"supervise: 400": "supervise: 1.5"}, "less than or equal to 1 .a fraction is a share.*, got 1.5"),
        ({"seeds: [0]": "pairs: [d4, d8]"}, r"pairs\[0\]: must be all, adjacent, or a list such as \[\[weak, strong"),
        (
            {"seed: per_seed": "pretrain: {corpus: {kind: text, files: [a], vocab_size: 256}}"},
            "vocab_size: must be .*equal to 260 .256 bytes, .*, got 256",
        ),
        ({"name: d8": "name: d4"}, r"tiny.yaml:7: ladder.rungs\[1\]: rung 'd4' is given twice"),
        ({"naive, confidence": "naive, naive"}, r"tiny.yaml:13: methods\[1\]: method 'naive' is given twice"),
        (
            {"seeds: [0]": "pairs: [[d8, d4]]"},
            r"tiny.yaml:2: pairs\[0\]: \[d8, d4\] has its weak rung at or above its strong one.*d4 < d8 < d16",
        ),
        ({"seeds: [0]": "pairs: [[d8, d61]]"}, r"names no rung 'd61'; did you mean 'd16'\?"),
        ({"confidence]": "confidense]"}, "unknown method 'confidense'; did you mean 'confidence'"),
        ({"confidence]": "{name: confidence, max_wieght: 1}]"}, "no parameter 'max_wieght'; did you mean 'max_weight'"),
        (
            {"confidence]": "{name: confidence, max_weight: 5}]"},
            "parameter 'max_weight': .*less than or equal to 1, got 5",
        ),
        (
            {"confidence]": "{name: kl, finetune: {epoch: 2}}]"},
            r"tiny.yaml:13: methods\[1\].finetune.epoch: unknown key; did you mean 'epochs'\? .method 'kl'.",
        ),
        (
            {"confidence]": "{name: kl, finetune: {learning_rate_factor: 0}}]"},
            r"methods\[1\].finetune.learning_rate_factor: a number above 0 is needed, got 0 .method 'kl'.",
        ),
        ({"confidence]": "{name: kl, finetune: 3}]"}, r"methods\[1\].finetune: a mapping is needed, .* got 3"),
        (
            {"source: facts": "source: fact"},
            r"tiny.yaml:10: tasks\[0\]: source 'fact' is unknown; did you mean 'facts'\?",
        ),
        ({"name: tiny\n": ""}, "name: is required but missing"),
        (
            {"layers: 1, heads: 2, tokens: 20_000": "layer: 1, heads: 2, tokens: 20_000"},
            "unknown key; did you mean 'layers'",
        ),
        ({"hidden_size: 4, layers: 1, heads: 2": "hidden_size: 4, layers: 1, heads: 3"}, "4 over 3 heads"),
        ({"validation: 100": "validation: -8"}, r"tasks\[0\].splits.validation: .*greater than 0 .*, got -8"),
        (
            {"{name: d8,": "{name: d8, finetune: {lerning_rate: 3},"},
            r"tiny.yaml:7: ladder.rungs\[1\].finetune.lerning_rate: unknown key; did .* \(rung 'd8'\)",
        ),
        (
            {"{name: d8,": "{name: d8, finetune: {learning_rate: x},"},
            r"ladder.rungs\[1\].finetune.learning_rate: a number is needed, got 'x'",
        ),
        ({"seeds: [0]": "seeds: [0]\nname: again"}, "tiny.yaml:3: key 'name' is given twice"),
        ({"seeds: [0]": "seeds: [0"}, "not valid YAML"),
        (
            {"source: facts": "source: files\n    train: [a.csv]"},
            "pretrained on the facts corpus cannot read other text",
        ),
        ({"source: facts": "source: facts\n    world_seed: 1"}, "asks about world 1, but .* pretrained on world 0"),
    ],
)
def test_a_wrong_spec_is_refused_with_file_key_value_and_cure(tiny, changes, message):
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(tiny(changes))
    assert "tiny.yaml" in str(caught.value)


def test_one_mistake_gives_one_message(tiny):
    for changes in ({"value: 3.0e-4": "value: -3e-4"}, {"source: facts": "source: fact"}):
        with pytest.raises(SpecError) as caught:
            load_spec(tiny(changes))
        assert len(str(caught.value).splitlines()) == 1


def test_two_mistakes_are_both_named(tiny):
    with pytest.raises(SpecError) as caught:
        load_spec(tiny({"eval_every": "evalevery", "seeds: [0]": "seeds: [-1]"}))
    assert "evalevery" in str(caught.value)
    assert "seeds[0]" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "holds"), [("", "is empty"), ("# no\n", "is empty"), ("[1, 2]", "holds a list"), ("facts", "only 'facts'")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, holds):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SpecError, match=f"x.yaml: .*{holds}; a spec is a mapping"):
        load_spec(tmp_path / "x.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such file"):
        load_spec(tmp_path / "nowhere.yaml")


def test_pairs_follow_the_ladder(tiny):
    assert load_spec(tiny()).rung_pairs() == [("d4", "d8"), ("d4", "d16"), ("d8", "d16")]
    assert load_spec(tiny({"seeds: [0]": "pairs: adjacent"})).rung_pairs() == [("d4", "d8"), ("d8", "d16")]
    assert load_spec(tiny({"seeds: [0]": "pairs: [[d4, d16]]"})).rung_pairs() == [("d4", "d16")]


def test_paths_are_relative_to_the_spec_and_a_folder_wins_over_a_hub_id(tiny, tmp_path):
    (tmp_path / "org" / "model").mkdir(parents=True)
    hub_rung = "{model: other/m-2b, pretrain_tokens: 3e11}"
    spec = load_spec(
        tiny(
            {
                "{name: d4, hidden_size: 4, layers: 1, heads: 2, tokens: 20_000}": "org/model",
                "{name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}": hub_rung,
                "    - {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 40_000}\n": "",
                "source: facts": "source: files\n    train: [a.jsonl]",
            }
        )
    )
    local, hub = (r for r in spec.ladder.rungs if isinstance(r, CheckpointRung))
    assert (local.name, local.model) == ("model", str(tmp_path / "org" / "model"))
    assert (hub.name, hub.model, hub.pretrain_tokens) == ("m-2b", "other/m-2b", 3e11)
    assert spec.tasks[0].train == (str(tmp_path / "a.jsonl"),)  # type: ignore[union-attr]


def test_a_rung_overrides_finetuning_settings(tiny):
    spec = load_spec(tiny({"{name: d8,": "{name: d8, finetune: {epochs: 7},"}))
    assert [spec.settings_for(rung).epochs for rung in spec.ladder.rungs] == [2, 7, 2]
    assert spec.settings_for(spec.ladder.rungs[1]).eval_every == 10
