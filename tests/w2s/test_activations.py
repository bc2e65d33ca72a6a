import numpy as np
import polars as pl
import pytest
import torch
import transformers
from stand_ins import FAMILIES, quick

from w2s.activations import extract, layer_index, load_activations
from w2s.config import ModelSource
from w2s.data import Batch, load_tokenised
from w2s.errors import DataError, ModelError
from w2s.flops import MatmulSizes
from w2s.models import load_scorer, load_tokenizer

CPU = torch.device("cpu")
SETTINGS = quick(micro_batch_size=4)


@pytest.fixture(scope="module")
def tokenised(checkpoints, tasks, cache_dir):
    def make(family, form="classify"):
        tokenizer = load_tokenizer(ModelSource(path=checkpoints[family]))
        return load_tokenised(tasks[form], tokenizer, max_length=24, cache_dir=cache_dir)

    return make


def run(checkpoints, task, family, layer, **changes):
    settings = SETTINGS.model_copy(update=changes)
    return extract(ModelSource(path=checkpoints[family]), task, layer=layer, settings=settings, device=CPU)


def one_by_one(path, task, part, layer):
    """Hidden states by transformers alone, one text at a time."""
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    position = 0 if model.config.model_type == "bert" else -1
    examples = task.part(part)
    rows = []
    for token_rows in examples.rows:
        vectors = []
        for row in token_rows:
            ids = examples.tokens.ids[examples.tokens.offsets[row] : examples.tokens.offsets[row + 1]]
            with torch.no_grad():
                outputs = model(torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
            vectors.append(outputs.hidden_states[layer][0, position].numpy())
        rows.append(vectors[0] if len(vectors) == 1 else vectors[1] - vectors[0])
    return np.stack(rows)


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_hidden_states_of_texts_that_were_run_alone(family, layer, checkpoints, tokenised):
    task = tokenised(family)
    got = run(checkpoints, task, family, layer).activations.of("test")
    expected = one_by_one(checkpoints[family], task, "test", layer)
    assert got.example_id.tolist() == task.part("test").ids.tolist()
    assert got.features.dtype == np.float32
    # float32 and another attention kernel under a mask leave rounding only
    np.testing.assert_allclose(got.features, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_pair_is_the_second_replys_hidden_state_minus_the_firsts(family, checkpoints, tokenised):
    task = tokenised(family, "compare")
    got = run(checkpoints, task, family, "middle").activations.of("test")
    np.testing.assert_allclose(got.features, one_by_one(checkpoints[family], task, "test", 1), atol=2e-5, rtol=2e-5)
    assert np.abs(got.features).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, -1])
def test_padding_does_not_change_a_hidden_state(family, layer, checkpoints):
    scorer = load_scorer(ModelSource(path=checkpoints[family]), form="classify", settings=SETTINGS, seed=0, device=CPU)
    short = Batch(ids=np.array([[5, 6, 7]]), lengths=np.array([3]))
    padded = Batch(ids=np.array([[5, 6, 7, 9, 9], [8, 9, 10, 11, 12]]), lengths=np.array([3, 5]))
    with torch.no_grad():
        torch.testing.assert_close(scorer.hidden(padded, layer)[:1], scorer.hidden(short, layer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["classify", "compare"])
def test_the_last_layer_is_what_the_head_reads(form, checkpoints, tokenised):
    task = tokenised("gpt2", form)
    features = run(checkpoints, task, "gpt2", -1).activations.of("validation").features
    source = ModelSource(path=checkpoints["gpt2"])
    scorer = load_scorer(source, form=form, settings=SETTINGS, seed=0, device=CPU)
    torch.nn.init.normal_(scorer.head.weight)
    examples = task.part("validation")
    with torch.no_grad():
        scores = scorer(examples.batch(np.arange(len(examples)))).numpy()
        outputs = features @ scorer.head.weight.numpy().T
    expected = outputs[:, 1] - outputs[:, 0] if form == "classify" else outputs[:, 0]
    np.testing.assert_allclose(scores, expected, atol=2e-5, rtol=2e-5)


def test_the_last_layer_of_an_encoder_with_a_trained_pooler_is_pooled(checkpoints, tmp_path):
    config = transformers.AutoConfig.from_pretrained(checkpoints["bert"])
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    load_tokenizer(ModelSource(path=checkpoints["bert"])).save_pretrained(tmp_path)
    scorer = load_scorer(ModelSource(path=str(tmp_path)), form="classify", settings=SETTINGS, seed=0, device=CPU)
    batch = Batch(ids=np.array([[5, 6, 7]]), lengths=np.array([3]))
    with torch.no_grad():
        outputs = model(torch.tensor([[5, 6, 7]]), output_hidden_states=True)
        torch.testing.assert_close(scorer.hidden(batch, -1), outputs.pooler_output, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scorer.hidden(batch, 2), outputs.hidden_states[2][:, 0], atol=1e-5, rtol=1e-5)


def test_all_parts_are_there_in_order_and_counted(checkpoints, tokenised):
    task = tokenised("llama")
    extraction = run(checkpoints, task, "llama", "middle")
    activations = extraction.activations
    rows = list(zip(activations.part, activations.example_id, strict=True))
    assert rows == sorted(rows)
    assert set(activations.part) == set(task.parts()) >= {"supervise", "validation", "test"}
    assert len(rows) == task.data.frame.height == len(activations.features)
    assert extraction.layer == 1
    assert extraction.work.tokens == task.tokens.ids.size
    assert extraction.work.sequences == len(rows)
    # Two layers of width 16: four attention matrices and three of an MLP of width 32 each; no head.
    assert extraction.sizes == MatmulSizes(per_token=2 * (4 * 16 * 16 + 3 * 16 * 32), layers=2, width=16)


def test_only_the_parts_asked_for_are_computed(checkpoints, tokenised):
    task = tokenised("llama")
    source = ModelSource(path=checkpoints["llama"])
    extraction = extract(source, task, layer=-1, settings=SETTINGS, device=CPU, parts=["test"])
    assert set(extraction.activations.part) == {"test"}
    assert extraction.work == task.part("test").work()


@pytest.mark.parametrize("changes", [{"tune": "lora"}, {"dropout": 0.5}, {"gradient_checkpointing": True}])
def test_how_a_student_would_be_tuned_changes_no_feature(changes, checkpoints, tokenised):
    task = tokenised("llama")
    plain = run(checkpoints, task, "llama", 1).activations.features
    np.testing.assert_array_equal(run(checkpoints, task, "llama", 1, **changes).activations.features, plain)


def test_batches_do_not_change_features_beyond_rounding(checkpoints, tokenised, monkeypatch):
    task = tokenised("gpt_neox")
    whole = run(checkpoints, task, "gpt_neox", 1).activations.features
    monkeypatch.setattr("w2s.activations.token_budget", lambda *_: 1)
    alone = run(checkpoints, task, "gpt_neox", 1).activations.features
    np.testing.assert_allclose(alone, whole, atol=1e-5, rtol=1e-5)


def test_activations_come_back_from_disk_as_they_were(checkpoints, tokenised, tmp_path):
    saved = run(checkpoints, tokenised("llama"), "llama", 1).activations
    saved.save(tmp_path / "activations")
    loaded = load_activations(tmp_path / "activations")
    np.testing.assert_array_equal(loaded.features, saved.features)
    assert loaded.example_id.tolist() == saved.example_id.tolist()
    assert loaded.part.tolist() == saved.part.tolist()
    assert loaded.of("validation").example_id.tolist() == saved.of("validation").example_id.tolist()
    with pytest.raises(DataError, match="no activations of part 'train'; there are some of supervise"):
        loaded.of("train")


def test_files_that_do_not_belong_together_are_refused(checkpoints, tokenised, tmp_path):
    run(checkpoints, tokenised("llama"), "llama", 1).activations.save(tmp_path)
    np.save(tmp_path / "features.npy", np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"shape \[3, 4\], but index.parquet has 240 rows"):
        load_activations(tmp_path)
    (tmp_path / "features.npy").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_activations(tmp_path)


def test_a_damaged_index_is_refused(tmp_path):
    np.save(tmp_path / "features.npy", np.zeros((1, 4), dtype=np.float32))
    pl.DataFrame({"part": ["test"]}).write_parquet(tmp_path / "index.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        load_activations(tmp_path)


@pytest.mark.parametrize(("layer", "index"), [("middle", 2), (0, 0), (5, 5), (-1, -1), (-2, 4), (-6, 0)])
def test_layers_are_counted_as_transformers_counts_hidden_states(layer, index):
    assert layer_index(layer, 5, where="m") == index


@pytest.mark.parametrize("layer", [6, -7])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(layer):
    with pytest.raises(
        ModelError, match=r"no hidden state .*: with 5 layers they are 0 \(embeddings\) to 5, or -6 to -1"
    ):
        layer_index(layer, 5, where="m")


def test_hidden_states_that_overflow_are_refused(checkpoints, tokenised, monkeypatch):
    monkeypatch.setattr(
        "w2s.models.Scorer.hidden", lambda self, batch, layer: torch.full((len(batch.ids), 3), float("inf"))
    )
    with pytest.raises(ModelError, match="not finite in layer 1, on 24 of 24 examples"):
        extract(
            ModelSource(path=checkpoints["llama"]), tokenised("llama"), layer=1, settings=SETTINGS, device=CPU,
            parts=["test"],
        )  # fmt: skip
