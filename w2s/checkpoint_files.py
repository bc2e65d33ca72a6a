"""What lies in a checkpoint: its config, the shapes in the headers of its weight files, and a fingerprint.

Folders and hub ids look the same from outside. No weight is read, and nothing that comes with a checkpoint is run:
pickled weights and code of its own are refused unless they are allowed for this very checkpoint.
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w2s.errors import ModelError
from w2s.fingerprints import HashFile, digest
from w2s.hub import cached_commit, how_to_copy, resolve_revision

ModelKind = Literal["causal", "encoder"]
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every stored tensor, by its name."""

_ENCODERS = """
    albert bert camembert deberta deberta-v2 distilbert electra ernie mpnet modernbert roberta xlm-roberta
"""
_CAUSAL = """
    bloom codegen cohere gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite llama mistral mpt olmo
    olmo2 opt phi phi3 qwen2 qwen3 smollm3 stablelm starcoder2
"""
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tekken.json", "tokenization_*.py")
"""A folder with none of these has no tokenizer, even where transformers makes one up: of GPT-2's kind it is empty."""
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")


@dataclass(frozen=True)
class CheckpointFiles:
    """The parts of a checkpoint that planning reads."""

    config: Mapping[str, Any]
    kind: ModelKind
    shapes: Shapes
    fingerprint: str


def read_checkpoint_files(
    path: str, revision: str | None, *, allow_pickle: bool, trust_remote_code: bool = False, hash_file: HashFile
) -> CheckpointFiles:
    """Read a folder, a hub model in the local cache, or one on the hub, in this order.

    Args:
        allow_pickle: Whether weights may be pickled where there are no others.
        trust_remote_code: Whether transformers may run code that comes with it.

    Raises:
        ModelError: See `w2s.checkpoints.inspect_checkpoint`.
    """
    local = _local_folder(path)
    folder = local or _cached_snapshot(path, revision)
    if folder is None:
        try:
            commit = resolve_revision(path, revision, repo_type="model")
        except ModelError as error:
            parent = Path(path).parent
            if "/" in path and parent.is_dir() and "no such folder here" in str(error):  # no org/model was meant
                message = f"model {path}: no such folder in {parent}/, and not found on the Hugging Face hub"
                raise ModelError(message) from error
            raise
        config = _download_config(path, commit)
        _check_config(path, config, trusted=trust_remote_code)
        kind = model_kind(path, config)
        names = _hub_names(path, commit)
        _refuse_adapters(path, names)
        _require_tokenizer(path, names, "in the repository")
        if "tokenizer_config.json" in names:
            tokenizer = _json(_download(path, "tokenizer_config.json", commit))
            _check_tokenizer(path, tokenizer, config, trusted=trust_remote_code)
        shapes = _hub_shapes(path, commit, kind, allow_pickle=allow_pickle, trusted=trust_remote_code)
        return CheckpointFiles(config, kind, shapes, commit)
    config = _read_config(path, folder / "config.json")
    _check_config(path, config, trusted=trust_remote_code)
    kind = model_kind(path, config)
    names = [file.name for file in folder.iterdir() if file.is_file()]
    _refuse_adapters(path, names)
    shapes = _folder_shapes(path, folder, kind, allow_pickle=allow_pickle, trusted=trust_remote_code)
    if local:
        _require_tokenizer(path, names, "in the folder")
    elif not _has_tokenizer(names):  # the hub cache may hold a part of what is on the hub
        _require_tokenizer(path, _hub_names(path, folder.name), "in the repository")
    if (folder / "tokenizer_config.json").is_file():
        _check_tokenizer(path, _json(folder / "tokenizer_config.json"), config, trusted=trust_remote_code)
    # Hashing comes last: it can take minutes, and what cannot be used should be refused before.
    fingerprint = _fingerprint(folder, hash_file, with_code=trust_remote_code) if local else folder.name
    return CheckpointFiles(config, kind, shapes, fingerprint)


# -- code and pickles ------------------------------------------------------------------------------------------


def why_not_loaded(error: BaseException) -> str:
    """What a failure of transformers to load a checkpoint means, where its own words would mislead."""
    text = str(error)
    if type(error).__name__ == "UnpicklingError":  # torch's own text tells how to switch the protection off
        return (
            "its pickled weights are not plain tensors: opening them would run code, or they are damaged. allow_pickle"
            " admits pickles of tensors only; use a copy in safetensors"
        )
    if "trust_remote_code" in text:
        return f"it {_OWN_CODE}"
    return text


_OWN_CODE = (
    "comes with code of its own, which transformers would run; set trust_remote_code: true for this model if you trust"
    " its source, or use a model that transformers knows"
)


def _check_config(path: str, config: Mapping[str, Any], *, trusted: bool) -> None:
    """Refuse what a config.json asks for beyond its own folder, or to be run."""
    if "transformers_weights" in config:
        raise ModelError(
            f"model {path}: config.json names a weight file of its own (transformers_weights); save it again as"
            " model.safetensors"
        )
    code = _auto_map(config)
    _check_code_is_here(path, code, trusted=trusted)
    if not code or trusted or config["model_type"] in (_ENCODERS + _CAUSAL).split():
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # late: it takes a second

    if config["model_type"] not in CONFIG_MAPPING:  # otherwise transformers takes its own class
        raise ModelError(f"model {path}: {_OWN_CODE} (config.json: auto_map {code[0]})")


def _check_tokenizer(path: str, tokenizer: Mapping[str, Any], config: Mapping[str, Any], *, trusted: bool) -> None:
    code = _auto_map(tokenizer)
    _check_code_is_here(path, code, trusted=trusted)
    if not code or trusted:
        return
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    name = str(tokenizer.get("tokenizer_class") or "").removesuffix("Fast")
    known = name and (tokenizer_class_from_name(name) or tokenizer_class_from_name(f"{name}Fast"))
    if config["model_type"] not in TOKENIZER_MAPPING_NAMES and not known:
        raise ModelError(f"model {path}: its tokenizer {_OWN_CODE} (tokenizer_config.json: auto_map {code[0]})")


def _auto_map(config: Mapping[str, Any]) -> list[str]:
    """The classes that a checkpoint brings itself, such as `modeling_x.XModel`."""
    found: list[str] = []
    queue: list[Any] = [config.get("auto_map")]
    while queue:
        item = queue.pop(0)
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, Mapping):
            queue += item.values()
        elif isinstance(item, list | tuple):
            queue += item
    return found


def _check_code_is_here(path: str, code: list[str], *, trusted: bool) -> None:
    elsewhere = [name for name in code if "--" in name]
    if trusted and elsewhere:
        raise ModelError(
            f"model {path}: takes its code from another repository, {elsewhere[0].partition('--')[0]}, at whatever"
            " commit that is; trust_remote_code is for this model's own files: download it, put the code beside the"
            " weights and take the part before -- out of auto_map"
        )


def _refuse_adapters(path: str, names: Iterable[str]) -> None:
    # transformers would load them as well, from pickles too, and they are not in the fingerprint
    if "adapter_config.json" in names:
        raise ModelError(
            f"model {path}: holds adapters beside a model (adapter_config.json); merge them into it, or remove them"
        )


# -- folders and the hub ---------------------------------------------------------------------------------------


def model_kind(path: str, config: Mapping[str, Any]) -> ModelKind:
    """Whether a config is of a causal language model or of an encoder.

    Raises:
        ModelError: It is of neither.
    """
    model_type = str(config["model_type"])
    architectures = config.get("architectures") or []
    if model_type in _ENCODERS.split() and not config.get("is_decoder"):
        return "encoder"
    if model_type in _CAUSAL.split() or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return "causal"
    if not config.get("is_encoder_decoder") and any(name.endswith("ForMaskedLM") for name in architectures):
        return "encoder"
    raise ModelError(
        f"model {path}: architecture {', '.join(architectures) or 'unknown'} (model type {model_type}) is neither a"
        " causal language model nor an encoder"
    )


def _local_folder(path: str) -> Path | None:
    """The folder that `path` names; None if it can only be a hub id."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(f"model {path}: is a file; name the folder that holds config.json, weights and tokenizer")
    if folder.is_absolute() or path.startswith((".", "~")) or path.endswith("/") or path.count("/") > 1:
        raise ModelError(f"model {path}: no such folder")
    return None


def _read_config(path: str, file: Path) -> dict[str, Any]:
    if not file.is_file():
        hint = (
            " (it holds adapters only; merge them into their base model)"
            if (file.parent / "adapter_config.json").is_file()
            else ""
        )
        raise ModelError(
            f"model {path}: no config.json in the folder{hint}; a folder written by save_pretrained is expected"
        )
    config = _json(file)
    if "model_type" not in config:
        raise ModelError(f'{file}: names no "model_type"; a config written by save_pretrained does')
    return config


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not valid JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def _folder_shapes(path: str, folder: Path, kind: ModelKind, *, allow_pickle: bool, trusted: bool) -> Shapes:
    files = _weight_files(path, folder)
    if files:
        return {name: shape for file in files for name, shape in _header(file).items()}
    pickles = sorted(file.name for file in folder.glob("*.bin") if file.name.startswith("pytorch_model"))
    if not pickles:
        raise ModelError(f"model {path}: no weights in the folder (model.safetensors, or shards with an index)")
    if not allow_pickle:
        raise ModelError(_pickle_message(path, pickles[0]))
    index = folder / "pytorch_model.bin.index.json"
    if index.is_file():
        _shards(path, index, ".bin")
    return _built_shapes(path, str(folder), None, kind, trusted=trusted)


def _has_tokenizer(names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in _VOCABULARIES)


def _require_tokenizer(path: str, names: Iterable[str], where: str) -> None:
    if not _has_tokenizer(names):
        cure = (
            "save the model's own into it with tokenizer.save_pretrained(folder)"
            if where == "in the folder"
            else "download it into a folder, and save its tokenizer there too with tokenizer.save_pretrained(folder)"
        )
        raise ModelError(
            f"model {path}: no tokenizer {where} (tokenizer.json, or tokenizer.model, vocab.json, vocab.txt,"
            f" spiece.model); {cure}"
        )


def _weight_files(path: str, folder: Path) -> list[Path]:
    """The safetensors files of a folder; none if it has only others."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else []
    return _shards(path, index, ".safetensors")


def _shards(path: str, index: Path, suffix: str) -> list[Path]:
    """The files that an index names, all of them in its own folder and of one kind."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of {suffix[1:]} shards ({error})") from error
    _check_shard_names(path, index.name, names, suffix)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelError(f"model {path}: {missing[0]} is missing, one of {len(names)} files that {index.name} names")
    return [index.parent / name for name in names]


def _check_shard_names(path: str, index: str, names: Iterable[Any], suffix: str) -> None:
    """Refuse an index that leads out of the checkpoint, or that mixes in weights of another kind."""
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise ModelError(f"model {path}: {index} names {name!r}, which is not a file of this folder")
        if not name.endswith(suffix):
            raise ModelError(f"model {path}: {index} names {name}, which is no {suffix[1:]} file; save the model again")


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file: eight bytes of length, then JSON, then the data."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise ModelError(f"{file}: not a whole safetensors file; download or save it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{file}: not a safetensors file ({error})") from error
    header.pop("__metadata__", None)
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if end != size:
        raise ModelError(f"{file}: has {size:,} bytes where its header announces {end:,}; download or save it again")
    return {name: tuple(tensor["shape"]) for name, tensor in header.items()}


def _cached_snapshot(repo_id: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the local cache, if config and weights are complete there."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    commit = cached_commit(repo_id, revision, repo_type="model")
    if commit is None:
        return None
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model") / "snapshots" / commit
    if not (folder / "config.json").is_file():
        return None
    try:
        complete = bool(_weight_files(repo_id, folder)) or any(folder.glob("pytorch_model*.bin"))
    except ModelError:  # some shards only
        return None
    return folder if complete else None


def _download_config(repo_id: str, commit: str) -> dict[str, Any]:
    return _read_config(repo_id, _download(repo_id, "config.json", commit))


def _download(repo_id: str, name: str, commit: str) -> Path:
    """A small file of a hub model."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, name, revision=commit))
    except Exception as error:  # a missing file, or whatever the HTTP client of the day raises
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise ModelError(f"model {repo_id}: has no {name}, so transformers cannot load it") from error
        raise ModelError(_unreachable_message(repo_id, error)) from error


def _hub_names(repo_id: str, commit: str) -> list[str]:
    """Names of all files of a hub model."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repo_id, revision=commit)
    except Exception as error:  # whatever the HTTP client of the day raises
        raise ModelError(_unreachable_message(repo_id, error)) from error


def _hub_shapes(repo_id: str, commit: str, kind: ModelKind, *, allow_pickle: bool, trusted: bool) -> Shapes:
    """Shapes from the headers of the weight files on the hub; the weights stay there."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        metadata = get_safetensors_metadata(repo_id, revision=commit)
    except NotASafetensorsRepoError as error:
        if not allow_pickle:
            raise ModelError(_pickle_message(repo_id, "weights in the repository")) from error
        return _built_shapes(repo_id, repo_id, commit, kind, trusted=trusted)
    except Exception as error:  # whatever the HTTP client of the day raises
        raise ModelError(_unreachable_message(repo_id, error)) from error
    _check_shard_names(repo_id, "model.safetensors.index.json", metadata.files_metadata, ".safetensors")
    return {
        name: tuple(tensor.shape) for file in metadata.files_metadata.values() for name, tensor in file.tensors.items()
    }


def _built_shapes(path: str, source: str, revision: str | None, kind: ModelKind, *, trusted: bool) -> Shapes:
    """Shapes of the model that the config describes, built without storage."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    try:
        # False, not None: transformers asks on the terminal when nothing is said
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trusted)
        auto = AutoModelForCausalLM if kind == "causal" else AutoModel
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=trusted)
    except (ValueError, OSError) as error:
        raise ModelError(f"model {path}: its config cannot be used ({why_not_loaded(error)})") from error
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _fingerprint(folder: Path, hash_file: HashFile, *, with_code: bool = False) -> str:
    """Of everything that decides what the model computes and how texts become tokens."""
    files = {folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")}
    if not any(file.suffix == ".safetensors" for file in files):
        files.update(folder.glob("pytorch_model*.bin*"))
    for pattern in (*_TOKENIZER_FILES, *(["*.py"] if with_code else [])):
        files.update(folder.glob(pattern))
    return digest({file.name: hash_file(file) for file in files if file.is_file()})


def _pickle_message(path: str, what: str) -> str:
    return (
        f"model {path}: its weights are pickled ({what}), and opening a pickle can run code hidden in it; use a copy in"
        " safetensors, or set allow_pickle: true for this model if you trust its source"
    )


def _unreachable_message(repo_id: str, error: Exception) -> str:
    return f"model {repo_id}: cannot be read from the Hugging Face hub ({error}). {how_to_copy(repo_id, 'model')}"
