"""Checkpoints that would run code, or lead elsewhere, and what a spec allows by name."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from sweep.errors import SpecError
from sweep.inputs import gather
from sweep.lockfile import RevisionLock
from sweep.secrets import credentials_in, without_credentials
from sweep.spec import load_spec
from tests.end_to_end.drive import w2s
from w2s.checkpoints import inspect_checkpoint
from w2s.config import ModelSource
from w2s.corpora import train_bpe
from w2s.errors import ModelError
from w2s.models import load_tokenizer, read_pretrained

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def make_checkpoint(folder: Path, width: int = 16) -> Path:
    tokenizer = train_bpe(["red stone", "blue river"], 270)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def pickled(folder: Path) -> Path:
    """The same weights as older software wrote them."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


class Trap:
    """Creates a file when it is unpickled, as any other code would be run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "code-was-run"


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "model")


def load(folder: Path, **allowed):
    return read_pretrained(transformers.AutoModel, ModelSource(path=str(folder), **allowed), 0.0)


def refused(folder: Path, message: str, **allowed) -> None:
    with pytest.raises(ModelError, match=message):
        inspect_checkpoint(str(folder), **allowed)


# -- pickles ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trapped(folder, marker):
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Trap(marker)}, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # the trap works
    marker.unlink()
    return folder


def test_a_pickle_is_refused_before_it_is_opened(trapped, marker):
    refused(trapped, r"model .*: its weights are pickled \(pytorch_model.bin\).*set allow_pickle: true for this model")
    with pytest.raises(ModelError):
        load(trapped)
    assert not marker.exists()


def test_an_allowed_pickle_still_runs_nothing(trapped, marker):
    inspect_checkpoint(str(trapped), allow_pickle=True)
    with pytest.raises(ModelError, match=r"opening them would run code.*admits pickles of tensors only") as raised:
        load(trapped, allow_pickle=True)
    assert "weights_only" not in str(raised.value)  # torch's advice on how to run it all the same
    assert not marker.exists()


def test_an_allowed_pickle_of_tensors_is_loaded(folder):
    before = load(folder)[0].state_dict()
    model, _ = load(pickled(folder), allow_pickle=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("allowed", [False, True])
def test_pickles_beside_safetensors_are_not_looked_at(folder, marker, allowed):
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth"):
        torch.save({"x": Trap(marker)}, folder / name)
    inspect_checkpoint(str(folder), allow_pickle=allowed)
    load(folder, allow_pickle=allowed)
    load_tokenizer(ModelSource(path=str(folder), allow_pickle=allowed))
    assert not marker.exists()


def test_adapters_beside_a_model_are_refused(folder, marker):
    """transformers would load them on top, from a pickle too."""
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="org/other")
    torch.save({"x": Trap(marker)}, folder / "adapter_model.bin")
    refused(folder, r"holds adapters beside a model \(adapter_config.json\); merge them")
    assert not marker.exists()


SPEC = """
name: s
ladder: {{rungs: [{rungs}]}}
tasks: [{{name: facts, source: facts, splits: {{supervise: 40, transfer: 40, validation: 10, test: 60}}}}]
"""


def plan_inputs(tmp_path: Path, rungs: str):
    file = tmp_path / "s.yaml"
    file.write_text(SPEC.format(rungs=rungs))
    return gather(load_spec(file), cache=tmp_path / "cache", lock=RevisionLock.beside(file))


def test_a_pickle_is_allowed_by_name_for_one_rung_only(tmp_path):
    for name, width in (("small", 8), ("large", 16)):
        pickled(make_checkpoint(tmp_path / name, width))
    small = "{model: ./small, pretrain_tokens: 1e9, allow_pickle: true}"
    large = "{model: ./large, pretrain_tokens: 1e9}"
    with pytest.raises(SpecError, match=r"ladder.rungs\[1\] 'large': .*large: its weights are pickled"):
        plan_inputs(tmp_path, f"{small}, {large}")
    models = plan_inputs(tmp_path, f"{small}, {large.replace('}', ', allow_pickle: true}')}").models
    assert all(model.source is not None and model.source.allow_pickle for model in models.values())


# -- code ------------------------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaModel):
    config_class = OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def own_code(folder, marker, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    edit(folder / "config.json", model_type="own", auto_map=names, architectures=["OwnForCausalLM"])
    return folder


def never_asked(*_):
    raise AssertionError("a question on the terminal, which a job on a cluster cannot answer")


def test_a_model_with_code_of_its_own_is_refused_when_planning(own_code, marker, monkeypatch):
    monkeypatch.setattr("builtins.input", never_asked)
    message = r"comes with code of its own.*set trust_remote_code: true for this model"
    refused(own_code, message + r".*config.json: auto_map own\.OwnConfig")
    with pytest.raises(ModelError, match=message):
        load(own_code)
    refused(pickled_like(own_code), message, allow_pickle=True)
    assert not marker.exists()


def pickled_like(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def test_allowed_code_is_run_and_is_part_of_the_fingerprint(own_code, marker):
    before = inspect_checkpoint(str(own_code), trust_remote_code=True).fingerprint
    assert not marker.exists()  # not for planning
    load(own_code, trust_remote_code=True)
    assert marker.exists()
    (own_code / "own.py").write_text((own_code / "own.py").read_text() + "# changed\n")
    assert inspect_checkpoint(str(own_code), trust_remote_code=True).fingerprint != before


def test_allowed_code_may_not_come_from_another_repository(own_code):
    edit(own_code / "config.json", auto_map={"AutoConfig": "org/other--own.OwnConfig"})
    refused(own_code, "takes its code from another repository, org/other", trust_remote_code=True)


def test_a_model_that_transformers_knows_needs_no_code_of_its_own(own_code, marker):
    edit(own_code / "config.json", model_type="llama")
    inspect_checkpoint(str(own_code))
    load(own_code)
    assert not marker.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused_when_planning(own_code, marker, monkeypatch):
    monkeypatch.setattr("builtins.input", never_asked)
    edit(own_code / "config.json", model_type="gptj", auto_map=None, n_embd=16, n_layer=1, n_head=2)
    config = json.loads((own_code / "config.json").read_text())
    (own_code / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    code = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    monkeypatch.setattr("transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES", {})
    edit(own_code / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=code)
    message = r"its tokenizer comes with code of its own.*trust_remote_code: true for this model.*own\.OwnTokenizer"
    refused(own_code, message)
    assert not marker.exists()


def test_a_tokenizer_with_code_is_explained_when_it_is_loaded(own_code, marker, monkeypatch):
    monkeypatch.setattr("builtins.input", never_asked)
    code = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    edit(own_code / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=code)
    with pytest.raises(ModelError, match=r"tokenizer of model .* cannot be loaded: .*set trust_remote_code: true"):
        load_tokenizer(ModelSource(path=str(own_code)))
    assert not marker.exists()


# -- files elsewhere -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x.safetensors", 3])
def test_an_index_may_only_name_files_of_its_own_folder(folder, name):
    shard = folder / "model.safetensors"
    shard.rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    refused(folder, "not a file of this folder" if isinstance(name, str) else "not an index|not a file of this folder")


def test_an_index_of_safetensors_may_not_name_a_pickle(folder, marker):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Trap(marker)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model.bin"}}))
    refused(folder, "names pytorch_model.bin, which is no safetensors file")
    assert not marker.exists()


def test_an_index_of_pickles_is_checked_too(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model-1.bin").write_text("")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "../../x.bin"}}))
    refused(folder, r"names '../../x.bin', which is not a file of this folder", allow_pickle=True)


def test_a_config_may_not_name_weights_of_its_own(folder):
    edit(folder / "config.json", transformers_weights="other.safetensors")
    refused(folder, "config.json names a weight file of its own")


# -- the hub ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub with one model, as far as planning asks it; its files are those of a folder."""
    from safetensors import safe_open

    def metadata(_, revision):
        with safe_open(folder / "model.safetensors", "pt") as file:
            tensors = {name: SimpleNamespace(shape=file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: SimpleNamespace(sha="0" * 40))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, file, revision: str(folder / file))
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", metadata)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.list_repo_files", lambda *_, revision: [path.name for path in folder.iterdir()]
    )
    return folder


def test_a_hub_model_without_a_tokenizer_is_refused_when_planning(hub):
    assert inspect_checkpoint("org/name").layers == 1
    (hub / "tokenizer.json").unlink()
    refused(Path("org/name"), "model org/name: no tokenizer in the repository .*download it into a folder")


def test_a_hub_model_in_the_cache_without_a_tokenizer_is_asked_about(hub, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((hub / name).read_bytes())
    assert inspect_checkpoint("org/name", "0" * 40).layers == 1
    (hub / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer in the repository"):
        inspect_checkpoint("org/name", "0" * 40)


def test_what_is_refused_of_folders_is_refused_of_the_hub(hub):
    (hub / "adapter_config.json").write_text("{}")
    refused(Path("org/name"), "holds adapters beside a model")
    (hub / "adapter_config.json").unlink()
    edit(hub / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    refused(Path("org/name"), "comes with code of its own")


# -- secrets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("s3://AKIA:s3cret@bucket/x", "AKIA:s3cret"),
        ("https://token@host/x", "token"),
        ("sftp://ann@host/x", ""),
        ("sftp://ann:s3cret@host/x", "ann:s3cret"),
        ("s3://bucket/a@b", ""),
        ("sqlite:////home/a@b.db", ""),
        ("results/a@b", ""),
        ("/a:b@c", ""),
    ],
)
def test_credentials_in_an_address_are_found_and_not_shown(url, secret):
    assert credentials_in(url) == secret
    assert without_credentials(url) == url.replace(f"{secret}@", "" if secret else "@")


def test_a_storage_with_credentials_is_refused_without_repeating_them(tmp_path):
    output = w2s("report", "s3://AKIA:s3cret@bucket/results", check=2, cwd=tmp_path)
    assert "storage: the address s3://***@bucket/results carries credentials" in output
    assert "s3cret" not in output
