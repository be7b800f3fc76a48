"""Pictures in notebooks: matplotlib, imported only when somebody plots."""

from typing import TYPE_CHECKING

from wsiseg.draw.canvas import Pixels, checked
from wsiseg.draw.scale_bar import ScaleBar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_image"]


def plot_image(
    pixels: Pixels,
    spacing_um: float | None = None,
    *,
    title: str = "",
    width_inches: float = 8.0,
) -> "Figure":
    """Return the pixels as a matplotlib figure, with a scale bar where their spacing is known.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3).
    spacing_um
        µm per pixel along x; `None`: no scale bar.
    title
        Above the picture.
    width_inches
        Of the figure; the height follows from the picture, within 1 to 3 times the width.

    Raises
    ------
    AnnotationError
        If these are not pixels, or the spacing is not positive.
    """
    import matplotlib.pyplot as plt

    height, width = checked(pixels).shape[:2]
    tall = min(max(height / width, 0.15), 3.0) * width_inches
    figure, axes = plt.subplots(figsize=(width_inches, tall), layout="constrained")
    plt.close(figure)  # the notebook shows what is returned; pyplot would show it once more
    axes.imshow(pixels, interpolation="none" if max(height, width) < 256 else "antialiased")
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    if spacing_um is not None:
        _add_bar(axes, ScaleBar.fitting(spacing_um, 0.25 * width), (height, width))
    return figure


def _add_bar(axes: "Axes", bar: ScaleBar, shape: tuple[int, int]) -> None:
    from matplotlib.patheffects import withStroke

    height, width = shape
    y, right = 0.95 * height - 0.5, 0.97 * width - 0.5
    edge = [withStroke(linewidth=5, foreground="white")]
    axes.plot([right - bar.pixels, right], [y, y], "k-", lw=2.5, path_effects=edge)
    axes.annotate(
        bar.label,
        (right - bar.pixels / 2, y),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )
