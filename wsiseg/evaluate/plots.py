"""Diagrams of the page: matplotlib, imported only when somebody plots. PNG bytes out."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.draw import class_color
from wsiseg.evaluate.calibration import Calibrated
from wsiseg.evaluate.slide import SlideScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_by_slide", "reliability_diagram"]

BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#888888"


def reliability_diagram(calibrated: Calibrated) -> bytes:
    """Return accuracy against confidence, and below how many pixels have which confidence."""
    from matplotlib.figure import Figure

    some = [b for b in calibrated.bins if b.pixels]
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as it should be")
    upper.bar(
        [b.low for b in some],
        [b.accuracy for b in some],
        width=[b.high - b.low for b in some],
        align="edge",
        color=BLUE,
        edgecolor="white",
        linewidth=0.4,
        label="accuracy",
    )
    confidence, accuracy = [b.confidence for b in some], [b.accuracy for b in some]
    upper.vlines(confidence, accuracy, confidence, color=VERMILION, linewidth=1.6, label="gap")
    upper.set(ylabel="Share that is right", ylim=(0, 1.02), xlim=(0, 1))
    upper.set_title(f"ECE {calibrated.ece:.4f}   MCE {calibrated.mce:.3f}", fontsize=10)
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    lower.bar(
        [b.low for b in some],
        [b.pixels / calibrated.pixels for b in some],
        width=[b.high - b.low for b in some],
        align="edge",
        color=GREY,
    )
    lower.set(xlabel="Probability of the most probable class", ylabel="Share of pixels")
    return _png(figure)


def figure_by_slide(slides: Sequence[SlideScores], figure_name: str, label: str) -> bytes:
    """Return one figure of all slides, a dot per slide and a colour per class, in rising order."""
    from matplotlib.figure import Figure

    names = [scores.name for scores in slides[0].classes]
    figure = Figure(figsize=(6.2, 0.9 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row in range(len(names)):
        values = np.array(
            [slide.classes[row].figures().get(figure_name, np.nan) for slide in slides]
        )
        values = np.sort(values[np.isfinite(values)])
        # dots are spread a little, always in the same way, so that equal ones stay visible
        spread = 0.22 * (np.arange(len(values)) % 5 - 2) / 2
        color = [value / 255 for value in class_color(row)]
        axes.scatter(values, row + spread, s=22, color=color, alpha=0.75, linewidths=0)
        if len(values):
            axes.vlines(values.mean(), row - 0.36, row + 0.36, color="black", linewidth=1.4)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=label, xlim=(-0.02, 1.02), ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
