"""Keys and values of a batch that is decoded: read in groups, then continued together, and left row by row.

The library's cache copies all it holds at every token, and once more whenever a row leaves. Here each layer has one
buffer with room for the tokens to come. Groups of prompts of similar length are written into it one after the other,
each ending at the same column; the place of a row that leaves is taken by the last one.

Shapes: R rows of the buffer, H heads, L columns, D the size of a head.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class _Layer(DynamicLayer):
    """Keys and values of one layer, and which part of them a forward pass sees."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        """Rows and columns."""
        self.held: tuple[Tensor, Tensor] | None = None
        """Keys and values, each of shape [R, H, L, D]."""
        self.rows = slice(0, shape[0])
        self.first, self.last = 0, 0
        """Columns of the tokens before, from `first` to before `last`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.held is None:
            rows, columns = self.shape
            # Zeros, since what a mask hides must still be a number.
            keys, values = (x.new_zeros(rows, x.shape[1], columns, x.shape[3]) for x in (key_states, value_states))
            self.held = keys, values
        begun, end = self.first < self.last, self.last + key_states.shape[2]
        for held, states in zip(self.held, (key_states, value_states), strict=True):
            held[self.rows, :, self.last : end] = states
        self.last = end
        if not begun:
            return key_states, value_states  # all there is, and nearer together
        keys, values = (held[self.rows, :, self.first : end] for held in self.held)
        return keys, values

    def get_seq_length(self) -> int:
        return self.last - self.first


class GroupedCache(Cache):
    """For models all of whose layers attend to every token before."""

    def __init__(self, *, rows: int, read: int, new: int) -> None:
        """
        Args:
            rows: Of the batch.
            read: Tokens of its longest prompt.
            new: Tokens of a completion, at most.
        """
        self._read, self._rows, self._window = read, rows, (slice(0, rows), 0, 0)

        def layer() -> _Layer:
            made = _Layer((rows, read + new))
            made.rows, made.first, made.last = self._window
            return made

        super().__init__(layer_class_to_replicate=layer)  # pyright: ignore[reportArgumentType] (it is only called)

    def begin(self, rows: slice, tokens: int) -> None:
        """What is read next are the prompts of these rows, padded to this many tokens."""
        self._show(rows, self._read - tokens, self._read - tokens)

    def go_on(self, rows: int, tokens: int) -> None:
        """What is read next are the next tokens of the first rows, who have this many before them at most."""
        end = max((layer.last for layer in self._all()), default=0)
        self._show(slice(0, rows), end - tokens, end)

    def replace(self, places: Tensor, by: Tensor) -> None:
        """Rows that are done give their places to others.

        Args:
            places: Of rows that are done, int64.
            by: Rows to take them, as many.
        """
        for layer in self._all():
            for held in layer.held or ():
                seen = held[:, :, layer.first : layer.last]
                seen[places] = seen[by]

    def _show(self, rows: slice, first: int, last: int) -> None:
        self._window = rows, first, last
        for layer in self._all():
            layer.rows, layer.first, layer.last = self._window

    def _all(self) -> Sequence[_Layer]:
        return self.layers  # pyright: ignore[reportReturnType]


def is_plain(config: Any) -> bool:
    """Whether all layers of a model attend to every token before, and nothing else is kept between tokens."""
    return config is None or all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
