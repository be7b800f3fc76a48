"""How training went, as a picture."""

import io
from collections.abc import Mapping

from wsiseg.draw.palette import class_color
from wsiseg.train.loop import History

__all__ = ["curve_png"]


def curve_png(histories: Mapping[str, History]) -> bytes:
    """Return a PNG with loss and scores of each training by round; the kept one is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8 * len(histories)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(histories), 1, squeeze=False)[:, 0]
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        rounds = [row.round + 1 for row in history.rounds]
        curves = {"loss, training": [row.loss for row in history.rounds]}
        for score in history.rounds[0].scores if history.rounds else ():
            curves[f"{score}, validation"] = [row.scores[score] for row in history.rounds]
        for index, (label, values) in enumerate(curves.items()):
            color = tuple(value / 255 for value in class_color(index))
            axes.plot(rounds, values, marker=".", label=label, color=color)
        if history.best >= 0:
            axes.axvline(history.best + 1, color="0.6", linestyle=":", label="kept")
        axes.set(title=name, xlabel="round", ylim=(0, None))
        axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    return content.getvalue()
