"""The frame of a figure: title, legend, panels, caption, and labels that keep apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_TITLE_INCHES = 0.34
_LEGEND_ROW_INCHES = 0.23
_CAPTION_LINE_INCHES = 0.17


def panels(
    title: str,
    caption: str,
    rows: int,
    columns: int,
    *,
    panel_height: float = 3.0,
    width: float | None = None,
    sharex: bool = True,
    sharey: bool | str = True,
    legend: Sequence[Line2D] = (),
) -> tuple[Figure, np.ndarray]:
    """A figure with a title, a legend above all, a grid of axes, and a wrapped caption under it."""
    width = width or {1: 6.4, 2: 9.6}.get(columns, 3.4 * columns)
    lines = _wrap(caption, int(width * 15.5))
    legend_rows = _legend_rows(legend, width) if legend else []
    below = _CAPTION_LINE_INCHES * len(lines) + 0.12
    above = _TITLE_INCHES + _LEGEND_ROW_INCHES * len(legend_rows)
    height = rows * panel_height + below + above
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine(
        "constrained",
        rect=(0.005, below / height, 0.99, 1 - (below + above) / height),
        w_pad=0.06,
        h_pad=0.06,
        wspace=0.03,
        hspace=0.03,
    )
    figure.text(0.012, 1 - 0.08 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(
        0.012, 0.08 / height, "\n".join(lines), ha="left", va="bottom", fontsize=7.8, color="#666666", linespacing=1.35
    )
    _legend_above(figure, legend_rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)  # type: ignore[call-overload]
    return figure, axes


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]


def _legend_above(figure: Figure, rows: Sequence[Sequence[Line2D]]) -> None:
    height = figure.get_figheight()
    for index, handles in enumerate(rows):
        top = 1 - (_TITLE_INCHES + index * _LEGEND_ROW_INCHES) / height
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.012, top),
            ncol=len(handles),
            borderaxespad=0,
            borderpad=0,
        )


def _legend_rows(handles: Sequence[Line2D], width: float) -> list[list[Line2D]]:
    """Handles in as many rows as a figure of some width in inches needs."""
    rows: list[list[Line2D]] = [[]]
    used = 0.0
    for handle in handles:
        inches = 0.75 + 0.075 * len(str(handle.get_label()))
        if rows[-1] and used + inches > width:
            rows.append([])
            used = 0.0
        rows[-1].append(handle)
        used += inches
    return rows


def outer_labels(axes: np.ndarray, used: int, y_label: str, x_label: str) -> None:
    """Label the left column and the lowest used panel of each column, whose ticks are shown."""
    rows, columns = axes.shape
    for row in range(rows):
        axes[row, 0].set_ylabel(y_label)
    for column in range(columns):
        lowest = max((row for row in range(rows) if row * columns + column < used), default=None)
        if lowest is not None:
            axes[lowest, column].set_xlabel(x_label.replace("strong model: ", "") if columns > 2 else x_label)
            axes[lowest, column].tick_params(labelbottom=True)


def grid(n: int) -> tuple[int, int]:
    columns = n if n <= 3 else (2 if n == 4 else 3)
    return -(-n // columns), columns


def slanted(names: Sequence[str], longest: int) -> dict[str, Any]:
    """Long names are set at an angle so that they do not run into each other."""
    return {"rotation": 30, "ha": "right"} if max(map(len, names)) > longest else {}


def end_labels(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge, moved apart by as much as they need."""
    texts = [
        (y, ax.text(1.015, 0, name, transform=ax.transAxes, fontsize=8, color=colour, va="center"))
        for y, name, colour in sorted(ends)
    ]
    grid = ax.get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    figure = ax.get_figure()
    share = figure.get_layout_engine().get()["rect"][3]  # type: ignore[union-attr]
    inches = share * figure.get_figheight() / grid.nrows - 0.75  # type: ignore[union-attr]

    def place(_axes: object = None) -> None:
        low, high = ax.get_ylim()
        wanted = [float(np.clip((y - low) / (high - low), 0, 1)) for y, _ in texts]
        for (_, text), y in zip(texts, spread(wanted, 0.14 / inches), strict=True):
            text.set_y(y)

    ax.callbacks.connect("ylim_changed", place)  # limits may still be set after the labels
    place()


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Positions near those wanted (ascending), in their order, at least `distance` apart, by small moves."""
    if not wanted:
        return []
    blocks: list[list[float]] = []  # [sum of (wanted - offset), count]; blocks that would overlap are merged
    for index, y in enumerate(wanted):
        blocks.append([y - index * distance, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    base = [total / count for total, count in blocks for _ in range(int(count))]
    placed = [b + index * distance for index, b in enumerate(base)]
    # Within 0 to 1 as far as there is room: pushed down from the top, then up from the bottom.
    placed = [min(y, 1 - (len(placed) - 1 - index) * distance) for index, y in enumerate(placed)]
    return [max(y, index * distance) for index, y in enumerate(placed)]
