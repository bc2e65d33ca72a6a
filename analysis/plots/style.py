"""The look that all figures share: fonts, colours, captions, and how a figure becomes bytes."""

import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import polars as pl
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import ORACLE_MARK, Options, is_oracle, methods_in_order
from analysis.intervals import FEW_SEEDS

METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MAX_BANDS = 3
"""Bands drawn in one panel; more would hide the lines."""
CEILING_COLOUR = "#1a1a1a"
FLOOR_COLOUR = "#7a7a7a"
_SHORT = 14
"""Characters of a name that fits at the end of its line."""
GRID_COLOUR = "#e6e6e6"
TEXT_COLOUR = "#333333"
NO_GAP_COLOUR = "#f2f2f2"
AXIS_LABELS = {
    "compute": "strong model: pretraining compute (FLOPs, log)",
    "parameters": "strong model: parameters used per token (log)",
    "rung": "strong model",
}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": TEXT_COLOUR,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.8,
    "text.color": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "hatch.color": "#c8c8c8",
    "svg.hashsalt": "w2s",  # so that the same figure is the same file
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # text in a PDF stays text
}
PIXELS_PER_INCH = 160
_FORMATS: Mapping[str, tuple[type[FigureCanvasBase], dict[str, Any]]] = {
    "png": (FigureCanvasAgg, {"Software": None}),
    "svg": (FigureCanvasSVG, {"Date": None, "Creator": None}),
    "pdf": (FigureCanvasPdf, {"CreationDate": None, "Creator": None, "Producer": None}),
}
"""Kinds of files, and what of their metadata is left out so that equal figures are equal files."""
KINDS = tuple(_FORMATS)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures; hold it both while drawing and while saving."""
    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def render(figure: Figure, kinds: Collection[str] = KINDS) -> dict[str, bytes]:
    """A figure as `png`, `svg` and `pdf`, or some of these, the same bytes each time.

    The canvases are asked directly: `savefig` would draw everything twice for each format, to find a layout that is
    known after the first.
    """
    rendered = {}
    with style():
        figure.set_dpi(PIXELS_PER_INCH)
        for kind in kinds:
            canvas, metadata = _FORMATS[kind]
            buffer = io.BytesIO()
            getattr(canvas(figure), f"print_{kind}")(buffer, metadata=metadata)
            rendered[kind] = buffer.getvalue()
            figure.set_layout_engine("none")  # the layout found for the first serves the others
    return rendered


def interval_caption(frame: pl.DataFrame, options: Options) -> str:
    """n of examples, seeds and resamples behind a frame with `n_test` and `n_seeds`."""
    seeds = _range_text(frame["n_seeds"].to_list())
    text = (
        f"Means over {seeds} seed{'' if seeds == '1' else 's'} on {_range_text(frame['n_test'].to_list())} test"
        " examples;"
        f" bars and bands are {options.level * 100:g} % intervals of {options.draws:,} joint resamples"
    )
    fewest = min(frame["n_seeds"].to_list(), default=0)
    if fewest == 1:
        return text + " of test examples only (one seed says nothing of seeds)."
    return text + (f" (fewer than {FEW_SEEDS} seeds: wide and rough)." if fewest < FEW_SEEDS else ".")


def shown_methods(methods: Iterable[str]) -> list[str]:
    """The methods that get a colour and panels of their own: the first in order, as many as there are colours."""
    return methods_in_order(methods)[: len(METHOD_COLOURS)]


def wrapped(label: str, width: int) -> str:
    """A label in lines of at most `width` characters where it can be broken: after a space, a comma or a bracket."""
    lines = [""]
    for piece in re.split(r"(?<=[ ,(])(?! )", label):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def label_of_oracles(methods: Iterable[str]) -> str:
    """For a caption: what hollow points are, where there are any."""
    return f" Hollow points, {ORACLE_MARK}: looked at ground truth; a diagnostic, no method." * any(
        map(is_oracle, methods)
    )


def direct_labels(methods: Sequence[str]) -> bool:
    """Whether methods are few and short enough for their names to stand at their lines instead of in a legend."""
    return len(methods) <= MAX_BANDS and max(map(len, methods)) <= _SHORT


def method_line(methods: Sequence[str], method: str) -> dict[str, Any]:
    """Look of a method's points: hollow when it looked at ground truth."""
    colour = method_colour(methods, method)
    return {"color": colour, "marker": "o", "markerfacecolor": "white" if is_oracle(method) else colour}


def method_colour(methods: Sequence[str], method: str) -> str:
    return METHOD_COLOURS[methods.index(method) % len(METHOD_COLOURS)]


def supervisor_colour(index: int, count: int) -> str:
    position = 0.05 + 0.75 * index / max(count - 1, 1)  # the lightest end of the map is unreadable on white
    return to_hex(mpl.colormaps["viridis"](position))


def luminance(colour: Sequence[float]) -> float:
    red, green, blue = to_rgb(colour)  # type: ignore[arg-type]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def x_label(ladder: pl.DataFrame) -> str:
    return AXIS_LABELS[ladder["x_axis"][0]]


def _range_text(values: Sequence[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def role_handles(pairs: pl.DataFrame, wrap: int | None = None) -> list[Line2D]:
    """Legend of ceiling, students and supervisor; labels in lines of at most `wrap` characters."""
    methods = methods_in_order(pairs["method"])
    labels = {m: f"student, {m}" for m in methods}
    students = [
        Line2D([], [], **method_line(methods, m), label=wrapped(labels[m], wrap) if wrap else labels[m])
        for m in methods
    ]
    ceiling = Line2D([], [], color=CEILING_COLOUR, marker="D", markersize=3.6, label="strong ceiling (ground truth)")
    floor = Line2D(
        [], [], color=FLOOR_COLOUR, linestyle=(0, (4, 2)), marker="s", markersize=4.2, label="weak supervisor"
    )
    return [ceiling, *students, floor]


def in_order(pairs: pl.DataFrame, model: str, rung: str) -> list[str]:
    return pairs.select(model, rung).unique().sort(rung)[model].to_list()
