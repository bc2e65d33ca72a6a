"""Sizes from headers alone, against torch's own counts of tiny models."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from w2s.checkpoints import inspect_checkpoint, llama_shape_sizes
from w2s.config import RungShape
from w2s.errors import ModelError

V = 384
SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}

CAUSAL = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, n_positions=64)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**WIDE, tie_word_embeddings=True)),
    "llama, untied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**WIDE, tie_word_embeddings=False)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**WIDE, num_key_value_heads=2, tie_word_embeddings=True)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**WIDE)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(**{k: v for k, v in WIDE.items() if k != "intermediate_size"}, ffn_dim=64, word_embed_proj_dim=16)
    ),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            vocab_size=V, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
        )
    ),
}
ENCODERS = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**WIDE)),
    "bert, with pooler": lambda: hf.BertForPreTraining(hf.BertConfig(**WIDE)),
    "roberta": lambda: hf.RobertaForMaskedLM(
        hf.RobertaConfig(**{**WIDE, "pad_token_id": 1}, max_position_embeddings=66)
    ),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=V, dim=32, hidden_dim=64, n_layers=2, n_heads=4)
    ),
    "electra": lambda: hf.ElectraForMaskedLM(hf.ElectraConfig(**WIDE, embedding_size=16)),
    "modernbert": lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**WIDE, cls_token_id=1, sep_token_id=2)),
}


def matrices(model):
    """Weights of torch's own matrices, embeddings left out; a tied head is a module of its own and counts."""
    modules = [m for m in model.modules() if not isinstance(m, torch.nn.Embedding)]
    return sum(p.numel() for module in modules for p in module.parameters(recurse=False) if p.ndim == 2)


def embeddings(model):
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))


def save(model, folder: Path, **options) -> str:
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


@pytest.fixture
def llama(tmp_path):
    return Path(save(CAUSAL["llama"](), tmp_path / "llama"))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("shard", ["5GB", "40KB"], ids=["one file", "shards"])
def test_a_causal_models_sizes_are_torchs(tmp_path, name, shard):
    model = CAUSAL[name]()
    found = inspect_checkpoint(save(model, tmp_path / "m", max_shard_size=shard))
    assert found.kind == "causal"
    assert found.model_type == model.config.model_type
    assert (found.n_params, found.n_matmul) == (model.num_parameters(), matrices(model))
    assert found.n_embedding == embeddings(model)
    assert (found.hidden_size, found.layers, found.heads, found.vocab_size) == (32, 2, 4, V)
    assert (tmp_path / "m" / "model.safetensors.index.json").exists() == (shard == "40KB")


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_sizes_are_those_of_its_body(tmp_path, name):
    model = ENCODERS[name]()
    body = model.base_model
    found = inspect_checkpoint(save(model, tmp_path / "whole"))
    assert found.kind == "encoder"
    assert (found.n_params, found.n_matmul, found.n_embedding) == (
        body.num_parameters(), matrices(body), embeddings(body)
    )  # fmt: skip
    assert (found.hidden_size, found.layers, found.heads, found.vocab_size) == (32, 2, 4, V)
    bare = inspect_checkpoint(save(body, tmp_path / "bare"))
    assert (bare.n_params, bare.n_matmul, bare.kind) == (found.n_params, found.n_matmul, "encoder")


@pytest.mark.parametrize("name", CAUSAL)
def test_a_body_saved_alone_counts_with_the_head_that_it_belongs_to(tmp_path, name):
    model = CAUSAL[name]()
    found = inspect_checkpoint(save(model.base_model, tmp_path / "bare"))
    assert (found.n_params, found.n_matmul, found.kind) == (model.num_parameters(), matrices(model), "causal")


def test_positions_are_those_that_can_be_used(tmp_path):
    found = {name: inspect_checkpoint(save(make(), tmp_path / name)) for name, make in (CAUSAL | ENCODERS).items()
             if name in ("gpt2", "roberta", "llama")}  # fmt: skip
    assert found["gpt2"].max_positions == 64
    assert found["roberta"].max_positions == 64  # two of 66 rows lie behind the padding id
    assert found["llama"].max_positions == 2048


def rewrite(folder: Path, change) -> str:
    """Change the stored tensors, as old or other software would have written them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return str(folder)


def edit_config(folder: Path, **changes) -> str:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return str(folder)


def test_a_tied_head_that_is_stored_twice_counts_once(llama):
    before = inspect_checkpoint(str(llama))
    copy = rewrite(llama, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert inspect_checkpoint(copy).n_params == before.n_params
    assert inspect_checkpoint(copy).n_matmul == before.n_matmul


def test_constants_of_old_checkpoints_are_no_parameters(tmp_path):
    """The first GPT-2 files hold causal masks and no prefix, and their config does not say that the head is tied."""
    model = CAUSAL["gpt2"]()
    folder = Path(save(model, tmp_path / "gpt2"))

    def age(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    rewrite(folder, age)
    found = inspect_checkpoint(edit_config(folder, tie_word_embeddings=None))
    assert (found.n_params, found.n_matmul) == (model.num_parameters(), matrices(model))


def test_heads_of_other_tasks_do_not_count(llama):
    before = inspect_checkpoint(str(llama))
    after = inspect_checkpoint(rewrite(llama, lambda t: t.update({"score.weight": torch.ones(2, 32)})))
    assert (after.n_params, after.n_matmul) == (before.n_params, before.n_matmul)


def test_the_fingerprint_covers_config_weights_and_tokenizer_but_not_the_place(llama, tmp_path):
    base = inspect_checkpoint(str(llama)).fingerprint
    moved = llama.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("not part of the model")
    assert inspect_checkpoint(str(moved)).fingerprint == base
    seen = {base}
    (moved / "tokenizer.json").write_text("{ }")
    seen.add(inspect_checkpoint(str(moved)).fingerprint)
    seen.add(inspect_checkpoint(edit_config(moved, rms_norm_eps=1e-3)).fingerprint)
    seen.add(inspect_checkpoint(rewrite(moved, lambda t: t["model.norm.weight"].add_(1))).fingerprint)
    assert len(seen) == 4


def test_hashes_are_asked_of_the_caller(llama):
    asked = []

    def hash_file(path):
        asked.append(path.name)
        return "0"

    inspect_checkpoint(str(llama), hash_file=hash_file)
    assert set(asked) == {"config.json", "model.safetensors", "tokenizer.json"}


def refused(path, message, **options):
    with pytest.raises(ModelError, match=message):
        inspect_checkpoint(str(path), **options)


def test_a_folder_without_config_is_refused(llama, tmp_path):
    (llama / "config.json").unlink()
    refused(llama, r"no config\.json in the folder; a folder written by save_pretrained is expected")
    (llama / "adapter_config.json").write_text("{}")
    refused(llama, "adapters only; merge them into their base model")


def test_a_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "gone", "gone: no such folder$")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, llama):
    """Of GPT-2, transformers would make up a tokenizer without words, and every text would be empty."""
    (llama / "tokenizer.json").unlink()
    refused(llama, r"llama: no tokenizer in the folder \(tokenizer\.json")
    (llama / "tokenizer_config.json").write_text("{}")
    refused(llama, "no tokenizer in the folder")
    for name in ("tokenizer.model", "vocab.txt", "spiece.model", "vocab.json"):
        (llama / name).write_text("")
        assert inspect_checkpoint(str(llama)).layers == 2
        (llama / name).unlink()


def test_a_folder_without_weights_is_refused(llama):
    (llama / "model.safetensors").unlink()
    refused(llama, r"no weights in the folder \(model\.safetensors")


def test_pickled_weights_need_leave_and_give_the_same_sizes(llama):
    expected = inspect_checkpoint(str(llama))
    torch.save(load_file(llama / "model.safetensors"), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    refused(llama, r"weights are pickled \(pytorch_model\.bin\).*allow_pickle: true")
    found = inspect_checkpoint(str(llama), allow_pickle=True)
    assert (found.n_params, found.n_matmul, found.n_embedding) == (
        expected.n_params, expected.n_matmul, expected.n_embedding
    )  # fmt: skip
    assert found.fingerprint != expected.fingerprint


def test_a_missing_shard_is_named(tmp_path):
    folder = Path(save(CAUSAL["llama"](), tmp_path / "m", max_shard_size="40KB"))
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    refused(folder, rf"{shards[1].name} is missing, one of {len(shards)} files")


def test_a_file_cut_short_is_refused_before_any_run(llama):
    whole = (llama / "model.safetensors").read_bytes()
    (llama / "model.safetensors").write_bytes(whole[:-100])
    refused(llama, rf"has {len(whole) - 100:,} bytes where its header announces {len(whole):,}")
    (llama / "model.safetensors").write_bytes(whole[:20])
    refused(llama, "not a whole safetensors file")
    (llama / "model.safetensors").write_bytes(b"")
    refused(llama, "model.safetensors: ")


def test_a_config_that_is_no_config_is_refused(llama):
    (llama / "config.json").write_text("{")
    refused(llama, r"config\.json: not valid JSON")
    (llama / "config.json").write_text("{}")
    refused(llama, r'config\.json: names no "model_type"')


def test_other_architectures_are_refused(llama):
    edit_config(llama, model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    refused(llama, r"T5ForConditionalGeneration \(model type t5\) is neither a causal language model nor an encoder")


def test_mixtures_of_experts_are_refused(llama):
    refused(edit_config(llama, num_local_experts=8), "mixture of experts")


def test_a_config_without_a_size_is_refused(llama):
    refused(edit_config(llama, hidden_size=None), "config.json has no number under hidden_size or n_embd")


def test_an_unknown_architecture_is_judged_by_its_class_name(llama):
    assert inspect_checkpoint(edit_config(llama, model_type="new", architectures=["NewForCausalLM"])).kind == "causal"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_without_a_connection_is_refused_with_a_way_out(offline):
    message = "cannot be reached .*hf download EleutherAI/pythia-70m --local-dir pythia-70m"
    refused("EleutherAI/pythia-70m", message)
    with pytest.raises(ModelError, match="hf download"):
        inspect_checkpoint("EleutherAI/pythia-70m", "0123456789" * 4)


def test_what_the_hub_cache_holds_needs_no_connection(offline, llama):
    commit = "0123456789" * 4
    repository = offline / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    llama.rename(repository / "snapshots" / commit)
    for revision in (None, "main", commit):
        found = inspect_checkpoint("org/name", revision)
        assert found.fingerprint == commit
        assert found.layers == 2
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    refused("org/name", "cannot be read from the Hugging Face hub")


@pytest.mark.parametrize(
    ("hidden_size", "layers", "heads", "n_params"),
    # "params" of the measured recipe for tiny models
    [
        (4, 1, 2, 1_724),
        (8, 1, 2, 3_960),
        (16, 1, 4, 9_968),
        (24, 1, 6, 18_024),
        (32, 2, 4, 44_576),
        (64, 2, 4, 154_688),
    ],
)
def test_a_rungs_sizes_follow_from_its_shape(hidden_size, layers, heads, n_params):
    sizes = llama_shape_sizes(RungShape(hidden_size=hidden_size, layers=layers, heads=heads, tokens=1), 364)
    assert sizes.n_params == n_params
    assert (
        sizes.n_matmul == n_params - (2 * layers + 1) * hidden_size
    )  # all but the norms, as the embedding is the head


def test_a_rungs_sizes_are_those_of_the_model_built_from_it(tmp_path):
    shape = RungShape(hidden_size=16, layers=3, heads=4, tokens=1)
    config = hf.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    found, expected = (
        inspect_checkpoint(save(hf.LlamaForCausalLM(config), tmp_path / "m")),
        llama_shape_sizes(shape, 300),
    )
    for key in ("n_params", "n_matmul", "n_embedding", "hidden_size", "layers", "heads", "vocab_size"):
        assert getattr(found, key) == getattr(expected, key)


def test_a_model_on_the_hub_is_read_without_its_weights(llama, monkeypatch, offline):
    commit = "0123456789" * 4
    local = inspect_checkpoint(str(llama))
    tensors = {name: SimpleNamespace(shape=list(t.shape)) for name, t in load_file(llama / "model.safetensors").items()}
    metadata = SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: SimpleNamespace(sha=commit))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, file, revision: str(llama / file))
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", lambda _, revision: metadata)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, revision: ["config.json", "tokenizer.json"])
    found = inspect_checkpoint("org/name")
    assert dataclasses.replace(found, fingerprint="") == dataclasses.replace(local, fingerprint="")
    assert found.fingerprint == commit


def failing(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.RepositoryNotFoundError,
            "model org/name: no such folder here, and no such model on the Hugging Face hub",
        ),
        (errors.RevisionNotFoundError, "model org/name: has no revision 'v2'"),
        (errors.GatedRepoError, "ask on its hub page and set HF_TOKEN"),
        (TimeoutError, "hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_explained(offline, monkeypatch, error, message):
    raised = error.__new__(error)  # their constructors want a response of the HTTP client
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", failing(raised))
    with pytest.raises(ModelError, match=message):
        inspect_checkpoint("org/name", "v2")


def test_a_hub_model_with_pickled_weights_only_is_refused(llama, monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: SimpleNamespace(sha="0" * 40))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, file, revision: str(llama / file))
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", failing(errors.NotASafetensorsRepoError("none")))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, revision: ["config.json", "tokenizer.json"])
    refused("org/name", "weights are pickled")


def test_a_missing_folder_beside_others_is_not_looked_for_on_another_machine(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ModelError("model m/gone: no such folder here, and the hub cannot be reached. Run `hf download m/gone`")

    monkeypatch.setattr("w2s.checkpoint_files.resolve_revision", offline)
    monkeypatch.chdir(tmp_path)
    refused("m/gone", "hf download")
    (tmp_path / "m").mkdir()
    refused("m/gone", "m/gone: no such folder in m/, and not found on the Hugging Face hub$")
    (tmp_path / "m" / "file").write_text("")
    refused("m/file", "is a file; name the folder")
    refused("gone/", "no such folder$")
