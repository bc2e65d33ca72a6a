"""Pretraining tokens of public model families, so that their compute (6·N·D) needs no entry in the spec."""

_FAMILIES = (
    # (prefix of the hub id, tokens, source)
    ("EleutherAI/pythia-", 299_892_736_000, "Biderman et al. 2023: 143,000 steps of 1,024 x 2,048 tokens"),
    ("facebook/opt-", 180_000_000_000, "Zhang et al. 2022, section 2.3"),
    ("Qwen/Qwen2.5-", 18_000_000_000_000, "Qwen2.5 technical report 2024: 18 trillion tokens"),
    ("allenai/OLMo-1B", 3_000_000_000_000, "Groeneveld et al. 2024, table 1"),
    ("allenai/OLMo-7B", 2_460_000_000_000, "Groeneveld et al. 2024, table 1"),
)


def pretraining_tokens(model: str) -> float | None:
    """Tokens that a hub model was pretrained on, or None when its family is not listed."""
    return next((float(tokens) for prefix, tokens, _ in _FAMILIES if model.startswith(prefix)), None)


def families() -> tuple[tuple[str, int, str], ...]:
    """(prefix of the hub id, tokens, source) of every listed family."""
    return _FAMILIES
