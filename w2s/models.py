"""A pretrained body with a linear head that scores texts.

Shapes: B token rows of a batch, L their padded length, D the hidden size.
"""

import copy
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from w2s.caches import RecentlyUsed, file_stamp
from w2s.checkpoint_files import why_not_loaded
from w2s.checkpoints import Checkpoint, inspect_checkpoint
from w2s.config import FinetuneSettings, Form, LoraSettings, ModelSource
from w2s.data import Batch
from w2s.distributed import WHOLE, Shard
from w2s.errors import ModelError
from w2s.flops import MatmulSizes
from w2s.seeds import Role, torch_seed

HEAD_FILE = "w2s_head.safetensors"
_log = logging.getLogger("w2s")
CACHED_BYTES = 2**30
"""A body larger than this is read anew for every run."""


class Scorer(nn.Module):
    """A body and a bias-free linear head: two outputs for `classify`, one reward for `compare`."""

    def __init__(
        self, body: nn.Module, *, form: Form, kind: Literal["causal", "encoder"], pooled: bool, width: int
    ) -> None:
        super().__init__()
        self.body, self.form, self.kind, self.pooled = body, form, kind, pooled
        self.head = nn.Linear(width, 2 if form == "classify" else 1, bias=False)
        nn.init.zeros_(self.head.weight)
        self.frozen_body = False
        self.autocast: torch.dtype | None = None
        self.blank: Callable[[], Scorer] | None = None
        """Where parameters are cut over ranks: makes the same model, whole and without values."""

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Log-odds of class 1 of each example, float32, shape [examples]."""
        ids, lengths = _to_device(batch, self.device)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            if self.frozen_body:
                with torch.no_grad():
                    features = self._features(ids, lengths)
            else:
                features = self._features(ids, lengths)
        # The head stays in float32: log-odds rounded to bfloat16 would tie examples that differ.
        outputs = F.linear(features.float(), self.head.weight)
        if self.form == "classify":
            return outputs[:, 1] - outputs[:, 0]
        first, second = outputs.squeeze(1).chunk(2)
        return second - first

    def _features(self, ids: Tensor, lengths: Tensor | None) -> Tensor:
        """What the head reads of each row, shape [B, D]: the last real token (causal), the pooled or first (encoder).

        Args:
            ids: Token ids, shape [B, L], padded on the right.
            lengths: Real tokens per row, shape [B]; None when no row is padded, which saves the mask.
        """
        mask = None
        if lengths is not None:
            mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        if self.kind == "encoder":
            outputs = self.body(input_ids=ids, attention_mask=mask)
            return outputs.pooler_output if self.pooled else outputs.last_hidden_state[:, 0]
        hidden = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        if lengths is None:
            return hidden[:, -1]
        return hidden[torch.arange(ids.shape[0], device=ids.device), lengths - 1]

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Hidden state of each row where the head would read it, float32, shape [B, D].

        Args:
            batch: Token rows.
            layer: Index into `hidden_states` of transformers: 0 is the embeddings; -1 is what the head reads, which
                for an encoder with a pretrained pooler is the pooled output and not a hidden state.
        """
        ids, lengths = _to_device(batch, self.device)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            if layer == -1:
                return self._features(ids, lengths).float()
            at_end = batch.lengths - 1 if self.kind == "causal" else np.zeros_like(batch.lengths)
            read_at = torch.from_numpy(at_end).to(self.device)
            mask = None
            if lengths is not None:
                mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
            options = {"use_cache": False} if self.kind == "causal" else {}
            outputs = self.body(input_ids=ids, attention_mask=mask, output_hidden_states=True, **options)
            return outputs.hidden_states[layer][torch.arange(ids.shape[0], device=ids.device), read_at].float()

    def sizes(self) -> MatmulSizes:
        """Weights that a token and a sequence are multiplied with, adapters left out."""
        config: Any = self.body.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        per_token, per_sequence = 0, self.head.weight.numel()
        for name, module in self.body.named_modules():
            if isinstance(module, nn.Embedding) or "lora_" in name:
                continue
            size = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim == 2)
            if "pooler" in name:
                per_sequence += size
            else:
                per_token += size
        return MatmulSizes(
            per_token=per_token,
            per_sequence=per_sequence,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            causal=self.kind == "causal",
        )

    def adapter_weights(self) -> int:
        """Number of weights in low-rank adapters."""
        return sum(p.numel() for name, p in self.body.named_parameters() if "lora_" in name)


def source_of(path: str) -> ModelSource:
    """The folder that an earlier run wrote, as a model source."""
    return ModelSource(path=path)


def load_tokenizer(source: ModelSource) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    key = ("tokenizer", *source_identity(source))
    return _TOKENIZERS.get(key, lambda: _read_tokenizer(source))


def load_checkpoint_sizes(source: ModelSource) -> Checkpoint:
    """Sizes and kind of a checkpoint, read once per process."""
    key = ("sizes", *source_identity(source))
    return _CHECKPOINTS.get(
        key,
        lambda: inspect_checkpoint(
            source.path,
            source.revision,
            allow_pickle=source.allow_pickle,
            trust_remote_code=source.trust_remote_code,
        ),
    )


def load_scorer(
    source: ModelSource,
    *,
    form: Form,
    settings: FinetuneSettings,
    seed: int,
    device: torch.device,
    shard: Shard = WHOLE,
) -> Scorer:
    """A pretrained model with a zero-initialised head, set up for what `settings.tune` trains.

    All weights are float32 whatever the checkpoint holds; a GPU computes in bfloat16 under autocast if so set.

    Args:
        source: Folder or hub id.
        form: Form of the task, which decides the head's outputs.
        settings: Resolved finetuning settings.
        seed: The run's seed; only adapters draw from it.
        device: Where it will live.
        shard: The ranks; `sharded` cuts every parameter over them, and only rank 0 reads the weights.

    Raises:
        ModelError: The checkpoint lacks files or weights, or is of a kind that cannot score texts.
    """
    kind = load_checkpoint_sizes(source).kind
    autocast = autocast_of(settings, device)

    def whole() -> Scorer:
        body, pooled = _pristine_body(source, settings.dropout, kind)
        return _assembled(body, form=form, kind=kind, pooled=pooled, settings=settings, seed=seed)

    if not shard.is_sharded:
        scorer = whole().to(device)
        if settings.compile:
            torch._dynamo.reset()  # what earlier runs compiled in this process must not decide how this one is
            scorer.body.compile()
    else:
        from w2s.sharding import shard_model

        first = shard.on_first(whole)
        pooled = shard.share(first.pooled if first else False)

        def blank() -> Scorer:
            body = blank_model(transformers.AutoModel, source, settings.dropout)
            if not pooled and getattr(body, "pooler", None) is not None:
                body.pooler = None
            with torch.device("meta"):
                return _assembled(body, form=form, kind=kind, pooled=pooled, settings=settings, seed=seed)

        scorer = blank()
        shard_model(scorer, first, layers=scorer.sizes().layers, device=device, autocast=autocast, shard=shard)
        scorer.blank = blank
        warn_uncompiled(settings)
    scorer.autocast = autocast
    return scorer


def _assembled(
    body: Any,
    *,
    form: Form,
    kind: Literal["causal", "encoder"],
    pooled: bool,
    settings: FinetuneSettings,
    seed: int,
) -> Scorer:
    """A body with its head, set up for what `settings.tune` trains, where the body is."""
    if settings.tune == "lora":
        torch.manual_seed(torch_seed(seed, Role.ADAPTER))
        body = _with_adapters(body, settings.lora, settings.dropout)
    scorer = Scorer(body, form=form, kind=kind, pooled=pooled, width=_output_width(body))
    if settings.tune == "head":
        body.requires_grad_(False)
        scorer.frozen_body = True
    if settings.gradient_checkpointing and settings.tune != "head":
        body.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    # Evaluation mode unless something asks for the other one: some layers drop whatever their settings say.
    scorer.train(settings.dropout > 0 or settings.gradient_checkpointing)
    return scorer


def autocast_of(settings: FinetuneSettings, device: torch.device) -> torch.dtype | None:
    """The type of the arithmetic; None is float32."""
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if bf16 else None


def warn_uncompiled(settings: FinetuneSettings) -> None:
    """What is gathered and dropped block by block is not compiled."""
    if settings.compile:
        _log.warning("compile: true has no effect where parameters are cut over devices; the results are the same")


def gather_scorer(scorer: Scorer, shard: Shard) -> Scorer | None:
    """The whole model, for `save_scorer`: itself, or where it is cut over ranks, gathered on the CPU of rank 0.

    Every rank must call this; the others get None.
    """
    if scorer.blank is None:
        return scorer
    from w2s.sharding import gather_into

    whole = scorer.blank() if shard.is_first else None
    gather_into(whole, scorer)
    return whole


def save_scorer(scorer: Scorer, tokenizer: transformers.PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a folder that `from_pretrained` loads, adapters merged in, with tokenizer and head beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    body: Any = scorer.body
    if hasattr(body, "merge_and_unload"):
        # Merging changes the model in place; a copy keeps it as it is for whoever uses it next.
        body = copy.deepcopy(body).merge_and_unload()
    with quiet_library():
        body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # What was switched off for finetuning, and the class that the checkpoint was published as, are the model's own.
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | body.w2s_published, indent=2) + "\n")
    metadata = {"form": scorer.form, "pooled": str(scorer.pooled).lower()}
    safetensors.torch.save_file(
        {"weight": scorer.head.weight.detach().cpu().contiguous()}, folder / HEAD_FILE, metadata=metadata
    )


def load_finetuned(folder: Path, *, settings: FinetuneSettings, device: torch.device) -> Scorer:
    """A model written by `save_scorer`, with its trained head.

    Raises:
        ModelError: The folder holds no head.
    """
    if not (folder / HEAD_FILE).exists():
        raise ModelError(f"{folder} holds no {HEAD_FILE}: it is not the output of a finetuning run")
    with safetensors.safe_open(folder / HEAD_FILE, framework="pt") as file:
        metadata, weight = file.metadata(), file.get_tensor("weight")
    plain = settings.model_copy(update={"tune": "full"})
    scorer = load_scorer(source_of(str(folder)), form=metadata["form"], settings=plain, seed=0, device=device)
    scorer.pooled = metadata["pooled"] == "true"
    with torch.no_grad():
        scorer.head.weight.copy_(weight)
    return scorer


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keeps the library's progress bars and load reports, one per model, out of the logs of a sweep.

    What a report would say about missing weights, we check and say ourselves.
    """
    log = transformers.utils.logging
    bars, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def clear_caches() -> None:
    """Forgets all models and tokenizers kept for the next run."""
    for cache in (BODIES, _TOKENIZERS, _CHECKPOINTS):
        cache.clear()


BODIES: RecentlyUsed[tuple[nn.Module, bool]] = RecentlyUsed(4)
_TOKENIZERS: RecentlyUsed[transformers.PreTrainedTokenizerBase] = RecentlyUsed(4)
_CHECKPOINTS: RecentlyUsed[Checkpoint] = RecentlyUsed(64)


def source_identity(source: ModelSource) -> tuple[Any, ...]:
    """Key of a source in this process's caches; a local folder that has changed gets another one."""
    stamp = file_stamp(Path(source.path)) if Path(source.path).is_dir() else ()
    return (source, stamp)


def _pristine_body(source: ModelSource, dropout: float, kind: str) -> tuple[Any, bool]:
    """A fresh copy of a checkpoint's body in float32, and whether it has a pretrained pooler."""
    key = ("body", *source_identity(source), dropout)
    kept, pooled = BODIES.get(key, lambda: _read_body(source, dropout, kind), keep=small_enough)
    # The copy is for training; the kept one stays as it was read, so that no run sees another's weights.
    return (copy.deepcopy(kept) if small_enough((kept, pooled)) else kept), pooled


def small_enough(kept: tuple[nn.Module, bool]) -> bool:
    return sum(p.numel() * p.element_size() for p in kept[0].parameters()) <= CACHED_BYTES


def read_pretrained(auto: Any, source: ModelSource, dropout: float) -> tuple[Any, dict[str, Any]]:
    """A model in float32 and the library's loading report; what its configuration published is kept beside it.

    Args:
        auto: The class of transformers whose `from_pretrained` reads it.
        source: Folder or hub id.
        dropout: Every dropout probability of its configuration.

    Raises:
        ModelError: It cannot be read as such a model.
    """
    try:
        config, published = _read_config(source, dropout)
        with quiet_library():
            model, info = auto.from_pretrained(
                source.path,
                revision=source.revision,
                config=config,
                dtype=torch.float32,
                use_safetensors=None if source.allow_pickle else True,
                trust_remote_code=source.trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError, safetensors.SafetensorError) as error:
        raise ModelError(f"model {shown_source(source)} cannot be loaded: {why_not_loaded(error)}") from error
    model.w2s_published = published
    return model, info


def blank_model(auto: Any, source: ModelSource, dropout: float) -> Any:
    """The same model without values, on the meta device: no weights are read."""
    try:
        config, published = _read_config(source, dropout)
        with torch.device("meta"):
            model = auto.from_config(config, dtype=torch.float32, trust_remote_code=source.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {shown_source(source)} cannot be built: {error}") from error
    model.eval()
    model.w2s_published = published
    return model


def _read_config(source: ModelSource, dropout: float) -> tuple[Any, dict[str, Any]]:
    """A model's configuration with another dropout, and what it had published."""
    config = transformers.AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    return config, {"architectures": config.architectures, **set_dropout(config, dropout)}


def _read_body(source: ModelSource, dropout: float, kind: str) -> tuple[nn.Module, bool]:
    where = shown_source(source)
    body, info = read_pretrained(transformers.AutoModel, source, dropout)
    missing = sorted(info["missing_keys"])
    pooler = [key for key in missing if key.startswith("pooler.")]
    if other := [key for key in missing if key not in pooler]:
        shown = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
        raise ModelError(f"model {where} lacks {len(other)} of its weights: {shown}; the file is incomplete")
    pooled = kind == "encoder" and getattr(body, "pooler", None) is not None and not pooler
    if not pooled and getattr(body, "pooler", None) is not None:
        body.pooler = None  # untrained, or not used
    return body, pooled


def set_dropout(config: Any, dropout: float) -> dict[str, Any]:
    """Sets every dropout probability of a model's configuration and returns the values that were there.

    Dropping whole layers is another thing and is switched off.
    """
    before = {}
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, int | float) and not isinstance(value, bool):
            before[key] = value
            whole_layers = "layerdrop" in key.replace("_", "") or "path" in key
            setattr(config, key, 0.0 if whole_layers else dropout)
    return before


def _with_adapters(body: Any, lora: LoraSettings, dropout: float) -> Any:
    try:
        import peft
    except ImportError:
        raise ModelError(
            "tune: lora needs the package peft, which is not installed; pip install 'peft', or set tune: full"
        ) from None
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=dropout,
        target_modules="all-linear",
        bias="none",
        # GPT-2's Conv1D holds its weights transposed.
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in body.modules()),
    )
    adapted: Any = peft.get_peft_model(body, config, autocast_adapter_dtype=False)
    return adapted


def _read_tokenizer(source: ModelSource) -> transformers.PreTrainedTokenizerBase:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where, why = shown_source(source), why_not_loaded(error)
        raise ModelError(f"the tokenizer of model {where} cannot be loaded: {why}") from error


def _output_width(body: Any) -> int:
    config = body.config.get_text_config() if hasattr(body.config, "get_text_config") else body.config
    return getattr(config, "word_embed_proj_dim", config.hidden_size)  # OPT may project its output


def _to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor | None]:
    ids = torch.from_numpy(batch.ids)
    lengths = torch.from_numpy(batch.lengths) if batch.is_padded else None
    if device.type == "cuda":
        # From pinned memory the copy does not wait for the work queued before it.
        ids = ids.pin_memory().to(device, non_blocking=True)
        lengths = lengths.pin_memory().to(device, non_blocking=True) if lengths is not None else None
    return ids, lengths


def shown_source(source: ModelSource) -> str:
    return source.path + (f" at {source.revision}" if source.revision else "")
