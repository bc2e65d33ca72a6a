"""A tokenizer for chess text, for models too small to spell: squares, pieces and move numbers are one token each."""

from functools import lru_cache
from typing import TYPE_CHECKING

from w2s.corpora import BOS, EOS, PAD, as_fast_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unk>"
_LAST_NUMBER = 100
"""Move numbers up to here are one token with their dots; later ones are spelled in digits."""
_NUMBER = r"(?:100|[1-9]\d?)"

_SPLIT = "|".join(
    (
        rf" ?{_NUMBER}\.{{3}}(?!\.)",  # " 12...": Black is to move
        rf" ?{_NUMBER}\.(?!\.)",  # " 12."
        r" ?O-O-O",
        r" ?O-O",
        # A square of a move. In the board of a FEN "b2" is a bishop and two empty squares: there a slash follows
        # within the word, or, on its last rank, the side to move.
        r" ?[a-h][1-8](?![^ /]*/)(?![^ ]* [wb] )",
        r" ?\S",
        r" ",
    )
)


def _vocabulary() -> list[str]:
    numbers = [f"{n}{dots}" for n in range(1, _LAST_NUMBER + 1) for dots in (".", "...")]
    squares = [f"{file}{rank}" for file in "abcdefgh" for rank in "12345678"]
    with_space = [*numbers, *squares, *"abcdefgh", *"0123456789", *"KQRBN", *"kqrnpPw-", "O-O", "O-O-O"]
    without = [*with_space, *"x=+#/."]
    return [PAD, BOS, EOS, UNKNOWN, " ", *without, *(f" {token}" for token in with_space)]


@lru_cache(maxsize=1)
def chess_vocabulary() -> int:
    """Number of tokens."""
    return len(_vocabulary())


def chess_tokenizer() -> "PreTrainedTokenizerFast":
    """Splits movetext and FENs into pieces, squares, marks and numbers; decoding gives the text back to the letter.

    " 12. Qxf7#" becomes [" 12.", " Q", "x", "f7", "#"]. Pieces differ with and without the space before them. Any
    other text becomes <unk>, one per character.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = {token: i for i, token in enumerate(_vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = as_fast_tokenizer(tokenizer, eos=EOS)
    fast.unk_token = UNKNOWN
    return fast
