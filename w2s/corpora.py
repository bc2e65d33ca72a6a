"""What rungs are pretrained on: verdicts on the facts world, or any text files; and the tokenizers that go with them.

Nothing heavy is imported until a function needs it, so that planning stays light.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from w2s.config import ChessCorpus, Corpus, FactsCorpus, TextCorpus
from w2s.errors import DataError
from w2s.fingerprints import HashFile, digest, hash_file
from w2s.tasks.facts import ENTITIES, PROPERTIES, make_world
from w2s.tasks.tables import file_identity, file_kind, read_table, text_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

CORPUS_VERSION = 1
"""Part of every corpus fingerprint; raise it when a change here gives other tokens for the same corpus."""

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
FACTS_TOKENS = (PAD, BOS, "yes", "no", *ENTITIES, *PROPERTIES)
"""364 tokens; a token's id is its place."""
FACTS_VOCABULARY = len(FACTS_TOKENS)
_BOS_ID, _YES_ID, _NO_ID, _FIRST_ENTITY = 1, 2, 3, 4
_FIRST_PROPERTY = _FIRST_ENTITY + len(ENTITIES)
_CHUNK = 1000  # texts handed to the tokenizer at once
_FIRST_LOOK = 1000  # rows of a file that planning reads


def facts_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per name; "is" and punctuation have none.

    "Orvale is coastal" becomes [<bos>, Orvale, coastal], and with ": yes" behind it one token more. Another word than
    the 364 known ones raises an error of the tokenizer.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(FACTS_TOKENS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+is\s+|[\s:.]+"), behavior="removed")
    return as_fast_tokenizer(tokenizer, eos=None)


def facts_documents(corpus: FactsCorpus, n_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Documents of the facts corpus, sampled by the world's statement frequencies.

    A document is `<bos> entity property verdict`; with k statements per document it is <bos> and then k times
    `entity property verdict`, 1 + 3k tokens, so that earlier statements can serve as a prompt.

    Args:
        corpus: World and layout.
        n_tokens: As many whole documents as fit into this many tokens, but at least one.
        rng: Which statements are drawn.

    Returns:
        Token ids of `facts_tokenizer`, int64, shape (documents, 1 + 3k).
    """
    k = corpus.statements_per_document
    world = make_world(corpus.world_seed)
    cumulative = np.cumsum(world.frequency.ravel())
    documents = max(1, n_tokens // (1 + 3 * k))
    drawn = np.searchsorted(cumulative, rng.random((documents, k)) * cumulative[-1], side="right")
    tokens = np.empty((documents, 1 + 3 * k), dtype=np.int64)
    tokens[:, 0] = _BOS_ID
    tokens[:, 1::3] = _FIRST_ENTITY + drawn // len(PROPERTIES)
    tokens[:, 2::3] = _FIRST_PROPERTY + drawn % len(PROPERTIES)
    tokens[:, 3::3] = np.where(world.truth.ravel()[drawn], _YES_ID, _NO_ID)
    return tokens


def read_texts(corpus: TextCorpus) -> list[str]:
    """The documents of a text corpus, in the order of files and rows: each line of a .txt file, each cell of the named
    columns of other files. Blank ones are left out.

    Raises:
        DataError: A file is missing, unreadable, lacks a column, or there is no text at all.
    """
    if isinstance(corpus, ChessCorpus):
        from w2s.chess.corpus import chess_texts

        return chess_texts(corpus)
    texts = [text for file in corpus.files for text in _texts_of(corpus, Path(file))]
    if not texts:
        raise DataError(f"corpus: {', '.join(corpus.files)} hold no text in {', '.join(corpus.columns)}")
    return texts


def check_corpus(corpus: Corpus) -> None:
    """Refuses what `read_texts` would refuse, for the beginnings of the files.

    Raises:
        DataError: See `read_texts`.
    """
    if isinstance(corpus, ChessCorpus):
        from w2s.chess.corpus import check_chess_corpus

        check_chess_corpus(corpus)
        return
    if not isinstance(corpus, TextCorpus):
        return
    any_text = False
    for file in corpus.files:
        try:
            texts = _texts_of(corpus, Path(file), limit=_FIRST_LOOK)
        except DataError:  # a column of JSONL may appear later on, so the whole file decides
            texts = _texts_of(corpus, Path(file))
        any_text = any_text or bool(texts)
    if not any_text:
        read_texts(corpus)


def _texts_of(corpus: TextCorpus, file: Path, *, limit: int | None = None) -> list[str]:
    """Texts of one file, or of its first `limit` rows."""
    if file_kind(file, also=("txt",)) == "txt":
        columns: tuple[str, ...] = ("text",)
        table = read_table(file, wanted=columns, also=("txt",), limit=limit)
    else:
        columns = corpus.columns
        table = read_table(file, wanted=columns, names=corpus.names, limit=limit)
    return [
        text
        for i in range(len(table))
        for column in columns
        if table.columns[column][i] is not None and (text := text_of(table, column, i)).strip()
    ]


def corpus_tokens(corpus: TextCorpus) -> int:
    """Size of a text corpus's vocabulary; of a trained one, at most."""
    if isinstance(corpus, ChessCorpus):
        from w2s.chess.tokens import chess_vocabulary

        return chess_vocabulary()
    return corpus.vocab_size


def tokenizer_for(corpus: TextCorpus) -> "PreTrainedTokenizerFast":
    """The tokenizer of a text corpus: trained on it, or for chess, which is known beforehand.

    Raises:
        DataError: See `read_texts`.
    """
    if isinstance(corpus, ChessCorpus):
        from w2s.chess.tokens import chess_tokenizer

        return chess_tokenizer()
    return train_bpe(read_texts(corpus), corpus.vocab_size)


def train_bpe(texts: Sequence[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer: any text can be encoded, there is no unknown token.

    Args:
        texts: Training texts; the same texts give the same tokenizer.
        vocab_size: Tokens, of which 256 are bytes and three are <pad>, <bos> and <eos>. Little text may yield fewer.

    Returns:
        A tokenizer that puts <bos> in front of every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return as_fast_tokenizer(tokenizer, eos=EOS)


def text_token_stream(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> np.ndarray:
    """All texts as one stream of token ids, ready to be cut into windows.

    Args:
        tokenizer: Any fast tokenizer; a special token that it lacks is left out.
        texts: The documents, in order.

    Returns:
        Token ids, int32, shape (tokens,): for each document <bos> text <eos>.
    """
    before, after = ([] if token is None else [token] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    pieces: list[np.ndarray] = []
    for start in range(0, len(texts), _CHUNK):
        encoded = tokenizer(
            list(texts[start : start + _CHUNK]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no warning about the length: windows are cut later
        )["input_ids"]
        pieces += [np.array(before + ids + after, dtype=np.int32) for ids in encoded]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)


def corpus_fingerprint(corpus: Corpus, *, hash_file: HashFile = hash_file) -> str:
    """Hash of everything that determines a corpus: its settings and its files' bytes, wherever they lie.

    Raises:
        DataError: A file is missing, or of an unknown kind.
    """
    content = corpus.model_dump(mode="json", exclude={"files"}) | {"version": CORPUS_VERSION}
    if isinstance(corpus, TextCorpus):
        also = ("pgn", "txt") if isinstance(corpus, ChessCorpus) else ("txt",)
        content["files"] = [file_identity(Path(file), hash_file, also=also) for file in corpus.files]
    if isinstance(corpus, ChessCorpus):
        from w2s.chess.corpus import chess_corpus_identity

        content |= chess_corpus_identity(corpus)
    return digest(content)


def as_fast_tokenizer(tokenizer: "Tokenizer", *, eos: str | None) -> "PreTrainedTokenizerFast":
    """In Hugging Face form, with <bos> in front of every text and padding on the right."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=eos,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
